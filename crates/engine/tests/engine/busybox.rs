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
    let layer = layer();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/bin", "IMAGE=busybox"], "StopSignal": "SIGTERM" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", hex(&config));
    let manifest =
        serde_json::json!([{ "Config": config_name, "RepoTags": ["busybox:test"], "Layers": ["l/layer.tar"] }]);
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in
        [("manifest.json", manifest.to_string().into_bytes()), (&config_name, config), ("l/layer.tar", layer)]
    {
        file(&mut archive, name, &bytes, 0o644);
    }
    archive.finish().unwrap();
}

fn layer() -> Vec<u8> {
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

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
