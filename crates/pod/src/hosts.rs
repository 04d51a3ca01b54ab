//! Host names and the pod's `/etc/hosts`.

use crate::accessors::{name, namespace, spec};
use crate::names::LABEL_MAX;
use k8s_openapi::api::core::v1::Pod;
use std::fmt::Write;

/// What `/etc/hosts` needs that the pod does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostsFacts<'a> {
    pub pod_ips: &'a [String],
    /// Domain of the cluster, none when standing alone; matters only to pods with a subdomain.
    pub cluster_domain: Option<&'a str>,
}

/// The kernel's host name in the pod: `spec.hostname`, else the pod's name, cut to 63 bytes (HOST_NAME_MAX is 64) and
/// trimmed of what may not end a label.
pub fn hostname(pod: &Pod) -> String {
    let wanted = spec(pod).hostname.as_deref().filter(|hostname| !hostname.is_empty()).unwrap_or(name(pod));
    if wanted.len() <= LABEL_MAX {
        return wanted.to_owned();
    }
    // Names are ASCII once validated; for any other text cut at the character before.
    let cut = (0..=LABEL_MAX).rev().find(|end| wanted.is_char_boundary(*end)).unwrap_or(0);
    wanted[..cut].trim_end_matches(['-', '.']).to_owned()
}

/// `<subdomain>.<namespace>.svc[.<cluster domain>]` of a pod with a subdomain.
pub fn host_domain(pod: &Pod, cluster_domain: Option<&str>) -> Option<String> {
    let subdomain = spec(pod).subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    let domain = format!("{subdomain}.{}.svc", namespace(pod));
    Some(match cluster_domain {
        Some(cluster) if !cluster.is_empty() => format!("{domain}.{cluster}"),
        _ => domain,
    })
}

/// The managed `/etc/hosts` of a pod with its own network.
pub fn etc_hosts(pod: &Pod, facts: HostsFacts<'_>) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let hostname = hostname(pod);
    let domain = host_domain(pod, facts.cluster_domain);
    for ip in facts.pod_ips {
        // Writing to a String cannot fail.
        let _ = match &domain {
            Some(domain) => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(text, "{ip}\t{hostname}"),
        };
    }
    push_aliases(&mut text, pod);
    text
}

/// The managed `/etc/hosts` of a pod in the machine's network: the machine's own file, then the pod's aliases.
pub fn etc_hosts_of_host_network(pod: &Pod, node_file: &str) -> String {
    let mut text = format!("# Kubernetes-managed hosts file (host network).\n{node_file}");
    // A last line without its end would swallow the first alias.
    if !text.ends_with('\n') {
        text.push('\n');
    }
    push_aliases(&mut text, pod);
    text
}

fn push_aliases(text: &mut String, pod: &Pod) {
    let aliases = spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

    fn pod(name: &str, spec: PodSpec) -> Pod {
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    #[test]
    fn hostname_is_cut_and_trimmed() {
        assert_eq!(hostname(&pod("web-node", PodSpec::default())), "web-node");
        assert_eq!(hostname(&pod("web", PodSpec { hostname: Some("h".into()), ..PodSpec::default() })), "h");
        let long = format!("{}-.{}", "a".repeat(61), "b".repeat(40));
        assert_eq!(hostname(&pod(&long, PodSpec::default())), "a".repeat(61));
        assert_eq!(hostname(&pod(&"é".repeat(60), PodSpec::default())).len(), 62);
    }

    #[test]
    fn hosts_file_word_for_word() {
        let spec = PodSpec {
            subdomain: Some("sub".into()),
            host_aliases: Some(vec![HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) }]),
            ..PodSpec::default()
        };
        let ips = ["10.1.0.2".to_owned(), "fd00::2".to_owned()];
        let facts = HostsFacts { pod_ips: &ips, cluster_domain: Some("cluster.local") };
        let expected = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
            10.1.0.2\tweb.sub.default.svc.cluster.local\tweb\nfd00::2\tweb.sub.default.svc.cluster.local\tweb\n\
            \n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert_eq!(etc_hosts(&pod("web", spec), facts), expected);
        let plain = etc_hosts(&pod("web", PodSpec::default()), HostsFacts { pod_ips: &ips[..1], cluster_domain: None });
        assert!(plain.ends_with("ip6-allrouters\n10.1.0.2\tweb\n"), "{plain}");
    }

    #[test]
    fn hosts_file_of_the_machines_network() {
        let aliases = Some(vec![HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into()]) }]);
        let pod = pod("web", PodSpec { host_network: Some(true), host_aliases: aliases, ..PodSpec::default() });
        let expected = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n10.0.0.1 node\n\
            \n# Entries added by HostAliases.\n1.2.3.4\ta\n";
        assert_eq!(etc_hosts_of_host_network(&pod, "127.0.0.1 localhost\n10.0.0.1 node\n"), expected);
        assert_eq!(etc_hosts_of_host_network(&pod, "127.0.0.1 localhost\n10.0.0.1 node"), expected);
    }
}
