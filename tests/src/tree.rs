//! What lies in a directory tree, in every respect that a program could see, and how two trees differ.

use crate::oci::sha256;
use rustix::fs::{lgetxattr, llistxattr};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Names and values.
pub type Xattrs = BTreeMap<String, Vec<u8>>;

/// A file of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permissions with set-user-id, set-group-id and sticky bits.
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub xattrs: Xattrs,
    /// The first of the names in the tree that the file has; its own where it has one only.
    pub first_name: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File { size_bytes: u64, sha256: String },
    Symlink { to: PathBuf },
    CharDevice { number: u64 },
    BlockDevice { number: u64 },
    Fifo,
    Socket,
}

/// Paths relative to the root, which is the empty path.
pub type Tree = BTreeMap<PathBuf, Node>;

/// Reads the tree beneath `root` without following a symbolic link.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let node = node(&full);
        if node.kind == Kind::Directory {
            let entries = std::fs::read_dir(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            left.extend(entries.map(|entry| path.join(entry.expect("an entry").file_name())));
        }
        tree.insert(path, node);
    }
    name_links(root, &mut tree);
    tree
}

fn node(path: &Path) -> Node {
    let stat = std::fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let is = stat.file_type();
    let kind = if is.is_dir() {
        Kind::Directory
    } else if is.is_symlink() {
        Kind::Symlink { to: std::fs::read_link(path).expect("a link") }
    } else if is.is_char_device() {
        Kind::CharDevice { number: stat.rdev() }
    } else if is.is_block_device() {
        Kind::BlockDevice { number: stat.rdev() }
    } else if is.is_fifo() {
        Kind::Fifo
    } else if is.is_socket() {
        Kind::Socket
    } else {
        let content = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Kind::File { size_bytes: stat.len(), sha256: sha256(&content) }
    };
    Node {
        kind,
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        mtime: (stat.mtime(), stat.mtime_nsec()),
        xattrs: xattrs(path),
        first_name: PathBuf::new(),
    }
}

/// Without what overlayfs notes for itself.
fn xattrs(path: &Path) -> Xattrs {
    let mut names = vec![0_u8; 64 << 10];
    let len = llistxattr(path, &mut names).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    let value = |name: String| {
        let mut value = vec![0_u8; 64 << 10];
        let len = lgetxattr(path, name.as_str(), &mut value).unwrap_or_else(|error| panic!("{name}: {error}"));
        value.truncate(len);
        (name, value)
    };
    names.filter(|name| !name.starts_with("trusted.overlay.")).map(value).collect()
}

fn name_links(root: &Path, tree: &mut Tree) {
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for (path, node) in tree.iter_mut() {
        if node.kind == Kind::Directory {
            node.first_name.clone_from(path);
            continue;
        }
        let stat = std::fs::symlink_metadata(root.join(path)).expect("it was there");
        node.first_name.clone_from(first.entry((stat.dev(), stat.ino())).or_insert_with(|| path.clone()));
    }
}

/// One line for each path that is not the same in both.
pub fn differences(one: (&str, &Tree), other: (&str, &Tree)) -> Vec<String> {
    let ((name, one), (other_name, other)) = (one, other);
    let mut lines = Vec::new();
    for path in one.keys().chain(other.keys().filter(|path| !one.contains_key(*path))) {
        let line = match (one.get(path), other.get(path)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => apart((name, a), (other_name, b)),
            (Some(_), None) => format!("only {name} has it"),
            (None, _) => format!("only {other_name} has it"),
        };
        lines.push(format!("/{}: {line}", path.display()));
    }
    lines
}

/// The respects in which two files of one name differ.
fn apart((name, a): (&str, &Node), (other_name, b): (&str, &Node)) -> String {
    let mut parts = Vec::new();
    let mut compare = |what: &str, a: String, b: String| {
        if a != b {
            parts.push(format!("{what} {name}: {a}, {other_name}: {b}"));
        }
    };
    compare("kind", format!("{:?}", a.kind), format!("{:?}", b.kind));
    compare("mode", format!("{:o}", a.mode), format!("{:o}", b.mode));
    compare("owner", format!("{:?}", a.owner), format!("{:?}", b.owner));
    compare("mtime", format!("{:?}", a.mtime), format!("{:?}", b.mtime));
    compare("xattrs", format!("{:?}", a.xattrs), format!("{:?}", b.xattrs));
    compare("same file as", a.first_name.display().to_string(), b.first_name.display().to_string());
    parts.join("; ")
}
