//! From a machine's report to what is shown of a pod. Built when somebody asks, in the asker's own time.

mod v1;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cri::keys::PodKey;
use cri::names;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use lifecycle::admission::Offer;
use lifecycle::{Condition, Conditions, ContainerKind, ContainerReport, ContainerState, PodPlan, PodReport};
use pod::reasons;
use pod::status::{self, Why};

use crate::config::{AgentConfig, MAX_PODS};
use crate::handle::{ContainerView, PodView, RunState};
use crate::plan;
use crate::sources::mux::ManifestError;

/// Annotation: what is wrong with the manifest that an earlier version of is running.
pub(crate) const CONFIG_ERROR: &str = "kubernetes.io/config.error";
/// Condition: whether the pod's manifest, as it is now, is what runs.
const MANIFEST_VALID: &str = "ManifestValid";
const MANIFEST_REFUSED: &str = "ManifestRefused";
const OS: &str = "linux";

/// What the loop and a status need to know of the node.
#[derive(Debug, Default)]
pub struct NodeFacts {
    pub node_name: String,
    /// The primary one first.
    pub host_ips: Vec<String>,
    pub log_dir: PathBuf,
    /// What pods are admitted against.
    pub offer: Offer,
    /// The longest wait for the restart of a container that keeps failing; 0 for the usual one.
    pub max_restart_delay_ms: u64,
    /// Known once the runtime has answered.
    pub runtime_name: OnceLock<String>,
}

impl NodeFacts {
    pub(crate) fn new(config: &AgentConfig) -> Self {
        let whole = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
        Self {
            node_name: config.node_name.clone(),
            host_ips: config.node_ips.iter().map(ToString::to_string).collect(),
            log_dir: config.log_dir.clone(),
            offer: Offer {
                node_name: config.node_name.clone(),
                cpu_millis: whole(config.node_cpu_millis),
                memory_bytes: whole(config.node_memory_bytes),
                ephemeral_bytes: match config.node_ephemeral_bytes {
                    0 => i64::MAX,
                    bytes => whole(bytes),
                },
                pods: if config.max_pods == 0 { MAX_PODS } else { config.max_pods },
                labels: labels(config),
                os: OS.to_owned(),
            },
            max_restart_delay_ms: config.max_restart_delay_ms,
            runtime_name: OnceLock::new(),
        }
    }

    /// The plan of a pod on this node.
    pub(crate) fn plan_of(&self, pod: &Pod) -> PodPlan {
        let plan = plan::plan_of(pod);
        match self.max_restart_delay_ms {
            0 => plan,
            max_restart_delay_ms => PodPlan { max_restart_delay_ms, ..plan },
        }
    }

    fn container_id(&self, id: &str) -> String {
        if id.is_empty() {
            return String::new();
        }
        status::container_id(self.runtime_name.get().map_or("unknown", String::as_str), id)
    }
}

/// Those that every node has, and those that are configured; what a node is cannot be configured away.
fn labels(config: &AgentConfig) -> BTreeMap<String, String> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [("hostname", config.node_name.as_str()), ("os", OS), ("arch", arch)];
    let own = own.map(|(name, value)| (format!("kubernetes.io/{name}"), value.to_owned()));
    let former = [("os", OS), ("arch", arch)];
    let former = former.map(|(name, value)| (format!("beta.kubernetes.io/{name}"), value.to_owned()));
    config.node_labels.clone().into_iter().chain(own).chain(former).collect()
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) key: PodKey,
    /// None for an orphan.
    pub(crate) pod: Option<Arc<Pod>>,
    pub(crate) life: LifeReport,
    pub(crate) manifest_error: Option<ManifestError>,
    pub(crate) deletion: Option<Deletion>,
}

/// The end of a pod, once it is not wanted any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deletion {
    /// When its containers are to be dead, in nanoseconds since the epoch.
    pub(crate) at_ns: i64,
    /// The pod's whole grace in seconds.
    pub(crate) grace_s: i64,
}

#[derive(Debug, Clone)]
pub(crate) enum LifeReport {
    Live {
        report: Box<PodReport>,
        since: Transitions,
        /// It was refused: there is a verdict and nothing else to tell.
        rejected: bool,
    },
    /// A pod that ended in an earlier life of the kubelet.
    Stored(Box<PodStatus>),
}

/// When each condition took its present value, in nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transitions {
    began_ns: i64,
    values: Vec<(&'static str, bool, i64)>,
}

impl Transitions {
    pub(crate) fn new(now_ns: i64) -> Self {
        Self { began_ns: now_ns, values: Vec::new() }
    }

    /// Notes the conditions as they are now.
    pub(crate) fn note(&mut self, conditions: &Conditions, now_ns: i64) {
        for (name, condition) in in_order(conditions) {
            match self.values.iter_mut().find(|(known, _, _)| *known == name) {
                Some((_, status, _)) if *status == condition.status => {}
                Some(value) => *value = (name, condition.status, now_ns),
                None => self.values.push((name, condition.status, now_ns)),
            }
        }
    }

    fn since_ns(&self, name: &str) -> i64 {
        self.values.iter().find(|(known, _, _)| *known == name).map_or(self.began_ns, |(_, _, since_ns)| *since_ns)
    }
}

/// In the order in which every kubelet writes them.
fn in_order(conditions: &Conditions) -> impl Iterator<Item = (&'static str, &Condition)> {
    let always = [
        (reasons::POD_READY_TO_START_CONTAINERS, &conditions.pod_ready_to_start_containers),
        (reasons::INITIALIZED, &conditions.initialized),
        (reasons::READY, &conditions.ready),
        (reasons::CONTAINERS_READY, &conditions.containers_ready),
        (reasons::POD_SCHEDULED, &conditions.pod_scheduled),
    ];
    let restarting = conditions.all_containers_restarting.as_ref();
    always.into_iter().chain(restarting.map(|condition| (reasons::ALL_CONTAINERS_RESTARTING, condition)))
}

impl Snapshot {
    /// The pod with its live status; none for an orphan, of which there is no spec.
    pub(crate) fn to_pod(&self, node: &NodeFacts) -> Option<Pod> {
        let mut pod = Pod::clone(self.pod.as_deref()?);
        let mut status = match &self.life {
            LifeReport::Live { report, rejected: true, .. } => v1::rejected_status(&pod, report),
            LifeReport::Live { report, since, .. } => v1::live_status(&pod, (report, since), node),
            LifeReport::Stored(status) => PodStatus::clone(status),
        };
        if let Some(error) = &self.manifest_error {
            pod.metadata.annotations.get_or_insert_default().insert(CONFIG_ERROR.to_owned(), error.message.clone());
            let why = Why { reason: MANIFEST_REFUSED.to_owned(), message: error.message.clone() };
            let condition = status::condition(MANIFEST_VALID, false, why, error.since);
            status.conditions.get_or_insert_default().push(condition);
        }
        if let Some(deletion) = self.deletion {
            pod.metadata.deletion_timestamp = status::time_from_ns(deletion.at_ns);
            pod.metadata.deletion_grace_period_seconds = Some(deletion.grace_s);
        }
        pod.status = Some(status);
        Some(pod)
    }

    pub(crate) fn to_view(&self, node: &NodeFacts) -> PodView {
        let containers = match &self.life {
            LifeReport::Live { report, .. } => report.containers.iter().map(|c| self.container_view(c, node)).collect(),
            LifeReport::Stored(status) => {
                let init = status.init_container_statuses.iter().flatten();
                let all = init.chain(status.container_statuses.iter().flatten());
                all.map(|container| self.stored_view(container, node)).collect()
            }
        };
        PodView {
            uid: self.key.uid.clone(),
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            containers,
        }
    }

    fn container_view(&self, container: &ContainerReport, node: &NodeFacts) -> ContainerView {
        let state = match &container.state {
            ContainerState::Waiting { reason, message } => {
                RunState::Waiting { reason: reason.as_str().to_owned(), message: message.clone() }
            }
            ContainerState::Running { .. } => RunState::Running,
            ContainerState::Terminated(ended) => RunState::Exited { exit_code: ended.exit_code },
        };
        let id = (!container.container_id.is_empty()).then(|| container.container_id.clone());
        let attempt = id.is_some().then_some(container.restart_count);
        ContainerView { id, ..self.view(&container.name, state, attempt, node) }
    }

    fn stored_view(&self, container: &ContainerStatus, node: &NodeFacts) -> ContainerView {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let state = RunState::Exited { exit_code: ended.map_or(0, |ended| ended.exit_code) };
        // Its runtime's record is gone with the boot, so there is no id; its log may be there.
        self.view(&container.name, state, u32::try_from(container.restart_count).ok(), node)
    }

    /// `attempt` is the latest one that was created.
    fn view(&self, name: &str, state: RunState, attempt: Option<u32>, node: &NodeFacts) -> ContainerView {
        let logs = names::log_directory(&node.log_dir, &self.key);
        let log = |attempt: u32| logs.join(names::log_path(name, attempt));
        let container = self.pod.as_deref().and_then(|pod| pod::container(pod, name));
        let inits = self.pod.as_deref().map(pod::init_containers).unwrap_or_default();
        let kind = match inits.iter().find(|container| container.name == name) {
            Some(container) if pod::is_sidecar(container) => ContainerKind::Sidecar,
            Some(_) => ContainerKind::Init,
            None => ContainerKind::Regular,
        };
        let tty = container.and_then(|container| container.tty);
        let stdin = container.and_then(|container| container.stdin);
        let stdin_once = container.and_then(|container| container.stdin_once);
        ContainerView {
            name: name.to_owned(),
            kind,
            id: None,
            state,
            log_path: attempt.map(log),
            previous_log_path: attempt.and_then(|attempt| attempt.checked_sub(1)).map(log),
            tty: tty == Some(true),
            stdin: stdin == Some(true),
            stdin_once: stdin_once == Some(true),
        }
    }
}

#[cfg(test)]
mod tests;
