//! Paths that read as empty, and paths that cannot be written.

use super::{beneath, mounts};
use crate::failure::{Result, Step};
use crate::sys::{self, Reach};
use rustix::fs::FileType;
use rustix::mount::MountAttrFlags;
use shim::protocol::ContainerSpec;
use std::os::fd::OwnedFd;

pub(crate) fn apply(root: &OwnedFd, spec: &ContainerSpec, null: &OwnedFd) -> Result<()> {
    for path in &spec.readonly_paths {
        make_read_only(root, path)?;
    }
    let mut empty = None;
    for path in &spec.masked_paths {
        mask(root, path, null, &mut empty)?;
    }
    Ok(())
}

fn make_read_only(root: &OwnedFd, path: &str) -> Result<()> {
    let step = || format!("make {path} read-only");
    let Some(place) = beneath::find(root, path)? else { return Ok(()) };
    let tree = mounts::copy(&place).step(step)?;
    sys::mount_setattr(&tree, Reach::WholeTree, libc::MOUNT_ATTR_RDONLY, 0).step(step)?;
    mounts::attach(tree, place).step(step)
}

/// A file is covered by the null device, a directory by an empty one. A path that does not exist needs no mask; one
/// that cannot be masked ends the start.
fn mask(root: &OwnedFd, path: &str, null: &OwnedFd, empty: &mut Option<OwnedFd>) -> Result<()> {
    let step = || format!("mask {path}");
    let Some(place) = beneath::find(root, path)? else { return Ok(()) };
    if beneath::file_type(&place, path)? != FileType::Directory {
        let cover = mounts::copy(null).step(step)?;
        return mounts::attach(cover, place).step(step);
    }
    // One empty file system covers all; it can be copied as soon as it is mounted somewhere.
    if let Some(empty) = empty {
        let cover = mounts::copy(&*empty).step(step)?;
        return mounts::attach(cover, place).step(step);
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let cover = mounts::file_system("tmpfs", &[("size", "4k"), ("mode", "555")], attributes)?;
    mounts::attach(&cover, place).step(step)?;
    *empty = Some(cover);
    Ok(())
}
