use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig};
use cri::v1;

use super::*;

fn adapter() -> Config {
    Config {
        endpoint: "/x.sock".into(),
        pause: b"",
        call_within: Duration::from_secs(1),
        log_max_bytes: 1024,
        log_max_files: 2,
    }
}

fn pod() -> v1::PodSandboxConfig {
    let metadata =
        v1::PodSandboxMetadata { name: "web".into(), namespace: "shop".into(), uid: "u-1".into(), attempt: 0 };
    v1::PodSandboxConfig { metadata: Some(metadata), hostname: "web".into(), ..Default::default() }
}

fn container_body(config: &v1::ContainerConfig, sandbox: &HostConfig) -> Result<ContainerCreateBody, Refused> {
    container::body(&container::Inputs {
        config,
        sandbox_config: &v1::PodSandboxConfig { log_directory: "/logs".into(), ..pod() },
        sandbox_id: "s",
        sandbox,
        image: "busybox",
        image_ref: "sha256:0f".into(),
        image_user: "app:staff",
        adapter: &adapter(),
    })
}

fn with(security: v1::LinuxContainerSecurityContext) -> v1::ContainerConfig {
    let linux = v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    v1::ContainerConfig { linux: Some(linux), ..Default::default() }
}

#[test]
fn docker_never_restarts_and_writes_files_that_have_an_end() {
    let host = container_body(&v1::ContainerConfig::default(), &HostConfig::default()).unwrap().host_config.unwrap();
    assert_eq!(host.restart_policy, Some(no_restarts()));
    let log = host.log_config.unwrap();
    let options = HashMap::from([("max-size".into(), "1024".into()), ("max-file".into(), "2".into())]);
    assert_eq!((log.typ.as_deref(), log.config), (Some("json-file"), Some(options)));
}

#[test]
fn a_user_may_come_from_the_pod_its_group_or_the_image() {
    let number = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    for (user, group, name, expected) in [
        (None, None, "", None),
        (Some(1), None, "", Some("1")),
        (Some(1), Some(2), "", Some("1:2")),
        (None, Some(2), "", Some("app:2")),
        (None, Some(2), "web", Some("web:2")),
        (Some(0), None, "web", Some("0")),
    ] {
        let security = v1::LinuxContainerSecurityContext {
            run_as_user: number(user),
            run_as_group: number(group),
            run_as_username: name.into(),
            ..Default::default()
        };
        let body = container_body(&with(security), &HostConfig::default()).unwrap();
        assert_eq!(body.user.as_deref(), expected, "{user:?} {group:?} {name}");
    }
}

#[test]
fn s_c01_ids_out_of_range_are_refused() {
    for value in [-1, 1 << 31, i64::MIN] {
        let user =
            v1::LinuxContainerSecurityContext { run_as_user: Some(v1::Int64Value { value }), ..Default::default() };
        let groups = v1::LinuxContainerSecurityContext { supplemental_groups: vec![value], ..Default::default() };
        for security in [user, groups] {
            assert!(container_body(&with(security), &HostConfig::default()).is_err(), "{value}");
        }
    }
}

#[test]
fn no_score_is_lower_than_the_sandbox_could_have() {
    for (of_sandbox, asked, given) in [
        (Some(-998), -997, -997),
        (Some(-998), -999, -999),
        (Some(0), -997, 0),
        (Some(0), 500, 500),
        (None, -997, -997),
    ] {
        let resources = v1::LinuxContainerResources { oom_score_adj: asked, ..Default::default() };
        let linux = v1::LinuxContainerConfig { resources: Some(resources), ..Default::default() };
        let config = v1::ContainerConfig { linux: Some(linux), ..Default::default() };
        let sandbox = HostConfig { oom_score_adj: of_sandbox, ..Default::default() };
        let host = container_body(&config, &sandbox).unwrap().host_config.unwrap();
        assert_eq!(host.oom_score_adj, Some(given), "{of_sandbox:?} {asked}");
    }
}

#[test]
fn s_e03_a_profile_that_would_not_be_in_force_is_refused() {
    use v1::security_profile::ProfileType;
    let profile = |kind: ProfileType| v1::LinuxContainerSecurityContext {
        seccomp: Some(v1::SecurityProfile { profile_type: kind.into(), ..Default::default() }),
        ..Default::default()
    };
    let options = |kind| {
        container_body(&with(profile(kind)), &HostConfig::default()).map(|body| body.host_config.unwrap().security_opt)
    };
    assert_eq!(options(ProfileType::Unconfined), Ok(Some(vec!["seccomp=unconfined".into()])));
    assert_eq!(options(ProfileType::RuntimeDefault), Ok(Some(Vec::new())));
    assert!(options(ProfileType::Localhost).is_err());
}

#[test]
fn s_l08_what_cannot_be_mounted_is_refused_by_name() {
    let mount = |container_path: &str, host_path: &str| v1::Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Default::default()
    };
    let relabelled = v1::Mount { selinux_relabel: true, ..mount("/a", "/b") };
    let unknown = v1::Mount { propagation: 9, ..mount("/a", "/b") };
    let bad = [mount("", "/b"), mount("a", "/b"), mount("/", "/b"), mount("/a/../b", "/b"), mount("/proc/x", "/b")];
    for mount in bad.into_iter().chain([mount("/a", "b"), mount("/a", "/b\0"), relabelled, unknown]) {
        let config = v1::ContainerConfig { mounts: vec![mount.clone()], ..Default::default() };
        let error = container_body(&config, &HostConfig::default()).unwrap_err().to_string();
        assert!(error.starts_with("mounts: "), "{mount:?}: {error}");
    }
}

#[test]
fn a_sandbox_that_cannot_be_granted_is_refused_by_name() {
    let refused = |config: &v1::PodSandboxConfig| sandbox::body(config, "pause", 0).unwrap_err().to_string();
    assert!(sandbox::body(&pod(), "pause", 0).is_ok());
    let port = v1::PortMapping { host_port: 80, ..Default::default() };
    let linux = |linux| v1::PodSandboxConfig { linux: Some(linux), ..pod() };
    let dns = v1::DnsConfig { options: vec!["a b".into()], ..Default::default() };
    let options = v1::NamespaceOption { network: v1::NamespaceMode::Target.into(), ..Default::default() };
    let context = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let parent = v1::LinuxPodSandboxConfig { cgroup_parent: "/a/../b".into(), ..Default::default() };
    let shared = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    for (config, field) in [
        (v1::PodSandboxConfig { metadata: None, ..pod() }, "metadata.name"),
        (v1::PodSandboxConfig { hostname: "x".repeat(65), ..pod() }, "hostname"),
        (v1::PodSandboxConfig { port_mappings: vec![port], ..pod() }, "port_mappings.container_port"),
        (v1::PodSandboxConfig { dns_config: Some(dns), ..pod() }, "dns_config"),
        (linux(parent), "cgroup_parent"),
        (linux(shared), "namespace_options.network"),
    ] {
        let error = refused(&config);
        assert!(error.starts_with(field), "{error}");
    }
    let mut forged = pod();
    forged.metadata.as_mut().unwrap().uid = "a_b".into();
    assert!(refused(&forged).starts_with("metadata.uid"));
}
