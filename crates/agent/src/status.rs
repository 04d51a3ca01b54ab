//! From a machine's report to a v1 `PodStatus`. Built when somebody asks, in the asker's own time.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cri::keys::PodKey;
use cri::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use lifecycle::{Condition, Conditions, ContainerReport, ContainerState, PodReport, Terminated};
use pod::reasons;
use pod::status::{self, Exit, Why};

use crate::handle::{ContainerView, PodView, RunState};
use crate::sources::mux::ManifestError;

/// Annotation: what is wrong with the manifest that an earlier version of is running.
pub(crate) const CONFIG_ERROR: &str = "kubernetes.io/config.error";
/// Condition: whether the pod's manifest, as it is now, is what runs.
const MANIFEST_VALID: &str = "ManifestValid";
const MANIFEST_REFUSED: &str = "ManifestRefused";

/// What a status needs to know of the node.
#[derive(Debug)]
pub(crate) struct NodeFacts {
    pub(crate) node_name: String,
    pub(crate) host_ips: Vec<String>,
    pub(crate) log_dir: PathBuf,
    /// Known once the runtime has answered.
    pub(crate) runtime_name: OnceLock<String>,
}

impl NodeFacts {
    fn container_id(&self, id: &str) -> String {
        if id.is_empty() {
            return String::new();
        }
        status::container_id(self.runtime_name.get().map_or("unknown", String::as_str), id)
    }
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) key: PodKey,
    /// None for an orphan.
    pub(crate) pod: Option<Arc<Pod>>,
    pub(crate) life: LifeReport,
    pub(crate) manifest_error: Option<ManifestError>,
}

#[derive(Debug, Clone)]
pub(crate) enum LifeReport {
    Live {
        report: Box<PodReport>,
        since: Transitions,
    },
    /// A pod that ended in an earlier life of the kubelet.
    Stored(Box<PodStatus>),
}

/// When each condition took its present value, in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transitions([(bool, i64); 5]);

impl Transitions {
    pub(crate) fn new(now_ns: i64) -> Self {
        Self([(false, now_ns); 5])
    }

    /// Notes the conditions as they are now.
    pub(crate) fn note(&mut self, conditions: &Conditions, now_ns: i64) {
        for (slot, (_, condition)) in self.0.iter_mut().zip(in_order(conditions)) {
            if slot.0 != condition.status {
                *slot = (condition.status, now_ns);
            }
        }
    }
}

/// In the order in which every kubelet writes them.
fn in_order(conditions: &Conditions) -> [(&'static str, &Condition); 5] {
    [
        (reasons::POD_READY_TO_START_CONTAINERS, &conditions.pod_ready_to_start_containers),
        (reasons::INITIALIZED, &conditions.initialized),
        (reasons::READY, &conditions.ready),
        (reasons::CONTAINERS_READY, &conditions.containers_ready),
        (reasons::POD_SCHEDULED, &conditions.pod_scheduled),
    ]
}

impl Snapshot {
    /// The pod with its live status; none for an orphan, of which there is no spec.
    pub(crate) fn to_pod(&self, node: &NodeFacts) -> Option<Pod> {
        let mut pod = Pod::clone(self.pod.as_deref()?);
        let mut status = match &self.life {
            LifeReport::Live { report, since } => live_status(&pod, report, since, node),
            LifeReport::Stored(status) => PodStatus::clone(status),
        };
        if let Some(error) = &self.manifest_error {
            pod.metadata.annotations.get_or_insert_default().insert(CONFIG_ERROR.to_owned(), error.message.clone());
            let why = Why { reason: MANIFEST_REFUSED.to_owned(), message: error.message.clone() };
            let condition = status::condition(MANIFEST_VALID, false, why, error.since);
            status.conditions.get_or_insert_default().push(condition);
        }
        pod.status = Some(status);
        Some(pod)
    }

    pub(crate) fn to_view(&self, node: &NodeFacts) -> PodView {
        let containers = match &self.life {
            LifeReport::Live { report, .. } => report.containers.iter().map(|c| self.container_view(c, node)).collect(),
            LifeReport::Stored(status) => {
                status.container_statuses.iter().flatten().map(|c| self.stored_view(c, node)).collect()
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
        let tty = self.pod.as_deref().and_then(|pod| pod::container(pod, name)).and_then(|c| c.tty);
        ContainerView {
            name: name.to_owned(),
            id: None,
            state,
            log_path: attempt.map(log),
            previous_log_path: attempt.and_then(|attempt| attempt.checked_sub(1)).map(log),
            tty: tty == Some(true),
        }
    }
}

/// The status of a pod that a machine looks after.
pub(crate) fn live_status(pod: &Pod, report: &PodReport, since: &Transitions, node: &NodeFacts) -> PodStatus {
    let conditions: Vec<PodCondition> = in_order(&report.conditions)
        .into_iter()
        .zip(since.0)
        .map(|((name, condition), (_, since_ns))| {
            let why = Why { reason: condition.reason.to_owned(), message: condition.message.clone() };
            let since = status::time_from_ns(since_ns).map_or_else(Timestamp::now, |time| time.0);
            status::condition(name, condition.status, why, since)
        })
        .collect();
    PodStatus {
        phase: Some(report.phase.as_str().to_owned()),
        conditions: Some(conditions),
        message: report.problem.as_ref().map(|problem| problem.message.clone()),
        host_ip: node.host_ips.first().cloned(),
        host_ips: (!node.host_ips.is_empty()).then(|| status::host_ips(&node.host_ips)),
        pod_ip: report.ips.first().cloned(),
        pod_ips: (!report.ips.is_empty()).then(|| status::pod_ips(&report.ips)),
        start_time: status::time_from_ns(report.start_time_ns),
        container_statuses: Some(report.containers.iter().map(|c| container_status(c, node)).collect()),
        qos_class: Some(pod::qos::class(pod).as_str().to_owned()),
        ..PodStatus::default()
    }
}

fn container_status(report: &ContainerReport, node: &NodeFacts) -> ContainerStatus {
    let id = node.container_id(&report.container_id);
    ContainerStatus {
        name: report.name.clone(),
        image: report.image.clone(),
        image_id: report.image_ref.clone(),
        container_id: (!id.is_empty()).then_some(id),
        ready: report.ready,
        started: Some(report.started),
        restart_count: i32::try_from(report.restart_count).unwrap_or(i32::MAX),
        state: Some(match &report.state {
            ContainerState::Waiting { reason, message } => status::waiting(reason.as_str(), message),
            ContainerState::Running { started_at_ns } => status::running(*started_at_ns),
            ContainerState::Terminated(ended) => terminated(ended, node),
        }),
        // An empty object, as the API has it, where there was no run before.
        last_state: Some(report.last.as_ref().map(|ended| terminated(ended, node)).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Terminated, node: &NodeFacts) -> k8s_openapi::api::core::v1::ContainerState {
    status::terminated(&Exit {
        exit_code: ended.exit_code,
        reason: ended.reason.clone(),
        message: ended.message.clone(),
        started_at_ns: ended.started_at_ns,
        finished_at_ns: ended.finished_at_ns,
        container_id: node.container_id(&ended.container_id),
    })
}
