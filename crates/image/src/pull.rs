//! Pulling: from a reference to an image that is complete in the store.

use crate::error::Result;
use crate::login::Login;
use crate::reference::Reference;
use crate::registry::{Registry, RegistryError};
use crate::store::{Image, Store};
use std::sync::Arc;

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
    #[error("{document} has {what} {found}, expected {expected}")]
    Mismatch { document: String, what: &'static str, expected: String, found: String },
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
        Arc::new(Puller { store, registry, config })
    }

    /// Makes the image present as the registry has it now. Callers of one reference with one login share one pull; when
    /// the last of them drops its future, the pull is given up and leaves nothing.
    ///
    /// # Errors
    /// [`crate::Error::Pull`] says what failed.
    pub async fn pull(self: &Arc<Self>, reference: &Reference, login: Option<Login>) -> Result<Arc<Image>> {
        let _ = (&self.store, &self.registry, &self.config, login);
        Err(crate::Error::Pull { reference: reference.to_string(), source: Arc::new(PullError::BrokenOff) })
    }

    /// The pulls that somebody waits for.
    pub fn under_way(&self) -> Vec<PullProgress> {
        Vec::new()
    }
}
