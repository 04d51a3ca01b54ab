//! The small files in which the store remembers its layers, images and references.
//!
//! A record is one line with the format's version and the checksum of the rest, and then JSON. A damaged record must be
//! noticed: a flipped bit in a directory number would otherwise show one image the files of another.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fs::read_limited;
use crate::unpack::Unpacked;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// The largest record is that of an image with 500 layers, about 40 KiB.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// An unpacked layer on top of particular others. Several may lie in one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) chain_id: Digest,
    pub(crate) diff_id: Digest,
    /// Name of its directory below `layers/`.
    pub(crate) dir: u32,
    /// Disk space of its files, and how many there are.
    pub(crate) size_bytes: u64,
    pub(crate) inodes: u64,
    /// The layer hides everything below it; overlayfs knows no opaque root, so the stack ends here.
    pub(crate) opaque_root: bool,
    /// On top of any other layers it would look the same, but for its root. Unknown of layers from before this was asked.
    #[serde(default)]
    pub(crate) anywhere: bool,
    /// It would have the same root, too.
    #[serde(default)]
    pub(crate) own_root: bool,
}

impl LayerRecord {
    pub(crate) fn new(chain_id: Digest, diff_id: &Digest, (dir, unpacked): (u32, Unpacked)) -> Self {
        let Unpacked { size_bytes, inodes, opaque_root, looked_below, own_root } = unpacked;
        let (diff_id, anywhere) = (diff_id.clone(), !looked_below);
        Self { chain_id, diff_id, dir, size_bytes, inodes, opaque_root, anywhere, own_root }
    }

    pub(crate) fn unpacked(&self) -> Unpacked {
        let Self { size_bytes, inodes, opaque_root, own_root, .. } = *self;
        Unpacked { size_bytes, inodes, opaque_root, looked_below: !self.anywhere, own_root }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the image's configuration, its identity.
    pub(crate) id: Digest,
    /// `repository@digest` of the manifests that it came by.
    pub(crate) digests: BTreeSet<String>,
    /// Digests of those manifests, which are kept as blobs.
    pub(crate) manifests: BTreeSet<Digest>,
    /// Chain ids, lowest layer first.
    pub(crate) layers: Vec<Digest>,
    /// Who wants it kept; an image that nobody pins may be collected.
    pub(crate) pinned_by: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) reference: String,
    pub(crate) image: Digest,
    /// It came from the registry, which may have another image by that name now.
    #[serde(default)]
    pub(crate) pulled: bool,
}

/// What became of a file in the drop-in directory; while the file stays the same it is not looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DropInRecord {
    pub(crate) file: String,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) inode: u64,
    pub(crate) images: BTreeSet<Digest>,
}

pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(record).expect("a record has string keys only, so it is JSON");
    let mut bytes = format!("{VERSION} {}\n", Digest::of(&json)).into_bytes();
    bytes.extend(json);
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no first line")?;
    let first = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is not text")?;
    let (version, sum) = first.split_once(' ').ok_or("its first line is malformed")?;
    if version != VERSION.to_string() {
        return Err(format!("it has version {version:?}, expected {VERSION}"));
    }
    let json = &bytes[end + 1..];
    if Digest::of(json).as_str() != sum {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// A record that could not be read.
#[derive(Debug)]
pub(crate) struct Damaged {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

/// Records with the files that they were in.
pub(crate) type Records<T> = Vec<(PathBuf, T)>;

/// Reads every record in `dir`; what is damaged is told apart and keeps nothing else from being read.
pub(crate) fn read_all<T: DeserializeOwned>(dir: &Path) -> Result<(Records<T>, Vec<Damaged>)> {
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    let list = |e: io::Error| Error::io("list", dir, e);
    for entry in fs::read_dir(dir).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let record = read_limited(&path, MAX_RECORD_BYTES).map_err(|e| e.to_string()).and_then(|b| decode(&b));
        match record {
            Ok(record) => records.push((path, record)),
            Err(reason) => damaged.push(Damaged { path, reason }),
        }
    }
    records.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((records, damaged))
}

/// File name of the record about something with an arbitrary name.
pub(crate) fn file_name(name: &str) -> String {
    Digest::of(name.as_bytes()).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_m02_no_damage_goes_unnoticed() {
        let record =
            RefRecord { reference: "docker.io/library/a:latest".into(), image: Digest::of(b"x"), pulled: false };
        let good = encode(&record);
        assert_eq!(decode::<RefRecord>(&good).unwrap(), record);
        for len in 0..good.len() {
            assert!(decode::<RefRecord>(&good[..len]).is_err(), "cut to {len}");
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<RefRecord>(&bytes).is_err(), "bit {bit}");
        }
    }
}
