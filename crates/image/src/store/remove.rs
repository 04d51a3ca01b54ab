//! Removing images and what only they had.

use super::layer_dir::LayerDir;
use super::record::LayerRecord;
use super::transaction::temporary_name;
use super::{State, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fs::{open_dir, remove_tree};
use crate::reference::Reference;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub id: String,
    /// References that no longer name the image.
    pub untagged: Vec<String>,
    /// The image itself is gone; otherwise other references still name it.
    pub deleted: bool,
    /// Disk space of the layers that went with it.
    pub freed_bytes: u64,
}

impl Store {
    /// Removes an image. Given one of several references, only that name goes; given the last one or an id, the image
    /// with all its names and every layer that no other image has. `in_use` says whether a container uses an image id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InUse`], [`Error::Pinned`]: nothing was changed. [`Error::Io`]: the image may be
    /// gone with some of its files left, which are removed when the store is opened after the next boot.
    pub fn remove(&self, reference_or_id: &str, in_use: &dyn Fn(&str) -> bool) -> Result<Removed> {
        let guard = self.begin_change();
        let (id, refs, name) = {
            let state = self.state();
            let found = state.find(reference_or_id)?;
            let stored = found.ok_or_else(|| Error::NotFound { reference: reference_or_id.to_owned() })?;
            let (id, refs) = (stored.record.id.clone(), stored.image.refs.clone());
            let name = Reference::parse(reference_or_id).ok().map(|r| r.to_string()).filter(|n| refs.contains(n));
            if name.is_none() || refs.len() == 1 {
                check_removable(reference_or_id, stored, in_use)?;
            }
            (id, refs, name)
        };
        match name {
            Some(name) if refs.len() > 1 => {
                remove_file(&self.dirs.ref_record(&name))?;
                let mut state = self.state_mut();
                state.refs.remove(&name);
                state.refresh(&id);
                Ok(Removed { id: id.to_string(), untagged: vec![name], deleted: false, freed_bytes: 0 })
            }
            _ => self.delete(guard, &id, refs),
        }
    }

    /// Takes away the pin that an import with `pinned` gave; one by a drop-in file stays as long as the file does.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`] when the record cannot be written.
    pub fn unpin(&self, reference_or_id: &str) -> Result<()> {
        let mut change = self.change();
        let id = self.state().find(reference_or_id)?.map(|stored| stored.record.id.clone());
        let id = id.ok_or_else(|| Error::NotFound { reference: reference_or_id.to_owned() })?;
        change.unpin(&id, crate::import::PINNED_BY_IMPORT)?;
        change.commit()
    }

    /// Forgets a file of the drop-in directory and takes the pins that it gave away.
    pub(crate) fn forget_drop_in(&self, record: &super::DropInRecord, owner: &str) -> Result<()> {
        let mut change = self.change();
        for image in &record.images {
            change.unpin(image, owner)?;
        }
        change.commit()?;
        remove_file(&self.dirs.drop_in_record(&record.file))?;
        self.state_mut().drop_ins.remove(&record.file);
        Ok(())
    }

    /// From here on nothing answers with the image; then its records go, the image's own first, and then the files.
    fn delete(&self, guard: MutexGuard<'_, ()>, id: &Digest, refs: Vec<String>) -> Result<Removed> {
        let (layers, blobs) = {
            let mut state = self.state_mut();
            let Some(stored) = state.images.remove(id) else {
                return Err(Error::NotFound { reference: id.to_string() });
            };
            state.refs.retain(|_, record| record.image != *id);
            (stored.record.layers.clone(), unshared_blobs(&state, &stored.record))
        };
        remove_file(&self.dirs.image_record(id))?;
        for name in &refs {
            remove_file(&self.dirs.ref_record(name))?;
        }
        for blob in blobs {
            remove_file(&self.dirs.blob(&blob))?;
        }
        let freed_bytes = self.remove_layers(guard, (&layers, BTreeSet::new()))?;
        Ok(Removed { id: id.to_string(), untagged: refs, deleted: true, freed_bytes })
    }

    /// Removes what plans have given back. Directories that no image ever had go by being dropped.
    pub(super) fn remove_released(&self, released: Vec<(Digest, Arc<LayerDir>)>) -> Result<()> {
        let (layers, dirs): (Vec<Digest>, Vec<Arc<LayerDir>>) = released.into_iter().unzip();
        let numbers: BTreeSet<u32> = dirs.iter().filter_map(|dir| dir.number()).collect();
        drop(dirs);
        if numbers.is_empty() {
            return Ok(());
        }
        self.remove_layers(self.begin_change(), (&layers, numbers)).map(drop)
    }

    /// Removes those of the layers that no image has and no plan holds, and those directories, of theirs and among
    /// `numbers`, in which no other layer lies. Gives the bytes that were freed.
    fn remove_layers(&self, guard: MutexGuard<'_, ()>, (layers, numbers): (&[Digest], BTreeSet<u32>)) -> Result<u64> {
        let (records, directories) = self.take_unused(layers, numbers);
        let ingest = open_dir(&self.dirs.ingest)?;
        let mut doomed = Vec::with_capacity(directories.len());
        for number in &directories {
            // Moved first: a directory that is half removed must never be taken for a layer.
            let (from, name) = (self.dirs.layer(*number), temporary_name());
            match fs::rename(&from, self.dirs.ingest.join(&name)) {
                Ok(()) => doomed.push(name),
                // Somebody else removed it meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("move away", &from, e)),
            }
        }
        for record in &records {
            remove_file(&self.dirs.layer_record(&record.chain_id))?;
        }
        // Not before the records are gone: they would claim another layer's directory.
        for number in &directories {
            self.state_mut().taken.remove(number);
        }
        drop(guard);
        for name in doomed {
            remove_tree(&ingest, &name).map_err(|e| Error::io("remove", self.dirs.ingest.join(&name), e))?;
        }
        let mut freed: BTreeMap<u32, u64> = records.iter().map(|record| (record.dir, record.size_bytes)).collect();
        freed.retain(|number, _| directories.contains(number));
        Ok(freed.into_values().sum())
    }

    /// The records of layers that nobody needs, taken out of the state, and the directories that lost their last one. The
    /// numbers of those stay taken until the directories are gone.
    fn take_unused(&self, layers: &[Digest], mut numbers: BTreeSet<u32>) -> (Vec<LayerRecord>, BTreeSet<u32>) {
        let table = self.slots.lock();
        let mut state = self.state_mut();
        let used: HashSet<Digest> = state.images.values().flat_map(|s| s.record.layers.iter().cloned()).collect();
        let unused = layers.iter().filter(|chain_id| !used.contains(chain_id) && !table.holds(chain_id));
        let records: Vec<LayerRecord> = unused.filter_map(|chain_id| state.layers.remove(chain_id)).collect();
        numbers.extend(records.iter().map(|record| record.dir));
        for record in state.layers.values() {
            numbers.remove(&record.dir);
        }
        state.taken.extend(&numbers);
        numbers.retain(|number| !table.holds_directory(*number));
        (records, numbers)
    }
}

fn check_removable(reference: &str, stored: &super::Stored, in_use: &dyn Fn(&str) -> bool) -> Result<()> {
    let id = stored.image.id.clone();
    if in_use(&id) {
        return Err(Error::InUse { reference: reference.to_owned(), id });
    }
    match stored.record.pinned_by.first() {
        Some(owner) => Err(Error::Pinned { reference: reference.to_owned(), id, pinned_by: owner.clone() }),
        None => Ok(()),
    }
}

fn unshared_blobs(state: &State, record: &super::ImageRecord) -> Vec<Digest> {
    let is_shared = |digest: &Digest| state.images.values().any(|s| s.record.manifests.contains(digest));
    record.manifests.iter().chain([&record.id]).filter(|digest| !is_shared(digest)).cloned().collect()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}
