//! The end of a log that Docker writes: a JSON object for each piece of a line, in a file of Docker's own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{LOG_LINES_MAX, cut};

#[derive(Deserialize)]
struct Piece {
    /// With the line feed that ends the line.
    log: String,
}

/// Where the log of a container leads, if it is root's link to the file that Docker names after that very container.
/// Whoever else can make such a link can make what it leads to, and so gains nothing by it.
pub(super) fn target(log: &Path, id: &str) -> Option<PathBuf> {
    let link = std::fs::symlink_metadata(log).ok()?;
    if !link.is_symlink() || link.uid() != 0 || id.is_empty() {
        return None;
    }
    let target = std::fs::read_link(log).ok()?;
    (target.is_absolute() && target.ends_with(Path::new(id).join(format!("{id}-json.log")))).then_some(target)
}

/// What the last lines say.
pub(super) fn end_of_log(bytes: &[u8]) -> String {
    // The first of them may be the rest of an object whose beginning was cut off.
    let pieces = bytes.split(|byte| *byte == b'\n').filter_map(|piece| serde_json::from_slice::<Piece>(piece).ok());
    let mut said: String = pieces.map(|piece| piece.log).collect();
    if !said.is_empty() && !said.ends_with('\n') {
        said.push('\n');
    }
    let lines: Vec<&str> = said.split_inclusive('\n').collect();
    cut(lines[lines.len().saturating_sub(LOG_LINES_MAX)..].concat().as_bytes())
}
