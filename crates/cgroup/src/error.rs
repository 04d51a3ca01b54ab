use std::io;
use std::path::PathBuf;

/// Why a control group could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write {value:?} to {}: {source}", path.display())]
    Write { path: PathBuf, value: String, source: io::Error },
    #[error("create control group {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("remove control group {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("kill the processes of control group {}: {left} of them are still there", path.display())]
    StillAlive { path: PathBuf, left: usize },
    #[error("use the root of the control group hierarchy as a group of its own: it holds every process of the machine")]
    Root,
    #[error(
        "find control groups: no cgroup v1 controller and no cgroup2 is mounted (looked in /proc/self/mountinfo); \
         mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NotMounted,
    #[error("install the device rules of control group {}: {step}: {source}", path.display())]
    DeviceProgram { path: PathBuf, step: &'static str, source: io::Error },
}

impl Error {
    /// The kernel's error number; `None` where the kernel was not asked.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Read { source, .. }
            | Error::Write { source, .. }
            | Error::Create { source, .. }
            | Error::Remove { source, .. }
            | Error::DeviceProgram { source, .. } => source.raw_os_error(),
            Error::StillAlive { .. } | Error::Root | Error::NotMounted => None,
        }
    }
}
