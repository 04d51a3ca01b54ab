//! An image of nothing but busybox, in the form that `docker save` writes.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::Path;

pub(crate) const NAME: &str = "docker.io/library/busybox:test";

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 14] =
    ["sh", "sleep", "cat", "echo", "true", "false", "ls", "id", "stty", "hostname", "ip", "kill", "dd", "wget"];

/// Writes the archive.
pub(crate) fn write(path: &Path) {
    write_as(path, "busybox:test", &[layer()]);
}

/// Writes an archive of other layers, by another name.
pub(crate) fn write_as(path: &Path, name: &str, layers: &[Vec<u8>]) {
    let config = config(layers);
    let config_name = format!("{}.json", hex(&config));
    let members: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": members }]);
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    file(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    file(&mut archive, &config_name, &config, 0o644);
    for (name, layer) in members.iter().zip(layers) {
        file(&mut archive, name, layer, 0o644);
    }
    archive.finish().unwrap();
}

/// The configuration of an image of these layers, lowest first.
pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/bin", "IMAGE=busybox"], "StopSignal": "SIGTERM" },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    config.to_string().into_bytes()
}

/// A layer of one file.
pub(crate) fn one_file(name: &str) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    file(&mut layer, name, name.as_bytes(), 0o644);
    layer.into_inner().unwrap()
}

/// The layer with everything in it.
pub(crate) fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (dir, mode) in
        [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555), ("tmp", 0o1777)]
    {
        entry(&mut layer, tar::EntryType::Directory, dir, mode);
    }
    file(&mut layer, "bin/busybox", &std::fs::read(BUSYBOX).unwrap(), 0o755);
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    file(&mut layer, "etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1001:1001::/home/app:/bin/sh\n", 0o644);
    file(&mut layer, "etc/group", b"root:x:0:\napp:x:1001:\n", 0o644);
    layer.into_inner().unwrap()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn entry<W: std::io::Write>(archive: &mut tar::Builder<W>, kind: tar::EntryType, name: &str, mode: u32) {
    archive.append_data(&mut header(kind, mode, 0), name, std::io::empty()).unwrap();
}

fn file<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    archive.append_data(&mut header, name, bytes).unwrap();
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
