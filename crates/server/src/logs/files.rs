//! The files of one container's log: opened beneath their directory, never through a link.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LogError;

/// Rotated files looked at; the newest of more.
const MAX_FILES: usize = 256;
/// Entries of the directory looked at: it is a pod's own directory only by convention.
const MAX_ENTRIES: usize = 16_384;
/// Rotation goes on while the files are opened; the set is then taken anew.
const SNAPSHOT_ATTEMPTS: usize = 10;

/// The directory of a container's log, and the name of the attempt's file in it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    name: String,
    /// The newest rotated name that was there when the directory was last looked at.
    newest_rotated: String,
}

/// An open log file. Its inode number stays its own as long as it is open.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    inode: (u64, u64),
    pub(super) offset: u64,
    /// Read no further; `None` reads to the end, wherever it comes to be.
    pub(super) end: Option<u64>,
}

#[derive(Debug)]
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
        Ok(Self { fd, path, name, newest_rotated: String::new() })
    }

    /// Every file there is, oldest first, open. Rotation in between neither loses nor doubles one.
    pub(super) fn snapshot(&mut self) -> Result<Vec<LogFile>, LogError> {
        for _ in 0..SNAPSHOT_ATTEMPTS {
            // Opened first: were it renamed before the list is made, it is in the list, and all is done again.
            let current = self.open_file(&self.name)?;
            let entries = self.list()?;
            let rotated = &entries[..entries.iter().position(|entry| entry.name == self.name).unwrap_or(entries.len())];
            let current_moved =
                current.as_ref().is_some_and(|file| rotated.iter().any(|entry| entry.inode == file.inode));
            let files: Vec<LogFile> = rotated
                .iter()
                .map(|entry| self.open_file(&entry.name))
                .collect::<Result<Option<_>, _>>()?
                .unwrap_or_default();
            if !current_moved && files.len() == rotated.len() {
                return Ok(files.into_iter().chain(current).collect());
            }
        }
        let source =
            io::Error::new(io::ErrorKind::ResourceBusy, "its files are rotated faster than they can be opened");
        Err(self.error(source))
    }

    /// `source` with the log's path.
    pub(super) fn error(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path.clone(), source }
    }

    /// The file that was begun after `last`; `None` while `last` is the one being written.
    pub(super) fn successor(&mut self, last: Option<&LogFile>) -> Result<Option<LogFile>, LogError> {
        let newest_then = self.newest_rotated.clone();
        let entries = self.list()?;
        let next = match last {
            None => entries.first(),
            Some(last) => match entries.iter().position(|entry| entry.inode == last.inode) {
                Some(at) => entries.get(at + 1),
                // Rotated and removed since: what follows it is newer than all that was there when it was.
                None => entries.iter().find(|entry| entry.name == self.name || entry.name > newest_then),
            },
        };
        match next {
            Some(entry) => self.open_file(&entry.name),
            None => Ok(None),
        }
    }

    /// `<name>.<time of rotation>` in order, then `<name>`.
    fn list(&mut self) -> Result<Vec<Entry>, LogError> {
        let failed = |errno: Errno| LogError::Read { path: self.path.clone(), source: errno.into() };
        let mut entries: Vec<Entry> = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)?.take(MAX_ENTRIES) {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Some(suffix) = name.strip_prefix(&*self.name) else { continue };
            // Compressed and half-written ones are some other runtime's.
            let rotated = suffix.starts_with('.') && !suffix.ends_with(".gz") && !suffix.ends_with(".tmp");
            if !suffix.is_empty() && !rotated {
                continue;
            }
            match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(Entry { name: name.to_owned(), inode: (stat.st_dev, stat.st_ino) }),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        entries.sort_by(|a, b| (a.name == self.name, &a.name).cmp(&(b.name == self.name, &b.name)));
        entries.drain(..entries.len().saturating_sub(MAX_FILES));
        if let Some(newest) = entries.iter().rev().find(|entry| entry.name != self.name) {
            self.newest_rotated.clone_from(&newest.name);
        }
        Ok(entries)
    }

    /// `None` if it is not there; an error if it is anything but a plain file with this one name.
    fn open_file(&self, name: &str) -> Result<Option<LogFile>, LogError> {
        let path = self.path.with_file_name(name);
        // O_NONBLOCK: the open of a FIFO must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(open_error(&path, errno)),
        };
        let found = file.metadata().map_err(|source| LogError::Read { path: path.clone(), source })?;
        // A second name may be somebody's hard link to a file that its maker cannot read.
        if !found.is_file() || found.nlink() > 1 {
            return Err(LogError::NotPlain { path });
        }
        Ok(Some(LogFile { file, inode: (found.dev(), found.ino()), offset: 0, end: None }))
    }
}

fn open_error(path: &Path, errno: Errno) -> LogError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => LogError::Missing { path },
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NXIO => LogError::NotPlain { path },
        errno => LogError::Read { path, source: errno.into() },
    }
}
