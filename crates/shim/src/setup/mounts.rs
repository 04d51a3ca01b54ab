//! The mounts a spec asks for. Each is a detached tree, opened while only the host could have made its path, and put
//! on a descriptor of the place it goes to: no path is looked up twice, so none can be swapped in between.

use super::beneath::{self, Kind};
use crate::failure::{Result, Step, refused};
use crate::sys::{self, Reach};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, open_tree,
};
use shim::protocol::{Mount, MountSource, Propagation};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A mount that is not yet anywhere.
pub(crate) struct Tree {
    fd: OwnedFd,
    kind: Kind,
}

pub(crate) fn open_sources(mounts: &[Mount]) -> Result<Vec<Tree>> {
    mounts.iter().map(open_source).collect()
}

fn open_source(mount: &Mount) -> Result<Tree> {
    let tree = match &mount.source {
        MountSource::Bind { path } => open_bind(path, mount.propagation)?,
        MountSource::Tmpfs { size_bytes, mode } => {
            let (mode, size) = (format!("{:o}", mode & 0o7777), size_bytes.map(|bytes| bytes.to_string()));
            let mut options = vec![("mode", mode.as_str())];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            Tree { fd: file_system("tmpfs", &options, attributes)?, kind: Kind::Directory }
        }
    };
    if mount.read_only {
        // Only the mount itself, as Kubernetes defines `readOnly`: what is mounted beneath keeps its own rights.
        make_read_only(&tree.fd, &mount.destination)?;
    }
    Ok(tree)
}

fn open_bind(path: &Path, propagation: Propagation) -> Result<Tree> {
    let step = || format!("open the source {} of a mount", path.display());
    if propagation == Propagation::Bidirectional {
        require_shared(path)?;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let fd = open_tree(CWD, path, flags).step(step)?;
    let change = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => 0,
    };
    if change != 0 {
        sys::mount_setattr(&fd, Reach::WholeTree, 0, change).step(step)?;
    }
    let directory = beneath::file_type(&fd, &path.to_string_lossy())? == FileType::Directory;
    Ok(Tree { fd, kind: if directory { Kind::Directory } else { Kind::File } })
}

/// Mounts made in the container reach the host only through a shared mount.
fn require_shared(path: &Path) -> Result<()> {
    let step = || format!("share the mounts below {} with the host", path.display());
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(step)?;
    let id = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).step(step)?.stx_mnt_id.to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").step(step)?;
    let line = table.lines().find(|line| line.split(' ').next() == Some(id.as_str()));
    // proc_pid_mountinfo(5): the optional fields stand before the lone dash.
    if line.is_some_and(|line| line.split(' ').take_while(|field| *field != "-").any(|f| f.starts_with("shared:"))) {
        return Ok(());
    }
    let point = line.and_then(|line| line.split(' ').nth(4)).unwrap_or("/");
    Err(refused(step(), format!("its mount {point} is not shared: run `mount --make-rshared {point}` on the host")))
}

/// A new file system of the given kind, mounted nowhere yet.
pub(crate) fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let step = || format!("make a file system of type {kind}");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).step(step)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).step(step)?;
    }
    fsconfig_create(&context).step(step)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step(step)
}

/// A copy of the mount at a descriptor, without what is mounted beneath it.
pub(crate) fn copy(of: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(of, "", flags)
}

/// Puts a tree on a place, both by descriptor.
pub(crate) fn attach(tree: impl AsFd, place: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", place, "", flags)
}

pub(crate) fn make_read_only(tree: &OwnedFd, name: &str) -> Result<()> {
    sys::mount_setattr(tree, Reach::TopMount, libc::MOUNT_ATTR_RDONLY, 0).step(|| format!("make {name} read-only"))
}

/// Puts every mount where it belongs, in the order of the spec.
pub(crate) fn attach_all(root: &OwnedFd, mounts: &[Mount], trees: Vec<Tree>) -> Result<()> {
    for (mount, tree) in mounts.iter().zip(trees) {
        let step = || format!("mount on {} in the container", mount.destination);
        let place = beneath::ensure(root, &mount.destination, tree.kind)?;
        if beneath::is_same(root, &place) {
            return Err(refused(step(), "the root itself cannot be mounted over"));
        }
        // A forged /proc would make the kernel's own switches out of plain files (CVE-2025-52881).
        if beneath::is_on_procfs(&place) {
            return Err(refused(step(), "nothing can be mounted on or below /proc"));
        }
        attach(&tree.fd, &place).step(step)?;
    }
    Ok(())
}
