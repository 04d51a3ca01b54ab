//! Changes that become visible after they are on the disk.

use super::record;
use crate::error::{Error, Result};
use crate::fs::open_dir;
use serde::Serialize;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names in `ingest/` are never used twice by one process, and the directory is emptied when the store is opened.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Files and directories that lie in `ingest/` until [`Transaction::commit`] moves them to their places. Files that are
/// not committed are removed.
///
/// The moves are not atomic together: after a power failure any of them may be missing, which `Store::open` repairs.
/// But what is there is complete, because everything is on the disk before the first move.
pub(crate) struct Transaction {
    ingest: PathBuf,
    /// Somebody else's, and moved first.
    adopted: Vec<(PathBuf, PathBuf)>,
    moves: Vec<(PathBuf, PathBuf)>,
}

impl Transaction {
    pub(crate) fn new(ingest: &Path) -> Self {
        Self { ingest: ingest.to_owned(), adopted: Vec::new(), moves: Vec::new() }
    }

    /// Moves what lies in `ingest/` with everything else, but leaves it to its owner until then.
    pub(crate) fn adopt(&mut self, path: PathBuf, target: PathBuf) {
        self.adopted.push((path, target));
    }

    pub(crate) fn write(&mut self, target: PathBuf, bytes: &[u8]) -> Result<()> {
        let path = self.ingest.join(temporary_name());
        self.moves.push((path.clone(), target));
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|e| Error::io("write", &path, e))
    }

    pub(crate) fn write_record(&mut self, target: PathBuf, record: &impl Serialize) -> Result<()> {
        self.write(target, &record::encode(record))
    }

    /// One `syncfs` costs less than an fsync for every file of a layer; the second makes the moves themselves durable.
    pub(crate) fn commit(mut self) -> Result<()> {
        if self.moves.is_empty() && self.adopted.is_empty() {
            return Ok(());
        }
        let ingest = open_dir(&self.ingest)?;
        let sync = || rustix::fs::syncfs(&ingest).map_err(|e| Error::io("sync", &self.ingest, e));
        sync()?;
        let moves = self.adopted.iter().chain(&self.moves);
        for (done, (from, target)) in moves.clone().enumerate() {
            if let Err(e) = fs::rename(from, target) {
                undo(moves.take(done));
                return Err(Error::io("move into place", target, e));
            }
        }
        sync()?;
        self.moves.clear();
        Ok(())
    }
}

/// Moves back what was moved. Where that fails, what is there stays for the next opening of the store to judge.
fn undo<'a>(moves: impl Iterator<Item = &'a (PathBuf, PathBuf)>) {
    for (from, target) in moves {
        if let Err(error) = fs::rename(target, from) {
            tracing::warn!(%error, path = ?target, "failed to take back a change");
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        for (path, _) in &self.moves {
            // What cannot be removed now is removed when the store is next opened.
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(%error, ?path, "failed to remove unfinished work");
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn temporary_name() -> String {
    format!("t{}", SEQUENCE.fetch_add(1, Ordering::Relaxed))
}
