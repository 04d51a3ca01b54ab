//! The environment of a container, and the `$(VAR)` references in it.

use crate::accessors::{container as container_named, name, namespace, spec, uid};
use crate::qos::{limit, request};
use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, EnvVar, ObjectFieldSelector, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// What the node can give to pods; stands in for a limit that a container does not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

/// What the environment needs that the pod does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvFacts {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    pub node_allocatable: Allocatable,
}

/// A variable whose value cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("env {variable}: unsupported field path {path:?}")]
    FieldPath { variable: String, path: String },
    #[error("env {variable}: unsupported resource {resource:?}")]
    Resource { variable: String, resource: String },
    #[error("env {variable}: no container named {container:?} in the pod")]
    Container { variable: String, container: String },
    #[error("env {variable}: values from {source_kind} are not supported yet")]
    Source { variable: String, source_kind: &'static str },
}

/// The container's variables with their values, each name once, in the order of the manifest. A name given twice has its
/// last value, and stands where it was last given.
///
/// `$(VAR)` refers to variables given earlier; `$$` is a dollar sign; what cannot be resolved stays as written.
pub fn container_env(pod: &Pod, container: &Container, facts: &EnvFacts) -> Result<Vec<(String, String)>, EnvError> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    let variables = container.env.as_deref().unwrap_or_default();
    for variable in variables {
        let value = match variable.value.as_deref() {
            None | Some("") => from_source(pod, container, variable, facts)?,
            Some(text) => expand(text, |name| values.get(name).cloned()),
        };
        values.insert(&variable.name, value);
    }
    let mut list = Vec::with_capacity(values.len());
    for variable in variables.iter().rev() {
        // Taken from the end, so that the position of a repeated name is its last.
        if let Some(value) = values.remove(variable.name.as_str()) {
            list.push((variable.name.clone(), value));
        }
    }
    list.reverse();
    Ok(list)
}

/// Expands `$(VAR)` in a command or its arguments by the container's final environment.
pub fn expand_args(args: &[String], env: &[(String, String)]) -> Vec<String> {
    let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    args.iter().map(|arg| expand(arg, lookup)).collect()
}

/// `$(VAR)` becomes its value, or stays if there is none; `$$` becomes `$`; any other `$` stays. Values are not expanded again.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        match rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            Some((name, after)) => {
                match lookup(name) {
                    Some(value) => out.push_str(&value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn from_source(pod: &Pod, container: &Container, variable: &EnvVar, facts: &EnvFacts) -> Result<String, EnvError> {
    let Some(source) = &variable.value_from else { return Ok(String::new()) };
    let unsupported = |source_kind| EnvError::Source { variable: variable.name.clone(), source_kind };
    if let Some(field) = &source.field_ref {
        return from_field(pod, field, facts)
            .ok_or_else(|| EnvError::FieldPath { variable: variable.name.clone(), path: field.field_path.clone() });
    }
    if let Some(selector) = &source.resource_field_ref {
        let of = match selector.container_name.as_deref() {
            None | Some("") => container,
            Some(name) => container_named(pod, name)
                .ok_or_else(|| EnvError::Container { variable: variable.name.clone(), container: name.to_owned() })?,
        };
        return from_resource(of, selector, facts.node_allocatable).ok_or_else(|| EnvError::Resource {
            variable: variable.name.clone(),
            resource: selector.resource.clone(),
        });
    }
    if source.config_map_key_ref.is_some() {
        return Err(unsupported("config maps"));
    }
    if source.secret_key_ref.is_some() {
        return Err(unsupported("secrets"));
    }
    if source.file_key_ref.is_some() {
        return Err(unsupported("files"));
    }
    Ok(String::new())
}

/// A label or annotation that is not there is empty.
fn from_field(pod: &Pod, field: &ObjectFieldSelector, facts: &EnvFacts) -> Option<String> {
    let of = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((map, key)) = subscript(&field.field_path) {
        return match map {
            "metadata.labels" => Some(of(&pod.metadata.labels, key)),
            "metadata.annotations" => Some(of(&pod.metadata.annotations, key)),
            _ => None,
        };
    }
    Some(match field.field_path.as_str() {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => uid(pod).to_owned(),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return None,
    })
}

/// `metadata.labels['key']` as its two parts.
pub(crate) fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// Field paths that an environment variable may name, besides `metadata.labels['…']` and `metadata.annotations['…']`.
pub(crate) const FIELD_PATHS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn from_resource(container: &Container, selector: &ResourceFieldSelector, node: Allocatable) -> Option<String> {
    let (kind, resource) = selector.resource.split_once('.')?;
    let unlimited = match resource {
        "cpu" => node.cpu_millis,
        "memory" => node.memory_bytes,
        "ephemeral-storage" => node.ephemeral_storage_bytes,
        _ => return None,
    };
    // cpu is counted in thousandths, so that a divisor of 1m means something; everything else in whole units.
    let count = |amount: Amount| if resource == "cpu" { amount.millis() } else { amount.units() };
    let value = match kind {
        "limits" => limit(container, resource).map_or(unlimited, count),
        "requests" => request(container, resource).map_or(0, count),
        _ => return None,
    };
    let divisor = selector.divisor.as_ref().and_then(|divisor| Amount::try_from(divisor).ok());
    let divisor =
        divisor.filter(|divisor| *divisor > Amount::ZERO).map_or(if resource == "cpu" { 1000 } else { 1 }, count);
    Some((value.max(0) as u64).div_ceil(divisor as u64).to_string())
}

#[cfg(test)]
mod tests;
