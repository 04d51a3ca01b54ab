//! Reading and writing the small files of a cgroup file system.

use crate::{Error, Result};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

/// The longest file read here is a `cgroup.procs` or a `memory.stat`; a group of 100,000 processes stays below this.
const MAX_READ_BYTES: u64 = 4 << 20;

/// One write(2), because every value of a cgroup file is one.
pub(crate) fn write(path: &Path, value: &str) -> Result<()> {
    let attempt = || -> io::Result<()> { OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes()) };
    attempt().map_err(|source| Error::Write { path: path.into(), value: value.into(), source })
}

/// Like [`write`], but a file the kernel does not offer is no error.
pub(crate) fn write_if_offered(path: &Path, value: &str) -> Result<()> {
    match write(path, value) {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(()),
        other => other,
    }
}

pub(crate) fn read(path: &Path) -> Result<String> {
    let attempt = || -> io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_READ_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    attempt().map_err(|source| Error::Read { path: path.into(), source })
}

/// A file that holds one number; `max` and whatever is no number are `None`.
pub(crate) fn read_number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "total_cache 7\ncache 5\noom_kill 2\n";
        for (key, expected) in [("cache", Some(5)), ("oom_kill", Some(2)), ("kill", None), ("", None)] {
            assert_eq!(field(text, key), expected, "{key}");
        }
    }
}
