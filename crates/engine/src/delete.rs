//! Deleting a tree that containers wrote: by descriptor, never through a link or a mount, however deep it is.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, unlinkat};
use rustix::io::Errno;

/// Deletes `name` in `parent` with all that is in it. One that does not exist is deleted already.
///
/// A directory that is not empty is first moved up into the tree's top, so that neither the stack nor the number of open
/// descriptors grows with the depth of the tree. A mount point in the tree is an error and stays with what is in it.
///
/// # Errors
/// What the kernel answers, `EBUSY` or `EXDEV` for a mount point.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_dir(rustix::fs::CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlinkat(rustix::fs::CWD, path, AtFlags::empty()).map_err(Into::into);
        }
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0;
    // What was moved up is found by reading the top again.
    while empty_once(&top, &mut moved)? {}
    rustix::fs::rmdir(path).map_err(Into::into)
}

/// Goes once through the tree's top; `false` when there was nothing in it.
fn empty_once(top: &OwnedFd, moved: &mut u64) -> io::Result<bool> {
    let mut any = false;
    for (name, kind) in entries(top)? {
        any = true;
        if !remove_file_or_empty_dir(top, &name, kind)? {
            let dir = open_beneath(top, &name)?;
            for (child, kind) in entries(&dir)? {
                if !remove_file_or_empty_dir(&dir, &child, kind)? {
                    move_up(&dir, &child, top, moved)?;
                }
            }
            unlinkat(top, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(any)
}

/// `false` when it is a directory with something in it.
fn remove_file_or_empty_dir(dir: &OwnedFd, name: &CStr, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Directory {
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = format!(".moved-{moved}");
        match renameat_with(dir, name, top, free, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

fn open_dir(at: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn open_beneath(dir: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(dir, name, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, tree) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::create_dir_all(kept.join("sub")).unwrap();
        fs::write(kept.join("sub/file"), "precious").unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        symlink(kept.join("sub"), tree.join("a/b/..data")).unwrap();
        fs::hard_link(kept.join("sub/file"), tree.join("a/b/hard")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(kept.join("sub/file")).unwrap(), "precious");
        remove_tree(&tree).unwrap();
        symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(kept.join("sub/file").exists() && !tree.is_symlink());
    }

    #[test]
    fn s_b16_a_tree_deeper_than_paths_are_long_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = open_dir(rustix::fs::CWD, &tree).unwrap();
        for _ in 0..5_000 {
            for name in ["d", ".moved-1"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = open_dir(&at, Path::new("d")).unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
