//! What the rest of the kubelet may ask the loop.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Event, Pod};
use lifecycle::ContainerKind;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::events::Record;
use crate::image_gc::{self, PruneError, Pruned};
use crate::status::{NodeFacts, Snapshot};

/// What became of one manifest file or URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestStatus {
    /// Path or URL.
    pub file: String,
    /// Why it was refused; none when it is in force.
    pub error: Option<String>,
    /// Not looked at because of its name; `error` says why.
    pub ignored: bool,
    /// When it came to be so.
    pub since: Timestamp,
    /// Whether pods of an earlier version of it are still wanted.
    pub keeps_last_good: bool,
    /// How many pods of it are wanted.
    pub pods: usize,
}

/// A pod as the HTTP handlers need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    pub uid: String,
    pub namespace: String,
    /// With the node's suffix.
    pub name: String,
    pub containers: Vec<ContainerView>,
}

/// A container of a [`PodView`], in the order of the spec, init containers first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    pub name: String,
    pub kind: ContainerKind,
    /// The runtime's id of the latest attempt; none before the first was created.
    pub id: Option<String>,
    pub state: RunState,
    /// Log of the latest attempt that has one.
    pub log_path: Option<PathBuf>,
    /// Log of the attempt before it.
    pub previous_log_path: Option<PathBuf>,
    pub tty: bool,
    /// It has an input that can be attached to.
    pub stdin: bool,
    /// Which ends with the first session that was attached to it.
    pub stdin_once: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    Waiting { reason: String, message: String },
    Running,
    Exited { exit_code: i32 },
}

/// Why a pod was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("pod {name:?} in namespace {namespace:?} not found")]
    NotFound { namespace: String, name: String },
    #[error("the kubelet is shutting down")]
    Closed,
}

/// Questions to the loop; each is answered at once from what it knows.
#[derive(Debug)]
pub(crate) enum Query {
    Pods(oneshot::Sender<Vec<Snapshot>>),
    Manifests(oneshot::Sender<Vec<ManifestStatus>>),
    Events(oneshot::Sender<Vec<Record>>),
    ImagesChanged(oneshot::Sender<()>),
    /// What wanted pods name; none while that is not known.
    WantedImages(oneshot::Sender<Option<BTreeSet<String>>>),
    Shutdown(oneshot::Sender<()>),
}

/// The way to ask the loop. Cheap to clone; dropping every one of them stops nothing.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    queries: mpsc::Sender<Query>,
    prunes: mpsc::Sender<image_gc::Asked>,
    node: Arc<NodeFacts>,
}

impl AgentHandle {
    pub(crate) fn new(
        queries: mpsc::Sender<Query>,
        prunes: mpsc::Sender<image_gc::Asked>,
        node: Arc<NodeFacts>,
    ) -> Self {
        Self { queries, prunes, node }
    }

    /// Every pod that is wanted or not yet gone, with its live status, ordered by namespace and name.
    pub async fn pods(&self) -> List<Pod> {
        let mut items: Vec<Pod> = self.snapshots().await.iter().filter_map(|s| s.to_pod(&self.node)).collect();
        items.sort_by(|a, b| {
            let key = |p: &Pod| (p.metadata.namespace.clone(), p.metadata.name.clone(), p.metadata.uid.clone());
            key(a).cmp(&key(b))
        });
        List { items, ..List::default() }
    }

    /// What happened to pods, or to the one of that namespace and name, with or without the node's suffix; the oldest
    /// first. Told until newer ones take its place, and not after the kubelet has ended.
    pub async fn events(&self, pod: Option<(&str, &str)>) -> Vec<Event> {
        let history = self.ask(Query::Events).await.unwrap_or_default();
        let asked = history
            .iter()
            .filter(|record| pod.is_none_or(|(namespace, name)| record.is_of(namespace, name, &self.suffixed(name))));
        asked.map(|record| record.to_v1(&self.node.node_name)).collect()
    }

    fn suffixed(&self, name: &str) -> String {
        format!("{name}-{}", self.node.node_name.to_lowercase())
    }

    /// What became of every manifest file and URL, by name.
    pub async fn manifests(&self) -> Vec<ManifestStatus> {
        self.ask(Query::Manifests).await.unwrap_or_default()
    }

    /// The pod by its namespace and its name, with or without the node's suffix. Where an old pod is still ending and
    /// its successor waits, the one that has containers is meant.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<PodView, LookupError> {
        let suffixed = self.suffixed(name);
        let snapshots = self.ask(Query::Pods).await.ok_or(LookupError::Closed)?;
        let views = snapshots.iter().map(|s| s.to_view(&self.node)).filter(|v| v.namespace == namespace);
        views
            .filter(|v| v.name == name || v.name == suffixed)
            .max_by_key(|v| (v.name == name, v.containers.iter().filter(|c| c.id.is_some()).count()))
            .ok_or_else(|| LookupError::NotFound { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Whether the loop still answers. Give the call a time limit: a loop that hangs does not answer it.
    pub async fn is_alive(&self) -> bool {
        self.ask(Query::Manifests).await.is_some()
    }

    /// Images were imported: pods that wait for one look again at once.
    pub async fn images_changed(&self) {
        // A loop that has ended waits for no image.
        let _ended = self.ask(Query::ImagesChanged).await;
    }

    /// Removes every image that is neither used by a container, nor of a wanted pod, nor pinned, nor being pulled, however
    /// young it is and however much room there is.
    ///
    /// # Errors
    /// It is not known yet what is wanted, or the runtime does not tell of its images or containers. An image that
    /// cannot be removed is no error but told in [`Pruned::failed`].
    pub async fn prune_images(&self) -> Result<Pruned, PruneError> {
        let (reply, answer) = oneshot::channel();
        self.prunes.send(reply).await.map_err(|_| PruneError::Closed)?;
        answer.await.map_err(|_| PruneError::Closed)?
    }

    /// Stops deciding and watching. Pods go on running; effects under way are left to the runtime.
    pub async fn shutdown(&self) {
        // A loop that has ended already has nothing to stop.
        let _ended = self.ask(Query::Shutdown).await;
    }

    async fn snapshots(&self) -> Vec<Snapshot> {
        self.ask(Query::Pods).await.unwrap_or_default()
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.queries.send(query(reply)).await.ok()?;
        answer.await.ok()
    }
}
