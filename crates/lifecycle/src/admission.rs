//! Whether a pod may run on this machine beside those that do: what a scheduler would have asked, asked again where the
//! pod arrives.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use pod::{reasons, resources};

const OS_LABEL: &str = "kubernetes.io/os";
/// The one field of a node that a term can ask for.
const NAME_FIELD: &str = "metadata.name";
const ANY_IP: &str = "0.0.0.0";

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    pub reason: &'static str,
    pub message: String,
}

impl Demand {
    /// Of a validated pod.
    pub fn of(pod: &Pod) -> Demand {
        Demand {
            cpu_millis: resources::cpu_request_millis(pod),
            memory_bytes: resources::memory_request_bytes(pod),
            ephemeral_bytes: resources::ephemeral_storage_request_bytes(pod),
            ports: pod::long_lived(pod).flat_map(host_ports).collect(),
        }
    }
}

/// Whether the pod fits beside the others: all that were admitted and have not ended.
pub fn check(pod: &Pod, others: &[Demand], offer: &Offer) -> Result<(), Rejection> {
    system(pod, offer)?;
    let demand = Demand::of(pod);
    // Only the first reason is told. For a critical pod room could be made, so what cannot be helped is told before.
    if resources::is_critical(pod) {
        place(pod, (&demand, others), offer)?;
        room(&demand, others, offer)
    } else {
        room(&demand, others, offer)?;
        place(pod, (&demand, others), offer)
    }
}

/// The operating system. The pod's own label is what is compared with the node's, as upstream does.
fn system(pod: &Pod, offer: &Offer) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|os| *os != offer.os) {
        return Err(Rejection {
            reason: reasons::POD_OS_SELECTOR_NODE_LABEL_DOES_NOT_MATCH,
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".to_owned(),
        });
    }
    if pod::spec(pod).os.as_ref().is_some_and(|os| os.name != offer.os) {
        return Err(Rejection {
            reason: reasons::POD_OS_NOT_SUPPORTED,
            message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        });
    }
    Ok(())
}

/// What there is a limited amount of.
fn room(demand: &Demand, others: &[Demand], offer: &Offer) -> Result<(), Rejection> {
    let used = |of: fn(&Demand) -> i64| others.iter().map(of).fold(0, i64::saturating_add);
    // Name, reason, and what is requested, used and there.
    let table: [(&str, &str, [i64; 3]); 4] = [
        ("pods", reasons::OUT_OF_PODS, [1, used(|_| 1), i64::from(offer.pods)]),
        ("cpu", reasons::OUT_OF_CPU, [demand.cpu_millis, used(|other| other.cpu_millis), offer.cpu_millis]),
        ("memory", reasons::OUT_OF_MEMORY, [demand.memory_bytes, used(|other| other.memory_bytes), offer.memory_bytes]),
        (
            "ephemeral-storage",
            reasons::OUT_OF_EPHEMERAL_STORAGE,
            [demand.ephemeral_bytes, used(|other| other.ephemeral_bytes), offer.ephemeral_bytes],
        ),
    ];
    for (name, reason, [requested, used, capacity]) in table {
        // Who asks for nothing fits where nothing is left.
        if requested > 0 && requested > capacity.saturating_sub(used) {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return Err(Rejection { reason, message });
        }
    }
    Ok(())
}

/// What this machine is, and what others hold of it alone.
fn place(pod: &Pod, (demand, others): (&Demand, &[Demand]), offer: &Offer) -> Result<(), Rejection> {
    if !selects(pod, offer) {
        return Err(refused(reasons::NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    let taken = |port: &HostPort| others.iter().flat_map(|other| &other.ports).any(|other| port.conflicts(other));
    if demand.ports.iter().any(taken) {
        return Err(refused(reasons::NODE_PORTS, "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn refused(reason: &'static str, message: &str) -> Rejection {
    Rejection { reason, message: format!("Predicate {reason} failed: {message}") }
}

impl HostPort {
    fn conflicts(&self, other: &HostPort) -> bool {
        let same_ip = self.ip == other.ip || self.ip == ANY_IP || other.ip == ANY_IP;
        same_ip && self.port == other.port && self.protocol == other.protocol
    }
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> {
    let or = |text: &Option<String>, default: &str| match text.as_deref() {
        None | Some("") => default.to_owned(),
        Some(text) => text.to_owned(),
    };
    container.ports.iter().flatten().filter_map(move |port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some(HostPort { ip: or(&port.host_ip, ANY_IP), protocol: or(&port.protocol, "TCP"), port: number })
    })
}

/// Whether the pod's node selector, and one of the terms that its affinity requires, name this machine.
fn selects(pod: &Pod, offer: &Offer) -> bool {
    let spec = pod::spec(pod);
    let selector = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().all(|(key, value)| offer.labels.get(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, offer)))
}

/// A term that asks for nothing names no machine.
fn matches(term: &NodeSelectorTerm, offer: &Offer) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| offer.labels.get(key).map(String::as_str);
    let field = |key: &str| (key == NAME_FIELD).then_some(offer.node_name.as_str());
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let named = found.is_some_and(|found| values.iter().any(|value| value == found));
    let compared = || Some(found?.parse::<i64>().ok()?.cmp(&values.first()?.parse().ok()?));
    match requirement.operator.as_str() {
        "In" => named,
        "NotIn" => !named,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared().is_some_and(|order| order.is_gt()),
        "Lt" => compared().is_some_and(|order| order.is_lt()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
