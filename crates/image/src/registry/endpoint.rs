//! Where a reference is asked for: its registry, or a mirror of it.

use super::tls::Tls;
use reqwest::header::HeaderMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use url::{Host, Url};

/// The domain that stands for Docker's registry, and the host that serves it.
const DOCKER_DOMAIN: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// A plain server may take a TLS handshake for the beginning of a long line, and wait for its end.
const LOOPBACK_CONNECT: Duration = Duration::from_secs(2);

/// A host that may have what a reference names.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// Everything before `/<repository>/…`, without a slash at its end.
    pub(super) base: Url,
    /// Has manifests and blobs.
    pub(super) pull: bool,
    /// Knows what a tag means.
    pub(super) resolve: bool,
    /// The reference's own registry, which alone sees its credential.
    pub(super) own: bool,
    /// On this very machine: plain http is tried where it does not speak TLS.
    pub(super) or_plain: bool,
    /// What a mirror is told of whose images it is asked for (`?ns=`).
    pub(super) namespace: Option<String>,
    pub(super) tls: Tls,
    /// Sent to this host alone.
    pub(super) headers: HeaderMap,
}

impl Endpoint {
    /// The registry that a domain means by itself. `None` for a domain that is no host name.
    pub(super) fn of(domain: &str) -> Option<Self> {
        let host = if domain == DOCKER_DOMAIN { DOCKER_HOST } else { domain };
        let base = Url::parse(&format!("https://{host}/v2")).ok()?;
        let or_plain = is_loopback(&base) && !domain.ends_with(":443");
        Some(Self {
            pull: true,
            resolve: true,
            own: true,
            or_plain,
            namespace: None,
            tls: Tls { connect_within: or_plain.then_some(LOOPBACK_CONNECT), ..Tls::default() },
            headers: HeaderMap::new(),
            base,
        })
    }

    /// Host and port, as people write them.
    pub(super) fn host(&self) -> String {
        authority(&self.base)
    }

    /// Address of what `tail` names, such as `library/nginx/manifests/latest`.
    pub(super) fn url(&self, tail: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{tail}", self.base.path().trim_end_matches('/')));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }
}

/// Host and port of a URL, without anything that could be secret.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Same scheme, host and port.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

/// This machine by name or address.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Addresses at which clouds tell a machine its secrets, and those that mean nothing beyond one link: no registry sends
/// anyone there in good faith.
pub(super) fn is_metadata(url: &Url) -> bool {
    const ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const AMAZON: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let address = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            return matches!(name, "metadata" | "metadata.google.internal" | "instance-data");
        }
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
        None => return false,
    };
    match address {
        IpAddr::V4(address) => address.is_link_local() || address == ALIBABA,
        IpAddr::V6(address) => address.is_unicast_link_local() || address == AMAZON,
    }
}

/// Where a redirect leads, or why nobody follows it there.
pub(super) fn redirected(from: &Url, location: &str) -> Result<Url, String> {
    let mut to = from.join(location).map_err(|_| "to something that is no URL".to_owned())?;
    to.set_fragment(None);
    let host = authority(&to);
    if !matches!(to.scheme(), "http" | "https") {
        return Err(format!("to the scheme {:?}, which is not followed", crate::digest::shorten(to.scheme())));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(format!("from https to plain http at {host}, which is not followed"));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(format!("to {host} with a user name in the URL, which is not followed"));
    }
    if is_metadata(&to) && to.host() != from.host() {
        return Err(format!("to {host}, where a machine is told its secrets; that is not followed"));
    }
    Ok(to)
}
