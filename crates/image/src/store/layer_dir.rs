//! The directory of an unpacked layer, for as long as somebody may need it.

use super::record::LayerRecord;
use super::{Dirs, temporary_name};
use crate::digest::Digest;
use crate::error::{Error, LayerError, Result};
use crate::fs::{open_dir, remove_tree};
use crate::unpack::{self, Unpacked};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A name in `ingest/`; what stands there is removed with it. What was moved away meanwhile is not.
pub(super) struct IngestDir {
    dirs: Arc<Dirs>,
    name: String,
}

impl IngestDir {
    pub(super) fn new(dirs: &Arc<Dirs>) -> Self {
        Self { dirs: dirs.clone(), name: temporary_name() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dirs.ingest.join(&self.name)
    }
}

impl Drop for IngestDir {
    fn drop(&mut self) {
        let Ok(ingest) = open_dir(&self.dirs.ingest) else { return };
        // What cannot be removed now is removed when the store is next opened.
        if let Err(error) = remove_tree(&ingest, &self.name) {
            tracing::warn!(%error, path = ?self.path(), "failed to remove unfinished work");
        }
    }
}

/// A complete layer. Several stacks may have it.
pub(super) struct LayerDir {
    dirs: Arc<Dirs>,
    pub(super) diff_id: Digest,
    pub(super) unpacked: Unpacked,
    inner: Mutex<Inner>,
}

struct Inner {
    place: Place,
    /// Its root is as it stays.
    settled: bool,
    /// One descriptor for all who look into it at a time.
    open: Weak<OwnedFd>,
}

enum Place {
    /// No image has it yet; it goes with the last who holds it.
    Ingest(IngestDir),
    /// Below `layers/`.
    Stored(u32),
}

impl LayerDir {
    pub(super) fn unpacked(ingest: IngestDir, diff_id: Digest, unpacked: Unpacked) -> Self {
        let dirs = ingest.dirs.clone();
        let inner = Inner { place: Place::Ingest(ingest), settled: unpacked.own_root, open: Weak::new() };
        Self { dirs, diff_id, unpacked, inner: Mutex::new(inner) }
    }

    pub(super) fn stored(dirs: &Arc<Dirs>, record: &LayerRecord) -> Self {
        let inner = Inner { place: Place::Stored(record.dir), settled: true, open: Weak::new() };
        Self {
            dirs: dirs.clone(),
            diff_id: record.diff_id.clone(),
            unpacked: record.unpacked(),
            inner: Mutex::new(inner),
        }
    }

    /// Its number below `layers/`, once an image has it.
    pub(super) fn number(&self) -> Option<u32> {
        match self.inner().place {
            Place::Ingest(_) => None,
            Place::Stored(number) => Some(number),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.inner().place.path(&self.dirs)
    }

    /// Its directory was moved below `layers/`.
    pub(super) fn set_number(&self, number: u32) {
        self.inner().place = Place::Stored(number);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.inner().settled
    }

    /// A handle of its directory, which stays good when the directory moves.
    pub(super) fn open(&self) -> Result<Arc<OwnedFd>> {
        let mut inner = self.inner();
        if let Some(fd) = inner.open.upgrade() {
            return Ok(fd);
        }
        let fd = Arc::new(open_dir(&inner.place.path(&self.dirs))?);
        inner.open = Arc::downgrade(&fd);
        Ok(fd)
    }

    /// Gives its root the attributes of the layer below, which is settled; the lowest is as it is.
    pub(super) fn settle(&self, below: Option<&LayerDir>) -> Result<()> {
        if let Some(below) = below {
            unpack::inherit_root(&*self.open()?, &*below.open()?).map_err(|source| self.refuse(source))?;
        }
        self.inner().settled = true;
        Ok(())
    }

    /// Whether it would look the same on top of `below`; both are settled.
    pub(super) fn fits_on(&self, below: Option<&LayerDir>) -> Result<bool> {
        if self.unpacked.own_root {
            return Ok(true);
        }
        let below = below.map(LayerDir::open).transpose()?;
        unpack::same_root(&*self.open()?, below.as_deref()).map_err(|source| self.refuse(source))
    }

    fn refuse(&self, source: LayerError) -> Error {
        Error::Layer { layer: self.diff_id.to_string(), source }
    }

    /// Each change to it is one assignment, so it is sound even if a thread died with the lock.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn path(&self, dirs: &Dirs) -> PathBuf {
        match self {
            Self::Ingest(ingest) => ingest.path(),
            Self::Stored(number) => dirs.layer(*number),
        }
    }
}
