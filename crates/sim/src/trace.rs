//! What happened, as a hash and on demand as text: the same seed must give the same one.

use std::fmt::{self, Write};

/// Lines kept at most; a world that says more than this has run away.
const LINES_MAX: usize = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Only the hash.
    Hash,
    Lines,
}

#[derive(Debug)]
pub(crate) struct Trace {
    hash: Fnv,
    keep: Keep,
    pub(crate) lines: Vec<String>,
    pub(crate) notes: u64,
}

impl Trace {
    pub(crate) fn new(keep: Keep) -> Trace {
        Trace { hash: Fnv(0xcbf2_9ce4_8422_2325), keep, lines: Vec::new(), notes: 0 }
    }

    pub(crate) fn note(&mut self, at_ms: u64, what: fmt::Arguments<'_>) {
        self.notes += 1;
        // Writing into a hash cannot fail.
        let _always = writeln!(self.hash, "{at_ms} {what}");
        if self.keep == Keep::Lines && self.lines.len() < LINES_MAX {
            self.lines.push(format!("{:>10.3} s  {what}", at_ms as f64 / 1_000.0));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.0
    }
}

/// FNV-1a, 64 bits.
#[derive(Debug)]
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
