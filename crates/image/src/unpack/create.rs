//! Making the entries of a layer.

use super::below::{self, Found};
use super::stream::Bounded;
use super::tree::{Missing, Place, Tree, copy_attributes, failed, is_whiteout, mtime, set_attributes, times};
use super::{names, xattr};
use crate::archive::{Entries, Entry, Kind, Region};
use crate::error::LayerError;
use crate::fs::DIRECTORY;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Never opens what is there already, so it follows no link.
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Directory and name of an entry.
type At<'a> = (&'a [u8], &'a [u8]);

impl Tree<'_> {
    /// Makes a directory, or gives an existing one the entry's attributes.
    pub(super) fn make_directory(&mut self, entry: &Entry, (parent, name): At<'_>) -> Result<(), LayerError> {
        let failed = failed(&entry.path);
        let parent = self.parent(parent)?;
        let is_there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let replaced = if is_there { None } else { self.clear(&parent, name, &failed)? };
        if !is_there {
            self.charge_inode()?;
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))
                .map_err(|e| failed("create directory", e))?;
        }
        let fd =
            rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty()).map_err(|e| failed("open directory", e))?;
        if replaced.is_some() {
            // What stood here hid a directory below, and that must not come back.
            xattr::set_opaque(&fd, &failed)?;
        }
        set_attributes(&fd, entry, Kind::Directory)
    }

    pub(super) fn make_file(
        &mut self,
        entry: &Entry,
        (parent, name): At<'_>,
        entries: &mut Entries<Bounded<'_>>,
        buffer: &mut [u8],
    ) -> Result<(), LayerError> {
        let failed = failed(&entry.path);
        self.charge_length(entry.size)?;
        let parent = self.parent(parent)?;
        let fd = self.new_file(&parent, name, &entry.path)?;
        let stored = entries.content();
        match &entry.sparse {
            None => self.write(&fd, entries, buffer, Region { offset: 0, len: entry.size })?,
            Some(regions) => {
                for region in regions {
                    self.write(&fd, entries, buffer, *region)?;
                }
                rustix::fs::ftruncate(&fd, entry.size).map_err(|e| failed("set the size of", e))?;
            }
        }
        self.charge_blocks(stored);
        set_attributes(&fd, entry, Kind::File)?;
        rustix::fs::futimens(&fd, &times(entry.mtime)).map_err(|e| failed("set the time of", e))
    }

    fn new_file(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, LayerError> {
        let failed = failed(path);
        self.clear(parent, name, &failed)?;
        self.charge_inode()?;
        rustix::fs::openat(parent, name, NEW_FILE, Mode::from_raw_mode(0o600)).map_err(|e| failed("create", e))
    }

    fn write(
        &mut self,
        fd: &OwnedFd,
        entries: &mut Entries<Bounded<'_>>,
        buffer: &mut [u8],
        region: Region,
    ) -> Result<(), LayerError> {
        let mut done = 0;
        while done < region.len {
            let want = usize::try_from(region.len - done).unwrap_or(usize::MAX).min(buffer.len());
            let n = entries.read(&mut buffer[..want])?;
            write_all(fd, &buffer[..n], region.offset + done).map_err(|e| failed(b"")("write", e))?;
            done += n as u64;
            self.charge_written(n as u64)?;
        }
        Ok(())
    }

    pub(super) fn make_symlink(&mut self, entry: &Entry, (parent, name): At<'_>) -> Result<(), LayerError> {
        let failed = failed(&entry.path);
        let parent = self.parent(parent)?;
        self.clear(&parent, name, &failed)?;
        self.charge_inode()?;
        rustix::fs::symlinkat(entry.link.as_slice(), &parent, name).map_err(|e| failed("create link", e))?;
        set_owner_and_time(&parent, name, entry)
    }

    /// Devices are harmless here: no container may open one that its device rules do not allow.
    pub(super) fn make_special(&mut self, entry: &Entry, (parent, name): At<'_>) -> Result<(), LayerError> {
        let failed = failed(&entry.path);
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if kind == FileType::CharacterDevice && entry.device == (0, 0) {
            let reason = "the character device 0:0 is overlayfs's own mark for deleted files";
            return Err(LayerError::Entry { path: entry.name(), reason });
        }
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let parent = self.parent(parent)?;
        self.clear(&parent, name, &failed)?;
        self.charge_inode()?;
        rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(entry.mode), device)
            .map_err(|e| failed("create device", e))?;
        set_owner_and_time(&parent, name, entry)?;
        // Just made and in a directory that only this thread writes to, so it is no link.
        rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|e| failed("set the mode of", e))
    }

    /// Links to a file of this layer, or brings one of the layers below up to link to it.
    pub(super) fn make_hard_link(&mut self, entry: &Entry, (parent, name): At<'_>) -> Result<(), LayerError> {
        let failed = failed(&entry.path);
        let refuse = |reason| LayerError::Entry { path: entry.name(), reason };
        let target = names::clean(&entry.link)?;
        let (target_parent, target_name) = names::split(&target);
        let place = self.walk(target_parent, Missing::CopyUp)?.filter(|_| !target_name.is_empty());
        let place = place.ok_or(refuse("hard link to a file that does not exist"))?;
        let source = match rustix::fs::statat(&place.fd, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.copy_up(&place, target_name, entry)?;
                rustix::fs::statat(&place.fd, target_name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| failed("look at", e))?
            }
            Err(e) => return Err(failed("look at", e)),
        };
        if is_whiteout(&source) {
            return Err(refuse("hard link to a deleted file"));
        }
        if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
            return Err(refuse("hard link to a directory"));
        }
        let parent = self.parent(parent)?;
        let existing = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if existing.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (source.st_dev, source.st_ino)) {
            return Ok(());
        }
        self.clear(&parent, name, &failed)?;
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link is a second name of it. The attributes are the file's:
        // the entry's own are not applied, so they cannot reach through a link.
        rustix::fs::linkat(&place.fd, target_name, &parent, name, AtFlags::empty()).map_err(|e| failed("link", e))
    }

    /// Copies a file of the layers below into this one, so that it can be linked to.
    fn copy_up(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let path = names::join(&place.path, name);
        let found = if place.hidden { None } else { self.find_below(&path)? };
        let absent = || LayerError::Entry { path: entry.name(), reason: "hard link to a file that does not exist" };
        let found = found.ok_or_else(absent)?;
        let failed = failed(&path);
        let (uid, gid) = (Uid::from_raw(found.stat.st_uid), Gid::from_raw(found.stat.st_gid));
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::RegularFile => self.copy_up_file(place, name, (&path, &found))?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&found.fd, "", Vec::new()).map_err(|e| failed("read link", e))?;
                self.charge_inode()?;
                rustix::fs::symlinkat(&target, &place.fd, name).map_err(|e| failed("create link", e))?;
                rustix::fs::chownat(&place.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| failed("set the owner of", e))?;
            }
            _ => {
                let reason = "hard link to what is neither a file nor a link in a layer below";
                return Err(LayerError::Entry { path: entry.name(), reason });
            }
        }
        rustix::fs::utimensat(&place.fd, name, &times(mtime(&found.stat)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("set the time of", e))
    }

    fn copy_up_file(&mut self, place: &Place, name: &[u8], (path, found): (&[u8], &Found)) -> Result<(), LayerError> {
        let failed = failed(path);
        let bytes = u64::try_from(found.stat.st_size).unwrap_or_default();
        self.charge_length(bytes)?;
        let from = below::open(self.lowers()?, found, path).map_err(|e| failed("open", e))?;
        let to = self.new_file(&place.fd, name, path)?;
        let mut buffer = vec![0; 128 << 10];
        let (mut offset, mut stored) = (0, 0);
        loop {
            let n = rustix::io::pread(&from, &mut buffer, offset).map_err(|e| failed("read", e))?;
            if n == 0 {
                break;
            }
            // Holes stay holes: the file may be a hundred times larger than what it takes on the disk.
            if buffer[..n].iter().any(|b| *b != 0) {
                write_all(&to, &buffer[..n], offset).map_err(|e| failed("write", e))?;
                stored += n as u64;
                self.charge_written(n as u64)?;
            }
            offset += n as u64;
        }
        rustix::fs::ftruncate(&to, offset).map_err(|e| failed("set the size of", e))?;
        self.charge_blocks(stored);
        copy_attributes((&from, &found.stat), &to, Kind::File, &failed)
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = rustix::io::pwrite(fd, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

fn set_owner_and_time(parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), LayerError> {
    let failed = failed(&entry.path);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed("set the owner of", e))?;
    rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed("set the time of", e))
}
