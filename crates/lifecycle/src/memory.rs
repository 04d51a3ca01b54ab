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
    /// The plan's hash it was created from; empty if there never was one.
    pub hash: String,
    /// The container that `started`, `ready` and `hooked` speak of; empty while all containers are being restarted.
    pub container_id: String,
    pub started: bool,
    pub ready: bool,
    /// Its `postStart` hook has ended.
    pub hooked: bool,
    /// The newest finished run.
    pub last: Option<Terminated>,
}

impl ContainerMemory {
    /// There was an attempt of it.
    pub fn has_run(&self) -> bool {
        !self.hash.is_empty()
    }
}

impl Memory {
    /// What is left of the grace of a pod whose manifest is gone, at the wall time `wall_ns`: the rest of what a kubelet
    /// before this one gave it, and never more than `grace_ms`, whatever became of the clock.
    pub fn remaining_grace_ms(&self, grace_ms: u64, wall_ns: i64) -> u64 {
        let Some(kill_at_ns) = self.kill_at_ns else { return grace_ms };
        let left_ms = kill_at_ns.saturating_sub(wall_ns) / 1_000_000;
        u64::try_from(left_ms).unwrap_or(0).min(grace_ms)
    }

    pub(crate) fn of(&self, container: &str) -> Option<&ContainerMemory> {
        self.containers.iter().find(|memory| memory.name == container)
    }
}
