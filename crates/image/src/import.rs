//! Importing images from archive files: OCI image layouts and what `docker save` writes, compressed or not.

mod docker;
mod file;
mod layout;

use crate::digest::Digest;
use crate::error::{ArchiveError, Error, Result};
use crate::json::{self, Dialect};
use crate::manifest::{ConfigFile, MAX_CONFIG_BYTES, Platform};
use crate::reference::Reference;
use crate::store::{Change, Claim, LayerPlan, LayerSource, NewImage, Origin, Store};
use file::ArchiveFile;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Owner of the pin that [`ImportOptions::pinned`] gives.
pub(crate) const PINNED_BY_IMPORT: &str = "it was imported as pinned";
/// Images in one archive.
const MAX_IMAGES: usize = 1_000;

/// How to import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Keep the images until [`Store::unpin`].
    pub pinned: bool,
}

/// An image that an archive brought, or that was there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub id: String,
    /// Full references by which the archive names it; none if it gives no name.
    pub references: Vec<String>,
}

/// An image as an archive describes it, its documents checked, its layers not read yet.
struct Described {
    id: Digest,
    config_bytes: Vec<u8>,
    config: ConfigFile,
    /// Lowest first.
    layers: Vec<LayerPart>,
    manifest: Option<Vec<u8>>,
    names: BTreeSet<Reference>,
}

struct LayerPart {
    member: String,
    /// What the manifest says of the blob, where there is one.
    blob: Option<Digest>,
}

impl Store {
    /// Imports every image for this machine's platform from an archive file. Nothing is added unless all of it can be.
    /// Layers that are there already are not read again.
    ///
    /// # Errors
    /// [`Error::Archive`] and [`Error::Layer`] say what is wrong with the archive.
    pub fn import(self: &Arc<Self>, archive: &Path, options: ImportOptions) -> Result<Vec<Imported>> {
        let owner = options.pinned.then_some(PINNED_BY_IMPORT);
        self.import_with(archive, owner, |_, _| Ok(()))
    }

    /// Imports, and lets `then` add to the same change.
    pub(crate) fn import_with(
        self: &Arc<Self>,
        path: &Path,
        pinned_by: Option<&str>,
        then: impl FnOnce(&mut Change<'_>, &[Imported]) -> Result<()>,
    ) -> Result<Vec<Imported>> {
        let refuse = |source| Error::Archive { path: path.to_owned(), source };
        let archive = ArchiveFile::open(path, self.ingest_dir(), self.limits()).map_err(refuse)?;
        let images = describe(&archive).map_err(refuse)?;
        // Held until the change is over.
        let plans =
            images.iter().map(|image| bring_layers(self, &archive, (image, path))).collect::<Result<Vec<_>>>()?;
        let mut change = self.change();
        let mut imported = Vec::with_capacity(images.len());
        for (image, plan) in images.into_iter().zip(&plans) {
            change.put_layers(plan)?;
            let references: Vec<String> = image.names.iter().map(Reference::to_string).collect();
            let repositories: BTreeSet<String> = image.names.iter().map(Reference::repository).collect();
            change.put_image(NewImage {
                config_bytes: &image.config_bytes,
                diff_ids: &image.config.rootfs.diff_ids.clone(),
                config: image.config.into_run_config(),
                manifests: image.manifest.as_deref().into_iter().collect(),
                repositories: &repositories,
                pinned_by,
            })?;
            for reference in &references {
                change.put_ref(reference, &image.id, Origin::Given)?;
            }
            imported.push(Imported { id: image.id.to_string(), references });
        }
        then(&mut change, &imported)?;
        change.commit()?;
        Ok(imported)
    }
}

fn bring_layers(store: &Arc<Store>, archive: &ArchiveFile, (image, path): (&Described, &Path)) -> Result<LayerPlan> {
    let plan = store.plan(&image.config.rootfs.diff_ids);
    for (at, part) in image.layers.iter().enumerate() {
        let Claim::Ours(slot) = plan.claim_blocking(at) else { continue };
        let mut section =
            archive.section(&part.member).map_err(|source| Error::Archive { path: path.to_owned(), source })?;
        let size_bytes = section.len();
        slot.fill(LayerSource { reader: &mut section, size_bytes, blob: part.blob.as_ref() })?;
    }
    Ok(plan)
}

/// Newer `docker save` writes both forms into one archive. The layout is the richer one and is taken, but the other must
/// not tell another story: two tools would run different images from one file.
fn describe(archive: &ArchiveFile) -> std::result::Result<Vec<Described>, ArchiveError> {
    let docker = if archive.has(docker::MANIFEST) { Some(docker::describe(archive)?) } else { None };
    let mut images = match (archive.has(layout::INDEX), &docker) {
        (true, _) => layout::describe(archive)?,
        (false, Some(_)) => Vec::new(),
        (false, None) => return Err(ArchiveError::NotAnImage),
    };
    if images.is_empty() {
        images = docker.unwrap_or_default();
    } else if let Some(docker) = docker {
        merge_names(&mut images, docker)?;
    }
    if images.is_empty() {
        return Err(ArchiveError::NotAnImage);
    }
    check_names(&images)?;
    Ok(images)
}

fn merge_names(images: &mut [Described], docker: Vec<Described>) -> std::result::Result<(), ArchiveError> {
    for other in docker {
        match images.iter_mut().find(|image| image.id == other.id) {
            Some(image) => image.names.extend(other.names),
            None => {
                let reason = "it names another image than index.json does".to_owned();
                return Err(ArchiveError::Document { name: docker::MANIFEST.to_owned(), reason });
            }
        }
    }
    Ok(())
}

fn check_names(images: &[Described]) -> std::result::Result<(), ArchiveError> {
    let mut named: BTreeMap<&Reference, &Digest> = BTreeMap::new();
    for image in images {
        for name in &image.names {
            if named.insert(name, &image.id).is_some_and(|other| *other != image.id) {
                let reason = "two images have this name".to_owned();
                return Err(ArchiveError::Document { name: name.to_string(), reason });
            }
        }
        if image.names.is_empty() {
            tracing::warn!(image = %image.id, "image has no full name in its archive; it can only be used by its id");
        }
    }
    Ok(())
}

/// Reads and checks a configuration.
fn read_config(name: &str, bytes: &[u8]) -> std::result::Result<ConfigFile, ArchiveError> {
    let refuse = |reason| ArchiveError::Document { name: name.to_owned(), reason };
    let config: ConfigFile = json::parse(bytes, Dialect::Oci).map_err(refuse)?;
    config.check().map_err(refuse)?;
    Ok(config)
}

fn check_layer_count(name: &str, config: &ConfigFile, layers: usize) -> std::result::Result<(), ArchiveError> {
    match config.rootfs.diff_ids.len() {
        count if count == layers => Ok(()),
        count => {
            let reason = format!("it has {layers} layers, its configuration {count}");
            Err(ArchiveError::Document { name: name.to_owned(), reason })
        }
    }
}

fn other_platform(found: &[String]) -> ArchiveError {
    ArchiveError::Platform { wanted: Platform::host().describe(), found: found.join(", ") }
}

fn parse_name(document: &str, name: &str) -> std::result::Result<Reference, ArchiveError> {
    Reference::parse(name).map_err(|e| ArchiveError::Document { name: document.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests;
