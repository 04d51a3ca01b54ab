//! Small records that outlive a crash and a reboot: one file per object, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// No record is larger: a manifest of 10 MiB, escaped as JSON.
const RECORD_MAX_BYTES: u64 = 64 << 20;
/// Ends the names of unfinished records; a crash may leave one, the next write of the record replaces it.
const UNFINISHED: &str = ".tmp";

/// Writes the record so that a crash at any moment leaves the old one or the new one. Does nothing where the file
/// holds just that already: a restart must not cost a hundred syncs.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(record)?;
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let Some(dir) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    fs::DirBuilder::new().recursive(true).create(dir)?;
    let (file, unfinished) = unfinished(path, &bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}

/// Writes the record into an existing directory so that whoever reads it, and a kubelet killed at any moment, finds the
/// old one or the new one. A power cut may cost both: nothing waits for the disk.
pub(crate) fn replace(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let (_, unfinished) = unfinished(path, &serde_json::to_vec(record)?)?;
    fs::rename(&unfinished, path)
}

fn unfinished(path: &Path, bytes: &[u8]) -> io::Result<(File, PathBuf)> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    Ok((file, unfinished))
}

/// Reads a record; `Ok(None)` where there is none, `InvalidData` where it is damaged.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Removes a record; none to remove is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file name for a key of any length and any bytes: its FNV-1a hash of 128 bits. The record carries the key itself.
pub(crate) fn file_name_of(key: &[u8]) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in key {
        hash ^= u128::from(*byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("{hash:032x}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_record_is_read_back_and_replaced_as_a_whole() {
        let dir = TempDir::new();
        let path = dir.path().join("a/b.json");
        assert_eq!(read::<String>(&path).unwrap(), None);
        write(&path, &"one").unwrap();
        write(&path, &"two").unwrap();
        assert_eq!(read::<String>(&path).unwrap().as_deref(), Some("two"));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read::<String>(&path).unwrap(), None);
    }

    #[test]
    fn s_m02_a_damaged_record_is_an_error_and_no_panic() {
        let dir = TempDir::new();
        let path = dir.path().join("r.json");
        for damage in [&b""[..], b"\"tw", b"\0\0\0", b"{}", b"\xff\xfe"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(read::<String>(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{damage:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        read::<String>(&path).unwrap_err();
    }

    #[test]
    fn keys_become_names_of_one_length() {
        assert_eq!(file_name_of(b""), "6c62272e07bb014262b821756295c58d.json");
        assert_eq!(file_name_of(b"a"), "d228cb696f1a8caf78912b704e4a8964.json");
    }
}
