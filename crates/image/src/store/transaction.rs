//! Changes that become visible after they are on the disk.

use super::record;
use crate::error::{Error, Result};
use crate::fs::open_dir;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
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
        let mut made = Vec::new();
        let moved = self.adopted.iter().chain(&self.moves).try_for_each(|(from, target)| {
            if place(from, target)? {
                made.push((from, target));
            }
            Ok(())
        });
        match moved.and_then(|()| sync()) {
            Ok(()) => {
                self.moves.clear();
                Ok(())
            }
            Err(error) => {
                undo(&made);
                Err(error)
            }
        }
    }
}

/// Moves `from` to `target`; `true` when nothing stood there.
fn place(from: &Path, target: &Path) -> Result<bool> {
    match rustix::fs::renameat_with(CWD, from, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        // A few file systems cannot say whether they replaced something.
        Err(Errno::EXIST | Errno::INVAL) => {
            fs::rename(from, target).map_err(|e| Error::io("move into place", target, e))?;
            Ok(false)
        }
        Err(e) => Err(Error::io("move into place", target, e)),
    }
}

/// Moves back what was new. A record that replaced another stays: it is complete, and the other is gone. Where a move
/// fails, what is there is for the next opening of the store to judge.
fn undo(made: &[(&PathBuf, &PathBuf)]) {
    for (from, target) in made {
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
