//! Small file-system operations on the store's own directories.

use crate::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, IFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Flags of every directory handle from which other paths are resolved.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory of the store itself.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|e| Error::io("open directory", path, e))
}

/// Makes a directory that only root can enter (setuid programs of images lie below it), or tightens an existing one.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)))
        .map_err(|e| Error::io("create directory", path, e))
}

/// Asks the file system to lay the directories made in this one apart (`chattr +T`). ext4 puts a directory near its
/// parent and searches the inodes there for a free one at each new file, passing over those that were freed lately: trees
/// that come and go in one place are made several times slower. Others than ext2 to 4 know no such wish.
pub(crate) fn spread_out(path: &Path) -> Result<()> {
    let fd = open_dir(path)?;
    let spread =
        rustix::fs::ioctl_getflags(&fd).and_then(|flags| rustix::fs::ioctl_setflags(&fd, flags | IFlags::TOPDIR));
    if let Err(error) = spread {
        tracing::debug!(%error, ?path, "the file system lays directories where it likes");
    }
    Ok(())
}

/// Reads a regular file of the store's own, of at most `limit` bytes. A symbolic link is none.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_regular(path, limit, OFlags::NOFOLLOW)
}

/// Reads a regular file of the machine's owner, of at most `limit` bytes, to which symbolic links may lead.
pub(crate) fn read_linked(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_regular(path, limit, OFlags::empty())
}

/// Does not hang on what is not a regular file: opening a FIFO waits for a writer otherwise.
fn read_regular(path: &Path, limit: u64, links: OFlags) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | links;
    let file = fs::File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Removes `name` below `parent`, whatever it is, with everything in it.
///
/// A tree may be deeper than the stack and its paths longer than `PATH_MAX`, so nested directories are moved up beside
/// the tree before they are emptied: depth never exceeds two, and two descriptors are enough.
pub(crate) fn remove_tree(parent: impl AsFd, name: &str) -> io::Result<()> {
    let parent = parent.as_fd();
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut moved = 0u64;
    let mut queue = vec![name.to_owned()];
    while let Some(dir) = queue.pop() {
        let fd = rustix::fs::openat(parent, &dir, DIRECTORY, Mode::empty())?;
        // Removing while reading may make the kernel skip entries, so read until a pass finds none.
        while remove_entries(&fd, |nested| {
            let beside = format!("{name}.{moved}");
            moved += 1;
            rustix::fs::renameat(&fd, nested, parent, &beside)?;
            queue.push(beside);
            Ok(())
        })? {}
        rustix::fs::unlinkat(parent, &dir, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// One pass over a directory; `true` when it found something.
fn remove_entries(fd: &OwnedFd, mut nested: impl FnMut(&std::ffi::CStr) -> io::Result<()>) -> io::Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => nested(name)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_b16_a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_dir(dir.path()).unwrap();
        let mut at = rustix::io::dup(&top).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        fs::write(dir.path().join("twin"), b"x").unwrap();
        remove_tree(&top, "d").unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["twin"]);
    }

    #[test]
    fn what_is_read_is_a_regular_file_and_a_link_to_one_where_links_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), b"12345").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("fifo", at("link-to-fifo")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for read in [read_limited, read_linked] {
            assert_eq!(read(&at("file"), 5).unwrap(), b"12345");
            assert!(read(&at("file"), 4).unwrap_err().to_string().contains("4 bytes"));
            // Nobody ever writes to it.
            assert!(read(&at("fifo"), 5).unwrap_err().to_string().contains("regular file"));
            assert!(read(dir.path(), 5).unwrap_err().to_string().contains("regular file"));
            assert_eq!(read(&at("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert!(read_limited(&at("link"), 5).is_err());
        assert_eq!(read_linked(&at("link"), 5).unwrap(), b"12345");
        assert!(read_linked(&at("link-to-fifo"), 5).is_err());
    }

    #[test]
    fn a_removed_link_leaves_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let top = open_dir(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("canary/sub")).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        std::os::unix::fs::symlink("../canary", dir.path().join("tree/link")).unwrap();
        remove_tree(&top, "tree").unwrap();
        remove_tree(&top, "absent").unwrap();
        assert!(dir.path().join("canary/sub").is_dir() && !dir.path().join("tree").exists());
    }
}
