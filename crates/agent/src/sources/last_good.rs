//! Last good manifests on disk, so that a kubelet that starts beside a file that is bad, or a URL that is down, goes on
//! with what runs. They are written some time after the fact: nothing waits for a disk between a manifest and its pod.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use crate::durable;

const VERSION: u32 = 1;
const DIR_MODE: u32 = 0o700;
/// A burst of changes is written once, when it is over.
const WRITE_AFTER: Duration = Duration::from_millis(50);
/// Changes waiting for the disk.
const QUEUE: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Path or URL.
    name: String,
    text: String,
}

/// The directory that holds the records.
#[derive(Debug, Clone)]
pub(crate) struct LastGood {
    dir: PathBuf,
}

/// What became of a manifest: its new good text, or none when it is gone.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    pub(crate) text: Option<Arc<[u8]>>,
}

/// There may be secrets in the text.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LastGood {
    pub(crate) fn new(root_dir: &Path) -> Self {
        Self { dir: root_dir.join("sources") }
    }

    /// The last good text of `name`; damage is logged and costs only this record.
    pub(crate) fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.read(&self.path(name)).filter(|record| record.name == name).map(|record| record.text.into_bytes())
    }

    /// Every record whose name starts with `prefix`.
    pub(crate) fn load_below(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let paths =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.extension() == Some("json".as_ref()));
        let records = paths.filter_map(|path| self.read(&path)).filter(|record| record.name.starts_with(prefix));
        records.map(|record| (record.name, record.text.into_bytes())).collect()
    }

    fn read(&self, path: &Path) -> Option<Record> {
        match durable::read::<Record>(path) {
            Ok(record) => record.filter(|record| record.version == VERSION),
            Err(error) => {
                warn!(path = %path.display(), %error, "a last good manifest cannot be read and is passed over");
                None
            }
        }
    }

    fn apply(&self, change: &Change) -> io::Result<()> {
        let path = self.path(&change.name);
        match change.text.as_deref().map(std::str::from_utf8) {
            Some(Ok(text)) => {
                // A manifest may hold secrets, and its name tells where it is from.
                DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.dir)?;
                let record = Record { version: VERSION, name: change.name.to_string(), text: text.to_owned() };
                durable::write(&path, &record)
            }
            // A manifest that was accepted is text; what is not must not come back as one.
            Some(Err(_)) | None => durable::remove(&path),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(durable::file_name_of(name.as_bytes()))
    }

    /// Starts the writer. It ends, with everything written, when the last sender is dropped.
    pub(crate) fn writer(&self) -> (mpsc::Sender<Change>, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (sender, tokio::spawn(write_changes(self.clone(), receiver)))
    }
}

async fn write_changes(records: LastGood, mut changes: mpsc::Receiver<Change>) {
    while let Some(first) = changes.recv().await {
        let mut latest = BTreeMap::from([(first.name.clone(), first)]);
        let over = tokio::time::sleep(WRITE_AFTER);
        tokio::pin!(over);
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => { latest.insert(change.name.clone(), change); }
                    None => break,
                },
                () = &mut over => break,
            }
        }
        let records = records.clone();
        let written = spawn_blocking(move || {
            for change in latest.values() {
                if let Err(error) = records.apply(change) {
                    warn!(manifest = %change.name, %error, "the last good version cannot be stored; a restart may not find it");
                }
            }
        });
        if let Err(error) = written.await {
            warn!(%error, "storing last good manifests broke off");
        }
    }
}
