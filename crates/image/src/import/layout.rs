//! An OCI image layout: `index.json` leads by digests to manifests, configurations and layers.

use super::file::ArchiveFile;
use super::{
    Described, LayerPart, MAX_CONFIG_BYTES, MAX_IMAGES, check_layer_count, other_platform, parse_name, read_config,
};
use crate::digest::Digest;
use crate::error::ArchiveError;
use crate::manifest::{Content, Descriptor, IMAGE_NAME, MAX_MANIFEST_BYTES, Platform, REF_NAME, choices};
use crate::reference::Reference;
use std::collections::BTreeSet;

pub(super) const INDEX: &str = "index.json";
/// Indexes within indexes; one for the platforms of an image is usual.
const MAX_DEPTH: u32 = 4;

/// The images for this machine.
pub(super) fn describe(archive: &ArchiveFile) -> Result<Vec<Described>, ArchiveError> {
    let bytes = archive.document(INDEX, MAX_MANIFEST_BYTES)?;
    let Content::Index(roots) = content(INDEX, &bytes, None)? else {
        return Err(ArchiveError::Document { name: INDEX.to_owned(), reason: "it is not an index".to_owned() });
    };
    let mut search = Search { archive, visited: 0, others: Vec::new() };
    let mut images: Vec<Described> = Vec::new();
    for root in &roots {
        let Some(mut image) = search.find(root, 1)? else { continue };
        image.names.extend(full_name(root)?);
        match images.iter_mut().find(|known| known.id == image.id) {
            Some(known) => known.names.extend(image.names),
            None => images.push(image),
        }
    }
    if images.is_empty() && !search.others.is_empty() {
        return Err(other_platform(&search.others));
    }
    Ok(images)
}

/// The name by which a layout gives an image, if it is a full one: a bare tag says nothing of the repository.
fn full_name(root: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    let is_full = |name: &&str| name.contains(['/', ':']);
    let name = root.annotation(IMAGE_NAME).or_else(|| root.annotation(REF_NAME).filter(is_full));
    name.map(|name| parse_name(INDEX, name)).transpose()
}

struct Search<'a> {
    archive: &'a ArchiveFile,
    visited: usize,
    /// Platforms that were passed over, for the message.
    others: Vec<String>,
}

impl Search<'_> {
    /// The first image for this machine at or below a descriptor.
    fn find(&mut self, descriptor: &Descriptor, depth: u32) -> Result<Option<Described>, ArchiveError> {
        let name = blob_name(&descriptor.digest);
        let refuse = |reason: &str| ArchiveError::Document { name: name.clone(), reason: reason.to_owned() };
        self.visited += 1;
        if self.visited > MAX_IMAGES {
            return Err(refuse("the archive refers to more than 1,000 manifests"));
        }
        if depth > MAX_DEPTH {
            return Err(refuse("indexes are nested more than 4 deep"));
        }
        // Only what is for this machine need be in the archive.
        if let Some(platform) = descriptor.platform.as_ref().filter(|p| !p.matches(&Platform::host())) {
            self.pass_over(platform.describe());
            return Ok(None);
        }
        let bytes = read_blob(self.archive, descriptor, MAX_MANIFEST_BYTES)?;
        match content(&name, &bytes, descriptor.media_type.as_deref())? {
            Content::Index(manifests) => {
                let (fitting, others) = choices(&manifests, &Platform::host());
                others.into_iter().for_each(|other| self.pass_over(other));
                for below in &fitting {
                    if let Some(image) = self.find(below, depth + 1)? {
                        return Ok(Some(image));
                    }
                }
                Ok(None)
            }
            Content::Manifest { .. } if descriptor.is_index() => Err(refuse("it is a manifest, not an index")),
            Content::Manifest { config, layers } => self.image(&name, bytes, &config, layers),
        }
    }

    fn image(
        &mut self,
        name: &str,
        manifest: Vec<u8>,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<Option<Described>, ArchiveError> {
        let config_bytes = read_blob(self.archive, config, MAX_CONFIG_BYTES)?;
        let parsed = read_config(&blob_name(&config.digest), &config_bytes)?;
        if !parsed.platform().matches(&Platform::host()) {
            self.pass_over(parsed.platform().describe());
            return Ok(None);
        }
        check_layer_count(name, &parsed, layers.len())?;
        let parts = layers.into_iter().map(|layer| self.layer(layer)).collect::<Result<_, _>>()?;
        Ok(Some(Described {
            id: config.digest.clone(),
            config_bytes,
            config: parsed,
            layers: parts,
            manifest: Some(manifest),
            names: BTreeSet::new(),
        }))
    }

    /// A layer that is not in the archive is missed only if the store lacks it too.
    fn layer(&self, layer: Descriptor) -> Result<LayerPart, ArchiveError> {
        let member = blob_name(&layer.digest);
        if self.archive.has(&member) {
            check_size(&member, self.archive.section(&member)?.len(), layer.size)?;
        }
        Ok(LayerPart { member, blob: Some(layer.digest) })
    }

    fn pass_over(&mut self, platform: String) {
        if !self.others.contains(&platform) {
            self.others.push(platform);
        }
    }
}

fn content(name: &str, bytes: &[u8], referred_as: Option<&str>) -> Result<Content, ArchiveError> {
    Content::parse(bytes, referred_as).map_err(|reason| ArchiveError::Document { name: name.to_owned(), reason })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn read_blob(archive: &ArchiveFile, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ArchiveError> {
    let name = blob_name(&descriptor.digest);
    let bytes = archive.document(&name, limit)?;
    check_size(&name, bytes.len() as u64, descriptor.size)?;
    let digest = Digest::of(&bytes);
    if digest != descriptor.digest {
        let (expected, found) = (descriptor.digest.to_string(), digest.to_string());
        return Err(ArchiveError::Mismatch { name, what: "digest", expected, found });
    }
    Ok(bytes)
}

fn check_size(name: &str, found: u64, expected: u64) -> Result<(), ArchiveError> {
    if found == expected {
        return Ok(());
    }
    let (name, expected, found) = (name.to_owned(), expected.to_string(), found.to_string());
    Err(ArchiveError::Mismatch { name, what: "size", expected, found })
}
