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

/// The two ways to measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measures {
    pub(super) now: Measure,
    pub(super) settled: Measure,
}

pub(super) const MEASURES: Measures = Measures { now: measure, settled: measure_settled };

/// As it is now.
fn measure(path: &Path) -> Result<Disk, Errno> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Disk { capacity_bytes: bytes(found.f_blocks), available_bytes: bytes(found.f_bavail) })
}

/// After a removal. Some file systems free what was removed only with what is written next: that is waited for.
fn measure_settled(path: &Path) -> Result<Disk, Errno> {
    rustix::fs::syncfs(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?;
    measure(path)
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
