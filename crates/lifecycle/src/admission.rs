//! Whether a pod may run on this machine beside those that do.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

/// What a pod takes from the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    pub ports: Vec<HostPort>,
}

/// A port of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` for every address.
    pub ip: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    pub port: i32,
}

/// What the machine has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub node_name: String,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Pods at most.
    pub pods: u32,
    pub labels: BTreeMap<String, String>,
    /// As in `spec.os.name`.
    pub os: String,
}

/// Why a pod cannot run here: what its status says, but for the words "Pod was rejected: " before the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Demand {
    /// Of a validated pod.
    pub fn of(pod: &Pod) -> Demand {
        let _ = pod;
        Demand::default()
    }
}

/// Whether the pod fits beside the others: all that were admitted and have not ended.
pub fn check(pod: &Pod, others: &[Demand], offer: &Offer) -> Result<(), Rejection> {
    let _ = (pod, others, offer);
    Ok(())
}
