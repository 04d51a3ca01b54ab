//! Capped reading of small kernel files beneath a root, which in tests is a directory of fixtures.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// More than any of the files read here has on the largest machines known (`/proc/cpuinfo` of 4,096 processors).
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Entries read of one directory.
const MAX_ENTRIES: usize = 16_384;

/// A view of `/`.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn live() -> Self {
        Self { root: "/".into() }
    }

    #[cfg(test)]
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of a file; `None` if it is missing, unreadable (a link that is down answers EINVAL), not UTF-8 or
    /// longer than any such file can be.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.root.join(path)).ok()?;
        let length = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).ok()?;
        (length as u64 <= MAX_FILE_BYTES).then_some(text)
    }

    /// The first line without surrounding blanks; `None` also if that is empty.
    pub(crate) fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().next()?.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// The first line as a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.line(path)?.parse().ok()
    }

    /// Names in a directory, sorted; none if it is missing.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.take(MAX_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether the path exists.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}
