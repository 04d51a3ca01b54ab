//! Unpacks one layer into one directory that overlayfs can use as a lower one.
//!
//! Nothing in a layer is trusted. Every path is resolved beneath the layer's own root by file descriptor, every symbolic
//! link of the layer is followed within it, and every number has a limit. Deletions in the layer become what overlayfs
//! takes for them: a character device 0:0 and the attribute `trusted.overlay.opaque`.

mod below;
mod create;
mod names;
mod stream;
mod tree;
mod whiteout;
mod xattr;

use crate::archive::{Entries, Entry, Kind};
use crate::error::LayerError;
use names::Target;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tree::Tree;
pub(crate) use tree::{inherit_root, same_root};

/// What a layer may at most be.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Headers in the archive, and files that come of them.
    pub(crate) entries: u64,
    /// Bytes of the uncompressed archive, and of the files with their holes.
    pub(crate) bytes: u64,
    /// Uncompressed bytes for each compressed one, once the archive is larger than `free_bytes`.
    pub(crate) ratio: u64,
    pub(crate) free_bytes: u64,
    /// Bytes of directory names remembered for setting times last.
    pub(crate) directory_names_bytes: u64,
    /// Padding after the end of the archive.
    pub(crate) padding_bytes: u64,
    /// What must stay available on the file system, so that a layer cannot fill it.
    pub(crate) reserve_bytes: u64,
    pub(crate) reserve_inodes: u64,
    /// What all layers under way have written since the disk was last asked for its room.
    written: Arc<Written>,
}

#[derive(Debug, Default)]
struct Written {
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 200,
            free_bytes: 1 << 30,
            directory_names_bytes: 64 << 20,
            padding_bytes: 16 << 20,
            reserve_bytes: 128 << 20,
            reserve_inodes: 4_096,
            written: Arc::default(),
        }
    }
}

impl Limits {
    /// The limits for a blob of a known size: a small one may not become a huge layer.
    pub(crate) fn for_blob(&self, blob_bytes: u64) -> Self {
        let by_ratio = blob_bytes.saturating_mul(self.ratio).max(self.free_bytes);
        Self { bytes: self.bytes.min(by_ratio), ..self.clone() }
    }
}

/// The disk is asked for its room after so many bytes and files of all layers together.
pub(crate) const CHECK_BYTES: u64 = 64 << 20;
const CHECK_INODES: u64 = 4_096;

impl Limits {
    /// Counts bytes that were written below `fd`, and asks for the room when they have become many.
    fn charge_bytes(&self, bytes: u64, fd: impl AsFd) -> Result<(), LayerError> {
        self.charge((&self.written.bytes, CHECK_BYTES), bytes, fd)
    }

    fn charge_inode(&self, fd: impl AsFd) -> Result<(), LayerError> {
        self.charge((&self.written.inodes, CHECK_INODES), 1, fd)
    }

    fn charge(&self, (written, step): (&AtomicU64, u64), more: u64, fd: impl AsFd) -> Result<(), LayerError> {
        if written.fetch_add(more, Ordering::Relaxed) + more < step {
            return Ok(());
        }
        written.store(0, Ordering::Relaxed);
        self.check_room(fd)
    }

    /// Fails when the file system of `fd` has less room than is to stay free.
    pub(crate) fn check_room(&self, fd: impl AsFd) -> Result<(), LayerError> {
        let stat = rustix::fs::fstatvfs(fd).map_err(|e| LayerError::Read { source: e.into() })?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < self.reserve_bytes {
            return Err(LayerError::DiskFull { what: "space" });
        }
        // Some file systems do not count inodes and say that they have none.
        if stat.f_files != 0 && stat.f_favail < self.reserve_inodes {
            return Err(LayerError::DiskFull { what: "inodes" });
        }
        Ok(())
    }
}

/// A member's name in an archive, without empty components, `.` and `..`.
pub(crate) fn clean_name(name: &str) -> Option<String> {
    let clean = names::clean(name.as_bytes()).ok()?;
    String::from_utf8(clean).ok().filter(|name| !name.is_empty())
}

/// Where a layer goes.
pub(crate) struct Layer<'a> {
    /// Directory to be made; its parent is on the same file system as `scratch`.
    pub(crate) target: &'a Path,
    /// Opens the layers below, topmost first. They may be under way themselves, and this waits for them; it is called at
    /// most once, and only by a layer that must know what is below.
    pub(crate) below: &'a dyn Fn() -> Result<Vec<Arc<OwnedFd>>, LayerError>,
    /// Directory for what is replaced by a later entry and has to be removed.
    pub(crate) scratch: &'a Path,
}

/// What came of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Disk space of the files, in whole blocks.
    pub(crate) size_bytes: u64,
    pub(crate) inodes: u64,
    /// Nothing of the layers below is to be seen.
    pub(crate) opaque_root: bool,
    /// What came of it depends on the layers below; otherwise it is the same on any others.
    pub(crate) looked_below: bool,
    /// It says itself what its root is like; otherwise that is for [`inherit_root`] to say.
    pub(crate) own_root: bool,
}

/// Unpacks the tar archive that `plain` gives and reads it to its end. On failure the target is left for the caller to
/// remove.
pub(crate) fn unpack(layer: Layer<'_>, plain: &mut dyn Read, limits: &Limits) -> Result<Unpacked, LayerError> {
    let tree = Tree::create(&layer, limits)?;
    let mut entries = Entries::new(stream::Bounded::new(plain, limits.bytes), limits.entries);
    let mut unpacker =
        Unpacker { tree, limits, directories: Vec::new(), directory_names: 0, buffer: vec![0; 128 << 10] };
    while let Some(entry) = entries.next()? {
        unpacker.apply(&mut entries, entry)?;
    }
    entries.into_input().drain(limits.padding_bytes)?;
    unpacker.finish()
}

/// A directory's time changes with every entry made in it, so times are set when all is there.
struct DirectoryTime {
    path: Vec<u8>,
    mtime: (i64, u32),
}

struct Unpacker<'a> {
    tree: Tree<'a>,
    limits: &'a Limits,
    directories: Vec<DirectoryTime>,
    directory_names: u64,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply(&mut self, entries: &mut Entries<stream::Bounded<'_>>, entry: Entry) -> Result<(), LayerError> {
        let path = names::clean(&entry.path)?;
        match names::target(&path) {
            Target::Metadata => Ok(()),
            Target::Root if entry.kind == Kind::Directory => {
                self.tree.set_root_attributes(&entry)?;
                self.remember_time(Vec::new(), entry.mtime)
            }
            // A file, link or device in the place of the root is nothing that could be made.
            Target::Root => Ok(()),
            Target::Opaque { parent } => self.tree.hide_all(parent),
            Target::Whiteout { parent, name } => self.tree.hide(parent, name),
            Target::Entry { parent, name } => self.make(entries, &entry, (parent, name)),
        }
    }

    fn make(
        &mut self,
        entries: &mut Entries<stream::Bounded<'_>>,
        entry: &Entry,
        (parent, name): (&[u8], &[u8]),
    ) -> Result<(), LayerError> {
        match entry.kind {
            Kind::Directory => {
                self.tree.make_directory(entry, (parent, name))?;
                self.remember_time(names::join(parent, name), entry.mtime)
            }
            Kind::File => self.tree.make_file(entry, (parent, name), entries, &mut self.buffer),
            Kind::HardLink => self.tree.make_hard_link(entry, (parent, name)),
            Kind::Symlink => self.tree.make_symlink(entry, (parent, name)),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.tree.make_special(entry, (parent, name)),
        }
    }

    fn remember_time(&mut self, path: Vec<u8>, mtime: (i64, u32)) -> Result<(), LayerError> {
        self.directory_names += path.len() as u64;
        if self.directory_names > self.limits.directory_names_bytes {
            let limit = self.limits.directory_names_bytes;
            return Err(LayerError::Limit { what: "length of all directory names together", limit });
        }
        self.directories.push(DirectoryTime { path, mtime });
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, LayerError> {
        let implicit = std::mem::take(&mut self.tree.implicit);
        // Those with an entry of their own come last and so have the last word.
        for directory in implicit.iter().chain(&self.directories) {
            self.tree.set_directory_time(directory)?;
        }
        Ok(self.tree.used())
    }
}

#[cfg(test)]
mod tests;
