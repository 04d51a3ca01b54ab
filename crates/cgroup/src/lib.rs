//! Control groups v1, hybrid and v2: create, limit, attach, read usage and events, kill, remove. Synchronous.
//!
//! A group is named by one path (`/kubepods/pod<uid>/<id>`) and lives as a directory in every hierarchy the layout has:
//! several on v1, one on v2. A hybrid machine (v1 controllers beside a `unified` mount) is treated as v1, because that
//! is where its controllers are.

mod devices;
mod error;
mod file;
mod group;
mod kill;
mod layout;
mod limits;
mod sys;
mod usage;

pub use devices::{Access, DeviceKind, DevicePolicy, DeviceRule};
pub use error::Error;
pub use group::Group;
pub use kill::{kill_dirs, procs};
pub use layout::{Controller, Hierarchy, Layout};
pub use limits::{Limits, cpu_weight};
pub use usage::{Usage, oom_kills};

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

/// Moves the calling process, which must have no other thread, into the group whose directories these are.
///
/// On v1 the thread is moved, through `tasks`: for a thread that moves itself the kernel need not hold off every fork and
/// exit on the machine, which takes an RCU grace period, about 10 ms where nothing was moved just before.
///
/// # Errors
/// The first directory that refuses it.
pub fn attach_self(dirs: &[PathBuf]) -> Result<()> {
    for dir in dirs {
        match file::write(&dir.join("tasks"), "0") {
            // v2 has no such file, and moves processes only.
            Err(error) if error.errno() == Some(libc::ENOENT) => file::write(&dir.join("cgroup.procs"), "0")?,
            other => other?,
        }
    }
    Ok(())
}

/// Moves another process (all its threads) into the group whose directories these are.
///
/// # Errors
/// The first directory that refuses it.
pub fn attach(dirs: &[PathBuf], pid: i32) -> Result<()> {
    dirs.iter().try_for_each(|dir| file::write(&dir.join("cgroup.procs"), &pid.to_string()))
}
