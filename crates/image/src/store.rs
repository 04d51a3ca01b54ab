//! The store: what images there are, and where their files lie.
//!
//! Everything is answered from memory; the small records on the disk are read once, when the store is opened. Layers are
//! kept unpacked only, because what they came in would double the space and is needed for nothing else.

mod change;
mod layer_dir;
mod open;
mod plan;
mod record;
mod remove;
mod table;
mod transaction;

pub use crate::manifest::ImageConfig;
pub(crate) use change::{Change, NewImage, Origin};
pub(crate) use plan::{Claim, LayerPlan, LayerSource, Slot};
pub(crate) use record::DropInRecord;
pub use remove::Removed;
pub(crate) use transaction::temporary_name;

use crate::digest::{Digest, is_hex};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::unpack::Limits;
use record::{ImageRecord, LayerRecord, RefRecord};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use table::Slots;

/// Shorter prefixes of an id could be words, which name images: `decade`, `facade`.
const MIN_ID_PREFIX_LEN: usize = 8;

/// An image that is complete in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…`, the digest of its configuration.
    pub id: String,
    /// Full references that name it, such as `docker.io/library/nginx:latest`.
    pub refs: Vec<String>,
    /// `repository@sha256:…` of the manifests by which it came.
    pub digests: Vec<String>,
    /// Disk space of its layers' files; layers that images share are counted in each.
    pub size_bytes: u64,
    pub config: ImageConfig,
    /// Names of its layers' directories below [`Store::layers_dir`], topmost first: overlayfs's order.
    pub layers: Vec<String>,
    /// Must not be collected for want of space.
    pub pinned: bool,
}

/// Space that the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Disk space of all layers' files.
    pub bytes: u64,
    pub inodes: u64,
}

/// Images on the disk. All methods block. Several images may be brought at once; what changes the records waits for its
/// turn.
pub struct Store {
    dirs: Arc<Dirs>,
    limits: Limits,
    /// Layers that are being brought. Of the three locks, `changing` is taken first, then this one's, then `state`.
    slots: Slots,
    state: RwLock<State>,
    /// Held while what images have changes on the disk.
    changing: Mutex<()>,
    /// Its lock tells other processes that the directory is taken.
    _lock: OwnedFd,
}

/// Directories of the store.
#[derive(Debug)]
struct Dirs {
    root: PathBuf,
    blobs: PathBuf,
    layers: PathBuf,
    layer_records: PathBuf,
    images: PathBuf,
    refs: PathBuf,
    drop_ins: PathBuf,
    ingest: PathBuf,
    damaged: PathBuf,
}

impl Dirs {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            blobs: root.join("blobs/sha256"),
            layers: root.join("layers"),
            layer_records: root.join("layer-records"),
            images: root.join("images"),
            refs: root.join("refs"),
            drop_ins: root.join("drop-ins"),
            ingest: root.join("ingest"),
            damaged: root.join("damaged"),
        }
    }

    fn all(&self) -> [&Path; 9] {
        let Self { root, blobs, layers, layer_records, images, refs, drop_ins, ingest, damaged } = self;
        [root, blobs, layers, layer_records, images, refs, drop_ins, ingest, damaged]
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn layer(&self, dir: u32) -> PathBuf {
        self.layers.join(dir.to_string())
    }

    fn layer_record(&self, chain_id: &Digest) -> PathBuf {
        self.layer_records.join(chain_id.hex())
    }

    fn image_record(&self, id: &Digest) -> PathBuf {
        self.images.join(id.hex())
    }

    fn ref_record(&self, reference: &str) -> PathBuf {
        self.refs.join(record::file_name(reference))
    }

    fn drop_in_record(&self, file: &str) -> PathBuf {
        self.drop_ins.join(record::file_name(file))
    }
}

/// What the records say, in memory.
#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Stored>,
    refs: BTreeMap<String, RefRecord>,
    layers: HashMap<Digest, LayerRecord>,
    drop_ins: BTreeMap<String, DropInRecord>,
    /// Numbers of layer directories without a record, which a container may still use until the next boot.
    taken: BTreeSet<u32>,
}

#[derive(Debug)]
struct Stored {
    record: ImageRecord,
    /// What callers are given.
    image: Arc<Image>,
}

impl State {
    /// Makes the image that callers see from the records. The layers are all there: that is checked before an image enters.
    fn put_image(&mut self, record: ImageRecord, config: ImageConfig) {
        let mut layers = Vec::with_capacity(record.layers.len());
        let mut hidden = false;
        let mut size_bytes = 0;
        let mut seen = HashSet::new();
        for layer in record.layers.iter().rev().filter_map(|chain_id| self.layers.get(chain_id)) {
            // A layer that comes twice lies in one directory, which overlayfs does not take twice. The upper one shows
            // all that the lower one has.
            if seen.insert(layer.dir) {
                size_bytes += layer.size_bytes;
                if !hidden {
                    layers.push(layer.dir.to_string());
                }
            }
            hidden |= layer.opaque_root;
        }
        let image = Image {
            id: record.id.to_string(),
            refs: self.refs.values().filter(|r| r.image == record.id).map(|r| r.reference.clone()).collect(),
            digests: record.digests.iter().cloned().collect(),
            size_bytes,
            config,
            layers,
            pinned: !record.pinned_by.is_empty(),
        };
        self.images.insert(record.id.clone(), Stored { record, image: Arc::new(image) });
    }

    /// Brings the references and the pin of an image up to date after a change.
    fn refresh(&mut self, id: &Digest) {
        if let Some(Stored { record, image }) = self.images.remove(id) {
            self.put_image(record, image.config.clone());
        }
    }

    fn find(&self, text: &str) -> Result<Option<&Stored>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() == 64 && is_hex(digits) {
            return Ok(Digest::parse(&format!("sha256:{digits}")).ok().and_then(|id| self.images.get(&id)));
        }
        let named = Reference::parse(text);
        if let Ok(reference) = &named
            && let Some(stored) = self.find_reference(reference)
        {
            return Ok(Some(stored));
        }
        if digits.len() >= MIN_ID_PREFIX_LEN && is_hex(digits) {
            return self.find_prefix(digits);
        }
        named.map(|_| None)
    }

    fn find_reference(&self, reference: &Reference) -> Option<&Stored> {
        match reference.digest() {
            None => self.refs.get(&reference.to_string()).and_then(|record| self.images.get(&record.image)),
            Some(digest) => {
                let wanted = format!("{}@{digest}", reference.repository());
                self.images.values().find(|stored| stored.record.digests.contains(&wanted))
            }
        }
    }

    fn find_prefix(&self, digits: &str) -> Result<Option<&Stored>> {
        let mut matches = self.images.iter().filter(|(id, _)| id.hex().starts_with(digits)).map(|(_, stored)| stored);
        match (matches.next(), matches.count()) {
            (found, 0) => Ok(found),
            (_, more) => Err(Error::AmbiguousId { prefix: digits.to_owned(), matches: more + 1 }),
        }
    }
}

impl Store {
    /// The image that a reference, an id or the beginning of an id (8 digits or more) names. Answered from memory.
    ///
    /// # Errors
    /// [`Error::Reference`] when the text can name no image, [`Error::AmbiguousId`] when it is the beginning of several ids.
    pub fn resolve(&self, reference_or_id: &str) -> Result<Option<Arc<Image>>> {
        Ok(self.state().find(reference_or_id)?.map(|stored| stored.image.clone()))
    }

    /// All images, ordered by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.state().images.values().map(|stored| stored.image.clone()).collect()
    }

    /// Directory of the layers' directories.
    pub fn layers_dir(&self) -> &Path {
        &self.dirs.layers
    }

    /// The store's own directory.
    pub fn root(&self) -> &Path {
        &self.dirs.root
    }

    /// Space that all layers take; each counts once.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        let mut seen = HashSet::new();
        let layers = state.layers.values().filter(|layer| seen.insert(layer.dir));
        layers.fold(Usage::default(), |sum, layer| Usage {
            bytes: sum.bytes + layer.size_bytes,
            inodes: sum.inodes + layer.inodes,
        })
    }

    /// Whether a full reference names what its registry gave for it; otherwise an archive gave it, or nothing has it.
    pub fn is_pulled(&self, reference: &str) -> bool {
        self.state().refs.get(reference).is_some_and(|record| record.pulled)
    }

    pub(crate) fn ingest_dir(&self) -> &Path {
        &self.dirs.ingest
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn drop_ins(&self) -> Vec<DropInRecord> {
        self.state().drop_ins.values().cloned().collect()
    }

    pub(crate) fn drop_in(&self, file: &str) -> Option<DropInRecord> {
        self.state().drop_ins.get(file).cloned()
    }

    pub(crate) fn is_pinned_by(&self, image: &Digest, owner: &str) -> bool {
        self.state().images.get(image).is_some_and(|stored| stored.record.pinned_by.contains(owner))
    }

    /// Changes are made whole before the state is touched, so it is sound even if a thread died with the lock.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of the stacks that the layers make, lowest first.
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(Digest::chain(chain.last(), diff_id));
    }
    chain
}

#[cfg(test)]
mod tests;
