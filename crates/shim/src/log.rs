//! Container output as log records in the CRI's format: `<time> <stream> <P|F> <content>\n`.

use crate::time;

mod file;

pub(crate) use file::LogFile;

/// A longer line is cut into records of this much content; all but its last are marked `P`.
pub(crate) const MAX_CONTENT_BYTES: usize = 16 * 1024;
/// Records gather here before they are written; the longest one fits.
const BATCH_BYTES: usize = 2 * MAX_CONTENT_BYTES;
const HEADER_BYTES: usize = 30 + " stdout F ".len();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Records that wait to be written together. One is shared by all streams, so that output costs no allocation.
pub(crate) struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch { bytes: Vec::with_capacity(BATCH_BYTES) }
    }

    fn add(&mut self, record: &Record<'_>, sink: &mut dyn FnMut(&[u8])) {
        let content_bytes = record.begin.len() + record.end.len();
        if self.bytes.len() + HEADER_BYTES + content_bytes + 1 > BATCH_BYTES {
            self.flush(sink);
        }
        let tag: &[u8] = match (record.stream, record.partial) {
            (Stream::Stdout, false) => b" stdout F ",
            (Stream::Stdout, true) => b" stdout P ",
            (Stream::Stderr, false) => b" stderr F ",
            (Stream::Stderr, true) => b" stderr P ",
        };
        for part in [&record.time[..], tag, record.begin, record.end, b"\n"] {
            self.bytes.extend_from_slice(part);
        }
    }

    pub(crate) fn flush(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if !self.bytes.is_empty() {
            sink(&self.bytes);
            self.bytes.clear();
        }
    }
}

struct Record<'a> {
    time: &'a [u8; 30],
    stream: Stream,
    partial: bool,
    begin: &'a [u8],
    end: &'a [u8],
}

/// Cuts one stream into records. Holds at most one record's worth of an unfinished line.
pub(crate) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> Lines {
        Lines { stream, pending: Vec::new() }
    }

    /// Takes what was read at `now_ns`. Complete records go to the batch, which writes to `sink` when it is full.
    pub(crate) fn push(&mut self, now_ns: i64, mut chunk: &[u8], batch: &mut Batch, sink: &mut dyn FnMut(&[u8])) {
        let now = time::rfc3339(now_ns);
        while !chunk.is_empty() {
            let room = MAX_CONTENT_BYTES - self.pending.len();
            // One byte further than what fits: a newline there ends a line of exactly the largest size.
            let window = &chunk[..chunk.len().min(room + 1)];
            let (end, partial, used) = match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at, false, at + 1),
                None if window.len() > room => (room, true, room),
                None => break,
            };
            let record = Record { time: &now, stream: self.stream, partial, begin: &self.pending, end: &chunk[..end] };
            batch.add(&record, sink);
            self.pending.clear();
            chunk = &chunk[used..];
        }
        self.pending.extend_from_slice(chunk);
    }

    /// The stream ended: a last line without a newline is a line.
    pub(crate) fn finish(&mut self, now_ns: i64, batch: &mut Batch, sink: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            self.push(now_ns, b"\n", batch, sink);
        }
        self.pending = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "1970-01-01T00:00:00.000000000Z";

    fn run(chunks: &[&[u8]]) -> String {
        let (mut out, mut batch) = (Vec::new(), Batch::new());
        let mut lines = Lines::new(Stream::Stdout);
        let mut sink = |bytes: &[u8]| out.extend_from_slice(bytes);
        for chunk in chunks {
            lines.push(0, chunk, &mut batch, &mut sink);
        }
        lines.finish(0, &mut batch, &mut sink);
        batch.flush(&mut sink);
        assert!(batch.bytes.capacity() == BATCH_BYTES, "the batch never grows");
        String::from_utf8(out).unwrap().replace(TIME, "T")
    }

    #[test]
    fn lines_become_records() {
        for (chunks, expected) in [
            (&[][..], ""),
            (&[&b"a\nb\n"[..]], "T stdout F a\nT stdout F b\n"),
            (&[b"a", b"b", b"\n"], "T stdout F ab\n"),
            (&[b"\n\n"], "T stdout F \nT stdout F \n"),
            (&[b"last line"], "T stdout F last line\n"),
            (&[b"a\nla", b"st"], "T stdout F a\nT stdout F last\n"),
        ] {
            assert_eq!(run(chunks), expected);
        }
    }

    #[test]
    fn s_f03_a_long_line_is_cut_and_every_byte_is_kept() {
        for length in [MAX_CONTENT_BYTES - 1, MAX_CONTENT_BYTES, MAX_CONTENT_BYTES + 1, 3 * MAX_CONTENT_BYTES, 100_000]
        {
            let line: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
            for (end, step) in [("\n", 65536), ("", 65536), ("\n", 1000), ("", 16384)] {
                let text = [&line, end.as_bytes()].concat();
                let chunks: Vec<&[u8]> = text.chunks(step).collect();
                let out = run(&chunks);
                let records: Vec<&str> = out.lines().collect();
                assert_eq!(records.len(), length.div_ceil(MAX_CONTENT_BYTES), "{length} {end:?}");
                let (last, partial) = records.split_last().unwrap();
                assert!(partial.iter().all(|record| record.starts_with("T stdout P ")));
                assert!(last.starts_with("T stdout F "));
                let content: String = records.iter().map(|record| &record["T stdout F ".len()..]).collect();
                assert_eq!(content.as_bytes(), line);
            }
        }
    }

    #[test]
    fn f_e04_many_short_lines_pass_a_batch_that_stays_small() {
        let text = b"x\n".repeat(40_000);
        let chunks: Vec<&[u8]> = text.chunks(65_536).collect();
        assert_eq!(run(&chunks), "T stdout F x\n".repeat(40_000));
    }
}
