//! The API's defaults, so that everything downstream reads one meaning.

use crate::accessors::image;
use crate::image_name::default_pull_policy;
use crate::qos::KEYS;
use crate::quantity::Amount;
use crate::resources::of_containers;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction, Pod, PodSecurityContext, PodSpec, Probe, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

pub const RESTART_POLICY: &str = "Always";
pub const DNS_POLICY: &str = "ClusterFirst";
pub const SCHEDULER: &str = "default-scheduler";
pub const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
pub const TERMINATION_MESSAGE_POLICY: &str = "File";
pub const PROTOCOL: &str = "TCP";
pub const PROBE_TIMEOUT_SECONDS: u32 = 1;
pub const PROBE_PERIOD_SECONDS: u32 = 10;
pub const PROBE_SUCCESS_THRESHOLD: u32 = 1;
pub const PROBE_FAILURE_THRESHOLD: u32 = 3;
pub const HTTP_PATH: &str = "/";
pub const HTTP_SCHEME: &str = "HTTP";
const GRACE_PERIOD_SECONDS: i64 = 30;

/// Fills in what the manifest leaves open. Doing it twice changes nothing.
pub fn apply(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    pod_spec(spec);
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        apply_to_container(container);
        if host_network {
            container.ports.iter_mut().flatten().for_each(publish);
        }
    }
    for volume in spec.volumes.iter_mut().flatten() {
        apply_to_volume(volume);
    }
    // After its containers, as it requests what they do together.
    apply_to_pod_resources(pod);
}

/// A pod that says anything of its resources requests what its containers do, or else its limit.
fn apply_to_pod_resources(pod: &mut Pod) {
    let together = KEYS.map(|key| (key, of_containers(pod, key)));
    let Some(own) = pod.spec.as_mut().and_then(|spec| spec.resources.as_mut()) else { return };
    for (key, together) in together.into_iter().filter(|(_, together)| !together.is_zero()) {
        own.requests.get_or_insert_default().entry(key.to_owned()).or_insert_with(|| quantity_of(key, together));
    }
    request_what_is_limited(own.limits.as_ref(), &mut own.requests);
}

/// An amount in the usual unit of its resource: cores or thousandths of them, bytes.
pub(crate) fn quantity_of(key: &str, amount: Amount) -> Quantity {
    match (key, amount.millis()) {
        ("cpu", millis) if millis % 1_000 != 0 => Quantity(format!("{millis}m")),
        _ => Quantity(amount.units().to_string()),
    }
}

fn pod_spec(spec: &mut PodSpec) {
    set_text(&mut spec.restart_policy, RESTART_POLICY);
    set_text(&mut spec.dns_policy, DNS_POLICY);
    set_text(&mut spec.scheduler_name, SCHEDULER);
    spec.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD_SECONDS);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
}

fn apply_to_container(container: &mut Container) {
    let policy = default_pull_policy(image(container));
    set_text(&mut container.image_pull_policy, policy);
    set_text(&mut container.termination_message_path, TERMINATION_MESSAGE_PATH);
    set_text(&mut container.termination_message_policy, TERMINATION_MESSAGE_POLICY);
    for port in container.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, PROTOCOL);
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|source| source.field_ref.as_mut()) {
            set_text(&mut field.api_version, "v1");
        }
    }
    let probes = [&mut container.startup_probe, &mut container.liveness_probe, &mut container.readiness_probe];
    probes.into_iter().flatten().for_each(apply_to_probe);
    if let Some(hooks) = &mut container.lifecycle {
        for hook in [&mut hooks.post_start, &mut hooks.pre_stop].into_iter().flatten() {
            hook.http_get.iter_mut().for_each(apply_to_http_get);
        }
    }
    let resources = container.resources.get_or_insert_default();
    request_what_is_limited(resources.limits.as_ref(), &mut resources.requests);
}

/// What listens in the machine's network is published under its own number.
fn publish(port: &mut ContainerPort) {
    if port.host_port.unwrap_or(0) == 0 {
        port.host_port = Some(port.container_port);
    }
}

fn apply_to_probe(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, PROBE_TIMEOUT_SECONDS);
    set_number(&mut probe.period_seconds, PROBE_PERIOD_SECONDS);
    set_number(&mut probe.success_threshold, PROBE_SUCCESS_THRESHOLD);
    set_number(&mut probe.failure_threshold, PROBE_FAILURE_THRESHOLD);
    probe.http_get.iter_mut().for_each(apply_to_http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn apply_to_http_get(action: &mut HTTPGetAction) {
    set_text(&mut action.path, HTTP_PATH);
    set_text(&mut action.scheme, HTTP_SCHEME);
}

/// A limit without a request requests as much.
fn request_what_is_limited(
    limits: Option<&BTreeMap<String, Quantity>>,
    requests: &mut Option<BTreeMap<String, Quantity>>,
) {
    for (key, limit) in limits.into_iter().flatten() {
        requests.get_or_insert_default().entry(key.clone()).or_insert_with(|| limit.clone());
    }
}

fn apply_to_volume(volume: &mut Volume) {
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    let nothing_but_a_name = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == nothing_but_a_name {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
}

/// Zero counts as absent, as it does to the API.
fn set_number(field: &mut Option<i32>, default: u32) {
    if field.unwrap_or(0) == 0 {
        *field = i32::try_from(default).ok();
    }
}

/// Empty counts as absent, as it does to the API.
fn set_text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_open_is_filled_in() {
        let mut pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/x"}}],
                "containers": [
                    {"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
                     "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}},
                    {"name": "b", "image": "nginx:1", "imagePullPolicy": "Never"},
                    {"name": "c", "image": "nginx:1"}
                ]
            }
        }))
        .unwrap();
        apply(&mut pod);
        let once = pod.clone();
        apply(&mut pod);
        assert_eq!(pod, once, "idempotent");

        let spec = pod.spec.unwrap();
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.enable_service_links, Some(true));
        let policies: Vec<_> = spec.containers.iter().map(|c| c.image_pull_policy.as_deref().unwrap()).collect();
        assert_eq!(policies, ["Always", "Never", "IfNotPresent"]);
        let first = &spec.containers[0];
        assert_eq!(first.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
        let requests = first.resources.as_ref().unwrap().requests.as_ref().unwrap();
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("500m", "1Gi"));
        assert_eq!(first.termination_message_path.as_deref(), Some("/dev/termination-log"));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes[0].empty_dir, Some(EmptyDirVolumeSource::default()));
        assert_eq!(volumes[1].host_path.as_ref().unwrap().type_.as_deref(), Some(""));
        assert_eq!(volumes[1].empty_dir, None);
    }

    #[test]
    fn a_pod_requests_what_its_containers_do_or_its_limit() {
        let mut pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
                "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]
            }
        }))
        .unwrap();
        apply(&mut pod);
        let requests = pod.spec.unwrap().resources.unwrap().requests.unwrap();
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("1500m", "1Gi"));
    }
}
