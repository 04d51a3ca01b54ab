//! What an image still lacks, and who brings it.

use super::change::Origin;
use super::layer_dir::{IngestDir, LayerDir};
use super::table::{Claimed, PlanId, Table};
use super::{Image, NewImage, Store, chain_ids};
use crate::compress::{self, Compression};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, LayerError, Result};
use crate::unpack::{self, Limits, Unpacked};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a failed pull has completed is kept for so long, since its next try comes after a back-off.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);

/// A layer as it lies in an archive or comes from a registry.
pub(crate) struct LayerSource<'a> {
    pub(crate) reader: &'a mut dyn Read,
    /// Length of what `reader` gives, compressed or not.
    pub(crate) size_bytes: u64,
    /// Digest of what `reader` gives, where something names one.
    pub(crate) blob: Option<&'a Digest>,
}

/// The layers of an image that is being brought. Until it is dropped nothing takes those away that are there. Dropped, it
/// keeps nothing: as when nobody waits for the image any more.
pub(crate) struct LayerPlan {
    shared: Arc<Shared>,
    /// Layers of other stacks that may serve for this one.
    twins: Vec<Digest>,
    keep_until: Option<Instant>,
}

/// What a plan and its slots share.
struct Shared {
    store: Arc<Store>,
    id: PlanId,
    /// Chain ids, lowest first.
    layers: Vec<Digest>,
    diff_ids: Vec<Digest>,
    /// The plan is no more; changes under the table's lock.
    ended: AtomicBool,
    /// What is kept would only be in the way.
    disk_full: AtomicBool,
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
    plan: Arc<Shared>,
    at: usize,
    is_filled: bool,
}

impl Store {
    /// Looks what is there of a stack of layers (lowest first) and takes on what nobody else brings.
    pub(crate) fn plan(self: &Arc<Self>, diff_ids: &[Digest]) -> LayerPlan {
        let mut table = self.slots.lock();
        let (id, twins) = table.enter(diff_ids, (&self.state(), &self.dirs));
        // Only now: what was kept for this stack is held again.
        let expired = table.take_expired(Instant::now());
        drop(table);
        self.discard(expired);
        let (layers, diff_ids) = (chain_ids(diff_ids), diff_ids.to_vec());
        let (ended, disk_full) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Shared { store: self.clone(), id, layers, diff_ids, ended, disk_full };
        LayerPlan { shared: Arc::new(shared), twins, keep_until: None }
    }

    /// Removes what is not needed any more; from a task, on a thread of the runtime's.
    fn discard(self: &Arc<Self>, released: Vec<(Digest, Arc<LayerDir>)>) {
        let is_ended = {
            let state = self.state();
            let has = |chain_id| state.images.values().any(|stored| stored.record.layers.contains(chain_id));
            released.iter().all(|(chain_id, dir)| dir.number().is_some() && has(chain_id))
        };
        if is_ended {
            return;
        }
        let store = self.clone();
        let remove = move || {
            if let Err(error) = store.remove_released(released) {
                tracing::warn!(%error, "failed to remove layers that no image has");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }

    /// Removes what failed pulls left, when it has been kept for long enough.
    fn remove_expired(self: &Arc<Self>) {
        let expired = self.slots.lock().take_expired(Instant::now());
        self.discard(expired);
    }
}

impl LayerPlan {
    /// Whether a layer (0 is the lowest) is there already.
    pub(crate) fn is_present(&self, at: usize) -> bool {
        self.shared.store.slots.lock().is_complete(&self.shared.layers[at])
    }

    /// Waits while another plan brings the layer, until it is there or has become this one's. Each layer is to be claimed
    /// once, the lowest first, and none may wait for what only the end of a higher one gives (a permit, a thread): higher
    /// ones wait for lower ones.
    pub(crate) async fn claim(&self, at: usize) -> Claim {
        loop {
            let mut changed = std::pin::pin!(self.shared.store.slots.tasks.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let claim = self.try_claim(&mut self.shared.store.slots.lock(), at);
            match claim {
                Some(claim) => return claim,
                None => changed.await,
            }
        }
    }

    /// The same for a thread.
    pub(crate) fn claim_blocking(&self, at: usize) -> Claim {
        let slots = &self.shared.store.slots;
        let mut table = slots.lock();
        loop {
            match self.try_claim(&mut table, at) {
                Some(claim) => return claim,
                None => table = slots.wait(table),
            }
        }
    }

    fn try_claim(&self, table: &mut Table, at: usize) -> Option<Claim> {
        match table.claim(self.shared.id, &self.shared.layers[at]) {
            Claimed::Wait => None,
            Claimed::Ours => Some(Claim::Ours(Slot { plan: self.shared.clone(), at, is_filled: false })),
            Claimed::Present => {
                // It may have become so just now.
                self.shared.store.slots.notify();
                Some(Claim::Present)
            }
        }
    }

    /// Makes the layers, the image and the references, which are its names in the registry that it comes from, visible
    /// together. Blocks. Every layer is there.
    pub(crate) fn commit(self, image: NewImage<'_>, references: &[String]) -> Result<Arc<Image>> {
        let id = Digest::of(image.config_bytes);
        let committed = self.commit_with(image, (&id, references));
        match committed {
            Ok(()) => {
                let state = self.shared.store.state();
                let stored = state.images.get(&id).map(|stored| stored.image.clone());
                stored.ok_or_else(|| Error::NotFound { reference: id.to_string() })
            }
            Err(error) => {
                self.shared.disk_full.fetch_or(error.is_disk_full(), Ordering::Relaxed);
                self.fail();
                Err(error)
            }
        }
    }

    fn commit_with(&self, image: NewImage<'_>, (id, references): (&Digest, &[String])) -> Result<()> {
        let mut change = self.shared.store.change();
        change.put_layers(self)?;
        change.put_image(image)?;
        for reference in references {
            change.put_ref(reference, id, Origin::Pulled)?;
        }
        change.commit()
    }

    /// Ends without an image; layers that are complete are kept for some minutes, so that the next try finds them.
    pub(crate) fn fail(mut self) {
        if self.shared.disk_full.load(Ordering::Relaxed) {
            // Nor is what others kept worth the room.
            let kept = self.shared.store.slots.lock().take_expired(Instant::now() + KEPT_FOR);
            return self.shared.store.discard(kept);
        }
        self.keep_until = Some(Instant::now() + KEPT_FOR);
        let store = Arc::downgrade(&self.shared.store);
        // Without a runtime the next plan looks.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(KEPT_FOR).await;
                if let Some(store) = store.upgrade() {
                    store.remove_expired();
                }
            });
        }
    }

    /// The layers, lowest first, all of them complete.
    pub(super) fn complete_layers(&self) -> Result<Vec<(Digest, Arc<LayerDir>)>> {
        let table = self.shared.store.slots.lock();
        let missing = |chain_id: &Digest| Error::Layer { layer: chain_id.to_string(), source: LayerError::Abandoned };
        let mut layers = Vec::with_capacity(self.shared.layers.len());
        for chain_id in &self.shared.layers {
            let dir = if table.settle(chain_id)? { table.complete(chain_id) } else { None };
            layers.push((chain_id.clone(), dir.ok_or_else(|| missing(chain_id))?.clone()));
        }
        Ok(layers)
    }
}

impl Drop for LayerPlan {
    fn drop(&mut self) {
        let Shared { store, id, layers, ended, .. } = &*self.shared;
        let mut table = store.slots.lock();
        ended.store(true, Ordering::Relaxed);
        let released = table.release(*id, (layers, &self.twins), self.keep_until);
        drop(table);
        store.slots.notify();
        store.discard(released);
    }
}

impl Slot {
    /// Unpacks the layer and verifies it: its size, the digest of the blob, the diff id. Blocks, and may wait for the
    /// layers below, so each needs a thread that no other waits for.
    ///
    /// # Errors
    /// [`Error::Layer`]; [`LayerError::Abandoned`] when the plan ended.
    pub(crate) fn fill(mut self, source: LayerSource<'_>) -> Result<()> {
        let store = &self.plan.store;
        let diff_id = &self.plan.diff_ids[self.at];
        let layer = source.blob.unwrap_or(diff_id).to_string();
        let refuse = |source| {
            if matches!(source, LayerError::DiskFull { .. }) {
                self.plan.disk_full.store(true, Ordering::Relaxed);
            }
            Error::Layer { layer: layer.clone(), source }
        };
        let ingest = IngestDir::new(&store.dirs);
        let (target, below) = (ingest.path(), || self.lowers());
        let target = unpack::Layer { target: &target, below: &below, scratch: &store.dirs.ingest };
        let unpacked = unpack_verified(target, diff_id, (source, &store.limits)).map_err(refuse)?;
        let dir = Arc::new(LayerDir::unpacked(ingest, diff_id.clone(), unpacked));
        let mut table = store.slots.lock();
        // Of an ended plan, the layers below may be gone that this one looked at.
        if self.plan.ended.load(Ordering::Relaxed) {
            drop(table);
            return Err(refuse(LayerError::Abandoned));
        }
        table.fill(&self.plan.layers[self.at], dir);
        drop(table);
        self.is_filled = true;
        Ok(())
    }

    /// Waits for the layers below, as far down as they can be seen. Topmost first.
    fn lowers(&self) -> std::result::Result<Vec<Arc<OwnedFd>>, LayerError> {
        let slots = &self.plan.store.slots;
        let mut lowers: Vec<Arc<LayerDir>> = Vec::new();
        let mut table = slots.lock();
        while lowers.len() < self.at && !lowers.last().is_some_and(|dir| dir.unpacked.opaque_root) {
            if self.plan.ended.load(Ordering::Relaxed) {
                return Err(LayerError::Abandoned);
            }
            match table.complete(&self.plan.layers[self.at - lowers.len() - 1]) {
                Some(dir) => lowers.push(dir.clone()),
                None => table = slots.wait(table),
            }
        }
        drop(table);
        let opened = lowers.iter().map(|dir| dir.open()).collect::<Result<_>>();
        // Not the layer's own fault.
        opened.map_err(|error| LayerError::EntryIo {
            path: "/".to_owned(),
            doing: "open the layers below",
            source: io::Error::other(error),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.plan.store.slots;
        if !self.is_filled {
            slots.lock().give_up(&self.plan.layers[self.at]);
        }
        slots.notify();
    }
}

/// Unpacks a layer and checks all its digests in the same pass.
fn unpack_verified(
    layer: unpack::Layer<'_>,
    expected: &Digest,
    (source, limits): (LayerSource<'_>, &Limits),
) -> std::result::Result<Unpacked, LayerError> {
    let mut blob = Hashing::new(source.reader);
    let (compression, plain) = compress::decoder(&mut blob)?;
    let mut plain = Hashing::new(plain);
    let unpacked = unpack::unpack(layer, &mut plain, &limits.for_blob(source.size_bytes))?;
    let (diff_id, plain_bytes) = plain.finish();
    let mismatch = |what, expected: &dyn ToString, found: &dyn ToString| LayerError::Mismatch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    };
    if diff_id != *expected {
        return Err(mismatch("the digest of the uncompressed layer", expected, &diff_id));
    }
    // Decoders stop at the end of their format; what follows belongs to the blob all the same.
    io::copy(&mut blob, &mut io::sink()).map_err(LayerError::from_read)?;
    let (digest, bytes) = blob.finish();
    debug_assert!(compression != Compression::Plain || bytes == plain_bytes, "a plain layer is its own content");
    if bytes != source.size_bytes {
        return Err(mismatch("the size of the layer in bytes", &source.size_bytes, &bytes));
    }
    match source.blob {
        Some(expected) if *expected != digest => Err(mismatch("the digest of the layer", expected, &digest)),
        _ => Ok(unpacked),
    }
}
