//! Where the last lines of a log begin, found from its end.

use std::io;
use std::os::unix::fs::FileExt;

use super::docker::{Format, MAX_RECORD_BYTES, Piece};
use super::files::LogFile;
use super::record::{Begin, MAX_HEADER_BYTES, Tag, begin};

const BLOCK_BYTES: u64 = 64 * 1024;

/// Walks over records from the last to the first.
struct Walk {
    format: Format,
    wanted: u64,
    found: u64,
    /// File and offset of the record after the one that comes next.
    after: Option<(usize, u64)>,
}

impl Walk {
    /// A record that ends a line makes the one after it the beginning of one. Returns the beginning if it is reached.
    fn visit(&mut self, at: (usize, u64), record: &[u8]) -> Option<(usize, u64)> {
        let tag = self.tag(record)?;
        let after = self.after.replace(at);
        if let (Tag::Full, Some(after)) = (tag, after) {
            self.found += 1;
            if self.found == self.wanted {
                return Some(after);
            }
        }
        None
    }
}

impl Walk {
    /// Whether the record that begins here ends its line; `None` where none begins.
    fn tag(&self, record: &[u8]) -> Option<Tag> {
        match self.format {
            Format::Cri => match begin(record) {
                Begin::Header(header) => Some(header.tag),
                Begin::Short | Begin::Broken => None,
            },
            Format::Docker => {
                let end = record.iter().position(|&byte| byte == b'\n')?;
                Piece::parse(&record[..end]).map(|piece| piece.tag())
            }
        }
    }

    /// How much of what follows a block is needed to tell what the record at its end is.
    fn carried(&self, bytes: &[u8]) -> usize {
        match self.format {
            Format::Cri => bytes.len().min(MAX_HEADER_BYTES),
            Format::Docker => {
                let bytes = &bytes[..bytes.len().min(MAX_RECORD_BYTES)];
                bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |end| end + 1)
            }
        }
    }
}

/// Index and offset from which `files` (oldest first) hold their last `lines` lines, as far as there are so many.
pub(super) fn start(files: &[LogFile], lines: u64, format: Format) -> io::Result<(usize, u64)> {
    let sizes = files.iter().map(|file| Ok(file.file.metadata()?.len())).collect::<io::Result<Vec<u64>>>()?;
    if lines == 0 {
        return Ok((files.len().saturating_sub(1), sizes.last().copied().unwrap_or(0)));
    }
    let mut walk = Walk { format, wanted: lines, found: 0, after: None };
    for (index, (file, size)) in files.iter().zip(sizes).enumerate().rev() {
        if let Some(found) = walk_file(&mut walk, file, (index, size))? {
            return Ok(found);
        }
    }
    Ok((0, 0))
}

fn walk_file(walk: &mut Walk, file: &LogFile, (index, size): (usize, u64)) -> io::Result<Option<(usize, u64)>> {
    let mut end = size;
    // A block, and the beginning of what follows it: enough to see the header of a record that begins at its end.
    let mut bytes: Vec<u8> = Vec::new();
    while end > 0 {
        let begin_at = end.saturating_sub(BLOCK_BYTES);
        let length = (end - begin_at) as usize;
        let carried = walk.carried(&bytes);
        let mut block = vec![0; length + carried];
        block[length..].copy_from_slice(&bytes[..carried]);
        file.file.read_exact_at(&mut block[..length], begin_at)?;
        bytes = block;
        for at in (0..length).rev().filter(|&at| bytes[at] == b'\n') {
            let record = &bytes[at + 1..];
            if let Some(found) = walk.visit((index, begin_at + at as u64 + 1), record) {
                return Ok(Some(found));
            }
        }
        end = begin_at;
    }
    Ok(walk.visit((index, 0), &bytes))
}
