//! A power cut: everything of this machine that does not outlive a boot goes at once, nothing of its disk does.

use crate::{Machine, PATIENCE, machine::own_groups};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

impl Machine {
    /// As after a boot: no process, mount, control group, link or file under `/run` is left, and the kubelet starts on
    /// what the disk holds. The boot id alone stays what it was.
    pub fn reboot(&mut self) {
        self.power_cut();
        let _ = std::fs::remove_dir_all(&self.run_dir);
        self.start_kubelet();
    }

    /// Takes what the runtime keeps of a container that has ended, while no kubelet runs: as if it had been removed.
    pub fn forget_container(&self, status: &Value) {
        let id = status["containerID"].as_str().and_then(|id| id.rsplit('/').next()).expect("a container's id");
        let sandboxes = std::fs::read_dir(self.run_dir.join("sandboxes")).expect("the sandboxes").flatten();
        let record = sandboxes.map(|entry| entry.path().join("containers").join(id)).find(|path| path.exists());
        std::fs::remove_dir_all(record.unwrap_or_else(|| panic!("no record of {id}"))).expect("removed");
    }

    /// Whether a record that outlives a boot lies whole in this directory beneath the root directory; one being written has another ending.
    pub fn has_record(&self, dir: &str) -> bool {
        let files = std::fs::read_dir(self.dir.join("root").join(dir)).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|path| path.extension().is_some_and(|ending| ending == "json"))
    }

    /// Kills the kubelet, the shims and with them all containers; unmounts and removes what they held.
    pub(crate) fn power_cut(&mut self) {
        self.kill_if_running();
        for pid in self.shim_pids().into_iter().chain(self.container_pids()) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // Gone already is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // A process that stays is the census's to tell: this runs in a failing test too, where nothing may panic.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && !(self.shim_pids().is_empty() && self.container_pids().is_empty()) {
            std::thread::yield_now();
        }
        for target in mounts_beneath(&[&self.run_dir, &self.dir]) {
            let _ = unmount(&target, UnmountFlags::DETACH);
        }
        for group in own_groups(self.name()) {
            remove_children(&group);
        }
        let _ = Command::new("ip").args(["link", "delete", &self.bridge()]).output();
        let _ = Command::new("nft").args(["delete", "table", "ip", &self.bridge()]).output();
    }
}

/// Deepest first.
fn mounts_beneath(dirs: &[&Path]) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<PathBuf> = targets.filter(|target| dirs.iter().any(|dir| target.starts_with(dir))).collect();
    found.sort();
    found.reverse();
    found
}

fn remove_children(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_children(&entry.path());
            // Its last process may be dead and not yet reaped by its parent: then the census says so.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
