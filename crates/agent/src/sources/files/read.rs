//! Reading a file that anything may be: a FIFO, a device, a link to nowhere, a file being written.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// Two looks at a file that give the same fingerprint saw the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

impl Fingerprint {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.size(),
            modified_ns: (meta.mtime(), meta.mtime_nsec()),
            changed_ns: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    pub(crate) fn modified(&self) -> SystemTime {
        let (seconds, nanos) = self.modified_ns;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        SystemTime::UNIX_EPOCH + since
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("gone")]
    Missing,
    #[error("{path}: the link leads to nothing that exists; its target was expected to be a regular file")]
    Dangling { path: PathBuf },
    #[error("{path}: is {found}, expected a regular file")]
    NotAFile { path: PathBuf, found: &'static str },
    #[error("{path}: {size_bytes} bytes long, at most {limit_bytes} are read")]
    TooLong { path: PathBuf, size_bytes: u64, limit_bytes: u64 },
    #[error("still being written")]
    Changing(Fingerprint),
    #[error("{path}: cannot be read: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// What stands at `path`, links followed.
pub(crate) fn stat(path: &Path) -> Result<Fingerprint, ReadError> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Fingerprint::of(&meta)),
        Err(error) => Err(explain(path, error)),
    }
}

/// The whole content of a regular file, and the fingerprint it was read under.
pub(crate) fn regular_file(path: &Path, limit_bytes: u64) -> Result<(Fingerprint, Vec<u8>), ReadError> {
    let refuse = |meta: &Metadata| match kind_of(meta) {
        None => Ok(()),
        Some(found) => Err(ReadError::NotAFile { path: path.to_owned(), found }),
    };
    // Looking first keeps a device from being opened, which for some has effects of its own; O_NONBLOCK keeps a FIFO
    // that was put there in between from holding us.
    refuse(&std::fs::metadata(path).map_err(|error| explain(path, error))?)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.cast_signed());
    let mut file = options.open(path).map_err(|error| explain(path, error))?;
    let before = file.metadata().map_err(|error| explain(path, error))?;
    refuse(&before)?;
    if before.len() > limit_bytes {
        return Err(ReadError::TooLong { path: path.to_owned(), size_bytes: before.len(), limit_bytes });
    }
    let bytes = read_up_to(&mut file, limit_bytes).map_err(|error| explain(path, error))?;
    let after = file.metadata().map_err(|error| explain(path, error))?;
    let fingerprint = Fingerprint::of(&after);
    if fingerprint != Fingerprint::of(&before) || bytes.len() as u64 != after.len() {
        return Err(ReadError::Changing(fingerprint));
    }
    Ok((fingerprint, bytes))
}

/// Whether a name that was just created or changed will be followed by a close after writing: links appear whole.
pub(crate) fn will_be_closed(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
}

fn read_up_to(file: &mut File, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn explain(path: &Path, error: io::Error) -> ReadError {
    if error.kind() != io::ErrorKind::NotFound {
        return ReadError::Io { path: path.to_owned(), error };
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => ReadError::Dangling { path: path.to_owned() },
        _ => ReadError::Missing,
    }
}

fn kind_of(meta: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    [
        (kind.is_dir(), "a directory"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
        (kind.is_block_device(), "a block device"),
    ]
    .into_iter()
    .find_map(|(is, name)| is.then_some(name))
}
