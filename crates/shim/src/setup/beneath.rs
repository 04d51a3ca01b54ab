//! Paths inside a container's root, found and made by descriptor. Nothing an image or a volume holds, be it a link,
//! `..` or a directory that somebody moves meanwhile, leads out of the root.

use crate::failure::{Result, Step, refused, system};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;
use shim::protocol::FailureKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// As many links as the kernel itself follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Components of a path, those of links included.
const MAX_STEPS: usize = 4096;
/// The kernel gives up with EAGAIN when something is renamed while it resolves; how often to try again.
const MAX_RACES: usize = 64;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const LOOK_AT_LINK: OFlags = LOOK.union(OFlags::NOFOLLOW);

/// What a path shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// Anything but a directory.
    File,
}

pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, LOOK | OFlags::DIRECTORY, Mode::empty()).step(|| format!("open the root {}", path.display()))
}

/// Opens an existing path inside the root with the given flags.
pub(crate) fn open(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RACES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Looks a path up inside the root; `None` when it does not exist.
pub(crate) fn find(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(cannot_resolve(path, errno)),
    }
}

/// A magic link of procfs, a loop of links or a path too long is the spec's fault.
fn cannot_resolve(path: &str, errno: Errno) -> crate::failure::Failure {
    let kind = match errno {
        Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => FailureKind::Refused,
        _ => FailureKind::System,
    };
    system(kind, format!("resolve {path:?} inside the container"), errno.raw_os_error())
}

/// Finds a path inside the root, or makes it: directories on the way, and what it names.
pub(crate) fn ensure(root: &OwnedFd, path: &str, kind: Kind) -> Result<OwnedFd> {
    if path.contains('\0') {
        return Err(refused(format!("resolve {path:?} inside the container"), "a path holds no NUL byte"));
    }
    let fd = match find(root, path)? {
        Some(fd) => fd,
        None => Walk::new(root, path)?.run(kind)?,
    };
    let found = if file_type(&fd, path)? == FileType::Directory { Kind::Directory } else { Kind::File };
    match (found, kind) {
        (Kind::Directory, Kind::File) => Err(refused(format!("use {path:?} as a file"), "it is a directory")),
        (Kind::File, Kind::Directory) => Err(refused(format!("use {path:?} as a directory"), "it is none")),
        _ => Ok(fd),
    }
}

/// A directory of the root that the runtime itself uses: made if missing, and never a link (CVE-2026-41579).
pub(crate) fn own_directory(root: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let step = || format!("use /{name} of the container");
    match mkdirat(root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).step(step),
    }
    match openat(root, name, LOOK_AT_LINK | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(refused(step(), "the image has something else than a directory in its place"))
        }
        result => result.step(step),
    }
}

pub(crate) fn file_type(fd: &OwnedFd, path: &str) -> Result<FileType> {
    fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode)).step(|| format!("look at {path:?}"))
}

pub(crate) fn is_on_procfs(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC)
}

/// A walk by hand, for paths of which a part is missing. It keeps the descriptor of every directory it came through, so
/// that `..` never asks the kernel, and reads links as text that begins anew at the root.
struct Walk<'a> {
    root: &'a OwnedFd,
    path: &'a str,
    /// Below the root, outermost first.
    dirs: Vec<OwnedFd>,
    /// Names still to come, the next one last.
    todo: Vec<Vec<u8>>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a OwnedFd, path: &'a str) -> Result<Walk<'a>> {
        let mut walk = Walk { root, path, dirs: Vec::new(), todo: Vec::new(), links: 0 };
        walk.prepend(Path::new(path))?;
        Ok(walk)
    }

    fn prepend(&mut self, path: &Path) -> Result<()> {
        if path.is_absolute() {
            self.dirs.clear();
        }
        let names = path.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            Component::ParentDir => Some(b"..".to_vec()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        self.todo.extend(names);
        if self.todo.len() > MAX_STEPS { Err(self.refused("it is too long")) } else { Ok(()) }
    }

    fn refused(&self, why: &str) -> crate::failure::Failure {
        refused(format!("make {:?} inside the container", self.path), why)
    }

    fn run(mut self, kind: Kind) -> Result<OwnedFd> {
        for _ in 0..MAX_STEPS {
            let Some(name) = self.todo.pop() else {
                let last = self.dirs.pop();
                return match last {
                    Some(dir) => Ok(dir),
                    None => self.root.try_clone().step(|| "keep the root open".into()),
                };
            };
            if name == b".." {
                self.dirs.pop();
                continue;
            }
            if let Some(file) = self.enter(name, kind)? {
                return Ok(file);
            }
        }
        Err(self.refused("it is too long"))
    }

    /// One name further. Returns the file at the end of the path.
    fn enter(&mut self, name: Vec<u8>, kind: Kind) -> Result<Option<OwnedFd>> {
        let parent = self.dirs.last().unwrap_or(self.root);
        let step = || format!("make {:?} inside the container", self.path);
        let wanted = if self.todo.is_empty() { kind } else { Kind::Directory };
        match openat(parent, name.as_slice(), LOOK_AT_LINK, Mode::empty()) {
            Ok(fd) => match file_type(&fd, self.path)? {
                FileType::Symlink => self.follow(&fd).map(|()| None),
                FileType::Directory => {
                    self.dirs.push(fd);
                    Ok(None)
                }
                _ if self.todo.is_empty() => Ok(Some(fd)),
                _ => Err(self.refused("a part of it is no directory")),
            },
            Err(Errno::NOENT) if is_on_procfs(parent) => Err(self.refused("nothing can be made in /proc")),
            Err(Errno::NOENT) if wanted == Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(parent, name.as_slice(), flags, Mode::from_raw_mode(0o644)).step(step).map(Some)
            }
            Err(Errno::NOENT) => {
                match mkdirat(parent, name.as_slice(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).step(step),
                }
                self.todo.push(name);
                Ok(None)
            }
            Err(errno) => Err(errno).step(step),
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(self.refused("too many symbolic links"));
        }
        // The text of a magic link of procfs is no path: what it names may be anywhere.
        if is_on_procfs(link) {
            return Err(self.refused("it leads through a link of /proc"));
        }
        let target = readlinkat(link.as_fd(), "", Vec::new()).step(|| format!("follow a link in {:?}", self.path))?;
        self.prepend(Path::new(std::ffi::OsStr::from_bytes(target.to_bytes())))
    }
}

/// Whether two descriptors are one directory.
pub(crate) fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let id = |fd| rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn s_c07_whatever_is_made_is_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root_path = dir.path().join("root");
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(root_path.join("etc")).unwrap();
        fs::write(root_path.join("file"), "").unwrap();
        for (link, target) in [
            ("abs", outside.to_str().unwrap()),
            ("up", "../../../../outside"),
            ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
            ("loop", "loop"),
            ("dot", "/etc/../etc/./deep"),
            ("root", "/"),
        ] {
            symlink(target, root_path.join(link)).unwrap();
        }
        let root = open_root(&root_path).unwrap();
        for (path, kind, expected) in [
            ("/new/dir", Kind::Directory, Some("new/dir")),
            ("new/file", Kind::File, Some("new/file")),
            ("/up/x", Kind::Directory, Some("outside/x")),
            ("/../../../y", Kind::File, Some("y")),
            ("/a/../b/./c", Kind::Directory, Some("b/c")),
            ("/etc/resolv.conf", Kind::File, Some("run/systemd/resolve/stub-resolv.conf")),
            ("/dot/z", Kind::Directory, Some("etc/deep/z")),
            ("/root/top", Kind::File, Some("top")),
            ("/loop/x", Kind::Directory, None),
            ("/file/x", Kind::Directory, None),
            ("/file", Kind::Directory, None),
            ("/etc", Kind::File, None),
            ("/a\0b", Kind::File, None),
        ] {
            let made = ensure(&root, path, kind);
            assert_eq!(made.is_ok(), expected.is_some(), "{path}: {made:?}");
            if let Some(expected) = expected {
                let stat = rustix::fs::stat(root_path.join(expected)).unwrap();
                assert_eq!(rustix::fs::fstat(made.unwrap()).unwrap().st_ino, stat.st_ino, "{path}");
            }
        }
        ensure(&root, "/abs/in", Kind::Directory).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(root_path.join(outside.strip_prefix("/").unwrap()).join("in").is_dir());
    }

    #[test]
    fn s_d06_a_link_is_no_directory_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/tmp", dir.path().join("dev")).unwrap();
        fs::write(dir.path().join("sys"), "").unwrap();
        let root = open_root(dir.path()).unwrap();
        for name in ["dev", "sys"] {
            assert_eq!(own_directory(&root, name).unwrap_err().kind, FailureKind::Refused);
        }
        own_directory(&root, "proc").unwrap();
        own_directory(&root, "proc").unwrap();
        assert!(dir.path().join("proc").is_dir());
    }
}
