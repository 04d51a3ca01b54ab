//! The directory of the layer being unpacked, and how a path in it is found.

use super::below::{self, Found};
use super::{DirectoryTime, Layer, Limits, Unpacked, names, xattr};
use crate::archive::{Entry, Kind, printable};
use crate::error::LayerError;
use crate::fs::{DIRECTORY, remove_tree};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Links of the layer are followed within its root; there is nothing magic and no other mount in it.
const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;
const MAX_CACHED: usize = 64;
const MAX_PATH_LEN: usize = 4_095;
const BLOCK_BYTES: u64 = 4_096;
/// Of a root that no layer describes.
const ROOT_MODE: u32 = 0o755;

/// Makes an error of a failed system call: what was being done, and how it failed.
pub(super) type Failed<'a> = &'a dyn Fn(&'static str, Errno) -> LayerError;

/// What to do about a directory that the layer does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, like the one in the layers below or else with mode 0755.
    Create,
    /// Make it if the layers below have it; otherwise there is none.
    CopyUp,
}

/// A directory of the layer.
pub(super) struct Place {
    pub(super) fd: Rc<OwnedFd>,
    /// Its path, free of links.
    pub(super) path: Vec<u8>,
    /// Nothing of the layers below shows in it.
    pub(super) hidden: bool,
}

pub(super) struct Tree<'a> {
    root: Rc<OwnedFd>,
    below: &'a dyn Fn() -> Result<Vec<Arc<OwnedFd>>, LayerError>,
    /// The layers below, once something had to be looked up in them.
    lowers: Option<Vec<Arc<OwnedFd>>>,
    scratch: OwnedFd,
    limits: &'a Limits,
    /// Directories by the path with which the archive names them.
    cache: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Times of directories that were made without an entry of their own.
    pub(super) implicit: Vec<DirectoryTime>,
    pub(super) used: Unpacked,
    pub(super) whiteouts: u64,
    logical_bytes: u64,
}

impl<'a> Tree<'a> {
    /// Makes the layer's root, which is a plain directory until the layer says otherwise.
    pub(super) fn create(layer: &Layer<'a>, limits: &'a Limits) -> Result<Self, LayerError> {
        let failed = failed(b"/");
        let open = |path: &Path| {
            rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|e| failed("open directory", e))
        };
        rustix::fs::mkdirat(CWD, layer.target, Mode::from_raw_mode(ROOT_MODE))
            .map_err(|e| failed("create directory", e))?;
        let tree = Self {
            root: Rc::new(open(layer.target)?),
            below: layer.below,
            lowers: None,
            scratch: open(layer.scratch)?,
            limits,
            cache: HashMap::new(),
            implicit: vec![DirectoryTime { path: Vec::new(), mtime: (0, 0) }],
            used: Unpacked::default(),
            whiteouts: 0,
            logical_bytes: 0,
        };
        tree.limits.check_room(&tree.root)?;
        set_mode(&tree.root, ROOT_MODE, &failed)?;
        Ok(tree)
    }

    /// The layers below, topmost first.
    pub(super) fn lowers(&mut self) -> Result<&[Arc<OwnedFd>], LayerError> {
        self.used.looked_below = true;
        if self.lowers.is_none() {
            self.lowers = Some((self.below)()?);
        }
        Ok(self.lowers.as_deref().unwrap_or_default())
    }

    pub(super) fn used(&self) -> Unpacked {
        self.used
    }

    pub(super) fn set_root_attributes(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.used.own_root = true;
        set_attributes(&self.root, entry, Kind::Directory)
    }

    pub(super) fn set_directory_time(&self, directory: &DirectoryTime) -> Result<(), LayerError> {
        let failed = failed(&directory.path);
        match rustix::fs::openat2(&self.root, not_empty(&directory.path), DIRECTORY, Mode::empty(), RESOLVE) {
            Ok(fd) => rustix::fs::futimens(&fd, &times(directory.mtime)).map_err(|e| failed("set the time of", e)),
            // Replaced by something else after its entry.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(e) => Err(failed("open directory", e)),
        }
    }

    /// The directory in which an entry is to be made.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, LayerError> {
        if let Some(fd) = self.cache.get(path) {
            return Ok(fd.clone());
        }
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let fd = match rustix::fs::openat2(&self.root, not_empty(path), flags, Mode::empty(), RESOLVE) {
            Ok(fd) => Rc::new(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => match self.walk(path, Missing::Create)? {
                Some(place) => place.fd,
                None => {
                    return Err(LayerError::Entry { path: printable(path), reason: "its directory cannot be made" });
                }
            },
            Err(e) => return Err(failed(path)("open directory", e)),
        };
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), fd.clone());
        Ok(fd)
    }

    /// Goes to a directory step by step, making what is missing. Links are followed as the finished image would show
    /// them: those of the layer itself, and where it has nothing, those of the layers below.
    pub(super) fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Option<Place>, LayerError> {
        let failed = failed(path);
        let mut here = Here { fd: self.root.clone(), parts: Vec::new(), root_hidden: self.used.opaque_root };
        let mut todo: Vec<Vec<u8>> = names::components(path).rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                here.parts.pop();
                here.fd = self.reopen(&here.path(), &failed)?;
                continue;
            }
            match self.step(&mut here, &name, missing, &failed)? {
                Step::Entered => {}
                Step::Nothing => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(failed("follow links", Errno::LOOP));
                    }
                    if target.starts_with(b"/") {
                        here.parts.clear();
                        here.fd = self.root.clone();
                    }
                    todo.extend(names::components(&target).rev().map(<[u8]>::to_vec));
                }
            }
        }
        let (path, hidden) = (here.path(), here.hidden());
        Ok(Some(Place { fd: here.fd, path, hidden }))
    }

    fn step(&mut self, here: &mut Here, name: &[u8], missing: Missing, failed: Failed<'_>) -> Result<Step, LayerError> {
        let path = names::join(&here.path(), name);
        if path.len() > MAX_PATH_LEN {
            return Err(failed("resolve", Errno::NAMETOOLONG));
        }
        let stat = match rustix::fs::statat(&here.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return self.step_below(here, name, missing, failed),
            Err(e) => return Err(failed("look at", e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                here.enter(name, failed)?;
                Ok(Step::Entered)
            }
            FileType::Symlink => rustix::fs::readlinkat(&here.fd, name, Vec::new())
                .map(|target| Step::Link(target.into_bytes()))
                .map_err(|e| failed("read a link of", e)),
            _ if missing == Missing::CopyUp => Ok(Step::Nothing),
            _ if is_whiteout(&stat) => {
                rustix::fs::unlinkat(&here.fd, name, AtFlags::empty()).map_err(|e| failed("replace", e))?;
                self.implicit_directory(here, name, failed)?;
                xattr::set_opaque(&here.fd, failed)?;
                here.set_hidden();
                Ok(Step::Entered)
            }
            _ => Err(failed("make a directory of", Errno::NOTDIR)),
        }
    }

    fn step_below(
        &mut self,
        here: &mut Here,
        name: &[u8],
        missing: Missing,
        failed: Failed<'_>,
    ) -> Result<Step, LayerError> {
        let path = names::join(&here.path(), name);
        let found = if here.hidden() { None } else { self.find_below(&path)? };
        match found {
            Some(found) if is(&found, FileType::Directory) => {
                let lower = below::open(self.lowers()?, &found, &path).map_err(|e| failed("open directory", e))?;
                self.implicit_directory(here, name, failed)?;
                copy_attributes((&lower, &found.stat), &here.fd, Kind::Directory, failed)?;
                self.implicit.push(DirectoryTime { path, mtime: mtime(&found.stat) });
                Ok(Step::Entered)
            }
            Some(found) if is(&found, FileType::Symlink) => rustix::fs::readlinkat(&found.fd, "", Vec::new())
                .map(|target| Step::Link(target.into_bytes()))
                .map_err(|e| failed("read a link of", e)),
            _ if missing == Missing::CopyUp => Ok(Step::Nothing),
            _ => {
                self.implicit_directory(here, name, failed)?;
                Ok(Step::Entered)
            }
        }
    }

    fn implicit_directory(&mut self, here: &mut Here, name: &[u8], failed: Failed<'_>) -> Result<(), LayerError> {
        self.charge_inode()?;
        rustix::fs::mkdirat(&here.fd, name, Mode::from_raw_mode(0o755)).map_err(|e| failed("create directory", e))?;
        here.enter(name, failed)?;
        set_mode(&here.fd, 0o755, failed)
    }

    fn reopen(&self, path: &[u8], failed: Failed<'_>) -> Result<Rc<OwnedFd>, LayerError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, not_empty(path), DIRECTORY, Mode::empty(), resolve)
            .map(Rc::new)
            .map_err(|e| failed("open directory", e))
    }

    /// What the layers below show at a path that is free of links.
    pub(super) fn find_below(&mut self, path: &[u8]) -> Result<Option<Found>, LayerError> {
        below::find(self.lowers()?, path).map_err(|e| failed(path)("look in the layers below for", e))
    }

    /// Opens a directory of the layer by a path that is free of links.
    pub(super) fn open_exact(&self, path: &[u8]) -> Result<Rc<OwnedFd>, LayerError> {
        self.reopen(path, &failed(path))
    }

    /// Removes what stands at `name` and tells what it was.
    pub(super) fn clear(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        failed: Failed<'_>,
    ) -> Result<Option<Stat>, LayerError> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(failed("look at", e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.cache.clear();
                let doomed = crate::store::temporary_name();
                rustix::fs::renameat(parent, name, &self.scratch, &doomed).map_err(|e| failed("replace", e))?;
                remove_tree(&self.scratch, &doomed).map_err(|source| LayerError::EntryIo {
                    path: printable(name),
                    doing: "replace",
                    source,
                })?;
            }
            kind => {
                if kind == FileType::Symlink {
                    self.cache.clear();
                }
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(|e| failed("replace", e))?;
            }
        }
        Ok(Some(stat))
    }

    /// Counts a new file.
    pub(super) fn charge_inode(&mut self) -> Result<(), LayerError> {
        self.used.inodes += 1;
        if self.used.inodes > self.limits.entries {
            return Err(LayerError::Limit { what: "number of files", limit: self.limits.entries });
        }
        self.limits.charge_inode(&self.root)
    }

    /// Counts a file's length before it is written: a hole of a terabyte costs the disk nothing, but its readers much.
    pub(super) fn charge_length(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.logical_bytes = self.logical_bytes.saturating_add(bytes);
        if self.logical_bytes > self.limits.bytes {
            return Err(LayerError::Limit { what: "size of all files together in bytes", limit: self.limits.bytes });
        }
        Ok(())
    }

    /// Counts bytes that were written.
    pub(super) fn charge_written(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.limits.charge_bytes(bytes, &self.root)
    }

    pub(super) fn charge_blocks(&mut self, bytes: u64) {
        self.used.size_bytes += bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    }
}

/// Where a walk stands.
struct Here {
    fd: Rc<OwnedFd>,
    /// The names on the way, and whether what lies below is hidden from there on.
    parts: Vec<(Vec<u8>, bool)>,
    root_hidden: bool,
}

impl Here {
    fn path(&self) -> Vec<u8> {
        let names: Vec<&[u8]> = self.parts.iter().map(|(name, _)| name.as_slice()).collect();
        names.join(&b'/')
    }

    fn hidden(&self) -> bool {
        self.parts.last().map_or(self.root_hidden, |(_, hidden)| *hidden)
    }

    fn set_hidden(&mut self) {
        if let Some((_, hidden)) = self.parts.last_mut() {
            *hidden = true;
        }
    }

    fn enter(&mut self, name: &[u8], failed: Failed<'_>) -> Result<(), LayerError> {
        let fd =
            rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()).map_err(|e| failed("open directory", e))?;
        let hidden = self.hidden() || xattr::is_opaque(&fd);
        self.parts.push((name.to_vec(), hidden));
        self.fd = Rc::new(fd);
        Ok(())
    }
}

enum Step {
    Entered,
    Link(Vec<u8>),
    /// There is no such directory, and none was to be made.
    Nothing,
}

fn is(found: &Found, kind: FileType) -> bool {
    FileType::from_raw_mode(found.stat.st_mode) == kind
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn failed(path: &[u8]) -> impl Fn(&'static str, Errno) -> LayerError {
    move |doing, source| match source {
        Errno::NOSPC | Errno::DQUOT => LayerError::DiskFull { what: "space or inodes" },
        _ => LayerError::EntryIo { path: printable(path), doing, source: source.into() },
    }
}

/// openat2 takes no empty path.
fn not_empty(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) fn mtime(stat: &Stat) -> (i64, u32) {
    // Nanoseconds are below 10^9 by definition.
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

/// The umask takes bits off a mode given at creation, and chown(2) takes setuid away, so the mode is always set last.
fn set_mode(fd: &OwnedFd, mode: u32, failed: Failed<'_>) -> Result<(), LayerError> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777)).map_err(|e| failed("set the mode of", e))
}

fn set_owner(fd: &OwnedFd, uid: u32, gid: u32, failed: Failed<'_>) -> Result<(), LayerError> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|e| failed("set the owner of", e))
}

/// Owner, mode and extended attributes of an entry.
pub(super) fn set_attributes(fd: &OwnedFd, entry: &Entry, kind: Kind) -> Result<(), LayerError> {
    let failed = failed(&entry.path);
    set_owner(fd, entry.uid, entry.gid, &failed)?;
    set_mode(fd, entry.mode, &failed)?;
    xattr::set(fd, &entry.xattrs, kind, &failed)
}

/// The same from a file of a layer below.
pub(super) fn copy_attributes(
    (from, stat): (&OwnedFd, &Stat),
    to: &OwnedFd,
    kind: Kind,
    failed: Failed<'_>,
) -> Result<(), LayerError> {
    set_owner(to, stat.st_uid, stat.st_gid, failed)?;
    set_mode(to, stat.st_mode, failed)?;
    xattr::copy(from, to, kind, failed)
}

/// Gives the root of a layer that does not describe its own the attributes of the one below.
pub(crate) fn inherit_root(root: &OwnedFd, below: &OwnedFd) -> Result<(), LayerError> {
    let failed = failed(b"/");
    let stat = rustix::fs::fstat(below).map_err(|e| failed("look at", e))?;
    copy_attributes((below, &stat), root, Kind::Directory, &failed)?;
    rustix::fs::futimens(root, &times(mtime(&stat))).map_err(|e| failed("set the time of", e))
}

/// Whether two roots have the same attributes; without `other`, whether it is as one that no layer describes.
pub(crate) fn same_root(root: &OwnedFd, other: Option<&OwnedFd>) -> Result<bool, LayerError> {
    let look = |fd: &OwnedFd| {
        let failed = failed(b"/");
        let stat = rustix::fs::fstat(fd).map_err(|e| failed("look at", e))?;
        let mut xattrs = xattr::read(fd, Kind::Directory, &failed)?;
        xattrs.sort();
        Ok((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid, mtime(&stat), xattrs))
    };
    Ok(look(root)? == other.map_or(Ok((ROOT_MODE, 0, 0, (0, 0), Vec::new())), look)?)
}
