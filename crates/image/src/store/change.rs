//! Adding to the store: layers, then the image that has them, then the references that name it.

use super::layer_dir::LayerDir;
use super::plan::LayerPlan;
use super::record::{ImageRecord, LayerRecord, RefRecord};
use super::transaction::Transaction;
use super::{DropInRecord, Store, chain_ids};
use crate::digest::Digest;
use crate::error::Result;
use crate::manifest::ImageConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};

/// How a reference came to name an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By an archive: no registry need know of it.
    Given,
    /// From the registry that the reference names.
    Pulled,
}

/// Additions that become visible together. Only one is under way at a time, so nothing is waited for meanwhile.
pub(crate) struct Change<'a> {
    store: &'a Store,
    _guard: MutexGuard<'a, ()>,
    transaction: Transaction,
    layers: Vec<NewLayer>,
    images: BTreeMap<Digest, (ImageRecord, ImageConfig)>,
    refs: BTreeMap<String, RefRecord>,
    drop_in: Option<DropInRecord>,
}

struct NewLayer {
    record: LayerRecord,
    dir: Arc<LayerDir>,
    /// Who opens the directory while it moves is given this.
    _open: Arc<OwnedFd>,
}

impl Store {
    /// Begins a change, after the one that is under way.
    pub(crate) fn change(&self) -> Change<'_> {
        Change {
            store: self,
            _guard: self.begin_change(),
            transaction: Transaction::new(&self.dirs.ingest),
            layers: Vec::new(),
            images: BTreeMap::new(),
            refs: BTreeMap::new(),
            drop_in: None,
        }
    }
}

impl Change<'_> {
    /// Adds the layers of a plan, all of which are complete. The plan must live until the change is over.
    pub(crate) fn put_layers(&mut self, plan: &LayerPlan) -> Result<()> {
        for (chain_id, dir) in plan.complete_layers()? {
            let is_known = self.store.state().layers.contains_key(&chain_id)
                || self.layers.iter().any(|layer| layer.record.chain_id == chain_id);
            if is_known {
                continue;
            }
            let open = dir.open()?;
            let number = self.place(&dir);
            let record = LayerRecord::new(chain_id, &dir.diff_id, (number, dir.unpacked));
            self.transaction.write_record(self.store.dirs.layer_record(&record.chain_id), &record)?;
            self.layers.push(NewLayer { record, dir, _open: open });
        }
        Ok(())
    }

    /// The directory's number below `layers/`; it moves there if it does not lie there already.
    fn place(&mut self, dir: &Arc<LayerDir>) -> u32 {
        let in_change = || self.layers.iter().find(|layer| Arc::ptr_eq(&layer.dir, dir)).map(|layer| layer.record.dir);
        if let Some(number) = dir.number().or_else(in_change) {
            return number;
        }
        let number = self.free_directory();
        self.transaction.adopt(dir.path(), self.store.dirs.layer(number));
        number
    }

    /// The lowest free number: names stay short, because all of them must fit into mount(2)'s one page of options.
    fn free_directory(&self) -> u32 {
        let used: BTreeSet<u32> = {
            let state = self.store.state();
            let records = state.layers.values().chain(self.layers.iter().map(|layer| &layer.record));
            records.map(|record| record.dir).chain(state.taken.iter().copied()).collect()
        };
        // Without the state, as this looks at the disk: only a change takes numbers, and no other is under way. What a
        // failed one could not take back may lie there.
        let is_free =
            |number: &u32| !used.contains(number) && std::fs::symlink_metadata(self.store.dirs.layer(*number)).is_err();
        (1..).find(is_free).unwrap_or(u32::MAX)
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
    pub(crate) fn put_ref(&mut self, reference: &str, image: &Digest, origin: Origin) -> Result<()> {
        let pulled = origin == Origin::Pulled;
        let record = RefRecord { reference: reference.to_owned(), image: image.clone(), pulled };
        if self.store.state().refs.get(reference) == Some(&record) && !self.refs.contains_key(reference) {
            return Ok(());
        }
        self.transaction.write_record(self.store.dirs.ref_record(reference), &record)?;
        self.refs.insert(reference.to_owned(), record);
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
        // Before the state is held: this looks at the disk.
        for layer in &self.layers {
            layer.dir.set_number(layer.record.dir);
        }
        let mut state = self.store.state_mut();
        for NewLayer { record, .. } in self.layers {
            state.layers.insert(record.chain_id.clone(), record);
        }
        let mut renamed: BTreeSet<Digest> = BTreeSet::new();
        for (reference, record) in self.refs {
            renamed.insert(record.image.clone());
            renamed.extend(state.refs.insert(reference, record).map(|before| before.image));
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
