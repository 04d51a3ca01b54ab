//! Reads a tar stream of untrusted origin: old, ustar, GNU and PAX forms, each field with a limit.
//!
//! Written here because the well-kept reader takes extension headers of any length into memory and cuts PAX values at
//! newlines, which the binary value of `security.capability` may hold.

mod header;
mod pax;
mod sparse;

use crate::error::LayerError;
use header::{BLOCK, Block, Header};
pub(crate) use sparse::Region;
use std::io::{self, Read};

/// Longest PAX header or GNU long name; a path itself may have 4,095 bytes, an extended attribute 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Global PAX headers describe the archive as a whole (git puts its commit there); one or two are usual.
const MAX_GLOBAL_HEADERS: u32 = 1_000;
/// Headers between two members: long name, long link and PAX header, with room to spare.
const MAX_EXTENSIONS_PER_ENTRY: u32 = 8;

/// A tar stream that can pass over a member's content.
pub(crate) trait Input: Read {
    /// Skips exactly `bytes`; fails when the stream ends before.
    fn skip(&mut self, bytes: u64) -> io::Result<()>
    where
        Self: Sized,
    {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One member of the archive, its header fields checked for range but its names as they stand.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Length of the file as it will appear, holes included.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    /// Extended attributes: name and value.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong, when the file has holes.
    pub(crate) sparse: Option<Vec<Region>>,
}

impl Entry {
    /// Path for a message.
    pub(crate) fn name(&self) -> String {
        printable(&self.path)
    }
}

/// An untrusted path for a message: bounded and free of invalid text.
pub(crate) fn printable(path: &[u8]) -> String {
    crate::digest::shorten(&String::from_utf8_lossy(path))
}

pub(crate) fn malformed(reason: &'static str) -> LayerError {
    LayerError::Tar { reason }
}

/// Iterates over a tar stream; the content of the current member is read through [`Entries::read`].
pub(crate) struct Entries<R> {
    input: R,
    /// Bytes of the current member not read yet, and the padding after them.
    content: u64,
    padding: u64,
    /// Offset in the stream of what comes next.
    offset: u64,
    headers: u64,
    max_headers: u64,
    globals: u32,
    done: bool,
}

impl<R: Input> Entries<R> {
    pub(crate) fn new(input: R, max_headers: u64) -> Self {
        Self { input, content: 0, padding: 0, offset: 0, headers: 0, max_headers, globals: 0, done: false }
    }

    /// Offset of the current member's content in the stream.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Stored bytes of the current member that were not read yet.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    pub(crate) fn into_input(self) -> R {
        self.input
    }

    /// The next member, or `None` at the archive's end. What was not read of the last one is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut pax = pax::Records::default();
        let mut long_path = None;
        let mut long_link = None;
        let mut extensions = 0;
        loop {
            if extensions > MAX_EXTENSIONS_PER_ENTRY {
                return Err(malformed("too many extension headers for one member"));
            }
            let block = match self.next_block()? {
                Some(block) => block,
                None if extensions > 0 => return Err(malformed("it ends after an extension header")),
                None => return Ok(None),
            };
            let header = Header::parse(&block)?;
            match header.typeflag {
                b'x' => pax = pax::parse(&self.extension(&header)?)?,
                b'L' => long_path = Some(trim_nul(self.extension(&header)?)),
                b'K' => long_link = Some(trim_nul(self.extension(&header)?)),
                b'g' => {
                    self.skip_global(&header)?;
                    continue;
                }
                _ => return self.member(header, pax, (long_path, long_link)).map(Some),
            }
            extensions += 1;
        }
    }

    /// Reads content of the current member; 0 at its end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, LayerError> {
        let want = buf.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buf[..want]).map_err(LayerError::from_read)?;
        if n == 0 {
            return Err(malformed("it ends within a member"));
        }
        self.content -= n as u64;
        self.offset += n as u64;
        Ok(n)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), LayerError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..])? {
                0 => return Err(malformed("a member is shorter than its own map says")),
                n => filled += n,
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        let rest = self.content + self.padding;
        self.input.skip(rest).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => malformed("it ends within a member"),
            _ => LayerError::from_read(source),
        })?;
        self.offset += rest;
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block; `None` at the end, which is a block of zeros or, as many tools accept, the stream's end.
    fn next_block(&mut self) -> Result<Option<Block>, LayerError> {
        if self.done {
            return Ok(None);
        }
        self.skip_rest()?;
        self.headers += 1;
        if self.headers > self.max_headers {
            return Err(LayerError::Limit { what: "number of entries", limit: self.max_headers });
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]).map_err(LayerError::from_read)? {
                0 if filled == 0 => break,
                0 => return Err(malformed("it ends within a header")),
                n => filled += n,
            }
        }
        self.offset += filled as u64;
        self.done = filled == 0 || block.iter().all(|b| *b == 0);
        Ok((!self.done).then_some(block))
    }

    fn set_content(&mut self, size: u64) -> Result<(), LayerError> {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        size.checked_add(self.padding).map(drop).ok_or(malformed("a size is out of range"))
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = header.size()?;
        if size > MAX_EXTENSION_BYTES {
            return Err(LayerError::Limit { what: "size of an extension header", limit: MAX_EXTENSION_BYTES });
        }
        self.set_content(size)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| malformed("a size is out of range"))?];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_global(&mut self, header: &Header) -> Result<(), LayerError> {
        self.globals += 1;
        if self.globals > MAX_GLOBAL_HEADERS {
            return Err(LayerError::Limit { what: "number of global headers", limit: MAX_GLOBAL_HEADERS.into() });
        }
        self.extension(header).map(drop)
    }

    fn member(
        &mut self,
        header: Header,
        pax: pax::Records,
        (long_path, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Entry, LayerError> {
        let path = pax.path.or(long_path).unwrap_or_else(|| header.path.clone());
        let link = pax.link.or(long_link).unwrap_or_else(|| header.link.clone());
        if path.contains(&0) || link.contains(&0) {
            return Err(malformed("a name holds a zero byte"));
        }
        let kind = header.kind(&path)?;
        let stored = pax.size.map_or_else(|| header.size(), Ok)?;
        // As every other reader does: what has no content by its type has none, whatever its size field says.
        self.set_content(if kind == Kind::File { stored } else { 0 })?;
        let owner = |value: Option<i64>, field: Result<i64, LayerError>| {
            // 2^32 - 1 means "leave unchanged" to chown(2), so it names no owner.
            u32::try_from(value.map_or(field, Ok)?).ok().filter(|id| *id != u32::MAX).ok_or_else(|| LayerError::Entry {
                path: printable(&path),
                reason: "the owner is out of range (0 to 2^32 - 2)",
            })
        };
        let mut entry = Entry {
            kind,
            mode: header.mode()?,
            uid: owner(pax.uid, header.uid())?,
            gid: owner(pax.gid, header.gid())?,
            mtime: pax.mtime.map_or_else(|| header.mtime().map(|s| (s, 0)), Ok)?,
            size: self.content,
            device: header.device(kind)?,
            xattrs: pax.xattrs,
            sparse: None,
            path,
            link,
        };
        if header.typeflag == b'S' {
            self.old_sparse(&header, &mut entry)?;
        } else if let Some(form) = pax.sparse {
            self.pax_sparse(form, &mut entry)?;
        }
        Ok(entry)
    }

    /// GNU's older form: a map in the header, continued in blocks before the content.
    fn old_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), LayerError> {
        let mut map = header.sparse_regions()?;
        let mut more = header.sparse_continues;
        let (content, padding) = (self.content, self.padding);
        while more {
            self.set_content(BLOCK as u64)?;
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            map.extend(header::regions(&block[..504])?);
            sparse::check_count(map.len())?;
            more = block[504] != 0;
        }
        (self.content, self.padding) = (content, padding);
        entry.size = header.sparse_size()?;
        entry.sparse = Some(sparse::checked(map, content, entry.size)?);
        Ok(())
    }

    fn pax_sparse(&mut self, form: pax::Sparse, entry: &mut Entry) -> Result<(), LayerError> {
        if entry.kind != Kind::File {
            return Err(malformed("a sparse map on what is not a file"));
        }
        if let Some(name) = form.name {
            entry.path = name;
        }
        let map = match form.map {
            Some(map) => map,
            None => sparse::read_map(self)?,
        };
        entry.size = form.size;
        entry.sparse = Some(sparse::checked(map, self.content, form.size)?);
        Ok(())
    }
}

fn trim_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}
