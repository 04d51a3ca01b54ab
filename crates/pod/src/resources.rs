//! Control group figures of containers and pods.

use crate::accessors::{containers_in_order, init_containers, is_sidecar, spec};
use crate::identity;
use crate::qos::{self, Qos, limit, limited, request, requested};
use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, Pod};

/// CFS period of every quota, microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas, microseconds.
const MIN_QUOTA_US: i64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const SHARES_PER_CPU: u64 = 1024;
/// Pods that the node cannot do without carry this class.
const NODE_CRITICAL: &str = "system-node-critical";
/// `spec.priority` from which a pod is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
const PROTECTED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;

/// What a control group is given; none means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub cpu_shares: u64,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: u64,
    pub memory_limit_bytes: Option<i64>,
}

/// `milli_cpu * 1024 / 1000` within the kernel's bounds; nothing requested gives the least, 2.
pub fn cpu_shares(milli_cpu: i64) -> u64 {
    let milli_cpu = u64::try_from(milli_cpu).unwrap_or(0);
    (milli_cpu.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// cgroup v2's `cpu.weight` (1–10000) of a pod or QoS group for these shares.
pub fn cpu_weight(cpu_shares: u64) -> u64 {
    let shares = cpu_shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + ((shares - MIN_SHARES) * 9999) / (MAX_SHARES - MIN_SHARES)
}

/// `milli_cpu * period / 1000` microseconds, at least 1000; none without a limit.
pub fn cpu_quota_us(milli_cpu: i64, period_us: u64) -> Option<i64> {
    if milli_cpu <= 0 {
        return None;
    }
    let quota = i128::from(milli_cpu) * i128::from(period_us) / 1000;
    Some(i64::try_from(quota).unwrap_or(i64::MAX).max(MIN_QUOTA_US))
}

/// The container's own group. Without a cpu request the limit decides the shares, as the API's defaulting does; without a
/// limit of its own the pod's is shown to it, so that what sizes itself by its limit sees the one that holds.
pub fn container(pod: &Pod, container: &Container) -> Figures {
    let cpu = request(container, "cpu").or_else(|| limit(container, "cpu")).unwrap_or_default();
    let limit = |key| limit(container, key).or_else(|| limit_of_pod(pod, key));
    Figures {
        cpu_shares: cpu_shares(cpu.millis()),
        cpu_quota_us: limit("cpu").and_then(|cpu| cpu_quota_us(cpu.millis(), CPU_PERIOD_US)),
        cpu_period_us: CPU_PERIOD_US,
        memory_limit_bytes: limit("memory").map(Amount::units),
    }
}

/// What the pod as a whole needs at its peak. Sidecars stay, so they count beside the regular containers, and beside the
/// init containers that come after them; an init container counts only while it runs, alone but for the sidecars before it.
fn effective(pod: &Pod, of: impl Fn(&Container) -> Option<Amount>) -> Amount {
    let of = |container: &Container| of(container).unwrap_or_default();
    let (mut sidecars, mut peak) = (Amount::ZERO, Amount::ZERO);
    for init in init_containers(pod) {
        let beside = sidecars.saturating_add(of(init));
        peak = peak.max(beside);
        if is_sidecar(init) {
            sidecars = beside;
        }
    }
    let regular = spec(pod).containers.iter().map(of);
    regular.fold(sidecars, Amount::saturating_add).max(peak)
}

/// What the containers request of a resource at their peak; the limit stands in where one has no request.
pub(crate) fn of_containers(pod: &Pod, key: &str) -> Amount {
    effective(pod, |container| request(container, key).or_else(|| limit(container, key)))
}

/// What the pod requests of a resource: what it says for itself, or else its containers' requests.
fn effective_request(pod: &Pod, key: &str) -> Amount {
    let own = qos::of_pod(pod).and_then(|resources| requested(resources, key));
    own.unwrap_or_else(|| of_containers(pod, key))
}

/// The pod's limit of a resource: its own, or else that of its containers if every one has one.
fn effective_limit(pod: &Pod, key: &str) -> Option<Amount> {
    if let Some(own) = limit_of_pod(pod, key) {
        return Some(own);
    }
    let every = containers_in_order(pod).all(|container| limit(container, key).is_some());
    (every && !spec(pod).containers.is_empty()).then(|| effective(pod, |container| limit(container, key)))
}

fn limit_of_pod(pod: &Pod, key: &str) -> Option<Amount> {
    qos::of_pod(pod).and_then(|resources| limited(resources, key))
}

/// The pod's group: enough for all containers that ever run at once. A limit holds only if every container has one.
pub fn pod(pod: &Pod) -> Figures {
    Figures {
        cpu_shares: match qos::class(pod) {
            Qos::BestEffort => MIN_SHARES,
            Qos::Guaranteed | Qos::Burstable => cpu_shares(cpu_request_millis(pod)),
        },
        cpu_quota_us: effective_limit(pod, "cpu").and_then(|cpu| cpu_quota_us(cpu.millis(), CPU_PERIOD_US)),
        cpu_period_us: CPU_PERIOD_US,
        memory_limit_bytes: effective_limit(pod, "memory").map(Amount::units),
    }
}

/// Milli-cores that the pod requests at its peak: what a QoS group sums up, and what the node must have left.
pub fn cpu_request_millis(pod: &Pod) -> i64 {
    effective_request(pod, "cpu").millis()
}

/// Bytes of memory that the pod requests at its peak.
pub fn memory_request_bytes(pod: &Pod) -> i64 {
    effective_request(pod, "memory").units()
}

/// Bytes of local disk that the pod requests at its peak.
pub fn ephemeral_storage_request_bytes(pod: &Pod) -> i64 {
    effective_request(pod, "ephemeral-storage").units()
}

/// How readily the kernel's OOM killer takes the container: −997 to 1000. Who requests more of the node's memory is taken later.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    if is_node_critical(pod) {
        return PROTECTED_SCORE;
    }
    match qos::class(pod) {
        Qos::Guaranteed => PROTECTED_SCORE,
        Qos::BestEffort => BEST_EFFORT_SCORE,
        Qos::Burstable => {
            let own = memory_request(container);
            let least = spec(pod).containers.iter().map(memory_request).min().unwrap_or_default();
            let is_sidecar = init_containers(pod).iter().any(|init| init.name == container.name && is_sidecar(init));
            // A sidecar serves the regular containers, so it is not to be taken before any of them.
            let wanted = if is_sidecar { own.max(least) } else { own };
            let wanted = i128::from(wanted.units()) + i128::from(unclaimed_share_bytes(pod));
            let share = wanted * 1000 / i128::from(node_memory_bytes.max(1));
            // 1000 is for BestEffort and −997 for Guaranteed alone: a burstable container stays between, and above 2 so that
            // what runs for the pod itself is taken after it.
            i64::try_from(1000 - share).unwrap_or(i64::MIN).clamp(3, 999)
        }
    }
}

/// What the pod requests for all and no container for itself, in equal parts for each of them, bytes.
fn unclaimed_share_bytes(pod: &Pod) -> i64 {
    let Some(own) = qos::of_pod(pod).and_then(|resources| requested(resources, "memory")) else { return 0 };
    let unclaimed = own.units().saturating_sub(of_containers(pod, "memory").units()).max(0);
    unclaimed / i64::try_from(containers_in_order(pod).count()).unwrap_or(i64::MAX).max(1)
}

fn memory_request(container: &Container) -> Amount {
    request(container, "memory").or_else(|| limit(container, "memory")).unwrap_or_default()
}

/// Static (not from an API server), or of critical priority.
pub fn is_critical(pod: &Pod) -> bool {
    identity::is_static(pod) || spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

fn is_node_critical(pod: &Pod) -> bool {
    is_critical(pod) && spec(pod).priority_class_name.as_deref() == Some(NODE_CRITICAL)
}

#[cfg(test)]
mod tests;
