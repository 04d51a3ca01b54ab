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
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::{clock, durable};
use file::{ImagePullIntent, ImagePulledRecord};

mod file;

/// Records read at the start; no machine has so many images. Those beyond let nobody in until they are granted anew.
const RECORDS_MAX: usize = 10_000;
/// Repositories remembered of one image.
const REPOSITORIES_MAX: usize = 100;
/// What a runtime may yet bring after nobody waits for it any more comes within this time.
const LATE_MS: Millis = 15 * 60 * 1000;

#[derive(Debug)]
pub(crate) struct PullRecords {
    verification: Verification,
    pulling_dir: PathBuf,
    pulled_dir: PathBuf,
    known: Mutex<Known>,
    /// Held while files are changed; what is known is changed after them.
    changing: Mutex<()>,
}

/// By the names of their files.
#[derive(Debug, Default)]
struct Known {
    pulled: BTreeMap<String, Record>,
    pulling: BTreeMap<String, Pull>,
    /// There may be more on disk than was listed.
    is_part: bool,
}

#[derive(Debug, Default)]
struct Record {
    /// By repository; nothing of a record that cannot be read.
    access: BTreeMap<String, Access>,
    changed_ms: Millis,
}

/// The pulls of an image that are on disk as under way.
#[derive(Debug)]
struct Pull {
    intent: ImagePullIntent,
    /// Those that are.
    count: usize,
    /// There was one whose end nobody saw.
    is_lost: bool,
    changed_ms: Millis,
}

/// One pull that is on disk as under way. Let go of without a word its end was seen by nobody.
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
    /// The runtime may have brought it, or bring it yet.
    Unknown,
}

impl Pull {
    fn is_damaged(&self) -> bool {
        self.intent.image.is_empty()
    }

    /// Whether an image, as it is called and where it is from, may have come by one of these.
    fn may_have_brought(&self, (image, repository): (&str, &str), id: &str) -> bool {
        let ImagePullIntent { image: pulled, present, .. } = &self.intent;
        // A digest may be that of the tag, and the other way round.
        let may_mean = || image.contains('@') || pulled.contains('@');
        let from_there = || image_name::repository(pulled).is_ok_and(|pulled| pulled == repository);
        present.as_deref() != Some(id) && (pulled == image || (may_mean() && from_there()))
    }

    /// What the runtime calls what came of it.
    fn names(&self) -> Vec<String> {
        let image = &self.intent.image;
        let Some((name, digest)) = image.split_once('@') else { return vec![image.clone()] };
        let by_digest = image_name::repository(name).map(|repository| format!("{repository}@{digest}"));
        by_digest.into_iter().chain([name.to_owned()]).collect()
    }
}

impl PullRecords {
    /// Reads what was remembered, which blocks. What cannot be read lets nobody in.
    pub(crate) fn load(root_dir: &Path, verification: Verification) -> Self {
        let dir = root_dir.join("image_manager");
        let (pulling_dir, pulled_dir) = (dir.join("pulling"), dir.join("pulled"));
        let mut known = Known::default();
        let mut list = |dir: &Path| {
            files(dir).unwrap_or_else(|error| {
                warn!(dir = %dir.display(), %error, "who may use which image cannot be read: each is asked for");
                known.is_part = true;
                Vec::new()
            })
        };
        let (pulled, pulling) = (list(&pulled_dir), list(&pulling_dir));
        for (at, (name, path)) in pulled.into_iter().enumerate() {
            let read = || read::<ImagePulledRecord>(&path).map(ImagePulledRecord::access);
            let access = (at < RECORDS_MAX).then(read).flatten().unwrap_or_default();
            known.pulled.insert(name, Record { access, changed_ms: 0 });
        }
        for (name, path) in pulling {
            // Of one that cannot be read the file's name tells what it is of, to whoever knows the image's.
            let intent = read::<ImagePullIntent>(&path).map(ImagePullIntent::in_full).unwrap_or_default();
            known.pulling.insert(name, Pull { intent, count: 0, is_lost: true, changed_ms: clock::mono_ms() });
        }
        Self { verification, pulling_dir, pulled_dir, known: Mutex::new(known), changing: Mutex::default() }
    }

    /// Whether a pod with these credentials of its own may use an image, told by its full name and its id; without an id
    /// one whose name an archive gave, so that its pulls have nothing to do with it.
    pub(crate) fn judge<'a>(&self, image: &str, id: Option<&str>, own: &'a [Bearer]) -> Verdict<'a> {
        let Ok(repository) = image_name::repository(image) else { return Verdict::Ask };
        let known = self.known();
        let damaged = known.pulling.get(&file_name(image)).is_some_and(Pull::is_damaged);
        let came =
            |id: &str| damaged || known.pulling.values().any(|pull| pull.may_have_brought((image, &repository), id));
        let origin = match id.map(|id| (id, known.pulled.get(&file_name(id)))) {
            Some((_, Some(record))) => Origin::Pulled(record.access.get(&repository)),
            Some((id, None)) if known.is_part || came(id) => Origin::Pulled(None),
            Some((_, None)) | None => Origin::Elsewhere,
        };
        judge(&self.verification, &repository, origin, own)
    }

    /// Notes that an image, by its full name, is about to be pulled; `present` is the id that it has now. Blocks.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(crate) fn begin(self: &Arc<Self>, image: &str, present: Option<&str>) -> io::Result<Pulling> {
        let _changing = self.changing();
        let file = file_name(image);
        let under_way = self.known().pulling.contains_key(&file);
        // What was there before the first of them is what is known not to have come by any.
        if !under_way {
            let intent = ImagePullIntent::of(image, present);
            make(&self.pulling_dir)?;
            durable::write(&self.pulling_dir.join(&file), &intent)?;
            let pull = Pull { intent, count: 0, is_lost: false, changed_ms: 0 };
            self.known().pulling.insert(file.clone(), pull);
        }
        if let Some(pull) = self.known().pulling.get_mut(&file) {
            pull.count += 1;
        }
        Ok(Pulling { records: self.clone(), image: image.to_owned(), file, told: false })
    }

    /// Remembers whom a registry gives an image, beside those that are known. Blocks.
    ///
    /// # Errors
    /// It cannot be written down, and is not known then.
    pub(crate) fn grant(&self, image: &str, id: &str, access: Access) -> io::Result<()> {
        let _changing = self.changing();
        self.grant_held(image, id, access)
    }

    /// By whoever changes files.
    fn grant_held(&self, image: &str, id: &str, access: Access) -> io::Result<()> {
        let repository = image_name::repository(image).map_err(io::Error::other)?;
        let name = file_name(id);
        let before = self.known().pulled.get(&name).map(|record| record.access.clone());
        let mut all = before.clone().unwrap_or_default();
        let access = match all.remove(&repository) {
            Some(known) => known.and(access),
            None => access,
        };
        while all.len() >= REPOSITORIES_MAX {
            all.pop_first();
        }
        all.insert(repository, access);
        if before.as_ref() != Some(&all) {
            make(&self.pulled_dir)?;
            durable::write(&self.pulled_dir.join(&name), &ImagePulledRecord::of(id, &all))?;
        }
        self.known().pulled.insert(name, Record { access: all, changed_ms: clock::mono_ms() });
        Ok(())
    }

    /// Forgets images that are gone: those that are not among these, which were listed not before `since_ms`. What came of
    /// a pull whose end nobody saw is for nobody until its registry says for whom. Blocks.
    pub(crate) fn prune(&self, images: &[v1::Image], since_ms: Millis) {
        let ids: BTreeSet<String> = images.iter().map(|image| file_name(&image.id)).collect();
        let _changing = self.changing();
        let gone = |(name, record): (&String, &Record)| {
            (record.changed_ms < since_ms && !ids.contains(name)).then(|| name.clone())
        };
        let lost = |(file, pull): (&String, &Pull)| {
            let is_over = pull.count == 0 && pull.changed_ms.saturating_add(LATE_MS) < since_ms;
            is_over.then(|| (file.clone(), came_of((file, pull), images)))
        };
        let (gone, lost) = {
            let known = self.known();
            let gone: Vec<String> = known.pulled.iter().filter_map(gone).collect();
            (gone, known.pulling.iter().filter_map(lost).collect::<Vec<_>>())
        };
        for name in gone {
            if removed(&self.pulled_dir.join(&name)) {
                self.known().pulled.remove(&name);
            }
        }
        for (file, came) in lost {
            let nobody = |(image, id): (String, &str)| self.grant_held(&image, id, Access::Bearers(Vec::new()));
            match came.map_or(Ok(()), nobody) {
                Ok(()) => self.forget(&file),
                Err(error) => warn!(file, %error, "that an image was pulled cannot be written down"),
            }
        }
    }

    fn forget(&self, file: &str) {
        if removed(&self.pulling_dir.join(file)) {
            self.known().pulling.remove(file);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pull fewer; whether nothing more is to be said of any.
    fn release(&self, file: &str, end: End) -> bool {
        let mut known = self.known();
        let Some(pull) = known.pulling.get_mut(file) else { return true };
        pull.count = pull.count.saturating_sub(1);
        pull.changed_ms = clock::mono_ms();
        match end {
            // Whatever an earlier one brought under this name, this is what it means now.
            End::Recorded => pull.is_lost = false,
            End::Nothing => {}
            End::Lost => pull.is_lost = true,
        }
        pull.count == 0 && !pull.is_lost
    }
}

/// What is on disk of a pull's end.
enum End {
    Recorded,
    Nothing,
    Lost,
}

impl Pulling {
    /// Writes down what came of it, which blocks. What cannot be written down is asked for again.
    pub(crate) fn end(mut self, ended: Ended) {
        self.told = true;
        let (records, image, file) = (&self.records, &self.image, &self.file);
        let _changing = records.changing();
        let end = match ended {
            Ended::Unknown => End::Lost,
            Ended::Failed => End::Nothing,
            Ended::Pulled(id, access) => match records.grant_held(image, &id, access) {
                Ok(()) => End::Recorded,
                Err(error) => {
                    warn!(%image, %error, "with whose credential an image was pulled cannot be written down");
                    End::Lost
                }
            },
        };
        if records.release(file, end) {
            records.forget(file);
        }
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        if !self.told {
            self.records.release(&self.file, End::Lost);
        }
    }
}

/// What came of a pull whose end nobody saw, by the name that it was pulled by and the image's id.
fn came_of<'a>((file, pull): (&str, &Pull), images: &'a [v1::Image]) -> Option<(String, &'a str)> {
    let wanted = pull.names();
    let is_it = |name: &String| wanted.contains(name) || (pull.is_damaged() && file_name(name) == file);
    let called = |image: &v1::Image| {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        names.filter_map(|name| image_name::normalize(name).ok()).find(is_it)
    };
    let (name, id) = images.iter().find_map(|image| Some((called(image)?, image.id.as_str())))?;
    (pull.intent.present.as_deref() != Some(id)).then_some((name, id))
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

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let read = durable::read(path);
    read.inspect_err(|error| warn!(path = %path.display(), %error, "a record of a pull cannot be read")).ok().flatten()
}

/// Names and paths of the records in a directory, which need not be there.
fn files(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // One that was not finished ends in something else.
        if name.starts_with("sha256-") && !name.contains('.') {
            records.push((name, entry.path()));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
