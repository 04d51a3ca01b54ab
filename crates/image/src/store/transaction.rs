//! Changes that become visible after they are on the disk.

use super::record;
use crate::error::{Error, Result};
use crate::fs::open_dir;
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names in `ingest/` are never used twice by one process, and the directory is emptied when the store is opened.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Files and directories that lie in `ingest/` until [`Transaction::commit`] moves them to their places. What is not
/// committed is removed.
///
/// The moves are not atomic together: after a power failure any of them may be missing, which `Store::open` repairs.
/// But what is there is complete, because everything is on the disk before the first move.
pub(crate) struct Transaction {
    ingest: PathBuf,
    moves: Vec<(String, PathBuf)>,
}

impl Transaction {
    pub(crate) fn new(ingest: &Path) -> Self {
        Self { ingest: ingest.to_owned(), moves: Vec::new() }
    }

    /// A name in `ingest/` that will be moved to `target`.
    pub(crate) fn reserve(&mut self, target: PathBuf) -> PathBuf {
        let name = temporary_name();
        let path = self.ingest.join(&name);
        self.moves.push((name, target));
        path
    }

    pub(crate) fn write(&mut self, target: PathBuf, bytes: &[u8]) -> Result<()> {
        let path = self.reserve(target);
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
        if self.moves.is_empty() {
            return Ok(());
        }
        let ingest = open_dir(&self.ingest)?;
        let sync = || rustix::fs::syncfs(&ingest).map_err(|e| Error::io("sync", &self.ingest, e));
        sync()?;
        for (name, target) in &self.moves {
            let from = self.ingest.join(name);
            fs::rename(&from, target).map_err(|e| Error::io("move into place", target, e))?;
        }
        sync()?;
        self.moves.clear();
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.moves.is_empty() {
            return;
        }
        let Ok(ingest) = open_dir(&self.ingest) else { return };
        for (name, _) in &self.moves {
            // What cannot be removed now is removed when the store is next opened.
            if let Err(error) = crate::fs::remove_tree(&ingest, name) {
                tracing::warn!(%error, dir = ?self.ingest, name, "failed to remove unfinished work");
            }
        }
    }
}

pub(crate) fn temporary_name() -> String {
    format!("t{}", SEQUENCE.fetch_add(1, Ordering::Relaxed))
}
