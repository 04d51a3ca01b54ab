//! /sys/fs/cgroup in the container: its own control groups, which only a privileged container may write. On v1 a
//! writable one would let it raise its own limits and run programs on the host (`release_agent`).

use super::beneath;
use super::mounts::{attach, file_system, make_read_only};
use crate::failure::{Result, Step};
use cgroup::Layout;
use rustix::fs::{CWD, Mode, mkdirat, openat, symlinkat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use shim::protocol::ContainerSpec;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

/// One hierarchy of the container, mounted nowhere yet.
pub(crate) struct View {
    tree: OwnedFd,
    /// Its name below /sys/fs/cgroup; `None` on v2, whose one hierarchy is mounted there itself.
    name: Option<OsString>,
}

pub(crate) fn open(spec: &ContainerSpec) -> Result<Vec<View>> {
    if spec.cgroups.is_empty() {
        return Ok(Vec::new());
    }
    let layout = Layout::detect().step(|| "look at the machine's control groups".into())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = |dir: &Path| {
        let step = || format!("open the control group {}", dir.display());
        let tree = open_tree(CWD, dir, flags).step(step)?;
        if !spec.privileged {
            make_read_only(&tree, &dir.to_string_lossy())?;
        }
        Ok(View { tree, name: name_of(&layout, dir) })
    };
    spec.cgroups.iter().map(|dir| view(dir)).collect()
}

fn name_of(layout: &Layout, dir: &Path) -> Option<OsString> {
    let Layout::V1 { hierarchies } = layout else { return None };
    let hierarchy = hierarchies.iter().find(|hierarchy| dir.starts_with(&hierarchy.mount))?;
    hierarchy.mount.file_name().map(ToOwned::to_owned)
}

pub(crate) fn attach_all(root: &OwnedFd, spec: &ContainerSpec, views: Vec<View>) -> Result<()> {
    let step = || "mount /sys/fs/cgroup".to_owned();
    let Some(place) = beneath::find(root, "/sys/fs/cgroup")? else { return Ok(()) };
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mut base = None;
    for view in views {
        let Some(name) = view.name else {
            attach(view.tree, &place).step(step)?;
            continue;
        };
        let base = match &base {
            Some(base) => base,
            None => {
                let new = file_system("tmpfs", &[("mode", "755"), ("size", "64k")], attributes)?;
                attach(&new, &place).step(step)?;
                base.insert(new)
            }
        };
        mkdirat(base, &name, Mode::from_raw_mode(0o755)).step(step)?;
        let dir = openat(base, &name, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, Mode::empty());
        attach(view.tree, dir.step(step)?).step(step)?;
        link_controllers(base, &name)?;
    }
    match base {
        Some(base) if !spec.privileged => make_read_only(&base, "/sys/fs/cgroup"),
        _ => Ok(()),
    }
}

/// Programs look for `cpu` where `cpu,cpuacct` is mounted.
fn link_controllers(base: &OwnedFd, name: &OsString) -> Result<()> {
    let Some(text) = name.to_str().filter(|text| text.contains(',')) else { return Ok(()) };
    text.split(',').try_for_each(|controller| {
        symlinkat(text, base, controller).step(|| format!("make the link /sys/fs/cgroup/{controller}"))
    })
}
