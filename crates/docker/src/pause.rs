//! The image of a pod's own container: made here, in memory, of one static program. Nothing is pulled for it.

use std::fmt::Write as _;

use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use cri::Error;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};

use crate::call::{internal, within};
use crate::core::Core;

/// The program's path in the image, and so the name by which it knows what it is to do.
pub(crate) const PROGRAM: &str = "/pause";
const REPOSITORY: &str = "kubelet.local/pause";
/// Digits of the program's digest in the image's tag: another program is another image.
const TAG_DIGITS: usize = 12;
/// `nobody` everywhere: it needs no right of any kind.
pub(crate) const USER: &str = "65534:65534";

/// The image, made when it is first needed.
pub(crate) struct Pause {
    program: &'static [u8],
    reference: String,
    loading: tokio::sync::Mutex<()>,
}

impl Pause {
    pub(crate) fn new(program: &'static [u8]) -> Self {
        let tag = hex(&Sha256::digest(program));
        Self {
            program,
            reference: format!("{REPOSITORY}:{}", &tag[..TAG_DIGITS]),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The image's name.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// Whether one of an image's names, however Docker spells it, is that of a pause image, of this version or another.
    pub(crate) fn is_one(name: &str) -> bool {
        name.strip_prefix(REPOSITORY).is_some_and(|rest| rest.starts_with(':'))
    }
}

impl Core {
    /// Gives the daemon the image, if it does not have it.
    pub(crate) async fn load_pause(&self) -> Result<(), Error> {
        let _turn = self.pause.loading.lock().await;
        if self.inspect_image(&self.pause.reference).await?.is_some() {
            return Ok(());
        }
        let archive = archive(self.pause.program, &self.pause.reference).map_err(internal("make the pause image"))?;
        let client = self.client().await?;
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let body = bollard::body_full(Bytes::from(archive));
        let loading = client.import_image(options, body, None).try_collect::<Vec<_>>();
        within("load the pause image", self.config.call_within, loading).await?;
        match self.inspect_image(&self.pause.reference).await? {
            Some(_) => Ok(()),
            None => {
                Err(Error::internal(format!("docker took the image {} and does not have it", self.pause.reference)))
            }
        }
    }
}

/// The image as `docker save` writes it.
fn archive(program: &[u8], reference: &str) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, PROGRAM.trim_start_matches('/'), (program, 0o555))?;
    let layer = layer.into_inner()?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        // The same program gives the same image.
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": [PROGRAM], "User": USER },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "kubelet" }],
    });
    let config = config.to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    let mut image = tar::Builder::new(Vec::new());
    append(&mut image, "layer.tar", (&layer, 0o644))?;
    append(&mut image, &config_name, (config.as_bytes(), 0o644))?;
    append(&mut image, "manifest.json", (manifest.to_string().as_bytes(), 0o644))?;
    image.into_inner()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, (bytes, mode): (&[u8], u32)) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_image_holds_the_program_alone_and_is_named_after_it() {
        let (one, other) = (Pause::new(b"program"), Pause::new(b"another"));
        assert_ne!(one.reference(), other.reference());
        assert!(Pause::is_one(one.reference()) && !Pause::is_one("kubelet.local/pause-x:1"));
        let bytes = archive(b"program", one.reference()).unwrap();
        assert_eq!(bytes, archive(b"program", one.reference()).unwrap());
        let mut image = tar::Archive::new(bytes.as_slice());
        let mut layer = Vec::new();
        let mut names = Vec::new();
        for entry in image.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.last().is_some_and(|name| name == "layer.tar") {
                entry.read_to_end(&mut layer).unwrap();
            }
        }
        assert_eq!(names.len(), 3);
        let mut layer = tar::Archive::new(layer.as_slice());
        let entries: Vec<_> =
            layer.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(entries, [std::path::Path::new("pause")]);
    }
}
