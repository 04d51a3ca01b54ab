//! How full a file system is.

use std::path::{Path, PathBuf};

use lifecycle::image_gc::Disk;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

/// Why it is not known how full the images' file system is.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("the runtime does not say where its images lie: {0}")]
    Runtime(cri::Error),
    #[error("the runtime names no file system that holds its images")]
    Unnamed,
    #[error("{}: {errno}", path.display())]
    Measure { path: PathBuf, errno: Errno },
    #[error("{}: the file system was not measured", path.display())]
    GivenUp { path: PathBuf },
}

/// Measures the file system that holds a path.
pub(super) type Measure = fn(&Path) -> Result<Disk, Errno>;

/// Some file systems free what was removed only with what is written next: that is waited for.
pub(super) fn measure(path: &Path) -> Result<Disk, Errno> {
    let dir = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::syncfs(&dir)?;
    let found = rustix::fs::fstatvfs(&dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Disk { capacity_bytes: bytes(found.f_blocks), available_bytes: bytes(found.f_bavail) })
}

/// On a thread where waiting for the disk holds up nobody.
pub(super) async fn measured(measure: Measure, path: &Path) -> Result<Disk, DiskError> {
    let owned = path.to_owned();
    match spawn_blocking(move || measure(&owned)).await {
        Ok(Ok(disk)) => Ok(disk),
        Ok(Err(errno)) => Err(DiskError::Measure { path: path.to_owned(), errno }),
        Err(_) => Err(DiskError::GivenUp { path: path.to_owned() }),
    }
}
