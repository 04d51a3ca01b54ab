//! The quality of service class, which decides control groups, the OOM killer's order and eviction.

use crate::accessors::{containers_in_order, spec};
use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt;

/// The resources that decide the class, and that a pod can be given as a whole.
pub(crate) const KEYS: [&str; 2] = ["cpu", "memory"];

/// The three classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Guaranteed: every container limits cpu and memory and requests as much. BestEffort: no container requests or limits
/// either. Burstable: everything between. What the pod says for all of them together goes before what each one says.
pub fn class(pod: &Pod) -> Qos {
    let said: Vec<Option<&ResourceRequirements>> = match of_pod(pod) {
        Some(resources) => vec![Some(resources)],
        None => containers_in_order(pod).map(|container| container.resources.as_ref()).collect(),
    };
    let guaranteed = |said: &&ResourceRequirements| {
        KEYS.into_iter().all(|key| {
            let limit = limited(said, key);
            limit.is_some() && requested(said, key).is_none_or(|request| Some(request) == limit)
        })
    };
    if !said.iter().flatten().any(|said| says_anything(said)) {
        Qos::BestEffort
    } else if said.iter().all(|said| said.as_ref().is_some_and(guaranteed)) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// What the pod as a whole requests and is limited to, if its spec says so.
pub(crate) fn of_pod(pod: &Pod) -> Option<&ResourceRequirements> {
    spec(pod).resources.as_ref().filter(|resources| says_anything(resources))
}

fn says_anything(resources: &ResourceRequirements) -> bool {
    KEYS.into_iter().any(|key| requested(resources, key).is_some() || limited(resources, key).is_some())
}

/// What a container requests of a resource; none if nothing, zero counts as nothing.
pub(crate) fn request(container: &Container, key: &str) -> Option<Amount> {
    requested(container.resources.as_ref()?, key)
}

/// A container's limit of a resource; none if there is none, zero counts as none.
pub(crate) fn limit(container: &Container, key: &str) -> Option<Amount> {
    limited(container.resources.as_ref()?, key)
}

pub(crate) fn requested(resources: &ResourceRequirements, key: &str) -> Option<Amount> {
    amount(resources.requests.as_ref()?, key)
}

pub(crate) fn limited(resources: &ResourceRequirements, key: &str) -> Option<Amount> {
    amount(resources.limits.as_ref()?, key)
}

fn amount(of: &BTreeMap<String, Quantity>, key: &str) -> Option<Amount> {
    let amount = Amount::try_from(of.get(key)?).ok()?;
    (amount > Amount::ZERO).then_some(amount)
}
