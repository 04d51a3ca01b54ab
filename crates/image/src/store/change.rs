//! Adding to the store: layers, then the image that has them, then the references that name it.

use super::open::chain_ids;
use super::record::{ImageRecord, LayerRecord, RefRecord};
use super::transaction::Transaction;
use super::{DropInRecord, Store};
use crate::compress::{self, Compression};
use crate::digest::{Digest, Hashing};
use crate::error::{Error, LayerError, Result};
use crate::manifest::ImageConfig;
use crate::unpack;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::MutexGuard;

/// A layer as it lies in an archive or comes from a registry.
pub(crate) struct LayerSource<'a> {
    pub(crate) reader: &'a mut dyn Read,
    /// Length of what `reader` gives, compressed or not.
    pub(crate) size_bytes: u64,
    /// Digest of what `reader` gives, where something names one.
    pub(crate) blob: Option<&'a Digest>,
}

/// Additions that become visible together. Only one is under way at a time.
pub(crate) struct Change<'a> {
    store: &'a Store,
    _guard: MutexGuard<'a, ()>,
    transaction: Transaction,
    /// New layers and where they lie until the commit.
    layers: HashMap<Digest, (LayerRecord, PathBuf)>,
    images: BTreeMap<Digest, (ImageRecord, ImageConfig)>,
    refs: BTreeMap<String, Digest>,
    drop_in: Option<DropInRecord>,
}

impl Store {
    /// Begins a change, after the one that is under way.
    pub(crate) fn change(&self) -> Change<'_> {
        Change {
            store: self,
            _guard: self.begin_change(),
            transaction: Transaction::new(&self.dirs.ingest),
            layers: HashMap::new(),
            images: BTreeMap::new(),
            refs: BTreeMap::new(),
            drop_in: None,
        }
    }
}

impl Change<'_> {
    /// How many of the lowest layers of a stack are there already.
    pub(crate) fn present(&self, diff_ids: &[Digest]) -> usize {
        chain_ids(diff_ids).iter().take_while(|chain_id| self.layer(chain_id).is_some()).count()
    }

    fn layer(&self, chain_id: &Digest) -> Option<(LayerRecord, PathBuf)> {
        self.layers.get(chain_id).cloned().or_else(|| {
            let state = self.store.state();
            let record = state.layers.get(chain_id)?;
            Some((record.clone(), self.store.dirs.layer(record.dir)))
        })
    }

    /// Unpacks a layer on top of `below` (diff ids, lowest first) and checks its digests in the same pass.
    pub(crate) fn add_layer(&mut self, below: &[Digest], diff_id: &Digest, source: LayerSource<'_>) -> Result<()> {
        let name = source.blob.unwrap_or(diff_id).to_string();
        let below = chain_ids(below);
        let chain_id = Digest::chain(below.last(), diff_id);
        let dir = self.free_directory();
        let target = self.transaction.reserve(self.store.dirs.layer(dir));
        let layer = unpack::Layer { target: &target, lowers: self.lowers(&below), scratch: &self.store.dirs.ingest };
        let refuse = |source| Error::Layer { layer: name.clone(), source };
        let unpacked = unpack_verified(layer, diff_id, source, &self.store.limits).map_err(refuse)?;
        let record = LayerRecord {
            chain_id: chain_id.clone(),
            diff_id: diff_id.clone(),
            dir,
            size_bytes: unpacked.size_bytes,
            inodes: unpacked.inodes,
            opaque_root: unpacked.opaque_root,
        };
        self.transaction.write_record(self.store.dirs.layer_record(&chain_id), &record)?;
        self.layers.insert(chain_id, (record, target));
        Ok(())
    }

    /// Directories of the layers below, topmost first, as far down as they can be seen.
    fn lowers(&self, below: &[Digest]) -> Vec<PathBuf> {
        let mut lowers = Vec::new();
        for (record, dir) in below.iter().rev().filter_map(|chain_id| self.layer(chain_id)) {
            lowers.push(dir);
            if record.opaque_root {
                break;
            }
        }
        lowers
    }

    /// The lowest free number: names stay short, because all of them must fit into mount(2)'s one page of options.
    fn free_directory(&self) -> u32 {
        let state = self.store.state();
        let recorded =
            state.layers.values().chain(self.layers.values().map(|(record, _)| record)).map(|record| record.dir);
        let used: BTreeSet<u32> = recorded.chain(state.taken.iter().copied()).collect();
        let mut free = 1;
        for dir in used {
            if dir == free {
                free += 1;
            }
        }
        free
    }

    /// Adds an image whose layers are all there, or what is new about one: a manifest by which it came, a pin.
    pub(crate) fn put_image(&mut self, image: NewImage<'_>) -> Result<()> {
        let id = Digest::of(image.config_bytes);
        let known = self.images.get(&id).map(|(record, _)| record.clone());
        let known = known.or_else(|| self.store.state().images.get(&id).map(|stored| stored.record.clone()));
        let is_new = known.is_none();
        let mut record = known.clone().unwrap_or_else(|| ImageRecord {
            id: id.clone(),
            digests: BTreeSet::new(),
            manifests: BTreeSet::new(),
            layers: chain_ids(image.diff_ids),
            pinned_by: BTreeSet::new(),
        });
        record.pinned_by.extend(image.pinned_by.map(str::to_owned));
        for bytes in image.manifests {
            let digest = Digest::of(bytes);
            record.digests.extend(image.repositories.iter().map(|repository| format!("{repository}@{digest}")));
            if record.manifests.insert(digest.clone()) {
                self.transaction.write(self.store.dirs.blob(&digest), bytes)?;
            }
        }
        if is_new {
            self.transaction.write(self.store.dirs.blob(&id), image.config_bytes)?;
        }
        if known.as_ref() != Some(&record) {
            self.transaction.write_record(self.store.dirs.image_record(&id), &record)?;
            self.images.insert(id, (record, image.config));
        }
        Ok(())
    }

    /// Makes a full reference name an image; it may have named another.
    pub(crate) fn put_ref(&mut self, reference: &str, image: &Digest) -> Result<()> {
        if self.store.state().refs.get(reference) == Some(image) && !self.refs.contains_key(reference) {
            return Ok(());
        }
        let record = RefRecord { reference: reference.to_owned(), image: image.clone() };
        self.transaction.write_record(self.store.dirs.ref_record(reference), &record)?;
        self.refs.insert(reference.to_owned(), image.clone());
        Ok(())
    }

    /// Remembers what became of a file in the drop-in directory.
    pub(crate) fn put_drop_in(&mut self, record: DropInRecord) -> Result<()> {
        self.transaction.write_record(self.store.dirs.drop_in_record(&record.file), &record)?;
        self.drop_in = Some(record);
        Ok(())
    }

    /// Takes an image's pin by `owner` away.
    pub(crate) fn unpin(&mut self, image: &Digest, owner: &str) -> Result<()> {
        let known = self.store.state().images.get(image).map(|s| (s.record.clone(), s.image.config.clone()));
        let Some((mut record, config)) = known else { return Ok(()) };
        if record.pinned_by.remove(owner) {
            self.transaction.write_record(self.store.dirs.image_record(image), &record)?;
            self.images.insert(image.clone(), (record, config));
        }
        Ok(())
    }

    /// Puts everything on the disk, then into the memory from which questions are answered.
    pub(crate) fn commit(self) -> Result<()> {
        self.transaction.commit()?;
        let mut state = self.store.state_mut();
        state.layers.extend(self.layers.into_iter().map(|(chain_id, (record, _))| (chain_id, record)));
        let mut renamed: BTreeSet<Digest> = BTreeSet::new();
        for (reference, id) in self.refs {
            renamed.extend(state.refs.insert(reference, id.clone()));
            renamed.insert(id);
        }
        for (record, config) in self.images.into_values() {
            state.put_image(record, config);
        }
        for id in renamed {
            state.refresh(&id);
        }
        if let Some(record) = self.drop_in {
            state.drop_ins.insert(record.file.clone(), record);
        }
        Ok(())
    }
}

/// An image to be added.
pub(crate) struct NewImage<'a> {
    pub(crate) config_bytes: &'a [u8],
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: &'a [Digest],
    /// The documents it came by: its manifest, and the index that led there if one did.
    pub(crate) manifests: Vec<&'a [u8]>,
    /// Repositories in which it has a name by them.
    pub(crate) repositories: &'a BTreeSet<String>,
    pub(crate) pinned_by: Option<&'a str>,
}

fn unpack_verified(
    layer: unpack::Layer<'_>,
    expected: &Digest,
    source: LayerSource<'_>,
    limits: &unpack::Limits,
) -> std::result::Result<unpack::Unpacked, LayerError> {
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
