//! Images as they travel: blobs named by their digests, laid out as a directory or kept by a registry.

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Of one without compression; a suffix says which one it has.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Whose words documents use; they say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Oci,
    /// Schema 2 of Docker's manifests, as most of what registries keep is written.
    Docker,
}

impl Form {
    fn manifest(self) -> &'static str {
        match self {
            Form::Oci => MANIFEST,
            Form::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Form::Oci => CONFIG,
            Form::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// Of a layer whose type is given in OCI's words.
    fn layer(self, media_type: &str) -> String {
        match self {
            Form::Oci => media_type.to_owned(),
            Form::Docker => media_type.replace(LAYER, "application/vnd.docker.image.rootfs.diff.tar").replace('+', "."),
        }
    }

    /// An index over manifests, by their descriptors.
    pub fn index(self, manifests: &[Value]) -> Blob {
        let media_type = match self {
            Form::Oci => INDEX,
            Form::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        };
        Blob::json(media_type, &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}))
    }
}

/// Lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes and their name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Blob {
        Blob { digest: format!("sha256:{}", sha256(&bytes)), media_type: media_type.to_owned(), bytes }
    }

    pub fn json(media_type: &str, value: &Value) -> Blob {
        Blob::new(media_type, value.to_string().into_bytes())
    }

    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layer, packed; layers are shared between images.
#[derive(Debug)]
pub struct Packed {
    /// Digest of what is in the package.
    pub diff_id: String,
    pub blob: Blob,
}

impl Packed {
    pub fn new(tar: &[u8], packing: Packing) -> Arc<Packed> {
        let (suffix, bytes) = match packing {
            Packing::Plain => ("", tar.to_vec()),
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar).expect("memory takes all");
                ("+gzip", encoder.finish().expect("memory takes all"))
            }
            Packing::Zstd => ("+zstd", zstd::encode_all(tar, 3).expect("memory takes all")),
        };
        let blob = Blob::new(&format!("{LAYER}{suffix}"), bytes);
        Arc::new(Packed { diff_id: format!("sha256:{}", sha256(tar)), blob })
    }
}

/// An image for this machine's architecture.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: Blob,
    pub config: Blob,
    pub layers: Vec<Arc<Packed>>,
}

impl Image {
    /// Lowest layer first.
    pub fn new(layers: Vec<Arc<Packed>>) -> Image {
        Image::in_form(Form::Oci, layers)
    }

    pub fn in_form(form: Form, layers: Vec<Arc<Packed>>) -> Image {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Image::of(form, Blob::json(form.config(), &config), layers)
    }

    /// With a configuration that may say anything.
    pub fn with_config(config: Blob, layers: Vec<Arc<Packed>>) -> Image {
        Image::of(Form::Oci, config, layers)
    }

    fn of(form: Form, config: Blob, layers: Vec<Arc<Packed>>) -> Image {
        let descriptor = |layer: &Arc<Packed>| {
            let mut descriptor = layer.blob.descriptor();
            descriptor["mediaType"] = form.layer(&layer.blob.media_type).into();
            descriptor
        };
        let layers_told: Vec<Value> = layers.iter().map(descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": form.manifest(), "config": config.descriptor(), "layers": layers_told,
        });
        Image { manifest: Blob::json(form.manifest(), &manifest), config, layers }
    }

    /// The id by which runtimes know it: its configuration's digest.
    pub fn id(&self) -> &str {
        &self.config.digest
    }

    /// All that travels.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        [&self.manifest, &self.config].into_iter().chain(self.layers.iter().map(|layer| &layer.blob))
    }
}

/// As images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// The only layer of the busybox image of the suites.
pub fn busybox(packing: Packing) -> Arc<Packed> {
    let archive = std::fs::File::open(crate::machine::image_archive("busybox")).expect("the archive");
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("a member");
        if entry.path().is_ok_and(|path| path.ends_with("layer.tar")) {
            let mut layer = Vec::new();
            entry.read_to_end(&mut layer).expect("a layer");
            return Packed::new(&layer, packing);
        }
    }
    panic!("the busybox archive has no layer");
}

/// Writes images as a layout, each by its name. What is there already is kept: names of another layout may share `blobs`.
pub fn write_layout<'a>(dir: &Path, images: impl IntoIterator<Item = (&'a str, &'a Image)>) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("the layout");
    let mut manifests = Vec::new();
    for (name, image) in images {
        for blob in image.blobs() {
            let path = blobs.join(blob.hex());
            if !path.exists() {
                std::fs::write(path, &blob.bytes).expect("a blob");
            }
        }
        let mut descriptor = image.manifest.descriptor();
        descriptor["annotations"] =
            json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name});
        manifests.push(descriptor);
    }
    std::fs::write(dir.join("index.json"), Form::Oci.index(&manifests).bytes).expect("the index");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout's version");
}
