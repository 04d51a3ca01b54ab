//! What the kubelet remembers of its pulls: which image came from where, and with whose credential.
//!
//! `<root>/image_manager/pulling` names what is being pulled, `pulled` whom a registry gave an image. Names and format are
//! those of every kubelet. What was pulled is never taken for something that others brought: that it is being pulled is
//! on disk before it begins, and is taken off only when it is known what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri::v1;
use lifecycle::Millis;
use lifecycle::image_access::{Access, Bearer, Origin, Verdict, Verification, judge};
use pod::image_name;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::{clock, durable};
use file::{ImagePullIntent, ImagePulledRecord};

mod file;

/// Records read at the start; no machine has so many images.
const RECORDS_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct PullRecords {
    verification: Verification,
    pulling_dir: PathBuf,
    pulled_dir: PathBuf,
    known: Mutex<Known>,
    /// Held while files are changed; what is known is changed after them.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the names of their files.
    pulled: BTreeMap<String, Record>,
    /// Pulls under way of each image; none of one whose end nobody saw. By the names of their files as well.
    pulling: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Record {
    /// By repository; nothing of a record that cannot be read.
    access: BTreeMap<String, Access>,
    changed_ms: Millis,
}

/// One pull that is on disk as under way. Let go of without a word it stays there.
#[derive(Debug)]
pub(crate) struct Pulling {
    records: Arc<PullRecords>,
    image: String,
    file: String,
    told: bool,
}

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The image's id, and whom the registry gave it.
    Pulled(String, Access),
    Failed,
    /// The runtime may bring it yet.
    Unknown,
}

impl PullRecords {
    /// Reads what was remembered, which blocks. What cannot be read lets nobody in.
    pub(crate) fn load(root_dir: &Path, verification: Verification) -> Self {
        let dir = root_dir.join("image_manager");
        let (pulling_dir, pulled_dir) = (dir.join("pulling"), dir.join("pulled"));
        let mut known = Known::default();
        for (name, path) in files(&pulled_dir) {
            let access = match durable::read::<ImagePulledRecord>(&path) {
                Ok(record) => record.map(ImagePulledRecord::access).unwrap_or_default(),
                Err(error) => {
                    warn!(path = %path.display(), %error, "what is known of a pulled image cannot be read");
                    BTreeMap::new()
                }
            };
            known.pulled.insert(name, Record { access, changed_ms: 0 });
        }
        known.pulling.extend(files(&pulling_dir).into_iter().map(|(name, _)| (name, 0)));
        Self { verification, pulling_dir, pulled_dir, known: Mutex::new(known), changing: Mutex::default() }
    }

    /// Whether a pod with these credentials of its own may use an image, told by its full name and its id; without an id
    /// one whose name an archive gave, so that its pulls have nothing to do with it.
    pub(crate) fn judge<'a>(&self, image: &str, id: Option<&str>, own: &'a [Bearer]) -> Verdict<'a> {
        let Ok(repository) = image_name::repository(image) else { return Verdict::Ask };
        let known = self.known();
        let origin = match id.map(|id| known.pulled.get(&file_name(id))) {
            None => Origin::Elsewhere,
            Some(Some(record)) => Origin::Pulled(record.access.get(&repository)),
            Some(None) if known.pulling.contains_key(&file_name(image)) => Origin::Pulled(None),
            Some(None) => Origin::Elsewhere,
        };
        judge(&self.verification, &repository, origin, own)
    }

    /// Notes that an image, by its full name, is about to be pulled. Blocks.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(crate) fn begin(self: &Arc<Self>, image: &str) -> io::Result<Pulling> {
        let _changing = self.changing();
        let file = file_name(image);
        make(&self.pulling_dir)?;
        durable::write(&self.pulling_dir.join(&file), &ImagePullIntent::of(image))?;
        *self.known().pulling.entry(file.clone()).or_default() += 1;
        Ok(Pulling { records: self.clone(), image: image.to_owned(), file, told: false })
    }

    /// Remembers whom a registry gives an image, beside those that are known. Blocks.
    ///
    /// # Errors
    /// It cannot be written down, and is not known then.
    pub(crate) fn grant(&self, image: &str, id: &str, access: Access) -> io::Result<()> {
        let repository = image_name::repository(image).map_err(io::Error::other)?;
        let _changing = self.changing();
        let name = file_name(id);
        let before = self.known().pulled.get(&name).map(|record| record.access.clone());
        let mut all = before.clone().unwrap_or_default();
        let access = match all.remove(&repository) {
            Some(known) => known.and(access),
            None => access,
        };
        all.insert(repository, access);
        if before.as_ref() != Some(&all) {
            make(&self.pulled_dir)?;
            durable::write(&self.pulled_dir.join(&name), &ImagePulledRecord::of(id, &all))?;
        }
        self.known().pulled.insert(name, Record { access: all, changed_ms: clock::mono_ms() });
        Ok(())
    }

    /// Forgets images that are gone: those that are not among these, which were listed not before `since_ms`. Blocks only
    /// where there is something to forget.
    pub(crate) fn prune(&self, images: &[v1::Image], since_ms: Millis) {
        let ids: BTreeSet<String> = images.iter().map(|image| file_name(&image.id)).collect();
        let names = images.iter().flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests));
        let names: BTreeSet<String> =
            names.filter_map(|name| Some(file_name(&image_name::normalize(name).ok()?))).collect();
        let _changing = self.changing();
        let gone = |(name, record): (&String, &Record)| {
            (record.changed_ms < since_ms && !ids.contains(name)).then(|| name.clone())
        };
        let idle = |(name, count): (&String, &usize)| (*count == 0 && !names.contains(name)).then(|| name.clone());
        let (pulled, pulling) = {
            let known = self.known();
            let pulled: Vec<String> = known.pulled.iter().filter_map(gone).collect();
            (pulled, known.pulling.iter().filter_map(idle).collect::<Vec<_>>())
        };
        for name in pulled {
            if removed(&self.pulled_dir.join(&name)) {
                self.known().pulled.remove(&name);
            }
        }
        for name in pulling {
            if removed(&self.pulling_dir.join(&name)) {
                self.known().pulling.remove(&name);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pull fewer; what is left under way.
    fn release(&self, file: &str) -> usize {
        let mut known = self.known();
        let Some(count) = known.pulling.get_mut(file) else { return 0 };
        *count = count.saturating_sub(1);
        *count
    }
}

impl Pulling {
    /// Writes down what came of it, which blocks. What cannot be written down is asked for again.
    pub(crate) fn end(mut self, ended: Ended) {
        self.told = true;
        let (records, image, file) = (&self.records, &self.image, &self.file);
        let is_known = match ended {
            Ended::Unknown => false,
            Ended::Failed => true,
            Ended::Pulled(id, access) => match records.grant(image, &id, access) {
                Ok(()) => true,
                Err(error) => {
                    warn!(%image, %error, "with whose credential an image was pulled cannot be written down");
                    false
                }
            },
        };
        let _changing = records.changing();
        if records.release(file) == 0 && is_known && removed(&records.pulling_dir.join(file)) {
            records.known().pulling.remove(file);
        }
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        if !self.told {
            self.records.release(&self.file);
        }
    }
}

/// A credential as it is remembered.
pub(crate) fn hash(auth: &v1::AuthConfig) -> String {
    let mut hash = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    in_hex(&hash.finalize())
}

/// As every kubelet names the file of an image's name or id.
fn file_name(key: &str) -> String {
    format!("sha256-{}", in_hex(&Sha256::digest(key)))
}

fn in_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn removed(path: &Path) -> bool {
    let outcome = durable::remove(path);
    outcome.inspect_err(|error| warn!(path = %path.display(), %error, "a record of a pull is left")).is_ok()
}

/// Names and paths of the records in a directory; there need be none.
fn files(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let records = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        // One that was not finished ends in something else.
        let is_record = name.starts_with("sha256-") && !name.contains('.');
        is_record.then(|| (name, entry.path()))
    });
    records.take(RECORDS_MAX).collect()
}

#[cfg(test)]
mod tests;
