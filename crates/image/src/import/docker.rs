//! What `docker save` writes: `manifest.json` names a configuration and tar layers for each image.

use super::file::ArchiveFile;
use super::{
    Described, LayerPart, MAX_CONFIG_BYTES, MAX_IMAGES, check_layer_count, other_platform, parse_name, read_config,
};
use crate::digest::Digest;
use crate::error::ArchiveError;
use crate::json::{self, Dialect};
use crate::manifest::{DockerImage, MAX_MANIFEST_BYTES, Platform};

pub(super) const MANIFEST: &str = "manifest.json";

/// The images for this machine.
pub(super) fn describe(archive: &ArchiveFile) -> Result<Vec<Described>, ArchiveError> {
    let refuse = |reason| ArchiveError::Document { name: MANIFEST.to_owned(), reason };
    let bytes = archive.document(MANIFEST, MAX_MANIFEST_BYTES)?;
    let list: Vec<DockerImage> = json::parse(&bytes, Dialect::DockerArchive).map_err(refuse)?;
    if list.len() > MAX_IMAGES {
        return Err(refuse(format!("it lists {} images; the limit is {MAX_IMAGES}", list.len())));
    }
    let mut others = Vec::new();
    let mut images: Vec<Described> = Vec::new();
    for entry in list {
        match describe_one(archive, entry)? {
            Ok(image) => images.push(image),
            Err(platform) => others.push(platform.describe()),
        }
    }
    if images.is_empty() && !others.is_empty() { Err(other_platform(&others)) } else { Ok(images) }
}

/// The image, or the platform for which it is.
fn describe_one(archive: &ArchiveFile, entry: DockerImage) -> Result<Result<Described, Platform>, ArchiveError> {
    let config_bytes = archive.document(&entry.config, MAX_CONFIG_BYTES)?;
    let id = Digest::of(&config_bytes);
    let named_by_digest = Digest::parse(&format!("sha256:{}", file_stem(&entry.config)));
    if let Ok(expected) = named_by_digest
        && expected != id
    {
        let (expected, found) = (expected.to_string(), id.to_string());
        return Err(ArchiveError::Mismatch { name: entry.config, what: "digest", expected, found });
    }
    let config = read_config(&entry.config, &config_bytes)?;
    if !config.platform().matches(&Platform::host()) {
        return Ok(Err(config.platform()));
    }
    check_layer_count(MANIFEST, &config, entry.layers.len())?;
    let names = entry.repo_tags.unwrap_or_default();
    let names = names.iter().map(|name| parse_name(MANIFEST, name)).collect::<Result<_, _>>()?;
    let layers = entry.layers.into_iter().map(|member| LayerPart { member, blob: None }).collect();
    Ok(Ok(Described { id, config_bytes, config, layers, manifest: None, names }))
}

/// `abc` of `blobs/sha256/abc` and of `abc.json`.
fn file_stem(path: &str) -> &str {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.strip_suffix(".json").unwrap_or(name)
}
