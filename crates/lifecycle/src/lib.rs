//! The decisions of a pod's life. Pure: no I/O, no clock, no randomness, no threads; time is an input.
//!
//! [`PodMachine`] takes [`Input`]s and answers with [`Action`]s. The agent carries each action out and brings its
//! [`Outcome`] back under the same [`EffectId`]; exactly one outcome for each effect.

pub mod admission;
pub mod backoff;
pub mod image_access;
pub mod image_gc;
pub mod machine;
pub mod memory;
pub mod plan;
pub mod probe;
pub mod report;
#[cfg(test)]
mod tests;

pub use machine::{PodMachine, Stage};
pub use memory::{ContainerMemory, Ending, Memory};
pub use plan::{
    CodeOperator, ContainerKind, ContainerPlan, PodPlan, ProbePlan, PullPolicy, RestartAction, RestartPolicy,
    RestartRule,
};
pub use probe::{Prober, Turned, Verdict};
pub use report::{Condition, Conditions, ContainerReport, ContainerState, Phase, PodReport, Terminated, WaitingReason};

/// Milliseconds of a clock that never steps and counts suspended time (`CLOCK_BOOTTIME`).
pub type Millis = u64;

/// What time it is: the monotonic clock decides, the wall clock (nanoseconds since the epoch) is only written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub mono_ms: Millis,
    pub wall_ns: i64,
}

/// Names an effect; unique within one machine's life, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// What a machine hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// No other pod of the same full name lives any more, and this machine has room for the pod: begin.
    Admit,
    /// The pod cannot run here: it fails for good, and nothing of it is ever started.
    Reject { reason: String, message: String },
    /// The pod as it is wanted now. Same UID, so the same machine; only what may change in place has changed.
    Desired(PodPlan),
    /// The pod is not wanted any more (manifest removed, URL dropped it, orphan found). A later one may only shorten the grace.
    Delete { grace_ms: u64 },
    /// What the runtime says of this pod, all of it. `stamp` is the monotonic time at which the question was asked: what
    /// is missing is believed gone only if it was known before that. A pushed event whose moment of gathering is not
    /// known carries [`UNSTAMPED`]: believed in what it shows, never in what it lacks.
    Observed { stamp: Millis, pod: ObservedPod },
    /// One effect ended.
    Completed { id: EffectId, outcome: Outcome },
    /// Images were imported or pulled: what waits for an image may look again at once.
    ImagesChanged,
    /// A deadline may have passed.
    Tick,
}

/// The stamp of an observation that was pushed, not asked for.
pub const UNSTAMPED: Millis = 0;

/// The runtime's truth about one pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedPod {
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ObservedSandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<String>,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    /// `ContainerPlan::hash` it was created from.
    pub hash: String,
    pub state: ObservedState,
    /// As given in the manifest.
    pub image: String,
    /// Resolved: `docker.io/library/nginx@sha256:…` or the image id.
    pub image_ref: String,
    pub created_at_ns: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ObservedState {
    Created,
    Running {
        started_at_ns: i64,
    },
    Exited {
        started_at_ns: i64,
        finished_at_ns: i64,
        exit_code: i32,
        reason: String,
        message: String,
    },
    /// The runtime cannot tell.
    Unknown,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Do {
        id: EffectId,
        effect: Effect,
    },
    /// Something happened that a person would want to know.
    Tell(Event),
    /// Give up an effect. It stays outstanding until its outcome (`Failed` with class `Cancelled`, or the real one) arrives.
    Cancel(EffectId),
}

/// An event of the pod's history: reason and text are upstream's. Not part of any decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub severity: Severity,
    /// A constant of `pod::reasons`, e.g. `Killing`.
    pub reason: &'static str,
    pub message: String,
    /// The container it is about; none where it is about the pod.
    pub container: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// What a probe asks of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

/// One change of the world, or one question to it. Every one is idempotent at its executor.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Pod directories, volumes, control group. Precedes everything else.
    SetUp,
    RunSandbox {
        attempt: u32,
    },
    /// Make the image present according to its policy and tell its reference.
    EnsureImage {
        container: String,
    },
    /// Create and start one attempt of a container.
    StartContainer {
        container: String,
        attempt: u32,
        sandbox_id: String,
        image_ref: String,
    },
    /// Run the hook that follows a container's start. It fails as `FailedPostStartHook`.
    PostStart {
        container: String,
        container_id: String,
    },
    /// Run the hook that precedes a container's stop, for no longer than `grace_ms`. However it ends, the stop follows.
    PreStop {
        container: String,
        container_id: String,
        grace_ms: u64,
    },
    /// Run one probe once, with its own time limit. `Failed` and `Unknown`: it could not be run, which says nothing.
    Probe {
        container: String,
        container_id: String,
        kind: ProbeKind,
    },
    /// Send the stop signal, wait, then kill.
    StopContainer {
        container_id: String,
        grace_ms: u64,
    },
    RemoveContainer {
        container_id: String,
    },
    StopSandbox {
        sandbox_id: String,
    },
    RemoveSandbox {
        sandbox_id: String,
    },
    /// Ask the runtime for this pod now; the answer comes as `Observed` before the outcome.
    Inspect,
    /// Unmount volumes, remove control group, directories and logs; fails while anything is left.
    TearDown,
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Ok(Done),
    Failed(Failure),
    /// The call was sent and no answer came: it may have happened, may happen yet, or not.
    Unknown,
}

/// What a successful effect tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    Nothing,
    Sandbox {
        id: String,
        ips: Vec<String>,
    },
    Image {
        image_ref: String,
    },
    Container {
        id: String,
    },
    /// A probe was run; `output` says why it failed, or of a healthy one what to warn of: nothing, if it is empty.
    Probe {
        healthy: bool,
        output: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub class: FailureClass,
    /// A constant of `pod::reasons`, e.g. `ErrImagePull`.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// Try again after a while.
    Retry,
    /// The object named does not exist any more.
    Gone,
    Cancelled,
}
