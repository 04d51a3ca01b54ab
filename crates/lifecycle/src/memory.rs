//! What has to outlive the kubelet and no runtime keeps. The agent stores it beside the pod's directories whenever it
//! changes, and gives it back to the machine that takes the pod over. It may be older than the truth by a few inputs,
//! so nothing that the runtime shows is ever decided by it.

use crate::{Phase, Terminated};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// It passed admission once: a restart of the kubelet does not ask again.
    pub admitted: bool,
    /// When the pod began (nanoseconds since the epoch); 0 if it has not.
    pub start_ns: i64,
    /// How it ended, once it did.
    pub ending: Option<Ending>,
    /// While terminating: when its containers are to be dead (nanoseconds since the epoch).
    pub kill_at_ns: Option<i64>,
    /// Sorted by name.
    pub containers: Vec<ContainerMemory>,
}

/// The terminal phase of a pod, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub phase: Phase,
    /// E.g. `DeadlineExceeded`, `OutOfcpu`; empty where the containers' exits say all.
    pub reason: String,
    pub message: String,
}

/// One container of the plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMemory {
    pub name: String,
    /// The newest attempt ever known, whether or not the runtime still has it.
    pub attempt: u32,
    /// The container that `started`, `ready` and `hooked` speak of.
    pub container_id: String,
    pub started: bool,
    pub ready: bool,
    /// Its `postStart` hook has ended.
    pub hooked: bool,
    /// The newest finished run.
    pub last: Option<Terminated>,
}
