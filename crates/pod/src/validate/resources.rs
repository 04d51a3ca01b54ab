//! Requests and limits, of containers and of the pod as a whole.

use super::Errors;
use crate::accessors::containers_in_order;
use crate::qos::{KEYS, limit, limited, requested};
use crate::quantity::Amount;
use crate::resources::of_containers;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The amount, if it is one that can be had.
pub(super) fn check_quantity(path: &str, quantity: &Quantity, errors: &mut Errors) -> Option<Amount> {
    match Amount::try_from(quantity) {
        Ok(amount) if amount.is_negative() => {
            errors.invalid(path, &quantity.0, "must not be negative");
            None
        }
        Ok(amount) => Some(amount),
        Err(error) => {
            errors.invalid(path, &quantity.0, error.to_string());
            None
        }
    }
}

pub(super) fn check(path: &str, resources: &ResourceRequirements, errors: &mut Errors) {
    let none = BTreeMap::new();
    let mut amounts = |kind: &str, of: &BTreeMap<String, Quantity>| {
        let check = |(key, quantity): (&String, &Quantity)| {
            check_quantity(&format!("{path}.{kind}.{key}"), quantity, errors).map(|amount| (key.clone(), amount))
        };
        of.iter().filter_map(check).collect::<BTreeMap<_, _>>()
    };
    let limits = amounts("limits", resources.limits.as_ref().unwrap_or(&none));
    // A request that was filled in from a broken limit is broken in the same way: tell it once.
    let copied =
        |key: &String, quantity: &Quantity| resources.limits.as_ref().and_then(|all| all.get(key)) == Some(quantity);
    let own = resources.requests.iter().flatten().filter(|(key, quantity)| !copied(key, quantity));
    let requests = amounts("requests", &own.map(|(key, quantity)| (key.clone(), quantity.clone())).collect());
    for (key, request) in requests {
        if limits.get(&key).is_some_and(|limit| request > *limit) {
            let message =
                format!("must be less than or equal to the {key} limit of {}", shown(&resources.limits, &key));
            errors.invalid(format!("{path}.requests.{key}"), shown(&resources.requests, &key), message);
        }
    }
}

fn shown(of: &Option<BTreeMap<String, Quantity>>, key: &str) -> String {
    of.as_ref().and_then(|all| all.get(key)).map(|quantity| quantity.0.clone()).unwrap_or_default()
}

/// The pod as a whole: what its containers want has to be in it.
pub(super) fn check_pod(pod: &Pod, errors: &mut Errors) {
    let Some(own) = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()) else { return };
    check("spec.resources", own, errors);
    for key in KEYS {
        let together = of_containers(pod, key);
        if requested(own, key).is_some_and(|request| request < together) {
            let message = format!("must be at least what the containers request together, {}", amount(key, together));
            errors.invalid(format!("spec.resources.requests.{key}"), shown(&own.requests, key), message);
        }
        let Some(most) = limited(own, key) else { continue };
        for container in containers_in_order(pod) {
            if limit(container, key).is_some_and(|limit| limit > most) {
                let limits = container.resources.as_ref().map_or(&None, |resources| &resources.limits);
                let message = format!(
                    "must be at least the {key} limit of container {}, {}",
                    crate::field::printable(&container.name),
                    shown(limits, key)
                );
                errors.invalid(format!("spec.resources.limits.{key}"), shown(&own.limits, key), message);
            }
        }
    }
}

/// As a person would write it.
fn amount(key: &str, amount: Amount) -> String {
    crate::defaults::quantity_of(key, amount).0
}
