//! Looking up a path in the layers below, as overlayfs would show it.

use super::tree::is_whiteout;
use super::xattr;
use crate::fs::DIRECTORY;
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Paths here are made of directories alone; a symbolic link on the way means that the path is not in that layer.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What the layers below show at a path.
pub(super) struct Found {
    /// The layer's root, in which `path` is what was found.
    pub(super) layer: usize,
    pub(super) stat: Stat,
    /// An `O_PATH` handle.
    pub(super) fd: OwnedFd,
}

/// Finds `path` in the topmost of `lowers` that has it, unless a layer above that one hides it.
pub(super) fn find(lowers: &[Arc<OwnedFd>], path: &[u8]) -> Result<Option<Found>, Errno> {
    for (layer, root) in lowers.iter().enumerate() {
        match rustix::fs::openat2(&**root, path, HANDLE, Mode::empty(), RESOLVE) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                return Ok((!is_whiteout(&stat)).then_some(Found { layer, stat, fd }));
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if hides(root, path)? => return Ok(None),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Opens what was found for reading; it is a directory or a regular file.
pub(super) fn open(lowers: &[Arc<OwnedFd>], found: &Found, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat2(&*lowers[found.layer], path, flags, Mode::empty(), RESOLVE)
}

/// True when a directory on the way to `path`, which this layer lacks, is replaced or opaque in this layer.
fn hides(root: &OwnedFd, path: &[u8]) -> Result<bool, Errno> {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(end, _)| end);
    for end in ends {
        match rustix::fs::openat2(root, &path[..end], DIRECTORY, Mode::empty(), RESOLVE) {
            Ok(directory) if xattr::is_opaque(&directory) => return Ok(true),
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(false),
            // A whiteout, a file or a link in the place of the directory.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}
