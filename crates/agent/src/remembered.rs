//! What must outlive the kubelet of a pod and is in no runtime: its spec as it was decided on, and its machine's memory.
//! Both lie in the pod's own directory and go with it. They have to survive the kubelet and not the machine, so no write
//! waits for the disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use lifecycle::Memory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::Stored;
use crate::durable;
use crate::effects::teardown::pods_dir;

const VERSION: u32 = 1;
const POD: &str = "pod.json";
const MEMORY: &str = "state.json";
/// Changes of one pod within this time are one write.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Debug, Serialize, Deserialize)]
struct Record<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct Spec<P> {
    pod: P,
}

/// Stores the pod as it is decided on; nothing of it runs before.
///
/// # Errors
/// The file system's.
pub(crate) fn save_pod(pod_dir: &Path, pod: &Pod) -> io::Result<()> {
    durable::replace(&pod_dir.join(POD), &Record { version: VERSION, content: Spec { pod } })
}

/// Everything that is remembered, by the pod's UID. What is damaged is told once and costs only itself.
pub(crate) fn load(root_dir: &Path) -> BTreeMap<String, Stored> {
    let entries = std::fs::read_dir(pods_dir(root_dir)).into_iter().flatten();
    let uids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let stored = uids.map(|uid| {
        let dir = pods_dir(root_dir).join(&uid);
        let pod = read::<Spec<Pod>>(&dir.join(POD)).map(|spec| Arc::new(spec.pod));
        // Directories are named after what is in them; anything else was not written here.
        let pod = pod.filter(|pod| pod::uid(pod) == uid);
        (uid, Stored { pod, memory: read(&dir.join(MEMORY)) })
    });
    stored.collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    match durable::read::<Record<T>>(path) {
        Ok(record) => record.filter(|record| record.version == VERSION).map(|record| record.content),
        Err(error) => {
            warn!(path = %path.display(), %error, "a record of a pod cannot be read; what it said is found out anew");
            None
        }
    }
}

/// Writes memories beside the loop, each pod's latest.
#[derive(Debug, Clone)]
pub(crate) struct Memories {
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    memories: Mutex<Unwritten>,
    more: Notify,
    /// Somebody waits for what is unwritten.
    hurry: Notify,
    /// How many of the saves are written.
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Unwritten {
    by_uid: BTreeMap<String, Memory>,
    saves: u64,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Unwritten> {
        // Whoever panicked left a whole map: every change of it is one call.
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memories {
    /// The writer ends after `stop`, once everything is written.
    pub(crate) fn writer(root_dir: &Path, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let waiting = Arc::new(Waiting::default());
        let pods = pods_dir(root_dir);
        let task = tokio::spawn(write_all(waiting.clone(), pods, stop));
        (Self { waiting }, task)
    }

    pub(crate) fn save(&self, uid: String, memory: Memory) {
        let mut unwritten = self.waiting.lock();
        unwritten.by_uid.insert(uid, memory);
        unwritten.saves += 1;
        self.waiting.more.notify_one();
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.waiting.lock().by_uid.remove(uid);
    }

    /// Waits until everything saved before this call is written, or could not be.
    pub(crate) fn written(&self) -> impl Future<Output = ()> + use<> {
        let saves = self.waiting.lock().saves;
        let mut written = self.waiting.written.subscribe();
        if *written.borrow() < saves {
            self.waiting.hurry.notify_one();
        }
        async move {
            // The writer is gone: nothing more is written.
            let _gone = written.wait_for(|written| *written >= saves).await;
        }
    }
}

async fn write_all(waiting: Arc<Waiting>, pods: PathBuf, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            () = waiting.more.notified() => false,
        };
        if !stopped {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = waiting.hurry.notified() => {}
            }
        }
        let (memories, saves) = {
            let mut unwritten = waiting.lock();
            (std::mem::take(&mut unwritten.by_uid), unwritten.saves)
        };
        let pods = pods.clone();
        let written = spawn_blocking(move || {
            for (uid, memory) in memories {
                write(&pods, &uid, memory);
            }
        });
        if let Err(error) = written.await {
            warn!(%error, "the states of pods were not all stored");
        }
        waiting.written.send_replace(if stopped { u64::MAX } else { saves });
        if stopped {
            return;
        }
    }
}

fn write(pods: &Path, uid: &str, memory: Memory) {
    match durable::replace(&pods.join(uid).join(MEMORY), &Record { version: VERSION, content: memory }) {
        // A pod that has no directory any more is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(uid, %error, "the state of a pod cannot be stored; a restart of the kubelet may forget it"),
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests;
