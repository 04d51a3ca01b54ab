//! A pod's sandbox.

use std::path::Path;

use cri::keys::{self, PodKey};
use cri::{Code, v1};
use k8s_openapi::api::core::v1::Pod;
use lifecycle::{Done, Outcome};
use pod::{paths, reasons};

use super::{Job, Performed, World, failed, retry, security, wanted};
use crate::DnsConfig;
use crate::observe;

/// resolv.conf(5): what resolvers read of it.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// A resolver file is not longer.
const RESOLV_CONF_MAX_BYTES: usize = 64 << 10;

pub(super) async fn run(world: &World, job: &Job, attempt: u32) -> Performed {
    Performed::new(make(world, job, attempt).await)
}

async fn make(world: &World, job: &Job, attempt: u32) -> Outcome {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return outcome,
    };
    let config = match config(world, &pod, attempt) {
        Ok(config) => config,
        Err(message) => return retry(reasons::CONFIG_POD_SANDBOX_ERROR, message),
    };
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let id = match world.runtime.run_pod_sandbox(request).await {
        Ok(response) => response.pod_sandbox_id,
        Err(error) if error.code == Code::AlreadyExists => match existing(world, &job.key, attempt).await {
            Ok(Some(id)) => id,
            Ok(None) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
            Err(error) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
        },
        Err(error) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
    };
    let status =
        world.runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false });
    match status.await {
        Ok(status) => Outcome::Ok(Done::Sandbox { id, ips: observe::ips(status.status.and_then(|s| s.network)) }),
        // It was made; what became of it is for an inspection to say.
        Err(_) => Outcome::Unknown,
    }
}

/// The ready sandbox of that attempt, which an earlier call made whose answer was lost.
async fn existing(world: &World, key: &PodKey, attempt: u32) -> Result<Option<String>, cri::Error> {
    let filter = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 }),
        label_selector: keys::Map::from([(keys::POD_UID.to_owned(), key.uid.clone())]),
        ..Default::default()
    };
    let listed = world.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
    let same = |metadata: &v1::PodSandboxMetadata| metadata.attempt == attempt;
    Ok(listed.items.into_iter().find(|sandbox| sandbox.metadata.as_ref().is_some_and(same)).map(|sandbox| sandbox.id))
}

/// The sandbox's configuration; also what creating a container is given.
pub(super) fn config(world: &World, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let config = &world.config;
    let spec = pod::spec(pod);
    let key = PodKey {
        namespace: pod::namespace(pod).to_owned(),
        name: pod::name(pod).to_owned(),
        uid: pod::uid(pod).to_owned(),
    };
    let logs = paths::log_dir(&config.log_dir, pod).map_err(|error| error.to_string())?;
    let cgroup_parent = match &world.cgroups {
        Some(_) => paths::pod_cgroup(&config.cgroup_root, pod).map_err(|error| error.to_string())?,
        None => String::new(),
    };
    let host_network = spec.host_network == Some(true);
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: key.name.clone(),
            uid: key.uid.clone(),
            namespace: key.namespace.clone(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { pod::hostname(pod) },
        log_directory: text_of(&logs)?,
        dns_config: Some(dns_config(pod, &config.dns)?),
        port_mappings: port_mappings(pod),
        labels: keys::sandbox_labels(&key, &pod.metadata.labels.clone().unwrap_or_default()),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::of_sandbox(pod)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

pub(super) fn text_of(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{}: the path is not UTF-8", path.display()))
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let ports = pod::spec(pod).containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn dns_config(pod: &Pod, dns: &DnsConfig) -> Result<v1::DnsConfig, String> {
    let host = match &dns.resolv_conf {
        // A local file of a few lines, read at every sandbox: the node's name servers change with its network.
        Some(path) => read_resolv_conf(path)?,
        None => String::new(),
    };
    Ok(resolver(pod, dns, &host))
}

fn read_resolv_conf(path: &Path) -> Result<String, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // A machine without name servers has no such file; its pods have none either.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("read {}: {error}", path.display())),
    };
    let bytes = &bytes[..bytes.len().min(RESOLV_CONF_MAX_BYTES)];
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// What the pod's resolver is given, by its policy and its own wishes.
fn resolver(pod: &Pod, dns: &DnsConfig, host: &str) -> v1::DnsConfig {
    let spec = pod::spec(pod);
    let host_network = spec.host_network == Some(true);
    let clustered = match spec.dns_policy.as_deref() {
        Some("None" | "Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !host_network,
    };
    let mut result = if spec.dns_policy.as_deref() == Some("None") {
        v1::DnsConfig::default()
    } else if clustered && !dns.cluster_dns.is_empty() {
        let mut searches = Vec::new();
        if !dns.cluster_domain.is_empty() {
            let domain = &dns.cluster_domain;
            searches = vec![format!("{}.svc.{domain}", pod::namespace(pod)), format!("svc.{domain}"), domain.clone()];
        }
        searches.extend(parse_resolv_conf(host).searches);
        v1::DnsConfig { servers: dns.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        parse_resolv_conf(host)
    };
    if let Some(own) = &spec.dns_config {
        result.servers.extend(own.nameservers.iter().flatten().cloned());
        result.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            result.options.retain(|known| known.split(':').next() != Some(name));
            result.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    keep_first(&mut result.servers, SERVERS_MAX);
    keep_first(&mut result.searches, SEARCHES_MAX);
    result
}

fn keep_first(list: &mut Vec<String>, max: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
    list.truncate(max);
}

/// resolv.conf(5). The last `search` line counts, as for the resolver.
fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let key = words.next();
        let values = words.map(str::to_owned);
        match key {
            Some("nameserver") => config.servers.extend(values.take(1)),
            Some("search" | "domain") => config.searches = values.filter(|domain| domain != ".").collect(),
            Some("options") => config.options.extend(values),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};

    const HOST: &str = "# comment\nnameserver 10.0.0.1\nnameserver 10.0.0.2 # second\nsearch a.example b.example\n\
        options ndots:2 rotate\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";

    fn resolved(policy: &str, cluster: &[&str], own: Option<PodDNSConfig>) -> v1::DnsConfig {
        let spec = PodSpec { dns_policy: Some(policy.into()), dns_config: own, ..PodSpec::default() };
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        let cluster_dns = cluster.iter().map(|s| (*s).to_owned()).collect();
        let dns = DnsConfig { resolv_conf: None, cluster_dns, cluster_domain: "cluster.local".into() };
        resolver(&pod, &dns, HOST)
    }

    #[test]
    fn cluster_first_without_a_cluster_means_the_hosts_servers() {
        let expected = v1::DnsConfig {
            servers: ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(str::to_owned).to_vec(),
            searches: ["a.example", "b.example"].map(str::to_owned).to_vec(),
            options: ["ndots:2", "rotate"].map(str::to_owned).to_vec(),
        };
        assert_eq!(resolved("Default", &["10.96.0.10"], None), expected);
        assert_eq!(resolved("ClusterFirst", &[], None), expected);
    }

    #[test]
    fn cluster_first_asks_the_cluster_only() {
        let config = resolved("ClusterFirst", &["10.96.0.10"], None);
        assert_eq!(config.servers, ["10.96.0.10"]);
        assert_eq!(config.searches[0], "default.svc.cluster.local");
        assert_eq!(config.searches.last().unwrap(), "b.example");
        assert_eq!(config.options, ["ndots:5"]);
    }

    #[test]
    fn a_pods_own_wishes_are_added_and_override_options() {
        let own = PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into(), "1.1.1.1".into()]),
            searches: Some(vec!["own.example".into()]),
            options: Some(vec![
                PodDNSConfigOption { name: Some("ndots".into()), value: Some("1".into()) },
                PodDNSConfigOption { name: Some("edns0".into()), value: None },
            ]),
        };
        let config = resolved("None", &[], Some(own.clone()));
        assert_eq!((config.servers, config.searches.len()), (vec!["1.1.1.1".to_owned()], 1));
        assert_eq!(config.options, ["ndots:1", "edns0"]);
        assert_eq!(resolved("Default", &[], Some(own)).options, ["rotate", "ndots:1", "edns0"]);
    }
}
