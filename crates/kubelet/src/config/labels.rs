//! `--node-labels`: what a node may say of itself.

use super::{ConfigError, value_error};
use std::collections::BTreeMap;

const FLAG: &str = "--node-labels";
/// Beneath these names labels speak for the whole system; a node may only set the ones that are meant for it.
const RESERVED: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Names of which, and beneath which, everything is allowed.
const OWN: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const ALLOWED: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Reads `key=value` pairs; a later one of the same key wins.
pub(super) fn node_labels(pairs: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    pairs.iter().map(|pair| pair.trim()).filter(|pair| !pair.is_empty()).map(label).collect()
}

fn label(pair: &str) -> Result<(String, String), ConfigError> {
    let (key, value) = pair.split_once('=').ok_or_else(|| value_error(FLAG, pair, "expected key=value"))?;
    let (key, value) = (key.trim(), value.trim());
    if !pod::names::is_qualified(key) {
        return Err(value_error(FLAG, key, format!("a label's key {}", pod::names::QUALIFIED_RULE)));
    }
    if !pod::names::is_label_value(value) {
        return Err(value_error(FLAG, value, format!("a label's value {}", pod::names::LABEL_VALUE_RULE)));
    }
    if !may_set(key) {
        let expected = format!(
            "labels of kubernetes.io and k8s.io are reserved; a node may set those of {} and {}",
            OWN.join(", "),
            ALLOWED.join(", ")
        );
        return Err(value_error(FLAG, key, expected));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn may_set(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let beneath =
        |parent: &&str| domain == *parent || domain.strip_suffix(parent).is_some_and(|sub| sub.ends_with('.'));
    !RESERVED.iter().any(&beneath) || OWN.iter().any(beneath) || ALLOWED.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, String>, String> {
        let pairs: Vec<String> = text.split(',').map(String::from).collect();
        node_labels(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_pairs() {
        let labels = read("disk=ssd, rack = 7,empty=,disk=nvme,").unwrap();
        let expected = [("disk", "nvme"), ("empty", ""), ("rack", "7")];
        assert!(labels.iter().map(|(key, value)| (&**key, &**value)).eq(expected), "{labels:?}");
    }

    #[test]
    fn s_h03_wrong_labels_are_refused() {
        for (text, part) in [
            ("disk", "expected key=value"),
            ("-disk=ssd", "a label's key"),
            ("=ssd", "a label's key"),
            ("disk=a b", "a label's value"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(FLAG) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_systems_own_labels_are_not_for_a_node_to_set() {
        for key in [
            "kubernetes.io/os",
            "kubelet.kubernetes.io/x",
            "a.kubelet.kubernetes.io/x",
            "node.kubernetes.io/x",
            "topology.kubernetes.io/zone",
            "example.com/x",
            "notkubernetes.io/x",
            "x",
        ] {
            assert!(may_set(key), "{key}");
        }
        for key in
            ["kubernetes.io/x", "node-role.kubernetes.io/master", "k8s.io/x", "a.k8s.io/x", "topology.kubernetes.io/x"]
        {
            assert!(!may_set(key), "{key}");
        }
    }
}
