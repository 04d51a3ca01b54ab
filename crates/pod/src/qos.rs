//! The quality of service class, which decides control groups, the OOM killer's order and eviction.

use crate::accessors::spec;
use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt;

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
/// either. Burstable: everything between.
pub fn class(pod: &Pod) -> Qos {
    let spec = spec(pod);
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let set = |container: &Container| {
        ["cpu", "memory"].into_iter().any(|key| request(container, key).is_some() || limit(container, key).is_some())
    };
    let guaranteed = |container: &Container| {
        ["cpu", "memory"].into_iter().all(|key| {
            let limit = limit(container, key);
            limit.is_some() && request(container, key).is_none_or(|request| Some(request) == limit)
        })
    };
    if !containers().any(set) {
        Qos::BestEffort
    } else if containers().all(guaranteed) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// What a container requests of a resource; none if nothing, zero counts as nothing.
pub(crate) fn request(container: &Container, key: &str) -> Option<Amount> {
    amount(container.resources.as_ref()?.requests.as_ref()?, key)
}

/// A container's limit of a resource; none if there is none, zero counts as none.
pub(crate) fn limit(container: &Container, key: &str) -> Option<Amount> {
    amount(container.resources.as_ref()?.limits.as_ref()?, key)
}

fn amount(of: &BTreeMap<String, Quantity>, key: &str) -> Option<Amount> {
    let amount = Amount::try_from(of.get(key)?).ok()?;
    (amount > Amount::ZERO).then_some(amount)
}
