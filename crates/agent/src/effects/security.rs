//! Security contexts, pod's and container's joined.

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};

use super::image::ImageUser;

/// Files of /proc and /sys that tell or do what no container needs; every kubelet hides these.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The sandbox's own.
pub(super) fn of_sandbox(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context.run_as_user.map(number),
        run_as_group: context.run_as_group.map(number),
        supplemental_groups: groups(&context),
        privileged: pod::containers_in_order(pod).any(is_privileged),
        seccomp: Some(unconfined()),
        ..Default::default()
    }
}

/// A container's; its own settings come before the pod's.
pub(super) fn of_container(pod: &Pod, container: &Container) -> v1::LinuxContainerSecurityContext {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces(pod)),
        run_as_user: own.run_as_user.or(of_pod.run_as_user).map(number),
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(number),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: MASKED_PATHS.map(str::to_owned).to_vec(),
        readonly_paths: READONLY_PATHS.map(str::to_owned).to_vec(),
        seccomp: Some(unconfined()),
        ..Default::default()
    }
}

/// Whether the container must not run as root; then who the image's user is matters.
pub(super) fn must_not_be_root(pod: &Pod, container: &Container) -> bool {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_non_root);
    own.or(pod_context(pod).run_as_non_root) == Some(true)
}

/// # Errors
/// The container would run as root, or as someone of whom that cannot be told.
pub(super) fn verify_not_root(pod: &Pod, container: &Container, image_user: &ImageUser) -> Result<(), String> {
    let own = container.security_context.clone().unwrap_or_default();
    match (own.run_as_user.or(pod_context(pod).run_as_user), image_user) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Id(0)) => Err("container has runAsNonRoot and image will run as root".to_owned()),
        (None, ImageUser::Id(_)) => Ok(()),
        (None, ImageUser::Name(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        )),
    }
}

fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod::spec(pod);
    let shared = |host: Option<bool>| if host == Some(true) { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => v1::NamespaceMode::Node,
        (_, Some(true)) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: shared(spec.host_network) as i32,
        pid: pid as i32,
        ipc: shared(spec.host_ipc) as i32,
        ..Default::default()
    }
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod::spec(pod).security_context.clone().unwrap_or_default()
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.supplemental_groups.iter().flatten().copied().chain(context.fs_group).collect()
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context: &SecurityContext| context.privileged) == Some(true)
}

fn unconfined() -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::Unconfined as i32,
        localhost_ref: String::new(),
    }
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_as_non_root_table() {
        let cases = [
            (Some(0), ImageUser::Id(7), false),
            (Some(1000), ImageUser::Id(0), true),
            (None, ImageUser::Id(0), false),
            (None, ImageUser::Id(1000), true),
            (None, ImageUser::Name("web".into()), false),
        ];
        for (run_as_user, image_user, allowed) in cases {
            let context = SecurityContext { run_as_user, run_as_non_root: Some(true), ..SecurityContext::default() };
            let container = Container { security_context: Some(context), ..Container::default() };
            assert!(must_not_be_root(&Pod::default(), &container));
            let verdict = verify_not_root(&Pod::default(), &container, &image_user);
            assert_eq!(verdict.is_ok(), allowed, "{run_as_user:?} {image_user:?} {verdict:?}");
        }
    }
}
