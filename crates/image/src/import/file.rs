//! The archive file: where in it each member lies.

use crate::archive::{Entries, Input, Kind};
use crate::compress::{self, Compression};
use crate::error::{ArchiveError, LayerError};
use crate::unpack::{CHECK_BYTES, Limits, clean_name};
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A layout of 500 layers has some thousand members.
const MAX_HEADERS: u64 = 100_000;
/// Old `docker save` writes a layer that repeats as a link to the first.
const MAX_LINKS: usize = 8;

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// Another member's name.
    Link(String),
}

/// An uncompressed archive with an index of its members.
pub(super) struct ArchiveFile {
    file: File,
    members: HashMap<String, Member>,
}

impl ArchiveFile {
    /// Opens and indexes an archive. A compressed one is first unpacked to an unnamed file in `scratch`.
    pub(super) fn open(path: &Path, scratch: &Path, limits: &Limits) -> Result<Self, ArchiveError> {
        let read = |source| ArchiveError::Read { source };
        // Without O_NONBLOCK a fifo by that name would be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| read(e.into()))?;
        let mut file = File::from(fd);
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(read(io::Error::other("it is not a regular file")));
        }
        if let Some(plain) = decompressed(&file, scratch, &limits.for_blob(metadata.len()))? {
            file = plain;
        }
        let len = file.metadata().map_err(read)?.len();
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let members = index(&file, len)?;
        Ok(Self { file, members })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The content of a member, for reading once.
    pub(super) fn section(&self, name: &str) -> Result<Section<'_>, ArchiveError> {
        let missing = || ArchiveError::Missing { name: name.to_owned() };
        let mut at = clean_name(name).ok_or_else(missing)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&at) {
                Some(Member::File { offset, size }) => {
                    return Ok(Section { file: &self.file, offset: *offset, left: *size });
                }
                Some(Member::Link(to)) => at = to.clone(),
                None => break,
            }
        }
        Err(missing())
    }

    /// A whole document of at most `limit` bytes.
    pub(super) fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut section = self.section(name)?;
        if section.len() > limit {
            return Err(ArchiveError::TooLarge { name: name.to_owned(), size: section.len(), limit });
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(|source| ArchiveError::Read { source })?;
        Ok(bytes)
    }
}

/// The content of a compressed archive in a file of its own; `None` when it is not compressed.
fn decompressed(archive: &File, scratch: &Path, limits: &Limits) -> Result<Option<File>, ArchiveError> {
    let (compression, mut plain) = compress::decoder(archive)?;
    if compression == Compression::Plain {
        return Ok(None);
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let write = |source| ArchiveError::Read { source };
    let fd = rustix::fs::openat(CWD, scratch, flags, Mode::from_raw_mode(0o600)).map_err(|e| write(e.into()))?;
    let mut file = File::from(fd);
    let mut buffer = vec![0; 256 << 10];
    let mut left = limits.bytes;
    let mut unchecked = u64::MAX;
    loop {
        let n = plain.read(&mut buffer).map_err(LayerError::from_read)?;
        if n == 0 {
            return Ok(Some(file));
        }
        left = left
            .checked_sub(n as u64)
            .ok_or(LayerError::Limit { what: "size of the uncompressed archive in bytes", limit: limits.bytes })?;
        if unchecked >= CHECK_BYTES {
            limits.check_room(&file)?;
            unchecked = 0;
        }
        unchecked += n as u64;
        file.write_all(&buffer[..n]).map_err(write)?;
    }
}

fn index(file: &File, len: u64) -> Result<HashMap<String, Member>, ArchiveError> {
    let input = FileInput { reader: BufReader::with_capacity(16 << 10, file), left: len };
    let mut entries = Entries::new(input, MAX_HEADERS);
    let mut members = HashMap::new();
    while let Some(entry) = entries.next()? {
        let Some(name) = std::str::from_utf8(&entry.path).ok().and_then(clean_name) else { continue };
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => Member::File { offset: entries.offset(), size: entry.size },
            Kind::Symlink | Kind::HardLink => match link_target(&name, &entry) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        // Readers differ in which of two they take.
        if members.insert(name.clone(), member).is_some() && name.ends_with(".json") {
            return Err(ArchiveError::Document { name, reason: "it is there twice".to_owned() });
        }
    }
    Ok(members)
}

fn link_target(name: &str, entry: &crate::archive::Entry) -> Option<String> {
    let link = std::str::from_utf8(&entry.link).ok()?;
    let base = match (entry.kind, name.rsplit_once('/')) {
        (Kind::Symlink, Some((directory, _))) if !link.starts_with('/') => directory,
        _ => "",
    };
    clean_name(&format!("{base}/{link}"))
}

/// Passes over content by seeking, but not beyond the file's end.
struct FileInput<'a> {
    reader: BufReader<&'a File>,
    left: u64,
}

impl Read for FileInput<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.left = self.left.saturating_sub(n as u64);
        Ok(n)
    }
}

impl Input for FileInput<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.reader.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
    }
}

/// A member's content.
pub(super) struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Section<'_> {
    /// Bytes that are left to read.
    pub(super) fn len(&self) -> u64 {
        self.left
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..want], self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
