//! Removing a tree that was in a container's hands: by directory descriptors, never through a link, never across a mount.
//!
//! A directory that is not empty is moved to the top of the tree and emptied there, so that neither depth nor width costs
//! descriptors or stack, and so that nobody who renames directories meanwhile can lead the walk elsewhere.

use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// Rounds over a tree that others still fill.
const ROUNDS_MAX: usize = 8;

/// Why something of the tree is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeletionError {
    #[error("{}: {name:?} in it is a mount point, which is not crossed", path.display())]
    Mounted { path: PathBuf, name: OsString },
    #[error("{}: {name:?} in it cannot be removed: {errno}", path.display())]
    Entry { path: PathBuf, name: OsString, errno: Errno },
    #[error("{}: is being filled while it is removed", path.display())]
    Busy { path: PathBuf },
}

/// Removes what stands at `path`, a directory with all beneath it or anything else; nothing there is fine. The directory
/// above it must be nobody's but ours.
pub(crate) fn remove_tree(path: &Path) -> Result<(), DeletionError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(DeletionError::Entry { path: path.to_owned(), name: OsString::new(), errno: Errno::INVAL });
    };
    let entry = |name: OsString, errno| explain(parent, name, errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(above) => above,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(entry(name.to_owned(), errno)),
    };
    let tree = Tree { path };
    for _round in 0..ROUNDS_MAX {
        let top = match open_beneath(above.as_fd(), name) {
            Ok(top) => top,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return match rustix::fs::unlinkat(&above, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(errno) => Err(entry(name.to_owned(), errno)),
                };
            }
            Err(errno) => return Err(entry(name.to_owned(), errno)),
        };
        tree.empty(&top)?;
        match rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(entry(name.to_owned(), errno)),
        }
    }
    Err(DeletionError::Busy { path: path.to_owned() })
}

struct Tree<'a> {
    path: &'a Path,
}

impl Tree<'_> {
    fn empty(&self, top: &OwnedFd) -> Result<(), DeletionError> {
        let mut waiting = Vec::new();
        let mut moved = 0_u64;
        self.sweep(top, &mut |name| {
            waiting.push(name);
            Ok(())
        })?;
        while let Some(name) = waiting.pop() {
            let dir = match open_beneath(top.as_fd(), &name) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(explain(self.path, name, errno)),
            };
            for _round in 0..ROUNDS_MAX {
                let found = self.sweep(&dir, &mut |inner| {
                    let fresh = self.lift(&dir, &inner, top, &mut moved)?;
                    waiting.push(fresh);
                    Ok(())
                })?;
                if !found {
                    break;
                }
            }
            match rustix::fs::unlinkat(top, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Someone fills it; the next round over the whole tree meets it again.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(explain(self.path, name, errno)),
            }
        }
        Ok(())
    }

    /// Removes every file and every empty directory in `dir` and gives the other directories to `full`. False when there
    /// was nothing.
    fn sweep(
        &self,
        dir: &OwnedFd,
        full: &mut dyn FnMut(OsString) -> Result<(), DeletionError>,
    ) -> Result<bool, DeletionError> {
        let failed = |errno| explain(self.path, OsString::from("."), errno);
        let mut found = false;
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            found = true;
            if let Err(errno) = remove_entry(dir.as_fd(), name, entry.file_type()) {
                let name = OsString::from_vec(name.to_bytes().to_vec());
                match errno {
                    Errno::NOENT => {}
                    Errno::NOTEMPTY | Errno::EXIST => full(name)?,
                    errno => return Err(explain(self.path, name, errno)),
                }
            }
        }
        Ok(found)
    }

    /// Moves a directory to the top of the tree under a fresh name. A mount point refuses (EBUSY), and so does the way
    /// out of a bind mount (EXDEV).
    fn lift(&self, dir: &OwnedFd, name: &OsString, top: &OwnedFd, moved: &mut u64) -> Result<OsString, DeletionError> {
        loop {
            *moved += 1;
            let fresh = OsString::from(format!(".removing-{moved}"));
            match rustix::fs::renameat_with(dir, name, top, &fresh, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(fresh),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(explain(self.path, name.clone(), errno)),
            }
        }
    }
}

fn open_beneath(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)
}

fn remove_entry(dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<(), Errno> {
    if kind == FileType::Directory {
        return rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        // The file system did not tell the kind, or it changed; POSIX has EPERM here and Linux EISDIR.
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        other => other,
    }
}

fn explain(path: &Path, name: OsString, errno: Errno) -> DeletionError {
    let path = path.to_owned();
    match errno {
        Errno::BUSY | Errno::XDEV => DeletionError::Mounted { path, name },
        errno => DeletionError::Entry { path, name, errno },
    }
}

/// Opens a directory to take others beneath it.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests;
