//! The files of one container's log: opened beneath their directory, never through a link but Docker's.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LogError;
use super::docker::{self, Format};

/// Rotated files looked at; the newest of more.
const MAX_FILES: usize = 256;
/// Entries of the directory looked at: it is a pod's own directory only by convention.
const MAX_ENTRIES: usize = 16_384;
/// Rotation may go on while the directory is read and files are opened; it is then done anew.
const ATTEMPTS: usize = 20;

/// The directory of a container's log, and the name of the attempt's file in it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    name: String,
    pub(super) format: Format,
}

/// An open log file. Its inode number stays its own as long as it is open.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    inode: (u64, u64),
    /// What follows this file has, once rotated, a greater name than this one.
    after: String,
    pub(super) offset: u64,
    /// Read no further; `None` reads to the end, wherever it comes to be.
    pub(super) end: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    inode: (u64, u64),
}

impl Directory {
    /// Opens the directory of the log `below`, which is a path beneath `root`.
    pub(super) fn open(root: &Path, below: &Path) -> Result<Self, LogError> {
        let path = root.join(below);
        let name = below.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let failed = |errno: Errno| open_error(&path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let parent = below.parent().filter(|_| !name.is_empty()).ok_or(Errno::INVAL).map_err(failed)?;
        // A pod that mounts the log directory may have put links there: none is followed, nothing leads outside.
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = rustix::fs::openat2(&root, parent, flags, Mode::empty(), beneath).map_err(failed)?;
        match docker::target(&fd, &name) {
            Some(target) => Self::open_docker(&target),
            None => Ok(Self { fd, path, name, format: Format::Cri }),
        }
    }

    /// Opens the directory in which Docker keeps a container's log. It is Docker's own, and no part of it is a link.
    fn open_docker(path: &Path) -> Result<Self, LogError> {
        let failed = |errno: Errno| open_error(path, errno);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let parent = path.parent().ok_or(Errno::INVAL).map_err(failed)?;
        let fd = rustix::fs::openat2(rustix::fs::CWD, parent, flags, Mode::empty(), resolve).map_err(failed)?;
        Ok(Self { fd, path: path.to_owned(), name, format: Format::Docker })
    }

    /// Every file there is, oldest first, open. Rotation in between neither loses nor doubles one.
    pub(super) fn snapshot(&self) -> Result<VecDeque<LogFile>, LogError> {
        for _ in 0..ATTEMPTS {
            let entries = self.settled()?;
            let mut files = VecDeque::with_capacity(entries.len());
            // The newest first: it alone may be renamed at any moment.
            for at in (0..entries.len()).rev() {
                match self.open_entry(&entries, at)? {
                    Some(file) => files.push_front(file),
                    None => break,
                }
            }
            if files.len() == entries.len() {
                return Ok(files);
            }
        }
        Err(self.restless())
    }

    /// The file that was begun after `last`; `None` while `last` is the one being written.
    pub(super) fn successor(&self, last: Option<&LogFile>) -> Result<Option<LogFile>, LogError> {
        for _ in 0..ATTEMPTS {
            let current = self.inode(&self.name).map_err(|errno| self.error(errno.into()))?;
            if last.is_some_and(|last| current == Some(last.inode)) {
                return Ok(None);
            }
            let entries = self.settled()?;
            let next = match last {
                None => 0,
                Some(last) => match entries.iter().position(|entry| entry.inode == last.inode) {
                    Some(at) => at + 1,
                    // Rotated and removed since. Docker's files change their numbers: what is left came after it.
                    None if self.format == Format::Docker => 0,
                    None => entries.partition_point(|entry| entry.name != self.name && entry.name <= last.after),
                },
            };
            match entries.get(next) {
                Some(_) => {
                    if let Some(file) = self.open_entry(&entries, next)? {
                        return Ok(Some(file));
                    }
                }
                // A rotation that was not finished, or nothing written yet.
                None if current.is_none() => return Ok(None),
                None => {}
            }
        }
        Err(self.restless())
    }

    fn restless(&self) -> LogError {
        let text = "its files are rotated faster than they can be opened";
        self.error(io::Error::new(io::ErrorKind::ResourceBusy, text))
    }

    /// `source` with the log's path.
    pub(super) fn error(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path.clone(), source }
    }

    /// The files in their order, without a gap, up to the one that was being written when this began or a later one.
    ///
    /// A directory that changes while it is read may hide the file that was renamed meanwhile, though its successor
    /// shows. So two lists are made: what came before a file of the first one had its last name by then, and is in
    /// the second one.
    fn settled(&self) -> Result<Vec<Entry>, LogError> {
        for _ in 0..ATTEMPTS {
            let first = self.list()?;
            let mut second = self.list()?;
            let Some(written) = first.last().filter(|last| last.name == self.name) else {
                // Between a file's renaming and its successor's making, for ever if the writer died there.
                if first == second {
                    return Ok(second);
                }
                continue;
            };
            let known = |entry: &Entry| first.iter().any(|known| known.inode == entry.inode);
            second.truncate(second.iter().rposition(known).map_or(0, |last| last + 1));
            if second.iter().any(|entry| entry.inode == written.inode) {
                return Ok(second);
            }
        }
        Err(self.restless())
    }

    /// `<name>.<time of rotation>` in order, then `<name>`. Docker counts instead: the higher the older.
    fn list(&self) -> Result<Vec<Entry>, LogError> {
        let failed = |errno: Errno| LogError::Read { path: self.path.clone(), source: errno.into() };
        let mut entries: Vec<Entry> = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)?.take(MAX_ENTRIES) {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Some(suffix) = name.strip_prefix(&*self.name) else { continue };
            // Compressed and half-written ones are some other runtime's.
            let rotated = match self.format {
                Format::Cri => begins_with_time(suffix) && !suffix.ends_with(".gz") && !suffix.ends_with(".tmp"),
                Format::Docker => number(suffix).is_some(),
            };
            if !suffix.is_empty() && !rotated {
                continue;
            }
            if let Some(inode) = self.inode(name).map_err(failed)? {
                entries.push(Entry { name: name.to_owned(), inode });
            }
        }
        let age = |entry: &Entry| entry.name.strip_prefix(&*self.name).and_then(number).map(Reverse);
        match self.format {
            Format::Cri => entries.sort_by(|a, b| (a.name == self.name, &a.name).cmp(&(b.name == self.name, &b.name))),
            Format::Docker => entries.sort_by_key(|entry| (entry.name == self.name, age(entry))),
        }
        entries.drain(..entries.len().saturating_sub(MAX_FILES));
        Ok(entries)
    }

    /// Device and inode of what has this name; `None` if nothing has.
    fn inode(&self, name: &str) -> Result<Option<(u64, u64)>, Errno> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// `None` if another file, or none, has its name by now; an error if it is anything but a plain file with this
    /// one name.
    fn open_entry(&self, entries: &[Entry], at: usize) -> Result<Option<LogFile>, LogError> {
        let Entry { name, inode } = &entries[at];
        let path = self.path.with_file_name(name);
        // O_NONBLOCK: the open of a FIFO must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.fd, &**name, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(open_error(&path, errno)),
        };
        let found = file.metadata().map_err(|source| LogError::Read { path: path.clone(), source })?;
        // A second name may be somebody's hard link to a file that its maker cannot read.
        if !found.is_file() || found.nlink() > 1 {
            return Err(LogError::NotPlain { path });
        }
        if (found.dev(), found.ino()) != *inode {
            return Ok(None);
        }
        // The file being written will be renamed to something greater than the newest name there is.
        let newest = if *name == self.name { at.checked_sub(1) } else { Some(at) };
        let after = newest.map_or_else(String::new, |newest| entries[newest].name.clone());
        Ok(Some(LogFile { file, inode: *inode, after, offset: 0, end: None }))
    }
}

/// Rotated files have the time of their rotation after a dot; `.txt` and the like are nobody's log.
fn begins_with_time(suffix: &str) -> bool {
    suffix.strip_prefix('.').is_some_and(|time| time.starts_with(|first: char| first.is_ascii_digit()))
}

/// The number that Docker gives a rotated file.
fn number(suffix: &str) -> Option<u32> {
    let digits = suffix.strip_prefix('.')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn open_error(path: &Path, errno: Errno) -> LogError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => LogError::Missing { path },
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NXIO => LogError::NotPlain { path },
        errno => LogError::Read { path, source: errno.into() },
    }
}
