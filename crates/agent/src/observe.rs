//! From the runtime's words to what a machine understands.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::messages::Messages;
use cri::keys::{self, PodKey};
use cri::names::{container_state, sandbox_state};
use cri::{Code, Runtime, v1};
use lifecycle::{ObservedContainer, ObservedPod, ObservedSandbox, ObservedState};

/// A pod that the runtime knows.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimePod {
    pub key: PodKey,
    pub observed: ObservedPod,
    /// As the containers' annotations say; none if they do not.
    pub grace_ms: Option<u64>,
}

/// States of sandboxes and containers by id: what a cheap listing tells, for comparison with what is known.
pub type Digest = BTreeMap<String, i32>;

/// The pod of an event; none where the event does not carry it, or the pod is not a kubelet's.
pub(crate) fn from_event(event: v1::ContainerEventResponse, messages: &Messages) -> Option<RuntimePod> {
    let sandbox = event.pod_sandbox_status?;
    let key = PodKey::from_labels(&sandbox.labels)?;
    let grace_ms = event.containers_statuses.iter().find_map(|status| grace_ms(&status.annotations));
    let statuses = event.containers_statuses.into_iter();
    let containers = statuses.map(|status| container(status, &sandbox.id, messages)).collect();
    let observed = ObservedPod { sandboxes: vec![observed_sandbox(sandbox)], containers };
    Some(RuntimePod { key, observed, grace_ms })
}

/// Whether the event says that something is gone, which the statuses it carries cannot show.
pub(crate) fn is_deletion(event: &v1::ContainerEventResponse) -> bool {
    event.container_event_type == v1::ContainerEventType::ContainerDeletedEvent as i32
}

/// Digest of one pod as a machine was last told of it.
pub fn digest_of(pod: &ObservedPod) -> Digest {
    let sandboxes = pod.sandboxes.iter().map(|s| {
        let state = if s.ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready };
        (s.id.clone(), state as i32)
    });
    let containers = pod.containers.iter().map(|c| {
        let state = match c.state {
            ObservedState::Created => v1::ContainerState::ContainerCreated,
            ObservedState::Running { .. } => v1::ContainerState::ContainerRunning,
            ObservedState::Exited { .. } => v1::ContainerState::ContainerExited,
            ObservedState::Unknown => v1::ContainerState::ContainerUnknown,
        };
        (c.id.clone(), state as i32)
    });
    sandboxes.chain(containers).collect()
}

/// What two cheap listings tell of every pod of a kubelet, by UID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) pods: BTreeMap<String, Digest>,
    /// As health and the log call them: `namespace/name`.
    pub(crate) names: BTreeMap<String, Arc<str>>,
}

/// How calls for a pod are told: `namespace/name`.
pub(crate) fn name_of(key: &PodKey) -> Arc<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

/// Every pod of a kubelet, by two listings.
///
/// # Errors
/// The runtime's.
pub(crate) async fn list(runtime: &dyn Runtime) -> Result<Listing, cri::Error> {
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
    let containers = runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let mut listing = Listing::default();
    let states = sandboxes.into_iter().map(|s| (PodKey::from_labels(&s.labels), s.id, sandbox_state(s.state) as i32));
    let of_containers =
        containers.into_iter().map(|c| (PodKey::from_labels(&c.labels), c.id, container_state(c.state) as i32));
    for (key, id, state) in states.chain(of_containers) {
        let Some(key) = key else { continue };
        if !listing.names.contains_key(&key.uid) {
            listing.names.insert(key.uid.clone(), name_of(&key));
        }
        listing.pods.entry(key.uid).or_default().insert(id, state);
    }
    Ok(listing)
}

/// Whom the runtime has, by two listings.
///
/// # Errors
/// The runtime's.
pub(crate) async fn keys(runtime: &dyn Runtime) -> Result<Vec<PodKey>, cri::Error> {
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
    let containers = runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let labels = sandboxes.iter().map(|sandbox| &sandbox.labels).chain(containers.iter().map(|c| &c.labels));
    let mut keys: Vec<PodKey> = labels.filter_map(PodKey::from_labels).collect();
    keys.sort_by(|a, b| a.uid.cmp(&b.uid));
    keys.dedup_by(|a, b| a.uid == b.uid);
    Ok(keys)
}

/// All that the runtime knows of one pod; none where it knows nothing.
///
/// # Errors
/// The runtime's, but for objects that went away between the listing and the question.
pub(crate) async fn inspect(
    runtime: &dyn Runtime,
    uid: &str,
    messages: &Messages,
) -> Result<Option<RuntimePod>, cri::Error> {
    let selector = keys::Map::from([(keys::POD_UID.to_owned(), uid.to_owned())]);
    Ok(pods(runtime, selector, messages).await?.remove(uid))
}

/// All that the runtime knows of every pod of a kubelet.
///
/// # Errors
/// As for [`inspect`].
pub(crate) async fn everything(runtime: &dyn Runtime, messages: &Messages) -> Result<Vec<RuntimePod>, cri::Error> {
    Ok(pods(runtime, keys::Map::new(), messages).await?.into_values().collect())
}

async fn pods(
    runtime: &dyn Runtime,
    selector: keys::Map,
    messages: &Messages,
) -> Result<BTreeMap<String, RuntimePod>, cri::Error> {
    let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?.items;
    let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let containers = runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?.containers;

    let mut pods: BTreeMap<String, RuntimePod> = BTreeMap::new();
    // Some runtimes tell a sandbox's containers with its status; a call for each is saved.
    let mut told: BTreeMap<String, v1::ContainerStatus> = BTreeMap::new();
    for sandbox in sandboxes {
        let Some(key) = PodKey::from_labels(&sandbox.labels) else { continue };
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, verbose: false };
        let Some(answer) = present(runtime.pod_sandbox_status(request).await)? else { continue };
        told.extend(answer.containers_statuses.into_iter().map(|status| (status.id.clone(), status)));
        if let Some(status) = answer.status {
            entry(&mut pods, key).observed.sandboxes.push(observed_sandbox(status));
        }
    }
    for listed in containers {
        let Some(key) = PodKey::from_labels(&listed.labels) else { continue };
        let status = match told.remove(&listed.id) {
            Some(status) => Some(status),
            None => {
                let request = v1::ContainerStatusRequest { container_id: listed.id, verbose: false };
                present(runtime.container_status(request).await)?.and_then(|answer| answer.status)
            }
        };
        let Some(status) = status else { continue };
        let pod = entry(&mut pods, key);
        pod.grace_ms = pod.grace_ms.or_else(|| grace_ms(&status.annotations));
        pod.observed.containers.push(container(status, &listed.pod_sandbox_id, messages));
    }
    Ok(pods)
}

fn entry(pods: &mut BTreeMap<String, RuntimePod>, key: PodKey) -> &mut RuntimePod {
    let unknown = |key| RuntimePod { key, observed: ObservedPod::default(), grace_ms: None };
    pods.entry(key.uid.clone()).or_insert_with(|| unknown(key))
}

fn present<T>(answer: Result<T, cri::Error>) -> Result<Option<T>, cri::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The addresses of a sandbox, the first one the pod's own.
pub(crate) fn ips(network: Option<v1::PodSandboxNetworkStatus>) -> Vec<String> {
    let Some(network) = network else { return Vec::new() };
    let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    all.filter(|ip| !ip.is_empty()).collect()
}

fn observed_sandbox(status: v1::PodSandboxStatus) -> ObservedSandbox {
    ObservedSandbox {
        attempt: status.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
        ready: sandbox_state(status.state) == v1::PodSandboxState::SandboxReady,
        ips: ips(status.network),
        created_at_ns: status.created_at,
        id: status.id,
    }
}

fn container(status: v1::ContainerStatus, sandbox_id: &str, messages: &Messages) -> ObservedContainer {
    let message = messages.of(&status);
    let metadata = status.metadata.unwrap_or_default();
    let name = keys::container_name(&status.labels).map_or(metadata.name, str::to_owned);
    let state = match container_state(status.state) {
        v1::ContainerState::ContainerCreated => ObservedState::Created,
        v1::ContainerState::ContainerRunning => ObservedState::Running { started_at_ns: status.started_at },
        v1::ContainerState::ContainerExited => ObservedState::Exited {
            started_at_ns: status.started_at,
            finished_at_ns: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message,
        },
        v1::ContainerState::ContainerUnknown => ObservedState::Unknown,
    };
    let image = status.image.unwrap_or_default();
    ObservedContainer {
        sandbox_id: sandbox_id.to_owned(),
        name,
        attempt: keys::restart_count(&status.annotations).unwrap_or(metadata.attempt),
        hash: status.annotations.get(keys::CONTAINER_HASH).cloned().unwrap_or_default(),
        state,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_ref: status.image_ref,
        created_at_ns: status.created_at,
        id: status.id,
    }
}

fn grace_ms(annotations: &keys::Map) -> Option<u64> {
    let seconds: u64 = annotations.get(keys::POD_TERMINATION_GRACE_PERIOD)?.parse().ok()?;
    seconds.checked_mul(1_000)
}
