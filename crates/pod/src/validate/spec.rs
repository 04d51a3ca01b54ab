//! The pod as a whole: volumes, names and name resolution, policies, users.

use super::{Errors, containers, node, resources};
use crate::names::{self, LABEL_RULE, SUBDOMAIN_RULE};
use crate::quantity::Amount;
use core::net::IpAddr;
use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec, Volume};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Largest grace period: more would not fit the milliseconds that are counted with elsewhere, seconds.
pub(super) const GRACE_PERIOD_MAX_SECONDS: i64 = i32::MAX as i64;
const ACTIVE_DEADLINE_MAX_SECONDS: i64 = i32::MAX as i64;
/// Largest user or group id.
const ID_MAX: i64 = i32::MAX as i64;
/// NGROUPS_MAX of the kernel.
const SUPPLEMENTAL_GROUPS_MAX: usize = 65_536;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_MAX_CHARS: usize = 2048;
const HOST_PATH_TYPES: [&str; 7] =
    ["DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    let volumes = check_volumes(spec.volumes.as_deref().unwrap_or_default(), errors);
    containers::check(spec, &volumes, errors);
    node::check(spec, errors);
    errors.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    if let Some(seconds) = spec.termination_grace_period_seconds
        && !(0..=GRACE_PERIOD_MAX_SECONDS).contains(&seconds)
    {
        let message = format!("must be 0 to {GRACE_PERIOD_MAX_SECONDS} seconds");
        errors.invalid("spec.terminationGracePeriodSeconds", seconds, message);
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=ACTIVE_DEADLINE_MAX_SECONDS).contains(&seconds)
    {
        let message = format!("must be 1 to {ACTIVE_DEADLINE_MAX_SECONDS} seconds");
        errors.invalid("spec.activeDeadlineSeconds", seconds, message);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let message = "shareProcessNamespace and hostPID cannot both be true: leave one out";
        errors.invalid("spec.shareProcessNamespace", true, message);
    }
    for (path, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            errors.name(path, name, (names::is_label, LABEL_RULE));
        }
    }
    for (index, reference) in spec.image_pull_secrets.iter().flatten().enumerate() {
        let path = format!("spec.imagePullSecrets[{index}].name");
        match reference.name.as_str() {
            "" => errors.missing(path, "expected the name of a Secret"),
            name => errors.name(&path, name, (names::is_subdomain, SUBDOMAIN_RULE)),
        }
    }
    check_dns(spec, errors);
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("spec.hostAliases[{index}]");
        if alias.ip.parse::<IpAddr>().is_err() {
            errors.invalid(format!("{path}.ip"), &alias.ip, "must be an IP address, as in 10.0.0.7 or fd00::7");
        }
        for (number, hostname) in alias.hostnames.iter().flatten().enumerate() {
            errors.name(&format!("{path}.hostnames[{number}]"), hostname, (names::is_subdomain, SUBDOMAIN_RULE));
        }
    }
    if let Some(context) = &spec.security_context {
        check_id("spec.securityContext.runAsUser", context.run_as_user, errors);
        check_id("spec.securityContext.runAsGroup", context.run_as_group, errors);
        let groups = context.supplemental_groups.as_deref().unwrap_or_default();
        if groups.len() > SUPPLEMENTAL_GROUPS_MAX {
            let message = format!("at most {SUPPLEMENTAL_GROUPS_MAX} groups are possible");
            errors.invalid("spec.securityContext.supplementalGroups", format!("{} groups", groups.len()), message);
        }
        for (index, group) in groups.iter().enumerate().take(SUPPLEMENTAL_GROUPS_MAX) {
            check_id(&format!("spec.securityContext.supplementalGroups[{index}]"), Some(*group), errors);
        }
    }
}

/// A user or group id.
pub(super) fn check_id(path: &str, id: Option<i64>, errors: &mut Errors) {
    if let Some(id) = id
        && !(0..=ID_MAX).contains(&id)
    {
        errors.invalid(path, id, format!("must be 0 to {ID_MAX}"));
    }
}

/// The names of all volumes.
fn check_volumes(volumes: &[Volume], errors: &mut Errors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        errors.name(&format!("{path}.name"), &volume.name, (names::is_label, LABEL_RULE));
        if !names.insert(volume.name.clone()) {
            errors.invalid(format!("{path}.name"), &volume.name, "another volume has this name: rename one");
        }
        if volume.empty_dir.is_some() && volume.host_path.is_some() {
            errors.invalid(&path, "emptyDir and hostPath", "may not specify more than 1 volume type");
        }
        if let Some(empty_dir) = &volume.empty_dir {
            check_medium(&format!("{path}.emptyDir.medium"), empty_dir.medium.as_deref().unwrap_or_default(), errors);
            if let Some(limit) = &empty_dir.size_limit {
                resources::check_quantity(&format!("{path}.emptyDir.sizeLimit"), limit, errors);
            }
        }
        if let Some(host_path) = &volume.host_path {
            check_host_path(&format!("{path}.hostPath.path"), &host_path.path, errors);
            errors.one_of(&format!("{path}.hostPath.type"), host_path.type_.as_deref(), &HOST_PATH_TYPES);
        }
    }
    names
}

fn check_medium(path: &str, medium: &str, errors: &mut Errors) {
    match medium {
        "" | "Memory" => {}
        huge if huge == "HugePages"
            || huge.strip_prefix("HugePages-").is_some_and(|size| Amount::parse(size).is_ok()) =>
        {
            errors.invalid(path, huge, "not supported yet: leave it out or set it to Memory");
        }
        other => errors.invalid(path, other, "must be empty (the node's disk) or Memory"),
    }
}

fn check_host_path(path: &str, host_path: &str, errors: &mut Errors) {
    if host_path.is_empty() {
        errors.missing(path, "the path of a file or directory on the node");
    } else if Path::new(host_path).components().any(|part| part == Component::ParentDir) {
        errors.invalid(path, host_path, "must not contain '..'");
    } else if !host_path.starts_with('/') {
        errors.invalid(path, host_path, "must be an absolute path");
    }
}

fn check_dns(spec: &PodSpec, errors: &mut Errors) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    errors.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &policies);
    let none = PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&none);
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let path = "spec.dnsConfig.nameservers";
    if servers.is_empty() && spec.dns_policy.as_deref() == Some("None") {
        errors.missing(path, "with dnsPolicy None there must be at least one name server");
    }
    if servers.len() > NAMESERVERS_MAX {
        errors.invalid(path, format!("{} servers", servers.len()), format!("at most {NAMESERVERS_MAX} are allowed"));
    }
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            errors.invalid(format!("{path}[{index}]"), server, "must be an IP address");
        }
    }
    check_searches(config.searches.as_deref().unwrap_or_default(), errors);
    for (index, option) in config.options.iter().flatten().enumerate() {
        let path = format!("spec.dnsConfig.options[{index}]");
        // Each becomes a word of resolv.conf; a blank or line end in it would begin another.
        let word = |text: &str| !text.chars().any(|c| c.is_whitespace() || c.is_control());
        match option.name.as_deref().unwrap_or_default() {
            "" => errors.missing(format!("{path}.name"), "an option of resolv.conf, as in ndots"),
            name if !word(name) => errors.invalid(format!("{path}.name"), name, "must be one word"),
            _ => {}
        }
        if let Some(value) = option.value.as_deref().filter(|value| !word(value)) {
            errors.invalid(format!("{path}.value"), value, "must be one word");
        }
    }
}

fn check_searches(searches: &[String], errors: &mut Errors) {
    let path = "spec.dnsConfig.searches";
    if searches.len() > SEARCHES_MAX {
        errors.invalid(path, format!("{} domains", searches.len()), format!("at most {SEARCHES_MAX} are allowed"));
    }
    let chars = searches.iter().map(String::len).sum::<usize>() + searches.len().saturating_sub(1);
    if chars > SEARCHES_MAX_CHARS {
        let message = format!("at most {SEARCHES_MAX_CHARS} characters are allowed in all");
        errors.invalid(path, format!("{chars} characters"), message);
    }
    for (index, search) in searches.iter().enumerate() {
        // A trailing dot is usual, a lone one is the root; underscores occur in service domains.
        let domain = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        if search != "." && !names::is_subdomain(domain.trim_matches('-')) {
            errors.invalid(format!("{path}[{index}]"), search, "must be a DNS domain, as in example.com");
        }
    }
}
