//! hostPath volumes: the check of the type, and the path that the runtime is given.
//!
//! Links in the path are the administrator's and followed, as everywhere; the runtime gets the path that they led to, so
//! that it meets no link itself. What is created is created by descriptor and never through a link.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::deletion::open_dir;

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    #[error("hostPath type check failed: {} is not {expected}", path.display())]
    WrongKind { path: PathBuf, expected: &'static str },
    #[error("hostPath type check failed: {} does not exist, expected {expected}", path.display())]
    Missing { path: PathBuf, expected: &'static str },
    #[error("hostPath {}: must be absolute and without \"..\"", path.display())]
    NotAbsolute { path: PathBuf },
    #[error("hostPath {}: unknown type {kind:?}", path.display())]
    UnknownType { path: PathBuf, kind: String },
    #[error("hostPath {}: {action}: {errno}", path.display())]
    Io { path: PathBuf, action: &'static str, errno: Errno },
    #[error("hostPath {}: was moved while it was looked at", path.display())]
    Moved { path: PathBuf },
}

/// What a type asks of the path.
#[derive(Debug, Clone, Copy)]
struct Rule {
    expected: &'static str,
    accepts: fn(FileType) -> bool,
    creates: Option<Creates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creates {
    Directories,
    File,
}

fn rule(kind: &str) -> Option<Rule> {
    let is_dir = |kind| kind == FileType::Directory;
    // Tradition: everything but a directory passes for a file.
    let is_file = |kind| kind != FileType::Directory;
    let (expected, accepts, creates): (_, fn(FileType) -> bool, _) = match kind {
        // Runtimes make a directory of a path that is not there; done here it is the same with each of them.
        "" => ("anything", |_| true, Some(Creates::Directories)),
        "DirectoryOrCreate" => ("a directory", is_dir, Some(Creates::Directories)),
        "Directory" => ("a directory", is_dir, None),
        "FileOrCreate" => ("a file", is_file, Some(Creates::File)),
        "File" => ("a file", is_file, None),
        "Socket" => ("a socket file", |kind| kind == FileType::Socket, None),
        "CharDevice" => ("a character device", |kind| kind == FileType::CharacterDevice, None),
        "BlockDevice" => ("a block device", |kind| kind == FileType::BlockDevice, None),
        _ => return None,
    };
    Some(Rule { expected, accepts, creates })
}

/// Checks the path against the type, creates what the type allows to, and returns the path free of links.
pub(crate) fn resolve(path: &Path, kind: &str) -> Result<PathBuf, HostPathError> {
    let Some(rule) = rule(kind) else {
        return Err(HostPathError::UnknownType { path: path.to_owned(), kind: kind.to_owned() });
    };
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(HostPathError::NotAbsolute { path: path.to_owned() });
    }
    let io = |action| move |errno| HostPathError::Io { path: path.to_owned(), action, errno };
    let root = open_dir(Path::new("/")).map_err(io("open /"))?;
    let found = match follow(&root, path.as_os_str()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => match rule.creates {
            Some(creates) => create(&root, path, creates)?,
            None => return Err(HostPathError::Missing { path: path.to_owned(), expected: rule.expected }),
        },
        Err(errno) => return Err(io("open")(errno)),
    };
    let stat = rustix::fs::fstat(&found).map_err(io("stat"))?;
    if !(rule.accepts)(FileType::from_raw_mode(stat.st_mode)) {
        return Err(HostPathError::WrongKind { path: path.to_owned(), expected: rule.expected });
    }
    let real = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|error| io("resolve")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    // A name that was moved or removed meanwhile reads as another path, or one that ends in " (deleted)".
    let again = rustix::fs::statat(&root, &real, AtFlags::SYMLINK_NOFOLLOW);
    match again {
        Ok(again) if (again.st_dev, again.st_ino) == (stat.st_dev, stat.st_ino) => Ok(real),
        _ => Err(HostPathError::Moved { path: path.to_owned() }),
    }
}

fn follow(dir: &impl AsFd, path: &OsStr) -> Result<OwnedFd, Errno> {
    // Magic links (/proc/1/root and the like) lead into places that no path names.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Makes what is missing of `path`: all directories of it, or a file in a directory that exists.
fn create(root: &OwnedFd, path: &Path, creates: Creates) -> Result<OwnedFd, HostPathError> {
    let io = |action| move |errno| HostPathError::Io { path: path.to_owned(), action, errno };
    let mut at = follow(root, OsStr::new("/")).map_err(io("open /"))?;
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_))).peekable();
    while let Some(part) = parts.next() {
        let name = part.as_os_str();
        let last = parts.peek().is_none();
        at = match follow(&at, name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => match (creates, last) {
                (Creates::Directories, _) => create_dir(&at, name).map_err(io("create the directory"))?,
                (Creates::File, true) => create_file(&at, name).map_err(io("create the file"))?,
                (Creates::File, false) => return Err(io("find the directory of the file")(Errno::NOENT)),
            },
            Err(errno) => return Err(io("open")(errno)),
        };
    }
    Ok(at)
}

/// EEXIST for a link that leads nowhere: nothing is created at its other end.
fn create_file(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(FILE_MODE))
}

fn create_dir(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(DIR_MODE)) {
        // Another pod was faster, or it is a link to nowhere, which the next open refuses.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests;
