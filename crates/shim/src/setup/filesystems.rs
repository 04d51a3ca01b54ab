//! What every container finds mounted: /proc, /sys, /dev and what belongs into them.

use super::cgroup_view::{self, View};
use super::mounts::{attach, file_system};
use super::{beneath, devices};
use crate::failure::{Result, Step};
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::mount::MountAttrFlags;
use shim::protocol::ContainerSpec;
use std::os::fd::OwnedFd;
use std::path::Path;

const NOTHING_SPECIAL: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

pub(crate) fn mount_defaults(root: &OwnedFd, spec: &ContainerSpec, views: Vec<View>) -> Result<()> {
    let [proc, sys, dev] = [
        beneath::own_directory(root, "proc")?,
        beneath::own_directory(root, "sys")?,
        beneath::own_directory(root, "dev")?,
    ];
    // Nothing is mounted on /etc itself, but the engine's files are mounted in it.
    beneath::own_directory(root, "etc")?;
    let covered = |path: &str| spec.mounts.iter().any(|mount| Path::new(&mount.destination) == Path::new(path));

    let new_proc = file_system("proc", &[], NOTHING_SPECIAL)?;
    attach(new_proc, proc).step(|| "mount /proc".into())?;
    if !covered("/sys") {
        let read_only = if spec.privileged { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        let new_sys = file_system("sysfs", &[], NOTHING_SPECIAL | read_only)?;
        attach(new_sys, sys).step(|| "mount /sys".into())?;
        if !covered("/sys/fs/cgroup") {
            cgroup_view::attach_all(root, spec, views)?;
        }
    }
    if !covered("/dev") {
        mount_dev(&dev, spec, &covered)?;
    }
    Ok(())
}

fn mount_dev(place: &OwnedFd, spec: &ContainerSpec, covered: &dyn Fn(&str) -> bool) -> Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = file_system("tmpfs", &[("mode", "755"), ("size", "65536k")], attributes)?;
    attach(&dev, place).step(|| "mount /dev".into())?;

    let no_suid = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // 5 is the group `tty` everywhere; programs that write to terminals of others are in it.
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = file_system("devpts", &options, no_suid)?;
    attach(pts, directory(&dev, "pts")?).step(|| "mount /dev/pts".into())?;
    let shm = directory(&dev, "shm")?;
    if !covered("/dev/shm") {
        let options = [("mode", "1777"), ("size", "65536k")];
        attach(file_system("tmpfs", &options, NOTHING_SPECIAL)?, shm).step(|| "mount /dev/shm".into())?;
    }
    let mqueue = directory(&dev, "mqueue")?;
    // A kernel may come without POSIX message queues.
    if let Ok(queues) = file_system("mqueue", &[], NOTHING_SPECIAL) {
        attach(queues, mqueue).step(|| "mount /dev/mqueue".into())?;
    }
    devices::populate(&dev, &spec.devices)
}

fn directory(dev: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let step = || format!("make /dev/{name}");
    mkdirat(dev, name, Mode::from_raw_mode(0o755)).step(step)?;
    openat(dev, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).step(step)
}
