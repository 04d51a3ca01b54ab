//! From records to text, in whatever pieces the file comes.

use jiff::Timestamp;

use super::docker::{Format, MAX_RECORD_BYTES, Piece};

/// Time, stream and tags take some 45 bytes; what has no third blank by here is no record.
pub(super) const MAX_HEADER_BYTES: usize = 128;

/// Whether a record ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Full,
    Partial,
}

/// The parts of a record before its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    time: &'a [u8],
    pub(super) tag: Tag,
    /// Bytes up to the text.
    length: usize,
}

/// What the beginning of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin<'a> {
    /// All of it is there.
    Header(Header<'a>),
    /// More of the file is needed to tell.
    Short,
    /// No record.
    Broken,
}

/// Looks at the beginning of a record, which ends at the latest with its line feed.
pub(super) fn begin(bytes: &[u8]) -> Begin<'_> {
    let bytes = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
    let line_end = bytes.iter().position(|&byte| byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let mut blanks = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let (time, stream, tags) = match (blanks.next(), blanks.next(), blanks.next()) {
        (Some(a), Some(b), Some(c)) => (&line[..a], &line[a + 1..b], (b + 1, c)),
        // An empty line may come without the blank after its tags.
        (Some(a), Some(b), None) if line_end.is_some() => (&line[..a], &line[a + 1..b], (b + 1, line.len())),
        _ if line_end.is_none() && bytes.len() < MAX_HEADER_BYTES => return Begin::Short,
        _ => return Begin::Broken,
    };
    let tag = match line[tags.0..tags.1].split(|&byte| byte == b':').next() {
        Some(b"F") => Tag::Full,
        Some(b"P") => Tag::Partial,
        _ => return Begin::Broken,
    };
    // RFC 3339, far enough to tell it from text.
    let is_time = time.len() >= 20 && time[4] == b'-' && time[10] == b'T' && time[..4].iter().all(u8::is_ascii_digit);
    if !is_time || (stream != b"stdout" && stream != b"stderr") {
        return Begin::Broken;
    }
    Begin::Header(Header { time, tag, length: (tags.1 + 1).min(line.len()) })
}

/// Whether lines begin with their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Shown,
    Hidden,
}

/// Turns the bytes of log files into text.
#[derive(Debug)]
pub(super) struct Renderer {
    since: Option<Timestamp>,
    times: Times,
    format: Format,
    /// The beginning of a record whose header is not complete, at most [`MAX_HEADER_BYTES`]; of Docker's all of a record
    /// whose end is not there, at most [`MAX_RECORD_BYTES`].
    pending: Vec<u8>,
    at: At,
    /// The last record was partial: the next one continues its line.
    mid_line: bool,
    /// Whether the present line is wanted.
    shown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Header,
    Text(Tag),
    Broken,
}

impl Renderer {
    pub(super) fn new(since: Option<Timestamp>, times: Times, format: Format) -> Self {
        Self { since, times, format, pending: Vec::new(), at: At::Header, mid_line: false, shown: true }
    }

    /// The next file begins, or this one was cut: what is left of a record there has no end.
    pub(super) fn next_file(&mut self) {
        self.pending.clear();
        self.at = At::Header;
    }

    /// Appends the text of the next bytes of the file to `out`.
    pub(super) fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            input = match self.at {
                At::Header if self.format == Format::Docker => self.piece(input, out),
                At::Header => self.header(input, out),
                At::Text(tag) => self.text(tag, input, out),
                At::Broken => match input.iter().position(|&byte| byte == b'\n') {
                    Some(end) => {
                        self.at = At::Header;
                        &input[end + 1..]
                    }
                    None => &[],
                },
            };
        }
    }

    fn header<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let held = self.pending.len();
        let joined: Vec<u8>;
        let record = if held == 0 {
            input
        } else {
            let more = &input[..input.len().min(MAX_HEADER_BYTES - held)];
            joined = [&self.pending, more].concat();
            &joined
        };
        let used = match begin(record) {
            Begin::Short => {
                self.pending = record.to_vec();
                return &[];
            }
            Begin::Broken => {
                self.at = At::Broken;
                // The line feed that ends it is in the new bytes, for Short would have been said without it before.
                0
            }
            Begin::Header(header) => {
                self.begin_record(header.time, out);
                self.at = At::Text(header.tag);
                // A header that was short before ends in the new bytes.
                header.length.saturating_sub(held)
            }
        };
        self.pending.clear();
        &input[used..]
    }

    /// One of Docker's records, which can be read only as a whole.
    fn piece<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let end = input.iter().position(|&byte| byte == b'\n');
        let more = &input[..end.unwrap_or(input.len())];
        let rest = end.map_or(&[][..], |end| &input[end + 1..]);
        if self.pending.len() + more.len() > MAX_RECORD_BYTES {
            self.pending = Vec::new();
            // Its own line feed ends it, if that is there.
            self.at = if end.is_some() { At::Header } else { At::Broken };
            return rest;
        }
        self.pending.extend_from_slice(more);
        if end.is_none() {
            return rest;
        }
        let line = std::mem::take(&mut self.pending);
        if let Some(piece) = Piece::parse(&line) {
            self.begin_record(piece.time.as_bytes(), out);
            if self.shown {
                out.extend_from_slice(piece.log.as_bytes());
            }
            self.mid_line = piece.tag() == Tag::Partial;
        }
        rest
    }

    fn begin_record(&mut self, time: &[u8], out: &mut Vec<u8>) {
        if self.mid_line {
            return;
        }
        self.shown = self.is_wanted(time);
        if self.shown && self.times == Times::Shown {
            out.extend_from_slice(time);
            out.push(b' ');
        }
    }

    /// Logs are in the order of time: once a line is late enough, all that follow are.
    fn is_wanted(&mut self, time: &[u8]) -> bool {
        let Some(since) = self.since else { return true };
        let time = std::str::from_utf8(time).ok().and_then(|text| text.parse::<Timestamp>().ok());
        let wanted = time.is_some_and(|time| time >= since);
        if wanted {
            self.since = None;
        }
        wanted
    }

    fn text<'a>(&mut self, tag: Tag, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let end = input.iter().position(|&byte| byte == b'\n');
        let text = &input[..end.unwrap_or(input.len())];
        if self.shown {
            out.extend_from_slice(text);
        }
        let Some(end) = end else { return &[] };
        if self.shown && tag == Tag::Full {
            out.push(b'\n');
        }
        self.mid_line = tag == Tag::Partial;
        self.at = At::Header;
        &input[end + 1..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n\
        2026-01-01T00:00:02.000000001Z stderr P tw\n\
        2026-01-01T00:00:03.0Z stderr F o\n\
        no record at all\n\
        2026-01-01T00:00:04.0Z stdout F \n\
        2026-01-01T00:00:05.0Z stdout F\n\
        2026-01-01T00:00:06.0Z stdout F:x  two blanks\n\
        2026-01-01T00:00:06.0Z stdlog F wrong stream\n\
        2026-01-01T00:00:06.0Z stdout Q wrong tag\n\
        2026-01-01T00:00:07.0+02:00 stdout P no end";

    fn render(renderer: &mut Renderer, log: &str, piece: usize) -> String {
        let mut out = Vec::new();
        for piece in log.as_bytes().chunks(piece) {
            renderer.feed(piece, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_is_the_same_however_the_file_is_cut() {
        for piece in 1..200 {
            let mut plain = Renderer::new(None, Times::Hidden, Format::Cri);
            assert_eq!(render(&mut plain, LOG, piece), "one\ntwo\n\n\n two blanks\nno end", "{piece}");
        }
    }

    #[test]
    fn times_stand_at_the_beginning_of_lines() {
        let mut renderer = Renderer::new(None, Times::Shown, Format::Cri);
        let text = render(&mut renderer, LOG, 7);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["2026-01-01T00:00:01.5Z one", "2026-01-01T00:00:02.000000001Z two"]);
        assert_eq!(lines[2], "2026-01-01T00:00:04.0Z ");
    }

    #[test]
    fn since_begins_with_a_whole_line() {
        for (since, expected) in [
            ("2026-01-01T00:00:02.000000001Z", "two\n\n\n two blanks\nno end"),
            // The line began before.
            ("2026-01-01T00:00:02.5Z", "\n\n two blanks\nno end"),
            ("2027-01-01T00:00:00Z", ""),
        ] {
            let mut renderer = Renderer::new(Some(since.parse().unwrap()), Times::Hidden, Format::Cri);
            assert_eq!(render(&mut renderer, LOG, 11), expected, "{since}");
        }
    }

    #[test]
    fn s_f03_a_line_without_end_holds_no_memory() {
        let mut renderer = Renderer::new(None, Times::Hidden, Format::Cri);
        let mut out = Vec::new();
        renderer.feed(b"2026-01-01T00:00:01.5Z stdout P ", &mut out);
        for _ in 0..1000 {
            renderer.feed(&[b'x'; 65536], &mut out);
            assert_eq!(out.len(), 65536);
            out.clear();
        }
        renderer.next_file();
        renderer.feed(&[b'y'; 1 << 20], &mut out);
        assert!(out.is_empty() && renderer.pending.capacity() <= MAX_HEADER_BYTES);
    }

    #[test]
    fn a_new_file_continues_a_line_and_forgets_a_torn_record() {
        let mut renderer = Renderer::new(None, Times::Hidden, Format::Cri);
        let mut out = Vec::new();
        renderer.feed(b"2026-01-01T00:00:01.5Z stdout P ab\n2026-01-01T00:0", &mut out);
        renderer.next_file();
        renderer.feed(b"2026-01-01T00:00:02.5Z stdout F c\n", &mut out);
        assert_eq!(out, b"abc\n");
    }

    #[test]
    fn docker_s_pieces_become_lines_however_the_file_is_cut() {
        let piece = |log: &str, time: u8| {
            format!("{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:0{time}Z\"}}\n")
        };
        let log = [piece("one\\n", 1), piece("tw", 2), piece("o\\n", 3), "no record\n".into(), piece("\\u00e4\\n", 4)]
            .concat();
        for size in 1..200 {
            let mut plain = Renderer::new(None, Times::Hidden, Format::Docker);
            assert_eq!(render(&mut plain, &log, size), "one\ntwo\nä\n", "{size}");
        }
        let mut late = Renderer::new(Some("2026-01-01T00:00:02Z".parse().unwrap()), Times::Shown, Format::Docker);
        assert_eq!(render(&mut late, &log, 7), "2026-01-01T00:00:02Z two\n2026-01-01T00:00:04Z ä\n");
    }

    #[test]
    fn s_f03_a_piece_without_end_holds_no_memory() {
        let mut renderer = Renderer::new(None, Times::Hidden, Format::Docker);
        let mut out = Vec::new();
        for _ in 0..100 {
            renderer.feed(&[b'x'; 65536], &mut out);
            assert!(renderer.pending.len() <= MAX_RECORD_BYTES);
        }
        let piece = "{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
        renderer.feed(format!("\n{piece}").as_bytes(), &mut out);
        assert_eq!(out, b"a\n");
    }

    proptest::proptest! {
        /// Whatever a file holds: no panic, no growth, and the same text however it is cut.
        #[test]
        fn s_m01_any_bytes(
            tokens in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::sample::select(vec![" ", "\n", "P", "F", "F:x", "stdout", "stderr", "2026-01-01T00:00:01Z"])
                        .prop_map(|token| token.as_bytes().to_vec()),
                    proptest::collection::vec(proptest::prelude::any::<u8>(), 0..150),
                ],
                0..60,
            ),
            piece in 1usize..200,
        ) {
            let bytes = tokens.concat();
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            Renderer::new(None, Times::Shown, Format::Cri).feed(&bytes, &mut whole);
            let mut renderer = Renderer::new(None, Times::Shown, Format::Cri);
            for piece in bytes.chunks(piece) {
                renderer.feed(piece, &mut pieces);
                proptest::prop_assert!(renderer.pending.len() < MAX_HEADER_BYTES);
            }
            proptest::prop_assert_eq!(whole, pieces);
        }
    }
}
