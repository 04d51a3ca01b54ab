//! What a pod's resolver is given.

use std::path::Path;

use cri::v1;
use k8s_openapi::api::core::v1::Pod;
use lifecycle::Event;
use pod::reasons;

use crate::DnsConfig;
use crate::events::whole_warning;

/// resolv.conf(5): what resolvers read of it.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LINE_MAX_BYTES: usize = 2_048;
/// A resolver file is not longer.
const RESOLV_CONF_MAX_BYTES: usize = 64 << 10;

/// The resolver's configuration, and what had to be left out of it.
///
/// # Errors
/// The node's resolver file cannot be read.
pub(super) fn config(pod: &Pod, dns: &DnsConfig) -> Result<(v1::DnsConfig, Vec<Event>), String> {
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
fn resolver(pod: &Pod, dns: &DnsConfig, host: &str) -> (v1::DnsConfig, Vec<Event>) {
    let spec = pod::spec(pod);
    let clustered = match spec.dns_policy.as_deref() {
        Some("None" | "Default") => false,
        Some("ClusterFirstWithHostNet") => true,
        _ => !pod::host_network(pod),
    };
    let mut events = Vec::new();
    if clustered && dns.cluster_dns.is_empty() {
        events.push(missing_cluster(pod));
    }
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
    events.extend(cut(&mut result));
    (result, events)
}

fn missing_cluster(pod: &Pod) -> Event {
    let message = format!(
        "pod: \"{}({})\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" \
         policy. Falling back to \"Default\" policy.",
        pod::full_name(pod),
        pod::uid(pod)
    );
    whole_warning(reasons::MISSING_CLUSTER_DNS, message)
}

/// Leaves what resolvers read, and tells what they will.
fn cut(config: &mut v1::DnsConfig) -> Vec<Event> {
    let mut events = Vec::new();
    once_each(&mut config.servers);
    if config.servers.len() > SERVERS_MAX {
        config.servers.truncate(SERVERS_MAX);
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        );
        events.push(whole_warning(reasons::DNS_CONFIG_FORMING, message));
    }
    once_each(&mut config.searches);
    let asked = config.searches.len();
    config.searches.truncate(SEARCHES_MAX);
    while config.searches.join(" ").len() > SEARCH_LINE_MAX_BYTES {
        config.searches.pop();
    }
    if config.searches.len() < asked {
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        );
        events.push(whole_warning(reasons::DNS_CONFIG_FORMING, message));
    }
    events
}

fn once_each(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
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
        resolver(&pod, &dns, HOST).0
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

    #[test]
    fn what_resolvers_do_not_read_is_left_out_and_told() {
        let list = |count: usize, long: usize| (0..count).map(|n| format!("{n}{}", "x".repeat(long))).collect();
        let table: [(usize, usize, usize, usize, &[&str]); 4] = [
            (3, 32, 10, 32, &[]),
            (4, 1, 1, 1, &["Nameserver limits"]),
            (1, 33, 1, 32, &["Search Line limits"]),
            (4, 20, 200, 10, &["Nameserver limits", "Search Line limits"]),
        ];
        for (servers, searches, long, left, told) in table {
            let mut config =
                v1::DnsConfig { servers: list(servers, 1), searches: list(searches, long), options: Vec::new() };
            let events = cut(&mut config);
            assert_eq!((config.servers.len(), config.searches.len()), (servers.min(3), left));
            assert_eq!(events.len(), told.len());
            for (event, told) in events.iter().zip(told) {
                assert_eq!(event.reason, "DNSConfigForming");
                assert!(event.message.starts_with(told) && !event.message.ends_with(": "), "{event:?}");
            }
        }
    }

    #[test]
    fn a_pod_that_asks_for_a_cluster_that_is_not_there_is_told() {
        let told = |policy: &str, host_network: bool| {
            let spec =
                PodSpec { dns_policy: Some(policy.into()), host_network: Some(host_network), ..PodSpec::default() };
            let (_, events) = resolver(&Pod { spec: Some(spec), ..Pod::default() }, &DnsConfig::default(), HOST);
            events.iter().any(|event| event.reason == "MissingClusterDNS")
        };
        assert!(told("ClusterFirst", false) && told("ClusterFirstWithHostNet", true));
        assert!(!told("ClusterFirst", true) && !told("Default", false) && !told("None", false));
    }
}
