//! Containers: image, environment, ports, resources, mounts, privileges.

use super::spec::check_id;
use super::{Errors, ports, probes, resources, restart};
use crate::accessors::{image, is_sidecar};
use crate::env::{FIELD_PATHS, subscript};
use crate::image_name;
use crate::names::{self, ENV_RULE, LABEL_RULE};
use crate::quantity::Amount;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVarSource, PodSpec, ResourceFieldSelector, SecurityContext, VolumeMount,
};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Every capability of Linux, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];
/// Far more than any node could run beside each other; it bounds what one manifest can ask for.
const CONTAINERS_MAX: usize = 500;
const SYS_ADMIN: &str = "SYS_ADMIN";
const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// What of the rest of the pod decides whether a container is right.
pub(super) struct Scope<'a> {
    pub spec: &'a PodSpec,
    volumes: &'a BTreeSet<String>,
    /// Names of all containers.
    names: BTreeSet<&'a str>,
}

impl Scope<'_> {
    /// The pod's grace period, as defaults left it.
    pub(super) fn grace_seconds(&self) -> i64 {
        self.spec.termination_grace_period_seconds.unwrap_or(0)
    }
}

pub(super) fn check(spec: &PodSpec, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if spec.containers.is_empty() {
        errors.missing("spec.containers", "a pod needs at least one container");
    }
    let count = init.len() + spec.containers.len();
    if count > CONTAINERS_MAX {
        let message = format!("at most {CONTAINERS_MAX} are allowed in a pod");
        return errors.invalid("spec.containers", format!("{count} containers"), message);
    }
    let names = init.iter().chain(&spec.containers).map(|container| container.name.as_str()).collect();
    let scope = Scope { spec, volumes, names };
    let mut seen = BTreeSet::new();
    for (index, container) in init.iter().enumerate() {
        let path = format!("spec.initContainers[{index}]");
        check_name(&path, container, &mut seen, errors);
        check_container(&path, container, &scope, errors);
        match is_sidecar(container) {
            true => probes::check(&path, container, &scope, errors),
            false => probes::check_absent(&path, container, errors),
        }
        // Init containers run one after the other: each may have a port that others have too.
        ports::check_host(&path, container, &mut BTreeSet::new(), errors);
    }
    let mut host_ports = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
        check_name(&path, container, &mut seen, errors);
        check_container(&path, container, &scope, errors);
        probes::check(&path, container, &scope, errors);
        ports::check_host(&path, container, &mut host_ports, errors);
    }
}

fn check_name<'a>(path: &str, container: &'a Container, seen: &mut BTreeSet<&'a str>, errors: &mut Errors) {
    errors.name(&format!("{path}.name"), &container.name, (names::is_label, LABEL_RULE));
    if !container.name.is_empty() && !seen.insert(&container.name) {
        errors.invalid(format!("{path}.name"), &container.name, "another container has this name: rename one");
    }
}

/// What holds for a container of whatever kind.
fn check_container(path: &str, container: &Container, scope: &Scope<'_>, errors: &mut Errors) {
    check_image(path, container, errors);
    ports::check(path, container, scope, errors);
    check_env(path, container, &scope.names, errors);
    if let Some(wanted) = &container.resources {
        resources::check(&format!("{path}.resources"), wanted, errors);
    }
    check_mounts(path, container, scope.volumes, errors);
    check_termination_message(path, container, errors);
    restart::check(path, container, errors);
    if let Some(directory) = container.working_dir.as_deref().filter(|directory| !directory.is_empty())
        && !directory.starts_with('/')
    {
        errors.invalid(format!("{path}.workingDir"), directory, "must be an absolute path");
    }
    if let Some(context) = &container.security_context {
        check_security(&format!("{path}.securityContext"), context, errors);
    }
}

fn check_termination_message(path: &str, container: &Container, errors: &mut Errors) {
    let policy = container.termination_message_policy.as_deref();
    errors.one_of(&format!("{path}.terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    let Some(file) = container.termination_message_path.as_deref().filter(|file| !file.is_empty()) else { return };
    let parts = Path::new(file).components();
    if !file.starts_with('/') || parts.clone().any(|part| part == Component::ParentDir) || parts.count() == 1 {
        let message = "must be the absolute path of a file, without '..'";
        errors.invalid(format!("{path}.terminationMessagePath"), file, message);
    }
}

fn check_image(path: &str, container: &Container, errors: &mut Errors) {
    let image = image(container);
    if image.is_empty() {
        errors.missing(format!("{path}.image"), "an image reference, as in nginx:1.27");
    } else if let Err(error) = image_name::normalize(image) {
        errors.invalid(format!("{path}.image"), image, error.to_string());
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(&format!("{path}.imagePullPolicy"), container.image_pull_policy.as_deref(), &policies);
}

fn check_env(path: &str, container: &Container, all: &BTreeSet<&str>, errors: &mut Errors) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = format!("{path}.env[{index}]");
        errors.name(&format!("{path}.name"), &variable.name, (names::is_env, ENV_RULE));
        let Some(source) = &variable.value_from else { continue };
        let path = format!("{path}.valueFrom");
        if variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
            errors.invalid(&path, &variable.name, "may not be specified when value is not empty");
        }
        check_source(&path, source, all, errors);
    }
}

fn check_source(path: &str, source: &EnvVarSource, all: &BTreeSet<&str>, errors: &mut Errors) {
    let given = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    match given.into_iter().filter(|given| *given).count() {
        0 => errors.missing(path, "one of fieldRef and resourceFieldRef"),
        1 => {}
        count => errors.invalid(path, format!("{count} sources"), "may not have more than one field specified"),
    }
    if let Some(field) = &source.field_ref {
        let known = FIELD_PATHS.contains(&field.field_path.as_str())
            || subscript(&field.field_path).is_some_and(|(map, key)| {
                matches!(map, "metadata.labels" | "metadata.annotations") && names::is_qualified(&key.to_lowercase())
            });
        if !known {
            let message = format!(
                "must be one of {}, metadata.labels['KEY'], metadata.annotations['KEY']",
                FIELD_PATHS.join(", ")
            );
            errors.invalid(format!("{path}.fieldRef.fieldPath"), &field.field_path, message);
        }
        errors.one_of(&format!("{path}.fieldRef.apiVersion"), field.api_version.as_deref(), &["v1"]);
    }
    if let Some(selector) = &source.resource_field_ref {
        check_selector(&format!("{path}.resourceFieldRef"), selector, all, errors);
    }
}

fn check_selector(path: &str, selector: &ResourceFieldSelector, all: &BTreeSet<&str>, errors: &mut Errors) {
    if let Some(name) = selector.container_name.as_deref().filter(|name| !name.is_empty() && !all.contains(name)) {
        errors.invalid(format!("{path}.containerName"), name, "no container of the pod has this name");
    }
    let resource = selector.resource.split_once('.').filter(|(kind, _)| matches!(*kind, "limits" | "requests"));
    let divisors: &[&str] = match resource {
        Some((_, "cpu")) => &CPU_DIVISORS,
        Some((_, "memory" | "ephemeral-storage")) => &BYTE_DIVISORS,
        _ => {
            let message = "must be limits. or requests. and one of cpu, memory, ephemeral-storage";
            return errors.invalid(format!("{path}.resource"), &selector.resource, message);
        }
    };
    let Some(divisor) = &selector.divisor else { return };
    let amount = Amount::try_from(divisor);
    let allowed = amount
        .is_ok_and(|amount| amount.is_zero() || divisors.iter().any(|allowed| Amount::parse(allowed) == Ok(amount)));
    if !allowed {
        errors.invalid(format!("{path}.divisor"), &divisor.0, format!("must be one of {}", divisors.join(", ")));
    }
}

fn check_mounts(path: &str, container: &Container, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    let mut targets = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if mount.name.is_empty() {
            errors.missing(format!("{path}.name"), "the name of a volume of the pod");
        } else if !volumes.contains(&mount.name) {
            let declared = volumes.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
            let declared = if declared.is_empty() { "none" } else { &declared };
            let message = format!("no volume of this name in spec.volumes (there: {})", crate::field::escape(declared));
            errors.invalid(format!("{path}.name"), &mount.name, message);
        }
        check_mount_path(&path, mount, &mut targets, errors);
        let propagation = mount.mount_propagation.as_deref();
        errors.one_of(&format!("{path}.mountPropagation"), propagation, &["None", "HostToContainer", "Bidirectional"]);
        if propagation == Some("Bidirectional") && !privileged {
            let message = "is available only to privileged containers";
            errors.invalid(format!("{path}.mountPropagation"), "Bidirectional", message);
        }
    }
}

fn check_mount_path(path: &str, mount: &VolumeMount, targets: &mut BTreeSet<PathBuf>, errors: &mut Errors) {
    let path = format!("{path}.mountPath");
    let target = mount.mount_path.as_str();
    if target.is_empty() {
        return errors.missing(path, "the absolute path in the container at which the volume appears");
    }
    let parts = Path::new(target).components();
    if !target.starts_with('/') || parts.clone().any(|part| part == Component::ParentDir) {
        return errors.invalid(path, target, "must be an absolute path without '..'");
    }
    if parts.clone().count() == 1 {
        return errors.invalid(path, target, "must not be the root of the container");
    }
    // Collected from its components, `/a/` and `/a//` are `/a`.
    if !targets.insert(parts.collect()) {
        errors.invalid(path, target, "must be unique: another volume is mounted there");
    }
}

fn check_security(path: &str, context: &SecurityContext, errors: &mut Errors) {
    check_id(&format!("{path}.runAsUser"), context.run_as_user, errors);
    check_id(&format!("{path}.runAsGroup"), context.run_as_group, errors);
    let none = Capabilities::default();
    let capabilities = context.capabilities.as_ref().unwrap_or(&none);
    let bare = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).to_owned();
    for (kind, list) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        for (index, name) in list.iter().flatten().enumerate() {
            let known = name == "ALL" || CAPABILITIES.contains(&bare(name).as_str());
            if !known {
                let message =
                    "is not a capability: expected ALL or one of capabilities(7), as in NET_ADMIN or CAP_NET_ADMIN";
                errors.invalid(format!("{path}.capabilities.{kind}[{index}]"), name, message);
            }
        }
    }
    if context.allow_privilege_escalation == Some(false) {
        let path = format!("{path}.allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            errors.invalid(&path, false, "cannot be false when privileged is true");
        }
        if capabilities.add.iter().flatten().any(|name| bare(name) == SYS_ADMIN) {
            errors.invalid(&path, false, "cannot be false when capability SYS_ADMIN is added");
        }
    }
}
