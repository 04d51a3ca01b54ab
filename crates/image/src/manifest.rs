//! The documents of an image: index, manifest, configuration.

mod platform;

use crate::digest::{Digest, shorten};
use crate::json::{self, Dialect};
use platform::Fit;
pub(crate) use platform::Platform;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Overlayfs takes no more lower directories (`OVL_MAX_STACK`).
pub(crate) const MAX_LAYERS: usize = 500;
/// A manifest or an index; as much as registries take.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
pub(crate) const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Annotation with the reference, or only the tag, of an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the full reference, as containerd and Docker write it.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

const INDEX_TYPES: &[&str] =
    &["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: &[&str] =
    &["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG_TYPES: &[&str] =
    &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Beginnings of the types of tar layers; what follows names the compression, which the content itself tells.
const LAYER_TYPES: &[&str] = &[
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Names an index; a descriptor without a type is taken for a manifest, and the document decides.
    pub(crate) fn is_index(&self) -> bool {
        self.media_type.as_deref().is_some_and(|t| INDEX_TYPES.contains(&t))
    }

    pub(crate) fn check_layer_type(&self) -> Result<(), String> {
        let media_type = self.media_type.as_deref().ok_or("a layer has no mediaType")?;
        let suffix = LAYER_TYPES.iter().find_map(|known| media_type.strip_prefix(known));
        match suffix {
            Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd") => Ok(()),
            Some(suffix) if suffix.contains("encrypted") => {
                Err("its layers are encrypted, which is not supported".into())
            }
            _ => Err(format!("unsupported layer type {:?}: expected a tar layer", shorten(media_type))),
        }
    }
}

/// The entries of an index that may lead to an image for `host`, the best fitting one first and those that do not say
/// what they are for last; and what the others are for.
pub(crate) fn choices(manifests: &[Descriptor], host: &Platform) -> (Vec<Descriptor>, Vec<String>) {
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for manifest in manifests {
        match manifest.platform.as_ref().map(|platform| (platform, platform.fit(host))) {
            None => fitting.push((Fit::UNTOLD, manifest.clone())),
            Some((_, Some(fit))) => fitting.push((fit, manifest.clone())),
            Some((platform, None)) => others.push(platform.describe()),
        }
    }
    // Equal ones stay in the order of the index.
    fitting.sort_by_key(|(fit, _)| std::cmp::Reverse(*fit));
    (fitting.into_iter().map(|(_, manifest)| manifest).collect(), others)
}

/// A manifest or an index; which of them, the fields tell.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug)]
pub(crate) enum Content {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

impl Content {
    /// Reads an index or a manifest that was referred to by a media type, or by none.
    pub(crate) fn parse(bytes: &[u8], referred_as: Option<&str>) -> Result<Self, String> {
        json::parse::<Document>(bytes, Dialect::Oci)?.content(referred_as)
    }
}

impl Document {
    /// What the document is, given the type by which it was referred to. Refuses what could be taken for both.
    fn content(self, referred_as: Option<&str>) -> Result<Content, String> {
        match self.schema_version {
            2 => {}
            1 => {
                return Err("a manifest of Docker's old schema 1 is not supported: build or push the image anew".into());
            }
            other => return Err(format!("schemaVersion is {other}, expected 2")),
        }
        if let (Some(own), Some(referred)) = (self.media_type.as_deref(), referred_as)
            && own != referred
        {
            let (own, referred) = (shorten(own), shorten(referred));
            return Err(format!("its mediaType {own:?} differs from the one it is referred to by, {referred:?}"));
        }
        let media_type = self.media_type.as_deref().or(referred_as);
        let has_type = |types: &[&str]| media_type.is_none_or(|t| types.contains(&t));
        match (self.manifests, self.config, self.layers) {
            (Some(manifests), None, None) if has_type(INDEX_TYPES) => Ok(Content::Index(manifests)),
            (None, Some(config), Some(layers)) if has_type(MANIFEST_TYPES) => {
                check_manifest(&config, &layers).map(|()| Content::Manifest { config, layers })
            }
            (Some(_), _, _) => {
                Err("ambiguous: it has the fields of an index and the type or fields of a manifest".into())
            }
            _ => Err("neither an index (manifests) nor an image manifest (config and layers)".into()),
        }
    }
}

fn check_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<(), String> {
    match config.media_type.as_deref() {
        Some(t) if CONFIG_TYPES.contains(&t) => {}
        other => {
            let found = shorten(other.unwrap_or("no type"));
            return Err(format!("not a container image: its configuration is of type {found:?}"));
        }
    }
    check_layer_count(layers.len())?;
    layers.iter().try_for_each(Descriptor::check_layer_type)
}

pub(crate) fn check_layer_count(count: usize) -> Result<(), String> {
    match count {
        0 => Err("the image has no layers".into()),
        1..=MAX_LAYERS => Ok(()),
        _ => Err(format!("the image has {count} layers; the limit is {MAX_LAYERS}")),
    }
}

/// An image's configuration file. Fields that nothing here uses are not looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    pub(crate) os: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) rootfs: RootFs,
    config: Option<RunConfig>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// How an image wants to be run. The strings are the image author's: whoever uses one checks it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`, as written.
    pub env: Vec<String>,
    pub working_dir: String,
    /// User and group as written: `user[:group]`, names or numbers, or empty.
    pub user: String,
    /// Paths at which the author expects volumes.
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `port[/protocol]`, as written.
    pub exposed_ports: Vec<String>,
}

impl ConfigFile {
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone().unwrap_or_default(),
            architecture: self.architecture.clone().unwrap_or_default(),
            variant: self.variant.clone(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rootfs.kind != "layers" {
            return Err(format!("rootfs.type is {:?}, expected \"layers\"", shorten(&self.rootfs.kind)));
        }
        check_layer_count(self.rootfs.diff_ids.len())
    }

    pub(crate) fn into_run_config(self) -> ImageConfig {
        let run = self.config.unwrap_or_default();
        ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: run.stop_signal.filter(|s| !s.is_empty()),
            labels: run.labels.unwrap_or_default(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        }
    }
}

/// One image in `manifest.json` of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}
