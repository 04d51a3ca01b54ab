//! Pulling: from a reference to an image that is complete in the store.
//!
//! Who asks for what is being pulled already waits for that. Layers are fetched and unpacked several at a time, the lowest
//! first; which of them another pull brings, the store knows.

mod bring;
mod find;
mod layer;
mod progress;

use crate::error::Result;
use crate::login::Login;
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::store::{Image, Store};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use progress::Progress;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// How much is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullConfig {
    /// Layers of one pull that are fetched and unpacked at the same time.
    pub layers_at_once: usize,
    /// The same for all pulls together.
    pub layers_at_once_in_all: usize,
}

impl Default for PullConfig {
    fn default() -> Self {
        Self { layers_at_once: 3, layers_at_once_in_all: 8 }
    }
}

/// Brings images from registries into a store.
pub struct Puller {
    store: Arc<Store>,
    registry: Registry,
    config: PullConfig,
    /// One for each layer that may be fetched at the same time. Whoever waits for one has no layer below that waits too,
    /// so those that have one come to their end.
    turns: Arc<Semaphore>,
    pulls: Mutex<Vec<Entry>>,
    next_id: AtomicU64,
}

/// What all who wait for a pull are told.
type Outcome = std::result::Result<Arc<Image>, Arc<PullError>>;

/// A pull under way. It goes on as long as somebody holds its future.
struct Entry {
    id: u64,
    reference: Reference,
    login: Option<Login>,
    progress: Arc<Progress>,
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
}

/// Takes a pull off the list when it ends, however it ends.
struct Listed {
    puller: Arc<Puller>,
    id: u64,
}

impl Listed {
    /// Begins when it is first asked for its outcome, when nobody holds the list: a runtime that ends drops what it is
    /// given, and that takes the pull off the list at once.
    async fn work(self, (reference, login): (Reference, Option<Login>), progress: Arc<Progress>) -> Outcome {
        let work = tokio::spawn(async move {
            // Lives as long as the work, and not only from its first step on.
            let listed = self;
            listed.puller.bring(&reference, login, &progress).await
        });
        match AbortOnDropHandle::new(work).await {
            Ok(outcome) => outcome.map_err(Arc::new),
            Err(_) => Err(Arc::new(PullError::BrokenOff)),
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.puller.pulls().retain(|entry| entry.id != self.id);
    }
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// In full, as in [`Image::refs`].
    pub reference: String,
    /// Compressed bytes of layers that have come.
    pub done_bytes: u64,
    /// Compressed bytes of all layers that are to come; `None` until the manifest is read.
    pub total_bytes: Option<u64>,
    /// Lowest first; empty until the manifest is read.
    pub layers: Vec<LayerProgress>,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// `sha256:…` of the blob.
    pub digest: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub state: LayerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    Fetching,
    /// It was there already.
    Present,
    /// Fetched, verified and unpacked.
    Done,
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// No registry gave what was asked for.
    #[error("{source}")]
    Registry {
        #[from]
        source: RegistryError,
    },
    /// A manifest, an index or a configuration is malformed, ambiguous or of a kind that cannot run.
    #[error("{document}: {reason}")]
    Document { document: String, reason: String },
    /// A document is larger than is taken.
    #[error("{document} is {size_bytes} bytes long; the limit is {limit_bytes}")]
    TooLarge { document: String, size_bytes: u64, limit_bytes: u64 },
    /// A document is not what its descriptor says.
    #[error("{document} has the digest {found}, expected {expected}")]
    Mismatch { document: String, expected: String, found: String },
    /// There are images, but none for this machine.
    #[error("no image for {wanted}; there is {found}")]
    Platform { wanted: String, found: String },
    /// A layer was refused, or the store could not be written.
    #[error("{source}")]
    Store {
        #[from]
        source: crate::Error,
    },
    /// The work ended without an answer.
    #[error("the pull was broken off")]
    BrokenOff,
}

impl Puller {
    pub fn new(store: Arc<Store>, registry: Registry, config: PullConfig) -> Arc<Puller> {
        let turns = Arc::new(Semaphore::new(config.layers_at_once_in_all.max(1)));
        let (pulls, next_id) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        Arc::new(Puller { store, registry, config, turns, pulls, next_id })
    }

    /// Makes the image present as the registry has it now. Callers of one reference with one login share one pull; when
    /// the last of them drops its future, the pull is given up and leaves nothing.
    ///
    /// # Errors
    /// [`crate::Error::Pull`] says what failed.
    pub async fn pull(self: &Arc<Self>, reference: &Reference, login: Option<Login>) -> Result<Arc<Image>> {
        let outcome = self.join(reference, login).await;
        outcome.map_err(|source| crate::Error::Pull { reference: reference.to_string(), source })
    }

    /// The pulls that somebody waits for.
    pub fn under_way(&self) -> Vec<PullProgress> {
        let held = |entry: &Entry| Some((entry.outcome.upgrade()?, entry.progress.clone()));
        // Whoever lets go of a pull last takes it off the list: that may be done here, but not while the list is held.
        let waited_for: Vec<_> = self.pulls().iter().filter_map(held).collect();
        waited_for.iter().map(|(_, progress)| progress.snapshot()).collect()
    }

    /// The pull of this reference that is under way, or a new one.
    fn join(self: &Arc<Self>, reference: &Reference, login: Option<Login>) -> Shared<BoxFuture<'static, Outcome>> {
        let mut pulls = self.pulls();
        let same = |entry: &&Entry| entry.reference == *reference && entry.login == login;
        if let Some(outcome) = pulls.iter().filter(same).find_map(|entry| entry.outcome.upgrade()) {
            return outcome;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let progress = Arc::new(Progress::new(reference.to_string()));
        let listed = Listed { puller: self.clone(), id };
        let outcome = listed.work((reference.clone(), login.clone()), progress.clone()).boxed().shared();
        if let Some(weak) = outcome.downgrade() {
            pulls.push(Entry { id, reference: reference.clone(), login, progress, outcome: weak });
        }
        outcome
    }

    fn pulls(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
