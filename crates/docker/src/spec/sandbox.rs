//! A pod's own container.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, PortBinding};
use cri::v1;

use super::namespaces::{self, Scope};
use cri::Refused;

use super::{given, no_restarts, security};
use crate::labels;
use crate::pause::{PROGRAM, USER};

/// sethostname(2) takes 64 bytes.
const MAX_HOSTNAME_BYTES: usize = 64;
/// More than this are no pod's.
const MAX_PORTS: usize = 1024;
/// The least there is: it does nothing.
const CPU_SHARES: i64 = 2;
/// Killed after everything else: with it the pod loses its network.
pub(crate) const OOM_SCORE: i64 = -998;

/// What Docker is told to make. `oom_score` is the wanted one or the lowest that can be had.
///
/// # Errors
/// The first field that cannot be granted.
pub(crate) fn body(config: &v1::PodSandboxConfig, image: &str, oom_score: i64) -> Result<ContainerCreateBody, Refused> {
    check(config)?;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let mut host = HostConfig {
        cgroup_parent: given(&linux.cgroup_parent),
        cpu_shares: Some(CPU_SHARES),
        oom_score_adj: Some(oom_score),
        restart_policy: Some(no_restarts()),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        readonly_rootfs: Some(true),
        // What has no rights at all needs no filter, which takes Docker some time to compile.
        security_opt: Some(vec!["no-new-privileges".to_owned(), "seccomp=unconfined".to_owned()]),
        sysctls: Some(linux.sysctls.into_iter().collect()),
        ..Default::default()
    };
    let network = namespaces::of_sandbox(context.namespace_options.as_ref(), &mut host)?;
    if let Some(dns) = &config.dns_config {
        cri::resolver::text(dns).map_err(|fault| Refused::new("dns_config", fault))?;
        // As much as Docker can be told; what its own file lacks is written into it later.
        (host.dns, host.dns_search) = (Some(dns.servers.clone()), Some(dns.searches.clone()));
        host.dns_options = Some(dns.options.clone());
    }
    let mut exposed = Vec::new();
    if network == Scope::Pod {
        let (ports, bindings) = ports(config)?;
        (exposed, host.port_bindings) = (ports, Some(bindings));
    }
    let labels = labels::join(&config.labels, &config.annotations, [(labels::TYPE, labels::TYPE_SANDBOX.to_owned())]);
    Ok(ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec![PROGRAM.to_owned()]),
        user: Some(USER.to_owned()),
        hostname: given(&config.hostname).filter(|_| network == Scope::Pod),
        exposed_ports: Some(exposed),
        labels: Some(labels),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        host_config: Some(host),
        ..Default::default()
    })
}

fn check(config: &v1::PodSandboxConfig) -> Result<(), Refused> {
    let metadata = config.metadata.clone().unwrap_or_default();
    for (field, part) in [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)] {
        // They become parts of a name.
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) {
            let fault = format!("{part:?}: expected letters, digits, '.' and '-'");
            return Err(Refused::new(&format!("metadata.{field}"), fault));
        }
    }
    let hostname = &config.hostname;
    if hostname.len() > MAX_HOSTNAME_BYTES || hostname.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let fault = format!("{hostname:?}: expected at most {MAX_HOSTNAME_BYTES} bytes without blanks");
        return Err(Refused::new("hostname", fault));
    }
    let Some(linux) = &config.linux else { return Ok(()) };
    if linux.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(Refused::new("cgroup_parent", format!("{:?}: expected a path without '..'", linux.cgroup_parent)));
    }
    let profile = linux.security_context.as_ref().and_then(|security| security.seccomp.as_ref());
    security::seccomp(profile).map(drop)
}

type Bindings = HashMap<String, Option<Vec<PortBinding>>>;

/// The ports of the machine's that lead into the pod.
fn ports(config: &v1::PodSandboxConfig) -> Result<(Vec<String>, Bindings), Refused> {
    let asked: Vec<_> = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).collect();
    if asked.len() > MAX_PORTS {
        let fault = format!("{} host ports: at most {MAX_PORTS} are possible", asked.len());
        return Err(Refused::new("port_mappings", fault));
    }
    let mut bindings = Bindings::new();
    for mapping in asked {
        for (field, port) in [("host_port", mapping.host_port), ("container_port", mapping.container_port)] {
            if !(1..=65_535).contains(&port) {
                let fault = format!("{port}: expected 1 to 65535");
                return Err(Refused::new(&format!("port_mappings.{field}"), fault));
            }
        }
        let protocol = match v1::Protocol::try_from(mapping.protocol) {
            Ok(v1::Protocol::Tcp) => "tcp",
            Ok(v1::Protocol::Udp) => "udp",
            Ok(v1::Protocol::Sctp) => "sctp",
            Err(_) => {
                return Err(Refused::new("port_mappings.protocol", format!("{} is unknown", mapping.protocol)));
            }
        };
        let binding = PortBinding { host_ip: given(&mapping.host_ip), host_port: Some(mapping.host_port.to_string()) };
        let of_port = bindings.entry(format!("{}/{protocol}", mapping.container_port)).or_default();
        of_port.get_or_insert_default().push(binding);
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    exposed.sort();
    Ok((exposed, bindings))
}
