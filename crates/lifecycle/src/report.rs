//! What a machine says of its pod: everything a `PodStatus` is built from, and nothing of Kubernetes' types.

use crate::{ContainerKind, Failure, Millis, Stage};
use serde::{Deserialize, Serialize};

/// The pod as its machine sees it. Level-triggered: compare with the last one and publish when it differs.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReport {
    pub uid: String,
    pub stage: Stage,
    /// False until the runtime was heard once. Such a report knows nothing yet: keep the status published before, so
    /// that a restart of the kubelet does not make ready pods flap.
    pub observed: bool,
    pub phase: Phase,
    /// Why the pod as a whole failed, e.g. `DeadlineExceeded`; else empty.
    pub reason: String,
    pub message: String,
    /// Generation of the plan that is followed.
    pub observed_generation: i64,
    /// Nanoseconds since the epoch: when the pod was first seen, or its first sandbox made.
    pub start_time_ns: i64,
    /// Addresses of the ready sandbox; empty while there is none.
    pub ips: Vec<String>,
    /// In the order of the plan: init containers and sidecars first.
    pub containers: Vec<ContainerReport>,
    pub conditions: Conditions,
    /// What keeps the pod from its next step, if something does.
    pub problem: Option<Failure>,
    /// While terminating: the moment (`CLOCK_BOOTTIME`) at which containers are killed.
    pub kill_at_ms: Option<Millis>,
}

impl PodReport {
    /// The pod serves: its `Ready` condition.
    pub fn ready(&self) -> bool {
        self.conditions.ready.status
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// A pod never leaves such a phase.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerReport {
    pub name: String,
    pub kind: ContainerKind,
    pub state: ContainerState,
    /// The run before the one in `state`.
    pub last: Option<Terminated>,
    /// The attempt number of the newest container.
    pub restart_count: u32,
    pub ready: bool,
    pub started: bool,
    /// As given in the manifest it was created from.
    pub image: String,
    /// Resolved; empty until a container exists.
    pub image_ref: String,
    /// Bare id of the newest container; empty until one exists.
    pub container_id: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ContainerState {
    Waiting {
        reason: WaitingReason,
        message: String,
    },
    /// Nanoseconds since the epoch.
    Running {
        started_at_ns: i64,
    },
    Terminated(Terminated),
}

/// One finished run of a container. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terminated {
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
    pub container_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingReason {
    ContainerCreating,
    /// The pod has init containers, and they are not done or the container has not been made yet.
    PodInitializing,
    RestartingAllContainers,
    CrashLoopBackOff,
    ImagePullBackOff,
    /// The reason of the failed effect: `ErrImagePull`, `CreateContainerError`, …
    Failed(String),
}

impl WaitingReason {
    pub fn as_str(&self) -> &str {
        match self {
            WaitingReason::ContainerCreating => "ContainerCreating",
            WaitingReason::PodInitializing => "PodInitializing",
            WaitingReason::RestartingAllContainers => "RestartingAllContainers",
            WaitingReason::CrashLoopBackOff => "CrashLoopBackOff",
            WaitingReason::ImagePullBackOff => "ImagePullBackOff",
            WaitingReason::Failed(reason) => reason,
        }
    }
}

/// The pod's conditions, named as in `PodStatus`.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    pub pod_ready_to_start_containers: Condition,
    pub initialized: Condition,
    pub ready: Condition,
    pub containers_ready: Condition,
    pub pod_scheduled: Condition,
    /// None unless a rule of the pod can restart all of it.
    pub all_containers_restarting: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Condition {
    pub status: bool,
    /// Empty when there is nothing to explain.
    pub reason: &'static str,
    pub message: String,
}
