//! What the machine needs to know of a pod's spec.

/// A pod, reduced to what decides its life.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPlan {
    pub uid: String,
    /// `<name>_<namespace>`.
    pub full_name: String,
    /// `metadata.generation`; 0 where there is none.
    pub generation: i64,
    pub restart_policy: RestartPolicy,
    pub grace_ms: u64,
    /// Counted from the pod's start.
    pub active_deadline_ms: Option<u64>,
    /// The most that a container which ends again and again is held back between two runs.
    pub max_restart_delay_ms: u64,
    /// The pod lives in the machine's network: its sandbox has no address of its own.
    pub host_network: bool,
    /// First the init containers and sidecars in the order of the spec, then the regular containers in theirs.
    pub containers: Vec<ContainerPlan>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    pub name: String,
    pub kind: ContainerKind,
    /// As given in the manifest.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Hash of name and image: a change of it restarts a regular container or a sidecar whatever the policy.
    pub hash: String,
    /// The container's own policy, or else the pod's. `Always` of the pod is `OnFailure` for an init container.
    pub restart: RestartPolicy,
    /// The first rule that names the exit code decides before the policy does.
    pub rules: Vec<RestartRule>,
    pub post_start: bool,
    pub pre_stop: bool,
    pub startup: Option<ProbePlan>,
    pub liveness: Option<ProbePlan>,
    pub readiness: Option<ProbePlan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// Runs to its end before the next one begins.
    Init,
    /// An init container of restart policy `Always`: the next one begins once it has started, and it stays.
    Sidecar,
    Regular,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    pub action: RestartAction,
    /// The rule names the codes in `codes`, or with `NotIn` all others.
    pub operator: CodeOperator,
    pub codes: Vec<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartAction {
    Restart,
    /// Every container of the pod starts over, in its sandbox.
    RestartAllContainers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeOperator {
    In,
    NotIn,
}

impl RestartRule {
    pub fn names(&self, exit_code: i32) -> bool {
        match self.operator {
            CodeOperator::In => self.codes.contains(&exit_code),
            CodeOperator::NotIn => !self.codes.contains(&exit_code),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePlan {
    pub initial_delay_ms: u64,
    pub period_ms: u64,
    /// Results in a row that make it healthy or unhealthy; at least 1.
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Grace for the container if this probe kills it; none: the pod's.
    pub grace_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}
