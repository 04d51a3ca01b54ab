//! The drop-in directory: image archives put there are imported and kept for as long as the file lies there.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::import::Imported;
use crate::store::{DropInRecord, Store};
use crate::sys;
use inotify::{Inotify, WatchMask};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

const SUFFIXES: &[&str] = &[".tar", ".tar.gz", ".tgz", ".tar.zst"];
/// Repairs what events missed, and retries what failed for a reason outside the file.
const RESCAN: Duration = Duration::from_secs(60);
/// More files than this are not looked at; each costs a stat at every scan.
const MAX_FILES: usize = 10_000;

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    size: u64,
    mtime_ns: i64,
    inode: u64,
}

/// Watches one directory on behalf of one store.
pub struct DropIn {
    store: Arc<Store>,
    dir: PathBuf,
    /// Files that were refused, so that each is reported once.
    refused: HashMap<String, Version>,
}

/// What a scan did.
#[derive(Debug, Default)]
pub struct Scan {
    /// File names and the images that they brought.
    pub imported: Vec<(String, Vec<Imported>)>,
    /// File names and why they were refused; once for each version of a file.
    pub failed: Vec<(String, Error)>,
    /// Files that are gone; their images are no longer pinned by them.
    pub gone: Vec<String>,
}

impl DropIn {
    pub fn new(store: Arc<Store>, dir: PathBuf) -> Self {
        Self { store, dir, refused: HashMap::new() }
    }

    /// Brings the store up to date with the directory. Blocks while archives are imported; files that were imported
    /// before and have not changed since cost one stat each.
    ///
    /// # Errors
    /// When the directory itself cannot be read; what is wrong with one file is told in [`Scan::failed`].
    pub fn scan_once(&mut self) -> Result<Scan> {
        let files = self.files()?;
        let mut scan = Scan::default();
        for (file, version) in &files {
            if !self.is_done(file, *version) {
                self.import(file, *version, &mut scan);
            }
        }
        self.refused.retain(|file, _| files.contains_key(file));
        for record in self.store.drop_ins() {
            if !files.contains_key(&record.file) {
                self.store.forget_drop_in(&record, &owner(&record.file))?;
                scan.gone.push(record.file);
            }
        }
        Ok(scan)
    }

    /// Archives in the directory. A directory that does not exist has none.
    fn files(&self) -> Result<BTreeMap<String, Version>> {
        let list = |e| Error::io("list", &self.dir, e);
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(list)?,
        };
        let mut files = BTreeMap::new();
        for entry in entries.take(MAX_FILES) {
            let Ok(name) = entry.map_err(list)?.file_name().into_string() else { continue };
            if !name.starts_with('.')
                && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
                && let Some(version) = version(&self.dir.join(&name))
            {
                files.insert(name, version);
            }
        }
        Ok(files)
    }

    fn is_done(&self, file: &str, version: Version) -> bool {
        if self.refused.get(file) == Some(&version) {
            return true;
        }
        self.store.drop_in(file).is_some_and(|record| {
            let recorded = Version { size: record.size, mtime_ns: record.mtime_ns, inode: record.inode };
            recorded == version && record.images.iter().all(|id| self.store.is_pinned_by(id, &owner(file)))
        })
    }

    fn import(&mut self, file: &str, version: Version, scan: &mut Scan) {
        let path = self.dir.join(file);
        let owner = owner(file);
        let before = self.store.drop_in(file).map(|record| record.images).unwrap_or_default();
        let result = self.store.import_with(&path, Some(&owner), |change, imported| {
            let images: BTreeSet<Digest> = imported.iter().filter_map(|i| Digest::parse(&i.id).ok()).collect();
            for image in before.difference(&images) {
                change.unpin(image, &owner)?;
            }
            let Version { size, mtime_ns, inode } = version;
            change.put_drop_in(DropInRecord { file: file.to_owned(), size, mtime_ns, inode, images })
        });
        match result {
            Ok(imported) => {
                self.refused.remove(file);
                scan.imported.push((file.to_owned(), imported));
            }
            // Still being written: it will be looked at again.
            Err(_) if self::version(&path) != Some(version) => {}
            Err(error) => {
                // A full disk or the like may pass; only what is wrong with the file itself stays wrong.
                if is_final(&error) {
                    self.refused.insert(file.to_owned(), version);
                }
                scan.failed.push((file.to_owned(), error));
            }
        }
    }
}

fn is_final(error: &Error) -> bool {
    use crate::error::LayerError;
    match error {
        Error::Layer { source, .. } => !matches!(source, LayerError::DiskFull { .. } | LayerError::EntryIo { .. }),
        Error::Archive { .. } => true,
        _ => false,
    }
}

fn owner(file: &str) -> String {
    format!("the file {file} is in the drop-in directory")
}

/// `None` for what is not a regular file or cannot be seen.
fn version(path: &Path) -> Option<Version> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Some(Version { size: metadata.len(), mtime_ns, inode: metadata.ino() })
}

/// Watches `dir` for as long as the future lives; an import that has begun is finished even if it is dropped. Calls
/// `on_change` when images were added.
///
/// Without inotify (its limits are shared with every program of the user) the directory is scanned every minute.
pub async fn watch(store: Arc<Store>, dir: PathBuf, on_change: impl Fn() + Send + 'static) {
    let mut drop_in = DropIn::new(store, dir.clone());
    let mut events: Option<AsyncFd<Inotify>> = None;
    loop {
        // Watching begins before the scan, so that nothing falls between them; the directory may also come later.
        if events.is_none() {
            events = subscribe(&dir);
        }
        let scanned = tokio::task::spawn_blocking(move || {
            let scan = drop_in.scan_once();
            (drop_in, scan)
        });
        match scanned.await {
            Ok((returned, scan)) => {
                drop_in = returned;
                if report(&dir, scan) {
                    on_change();
                }
            }
            Err(error) => {
                tracing::error!(%error, "watching the image directory ended");
                return;
            }
        }
        tokio::select! {
            () = next_event(&mut events) => {}
            () = tokio::time::sleep(RESCAN) => {}
        }
    }
}

fn subscribe(dir: &Path) -> Option<AsyncFd<Inotify>> {
    let mask =
        WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE | WatchMask::ONLYDIR;
    let subscribed = Inotify::init().and_then(|inotify| {
        inotify.watches().add(dir, mask)?;
        sys::readable(inotify)
    });
    match subscribed {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, ?dir, "cannot watch the image directory; it is scanned every {} s", RESCAN.as_secs());
            None
        }
    }
}

/// Waits until something happened in the directory, and takes all that is known of it.
async fn next_event(events: &mut Option<AsyncFd<Inotify>>) {
    let Some(inotify) = events else { return std::future::pending().await };
    let gone = match inotify.readable_mut().await {
        Ok(mut guard) => {
            let mut buffer = [0; 4096];
            loop {
                match guard.get_inner_mut().read_events(&mut buffer) {
                    Ok(mut read) => {
                        if read.any(|event| event.mask.contains(inotify::EventMask::IGNORED)) {
                            break true;
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        guard.clear_ready();
                        break false;
                    }
                    Err(_) => break true,
                }
            }
        }
        Err(_) => true,
    };
    if gone {
        // The directory was removed or the watch failed: subscribe anew at the next turn.
        *events = None;
    }
}

/// Says what happened; `true` when images were added.
fn report(dir: &Path, scan: Result<Scan>) -> bool {
    let scan = match scan {
        Ok(scan) => scan,
        Err(error) => {
            tracing::warn!(%error, "failed to scan the image directory");
            return false;
        }
    };
    let added = !scan.imported.is_empty();
    for (file, images) in scan.imported {
        for image in images {
            tracing::info!(file = %dir.join(&file).display(), id = image.id, references = ?image.references, "image imported");
        }
    }
    for (file, error) in scan.failed {
        tracing::error!(file = %dir.join(&file).display(), %error, "image was not imported");
    }
    for file in scan.gone {
        tracing::info!(file = %dir.join(&file).display(), "image file is gone; its images may be removed now");
    }
    added
}

#[cfg(test)]
mod tests;
