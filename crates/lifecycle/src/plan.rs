//! What the machine needs to know of a pod's spec.

/// A pod, reduced to what decides its life.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPlan {
    pub uid: String,
    /// `<name>_<namespace>`.
    pub full_name: String,
    pub restart_policy: RestartPolicy,
    pub grace_ms: u64,
    /// In the order of the spec.
    pub containers: Vec<ContainerPlan>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    pub name: String,
    /// As given in the manifest.
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Hash of name and image: a change of it restarts the container whatever the policy.
    pub hash: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}
