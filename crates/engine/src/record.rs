//! What of a sandbox or container outlives the daemon: one small file each, beside what the shim writes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cri::v1;
use prost::Message;

use crate::files::{self, FileError};

/// Name of the sandbox's record in its directory.
pub(crate) const SANDBOX: &str = "sandbox.pb";
/// Name of the container's record in its directory.
pub(crate) const CONTAINER: &str = "container.pb";

const MAGIC: [u8; 4] = *b"KREC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// A configuration is at most what a manifest can hold; more than this is damage.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<v1::PodSandboxConfig>,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub(crate) created_at_ns: i64,
    /// Absent once it was given back.
    #[prost(fixed32, optional, tag = "3")]
    pub(crate) address: Option<u32>,
    #[prost(enumeration = "Phase", tag = "4")]
    pub(crate) phase: i32,
    /// The pod's control group.
    #[prost(string, tag = "5")]
    pub(crate) cgroup: String,
}

/// How far a sandbox's life has come; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Phase {
    /// Some of it may exist. Found after a restart, it is removed.
    Creating = 0,
    Ready = 1,
    /// Its supervisor is gone, or it is being stopped; namespaces and address may still be there.
    NotReady = 2,
    /// Nothing of it is left but its record.
    Stopped = 3,
    /// Known to those who still hold it only.
    Removed = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<v1::ContainerConfig>,
    #[prost(int64, tag = "2")]
    pub(crate) created_at_ns: i64,
    #[prost(string, tag = "3")]
    pub(crate) image_id: String,
    #[prost(string, tag = "4")]
    pub(crate) image_ref: String,
    #[prost(string, tag = "5")]
    pub(crate) log_path: String,
    /// Linux' number.
    #[prost(int32, tag = "6")]
    pub(crate) stop_signal: i32,
    /// An end that the shim did not record: the start failed, or the shim was gone.
    #[prost(message, optional, tag = "7")]
    pub(crate) end: Option<EndRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndRecord {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(int64, tag = "2")]
    pub(crate) finished_at_ns: i64,
    #[prost(string, tag = "3")]
    pub(crate) reason: String,
    #[prost(string, tag = "4")]
    pub(crate) message: String,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("there is no record {}", path.display())]
    Absent { path: PathBuf },
    #[error("read record {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("record {} is damaged: {fault}", path.display())]
    Damaged { path: PathBuf, fault: String },
    #[error("record {} has format {found}, this version reads {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
}

pub(crate) fn write(path: &Path, record: &impl Message) -> Result<(), FileError> {
    files::write_atomically(path, &encode(record))
}

pub(crate) fn read<R: Message + Default>(path: &Path) -> Result<R, RecordError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RecordError::Absent { path: path.into() },
        _ => RecordError::Read { path: path.into(), source },
    };
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        let fault = "it is no file, or too large".to_owned();
        return Err(RecordError::Damaged { path: path.into(), fault });
    }
    decode(&fs::read(path).map_err(failed)?, path)
}

/// Magic, version, checksum, message. The checksum tells a damaged record, which protocol buffers would often accept.
fn encode(record: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + record.encoded_len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    let payload = record.encode_to_vec();
    bytes.extend(fnv1a(&payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn decode<R: Message + Default>(bytes: &[u8], path: &Path) -> Result<R, RecordError> {
    let damaged = |fault: &str| RecordError::Damaged { path: path.into(), fault: fault.to_owned() };
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("it is cut short"))?;
    let (magic, rest) = header.split_at(4);
    let (version, checksum) = rest.split_at(4);
    if magic != MAGIC {
        return Err(damaged("it does not begin as a record"));
    }
    if checksum != fnv1a(payload).to_le_bytes() {
        return Err(damaged("its checksum is wrong"));
    }
    if version != VERSION.to_le_bytes() {
        let found = version.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        return Err(RecordError::Version { path: path.into(), found });
    }
    R::decode(payload).map_err(|error| damaged(&error.to_string()))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SandboxRecord {
        let metadata = v1::PodSandboxMetadata { name: "web".into(), uid: "u-1".into(), ..Default::default() };
        SandboxRecord {
            config: Some(v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }),
            created_at_ns: 12,
            address: Some(0x0a00_0002),
            phase: Phase::Ready.into(),
            cgroup: "/kubepods/podu-1".into(),
        }
    }

    #[test]
    fn records_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SANDBOX);
        assert!(matches!(read::<SandboxRecord>(&path), Err(RecordError::Absent { .. })));
        write(&path, &sample()).unwrap();
        assert_eq!(read::<SandboxRecord>(&path).unwrap(), sample());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn s_m02_every_truncation_and_every_flipped_bit_is_noticed() {
        let bytes = encode(&sample());
        let path = Path::new("x");
        for length in 0..bytes.len() {
            assert!(decode::<SandboxRecord>(&bytes[..length], path).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<SandboxRecord>(&flipped, path).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn s_m02_a_directory_in_place_of_a_record_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read::<SandboxRecord>(dir.path()), Err(RecordError::Damaged { .. })));
    }
}
