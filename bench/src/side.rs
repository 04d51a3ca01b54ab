//! What is measured, seen from outside: something that starts and removes workloads and leaves traces in the kernel.

use crate::footprint;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Control groups that a kubelet makes once and keeps, whatever pods come and go.
const LASTING: [&str; 3] = ["kubepods", "besteffort", "burstable"];

/// A workload's name is also the name of its file of stamps.
pub(crate) trait Side {
    /// Orders the start of one workload that is restarted whenever it ends. Returns, when the order has been taken, the
    /// moment at which it was given, in nanoseconds of the stamps' clock.
    fn start(&self, name: &str) -> Result<u64>;

    /// Orders the removal of one workload; returns as [`Side::start`] does.
    fn remove(&self, name: &str) -> Result<u64>;

    /// Orders the start of many at once; returns the moment at which the first order was given.
    fn start_all(&self, names: &[String]) -> Result<u64>;

    /// Waits until this side itself reports all of them as running.
    fn await_reported(&self, names: &[String]) -> Result<()>;

    /// Orders the removal of many at once.
    fn remove_all(&self, names: &[String]) -> Result<u64>;

    /// Mounts, links and control groups that this side holds at this moment, one a line.
    fn traces(&self) -> BTreeSet<String>;

    /// The processes that run, watch and serve the workloads, without the workloads themselves.
    fn supervisors(&self) -> Parts<Vec<u32>>;
}

/// Something about those who run, watch and serve the workloads, apart for each kind of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts<T> {
    pub(crate) kubelet: T,
    /// dockerd and containerd.
    pub(crate) daemons: T,
    /// One for each pod or container.
    pub(crate) shims: T,
    /// What runs in a pod only to hold its namespaces.
    pub(crate) pauses: T,
}

impl<T> Parts<T> {
    pub(crate) fn try_map<U>(&self, of: impl Fn(&T) -> Result<U>) -> Result<Parts<U>> {
        Ok(Parts {
            kubelet: of(&self.kubelet)?,
            daemons: of(&self.daemons)?,
            shims: of(&self.shims)?,
            pauses: of(&self.pauses)?,
        })
    }

    pub(crate) fn all(self) -> [T; 4] {
        [self.kubelet, self.daemons, self.shims, self.pauses]
    }
}

/// A daemon and its shims: they name its directory on their command lines, as others may that only speak to it.
pub(crate) fn daemon_processes(dir: &Path) -> Parts<Vec<u32>> {
    let mut parts = Parts::<Vec<u32>>::default();
    for pid in footprint::pids_with_command(&dir.display().to_string()) {
        match footprint::name(pid).as_str() {
            "dockerd" | "containerd" => parts.daemons.push(pid),
            // As much of containerd-shim-runc-v2 as the kernel keeps.
            "containerd-shim" => parts.shims.push(pid),
            _ => {}
        }
    }
    parts
}

/// Where one side's traces are found: by path, by bridge and by control group of its own.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    /// Parts of mount points.
    pub(crate) mounts: Vec<String>,
    pub(crate) bridges: Vec<String>,
    /// Names of control groups beneath the root of each hierarchy.
    pub(crate) cgroups: Vec<String>,
}

impl Marks {
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        found.extend(points.filter(|point| self.mounts.iter().any(|mark| point.contains(mark))).map(String::from));
        for bridge in &self.bridges {
            found.extend(names(&Path::new("/sys/class/net").join(bridge).join("brif")));
        }
        let lasting = |group: &Path| {
            let mut names = self.cgroups.iter().map(String::as_str).chain(LASTING);
            group.file_name().is_some_and(|name| names.any(|one| name == one))
        };
        found.extend(self.groups().iter().filter(|group| !lasting(group)).map(|group| group.display().to_string()));
        found
    }

    /// Removes the side's own control groups, which must be empty of processes.
    pub(crate) fn remove_cgroups(&self) {
        // Children sort behind their parents.
        for group in self.groups().iter().rev() {
            let _ = std::fs::remove_dir(group);
        }
    }

    fn groups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for hierarchy in hierarchies() {
            for group in &self.cgroups {
                walk(&hierarchy.join(group), &mut found);
            }
        }
        found
    }
}

/// The root of version 2 and the mount points of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(root).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    std::iter::once(root.to_owned()).chain(below).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn walk(group: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(group) else { return };
    found.insert(group.to_owned());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), found);
    }
}

/// Runs a program that must succeed, and says what it wrote when it does not.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
