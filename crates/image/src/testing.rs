//! What the tests share: a tar writer that can also write what no honest one would, and a canary outside every root.

use crate::digest::Digest;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Tests that make devices and trusted attributes need root; elsewhere they say so and pass, but not in CI.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI must not skip it");
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Builds a tar archive member by member.
#[derive(Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    pax: Vec<u8>,
    uid: u32,
    gid: u32,
    mtime: u64,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// A record for the next member.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        write!(self.pax, "{len} {key}=").unwrap();
        self.pax.extend(value);
        self.pax.push(b'\n');
        self
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.member(Header { path, typeflag: b'5', mode, ..Header::default() }, b"")
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_mode(path, 0o644, content)
    }

    pub(crate) fn file_mode(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.member(Header { path, typeflag: b'0', mode, ..Header::default() }, content)
    }

    pub(crate) fn symlink(self, path: &str, to: &str) -> Self {
        self.member(Header { path, link: to, typeflag: b'2', mode: 0o777, ..Header::default() }, b"")
    }

    pub(crate) fn link(self, path: &str, to: &str) -> Self {
        self.member(Header { path, link: to, typeflag: b'1', mode: 0o644, ..Header::default() }, b"")
    }

    pub(crate) fn whiteout(self, path: &str) -> Self {
        self.file_mode(path, 0, b"")
    }

    pub(crate) fn node(self, path: &str, typeflag: u8, device: (u32, u32)) -> Self {
        self.member(Header { path, typeflag, mode: 0o620, device, ..Header::default() }, b"")
    }

    pub(crate) fn member(mut self, header: Header<'_>, content: &[u8]) -> Self {
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            let header = Header { path: "pax", typeflag: b'x', mode: 0o644, ..Header::default() };
            self.bytes.extend(self.block(&header, pax.len() as u64));
            self.padded(&pax);
        }
        self.bytes.extend(self.block(&header, content.len() as u64));
        self.padded(content);
        self
    }

    /// A header that claims `size`, with no content behind it.
    pub(crate) fn claim(mut self, header: Header<'_>, size: u64) -> Self {
        self.bytes.extend(self.block(&header, size));
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn padded(&mut self, content: &[u8]) {
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    fn block(&self, header: &Header<'_>, size: u64) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &header.path.as_bytes()[..header.path.len().min(100)]);
        put(100, format!("{:07o}\0", header.mode).as_bytes());
        put(108, &number(self.uid.into(), 8));
        put(116, &number(self.gid.into(), 8));
        put(124, &number(size, 12));
        put(136, &number(self.mtime, 12));
        put(156, &[header.typeflag]);
        put(157, &header.link.as_bytes()[..header.link.len().min(100)]);
        put(257, if header.typeflag == b'S' { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, format!("{:07o}\0", header.device.0).as_bytes());
        put(337, format!("{:07o}\0", header.device.1).as_bytes());
        for (at, bytes) in &header.patches {
            put(*at, bytes);
        }
        seal(&mut block);
        block
    }

    /// The archive with its end.
    pub(crate) fn build(self) -> Vec<u8> {
        let mut bytes = self.bytes;
        bytes.extend([0; 1024]);
        bytes
    }
}

#[derive(Clone, Default)]
pub(crate) struct Header<'a> {
    pub(crate) path: &'a str,
    pub(crate) link: &'a str,
    pub(crate) typeflag: u8,
    pub(crate) mode: u32,
    pub(crate) device: (u32, u32),
    /// Bytes to put over the header before its checksum is taken.
    pub(crate) patches: Vec<(usize, Vec<u8>)>,
}

fn number(value: u64, len: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}\0", width = len - 1).into_bytes();
    if octal.len() <= len {
        return octal;
    }
    let mut binary = vec![0; len];
    binary[0] = 0x80;
    let start = len.saturating_sub(8);
    binary[start..].copy_from_slice(&value.to_be_bytes()[8 - (len - start)..]);
    binary[0] |= 0x80;
    binary
}

fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A file outside of every root of a test, with everything by which a change to it could be noticed.
pub(crate) struct Canary {
    pub(crate) dir: PathBuf,
    before: String,
}

impl Canary {
    pub(crate) fn new(parent: &Path) -> Self {
        let dir = parent.join("canary");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("secret"), "the canary's secret").unwrap();
        fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let before = Self::look(&dir);
        Self { dir, before }
    }

    pub(crate) fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    pub(crate) fn assert_untouched(&self, case: &str) {
        assert_eq!(Self::look(&self.dir), self.before, "{case}: the canary was touched");
    }

    fn look(dir: &Path) -> String {
        let facts = |path: &Path| {
            let m = fs::symlink_metadata(path).unwrap();
            let xattrs = rustix::fs::llistxattr_query(path).unwrap();
            let (ino, mode, links, size) = (m.ino(), m.mode(), m.nlink(), m.size());
            format!(
                "{path:?} {ino} {mode:o} {links} {size} {}:{} {}.{} {xattrs}",
                m.uid(),
                m.gid(),
                m.mtime(),
                m.ctime()
            )
        };
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let files: Vec<_> = names.iter().map(|path| facts(path)).collect();
        format!("{} {files:?} {}", facts(dir), fs::read_to_string(dir.join("secret")).unwrap())
    }
}

/// Everything in a tree, one line each: `path mode content`, with `-> target`, `whiteout` and `opaque` where that is so.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let name = String::from_utf8_lossy(path.strip_prefix(root).unwrap().as_os_str().as_bytes()).into_owned();
            let mode = m.mode() & 0o7777;
            let kind = m.file_type();
            lines.push(if kind.is_dir() {
                queue.push(path.clone());
                let opaque = if is_opaque(&path) { " opaque" } else { "" };
                format!("{name}/ {mode:o}{opaque}")
            } else if kind.is_symlink() {
                format!("{name} -> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                let content = fs::read(&path).unwrap();
                format!("{name} {mode:o} {:?}", String::from_utf8_lossy(&content[..content.len().min(64)]))
            } else if kind.is_char_device() && m.rdev() == 0 {
                format!("{name} whiteout")
            } else {
                let (major, minor) = (rustix::fs::major(m.rdev()), rustix::fs::minor(m.rdev()));
                let letter = if kind.is_fifo() {
                    'p'
                } else if kind.is_block_device() {
                    'b'
                } else {
                    'c'
                };
                format!("{name} {letter} {mode:o} {major}:{minor}")
            });
        }
    }
    lines.sort();
    lines
}

pub(crate) fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").is_some()
}

/// An image configuration for this machine with the given layers.
pub(crate) fn config(diff_ids: &[Digest]) -> String {
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
    let architecture = crate::manifest::Platform::host().architecture;
    format!(
        "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{{\"Cmd\":[\"sh\"],\"Env\":[\"A=b\"],\
         \"Labels\":null}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
        ids.join(",")
    )
}

/// What `docker save` would write for one image with plain layers.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = config(&ids);
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let names: Vec<String> = (0..layers.len()).map(|i| format!("\"{i}/layer.tar\"")).collect();
    let manifest =
        format!("[{{\"Config\":\"{config_name}\",\"RepoTags\":[\"{name}\"],\"Layers\":[{}]}}]", names.join(","));
    let mut tar = Tar::new().file(&config_name, config.as_bytes()).file("manifest.json", manifest.as_bytes());
    for (i, layer) in layers.iter().enumerate() {
        tar = tar.file(&format!("{i}/layer.tar"), layer);
    }
    tar.build()
}

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Builds an OCI image layout.
#[derive(Clone, Default)]
pub(crate) struct Layout {
    files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    /// Adds a blob and gives its descriptor, with `more` fields, each with a comma before it.
    pub(crate) fn blob(&mut self, media_type: &str, bytes: &[u8], more: &str) -> String {
        let digest = Digest::of(bytes);
        self.files.push((format!("blobs/sha256/{}", digest.hex()), bytes.to_vec()));
        format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"{digest}\",\"size\":{}{more}}}", bytes.len())
    }

    /// Adds an image with gzip layers and gives the descriptor of its manifest.
    pub(crate) fn image(&mut self, layers: &[Vec<u8>], more: &str) -> String {
        let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let blobs: Vec<String> =
            layers.iter().map(|layer| self.blob(&format!("{LAYER}+gzip"), &gzip(layer), "")).collect();
        let config = self.blob(CONFIG, config(&ids).as_bytes(), "");
        self.manifest(&config, &blobs, more)
    }

    pub(crate) fn manifest(&mut self, config: &str, layers: &[String], more: &str) -> String {
        let layers = layers.join(",");
        let manifest =
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{config},\"layers\":[{layers}]}}");
        self.blob(MANIFEST, manifest.as_bytes(), more)
    }

    pub(crate) fn index(manifests: &[String]) -> String {
        format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", manifests.join(","))
    }

    pub(crate) fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.files.push((name.to_owned(), bytes.to_vec()));
        self
    }

    /// Names and contents, for a test to damage: of one image, the layers, the configuration and the manifest.
    pub(crate) fn files_mut(&mut self) -> &mut Vec<(String, Vec<u8>)> {
        &mut self.files
    }

    /// The archive, with the given top-level manifests.
    pub(crate) fn build(self, manifests: &[String]) -> Vec<u8> {
        let layout = self.file("index.json", Self::index(manifests).as_bytes());
        layout.file("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}").tar()
    }

    /// The archive as it is.
    pub(crate) fn tar(self) -> Vec<u8> {
        self.files.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes)).build()
    }
}

pub(crate) fn named(name: &str) -> String {
    format!(",\"annotations\":{{\"org.opencontainers.image.ref.name\":\"{name}\"}}")
}
