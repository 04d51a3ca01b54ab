//! Killing all processes of a group, also those that fork while it happens.

use crate::{Result, file};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};

/// Groups nest as deep as a container may make them; a walk ends here.
const MAX_DEPTH: usize = 64;

/// The processes in the group whose directories these are and in all groups beneath, each once, in ascending order.
pub fn procs(dirs: &[PathBuf]) -> Vec<i32> {
    let mut pids = Vec::new();
    for dir in dirs {
        walk(dir, 0, &mut |dir| pids.extend(own_procs(dir)));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// A process outside our pid namespace reads as 0, which kill(2) takes as "my own process group": never pass it on.
fn own_procs(dir: &Path) -> Vec<i32> {
    let text = file::read(&dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Calls `visit` for every directory from the deepest up to `dir` itself. One that vanishes on the way is skipped.
pub(crate) fn walk(dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    if depth < MAX_DEPTH {
        for child in child_dirs(dir) {
            walk(&child, depth + 1, visit);
        }
    }
    visit(dir);
}

pub(crate) fn child_dirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Sends SIGKILL to every process in the group whose directories these are and in all groups beneath, once, and does
/// not wait. Returns how many there were: 0 means the group is empty. The caller itself is spared.
///
/// # Errors
/// The kernel refuses `cgroup.kill` on v2.
pub fn kill_dirs(dirs: &[PathBuf]) -> Result<usize> {
    let pids = procs(dirs);
    if pids.is_empty() {
        return Ok(0);
    }
    if let [dir] = dirs
        && dir.join("cgroup.kill").exists()
    {
        file::write(&dir.join("cgroup.kill"), "1")?;
        return Ok(pids.len());
    }
    // On v1 a frozen group cannot fork between the reading and the killing. Freezing may lag behind; the caller asks
    // again until none are left, so it need not be waited for.
    let freezers: Vec<PathBuf> = dirs.iter().map(|d| d.join("freezer.state")).filter(|f| f.exists()).collect();
    for state in &freezers {
        file::write_if_offered(state, "FROZEN").ok();
    }
    let own = std::process::id() as i32;
    let victims = procs(dirs);
    for pid in victims.iter().filter(|pid| **pid != own).filter_map(|pid| Pid::from_raw(*pid)) {
        // A process that is gone by now is what was wanted.
        kill_process(pid, Signal::KILL).ok();
    }
    for state in &freezers {
        file::write_if_offered(state, "THAWED").ok();
    }
    Ok(victims.len())
}
