//! What callers ask of a pod most often, with the API's defaults for what is absent.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Used when the spec does not say (API default), seconds.
const DEFAULT_GRACE_PERIOD_SECONDS: i64 = 30;

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// `metadata.name`, empty if absent.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `metadata.namespace`; `default` if absent or empty.
pub fn namespace(pod: &Pod) -> &str {
    match pod.metadata.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}

/// `metadata.uid`, empty if absent.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `<name>_<namespace>`. Two pods with one full name never run at once. An underscore is in neither part, so it is unambiguous.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}", name(pod), namespace(pod))
}

/// The spec; an empty one if absent, which validation never lets through.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// All containers in the order in which they begin: init containers and sidecars as in the spec, then the regular ones.
pub fn containers_in_order(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(&spec(pod).containers)
}

/// Init containers and sidecars, in the order of the spec.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// The container of that name, of whatever kind.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    containers_in_order(pod).find(|container| container.name == name)
}

/// Whether an init container stays beside the regular ones: its restart policy is `Always`. Asked of a regular container it
/// means nothing.
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// The containers that run side by side once the pod is initialized: sidecars, then the regular ones.
pub fn long_lived(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&spec(pod).containers)
}

/// The pod lives in the machine's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// The image as given, empty if absent.
pub fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

/// Anything but the three known words counts as `Always`, the API's default; validation lets no others through.
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    match spec(pod).restart_policy.as_deref() {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        _ => RestartPolicy::Always,
    }
}

/// `spec.terminationGracePeriodSeconds`, 30 if absent, never negative.
pub fn grace_period_seconds(pod: &Pod) -> u64 {
    let seconds = spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_PERIOD_SECONDS);
    u64::try_from(seconds).unwrap_or(0)
}
