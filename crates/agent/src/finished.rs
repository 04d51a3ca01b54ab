//! Records of pods that ran to their end, so that a reboot does not run them again while their manifest is unchanged.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PodStatus;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::durable;

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    uid: String,
    status: PodStatus,
}

/// The directory that holds the records.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    dir: PathBuf,
}

impl Finished {
    pub(crate) fn new(root_dir: &Path) -> Self {
        Self { dir: root_dir.join("finished") }
    }

    /// Every record by the pod's UID. A damaged one is logged and costs only itself: its pod runs again.
    pub(crate) fn load(&self) -> BTreeMap<String, PodStatus> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let paths = paths.filter(|path| path.extension() == Some(OsStr::new("json")));
        paths.filter_map(|path| read(&path)).map(|record| (record.uid, record.status)).collect()
    }

    /// # Errors
    /// The file system's.
    pub(crate) fn save(&self, uid: &str, status: PodStatus) -> io::Result<()> {
        durable::write(&self.path(uid)?, &Record { version: VERSION, uid: uid.to_owned(), status })
    }

    /// # Errors
    /// The file system's.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        durable::remove(&self.path(uid)?)
    }

    fn path(&self, uid: &str) -> io::Result<PathBuf> {
        // A UID may come from a manifest; as part of a path it must be one name.
        if !pod::names::is_uid(uid) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{uid:?} is not a UID")));
        }
        Ok(self.dir.join(format!("{uid}.json")))
    }
}

fn read(path: &Path) -> Option<Record> {
    match durable::read::<Record>(path) {
        Ok(record) => record.filter(|record| record.version == VERSION),
        Err(error) => {
            warn!(path = %path.display(), %error, "the record of a finished pod cannot be read; the pod runs again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn s_m02_a_damaged_record_costs_only_itself() {
        let dir = TempDir::new();
        let finished = Finished::new(dir.path());
        assert!(finished.load().is_empty());
        finished.save("a", PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() }).unwrap();
        std::fs::write(dir.path().join("finished/b.json"), "{").unwrap();
        std::fs::create_dir(dir.path().join("finished/c.json")).unwrap();
        let loaded = finished.load();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded["a"].phase.as_deref(), Some("Succeeded"));
        finished.remove("a").unwrap();
        assert!(finished.load().is_empty());
        assert!(finished.save("../x", PodStatus::default()).is_err());
    }
}
