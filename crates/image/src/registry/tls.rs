//! HTTP clients: one for each way of trusting a host.

use super::RegistryError;
use super::endpoint::{authority, is_loopback};
use crate::fs::read_linked;
use reqwest::{Certificate, Client, Identity, redirect};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Kept at most; hosts that share their settings share a client.
const MAX_CLIENTS: usize = 32;
/// After this a client is made anew, so that a CA which the system got meanwhile is seen.
const CLIENT_AGE: Duration = Duration::from_secs(600);
/// An idle connection is closed after this.
const IDLE: Duration = Duration::from_secs(20);
const MAX_IDLE_PER_HOST: usize = 8;
/// Lines of an answer's head; their bytes are limited by hyper to about 400 KiB.
const MAX_HEADERS: usize = 100;
/// A file with certificates is read up to here.
const MAX_PEM_BYTES: u64 = 4 << 20;
const USER_AGENT: &str = concat!("kubelet/", env!("CARGO_PKG_VERSION"));

/// How a host proves who it is, and we to it. What it holds is compared by content: a renewed file is another one.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// Certificate authorities beside the system's, as PEM.
    pub(super) roots: Vec<Arc<[u8]>>,
    /// Our certificate and its key, as PEM.
    pub(super) identity: Option<Arc<[u8]>>,
    /// Any certificate is taken.
    pub(super) skip_verify: bool,
    /// Another limit for connecting than the usual one.
    pub(super) connect_within: Option<Duration>,
}

impl Tls {
    /// What of this counts for another host: who is trusted, but neither our certificate nor the blindness.
    fn elsewhere(&self) -> Self {
        Self { roots: self.roots.clone(), ..Self::default() }
    }

    /// These settings as they count for `url`, when they were made for the host of `home`.
    pub(super) fn towards(&self, url: &Url, home: &Url) -> Self {
        if url.host() == home.host() { self.clone() } else { self.elsewhere() }
    }
}

/// Reads certificates or a key, refusing what is none when it is read rather than when somebody pulls.
pub(super) fn read_roots(path: &Path) -> Result<Arc<[u8]>, String> {
    let pem = read_pem(path)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(pem),
        _ => Err(format!("{path:?} holds no PEM certificate")),
    }
}

/// Reads a certificate with its key, which may lie in a file of its own.
pub(super) fn read_identity(certificate: &Path, key: Option<&Path>) -> Result<Arc<[u8]>, String> {
    let mut pem = read_pem(certificate)?.to_vec();
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend_from_slice(&read_pem(key)?);
    }
    match Identity::from_pem(&pem) {
        Ok(_) => Ok(pem.into()),
        Err(_) => Err(format!("{certificate:?} and its key are not a PEM certificate and a private key")),
    }
}

fn read_pem(path: &Path) -> Result<Arc<[u8]>, String> {
    let bytes = read_linked(path, MAX_PEM_BYTES).map_err(|error| format!("{path:?}: {error}"))?;
    Ok(bytes.into())
}

/// How a host is reached; a part of what makes two clients differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    /// Never through the environment's proxies.
    direct: bool,
    /// Without TLS: the system's certificate authorities need not be there.
    plain: bool,
}

/// The environment's variable that sends requests for `url` through a proxy, if there is one.
pub(super) fn proxy_variable(url: &Url) -> Option<&'static str> {
    let names: &[_] = match (is_loopback(url), url.scheme()) {
        (true, _) => &[],
        (false, "https") => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        (false, _) => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    names.iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())).copied()
}

/// The clients in use.
pub(super) struct Clients {
    connect_within: Duration,
    made: Mutex<HashMap<(Tls, Way), (Client, Instant)>>,
}

impl Clients {
    pub(super) fn new(connect_within: Duration) -> Self {
        Self { connect_within, made: Mutex::default() }
    }

    /// The client for `url`.
    pub(super) fn towards(&self, url: &Url, tls: Tls) -> Result<Client, RegistryError> {
        let way = Way { direct: is_loopback(url), plain: url.scheme() == "http" };
        let key = (tls, way);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((client, since)) = made.get(&key)
            && since.elapsed() < CLIENT_AGE
        {
            return Ok(client.clone());
        }
        let client = self.build(&key.0, way).map_err(|error| RegistryError::Connect {
            host: authority(url),
            reason: format!(
                "TLS cannot be set up: {}; are the system's certificates (ca-certificates) installed?",
                super::error::root_cause(&error)
            ),
        })?;
        if made.len() >= MAX_CLIENTS {
            made.clear();
        }
        made.insert(key, (client.clone(), Instant::now()));
        Ok(client)
    }

    fn build(&self, tls: &Tls, way: Way) -> reqwest::Result<Client> {
        // The system's resolver sees an edited resolv.conf and asks nobody whom it does not name; hickory does neither.
        let mut builder = Client::builder()
            .no_hickory_dns()
            // What a server encodes on its own account is no content that a digest speaks of.
            .no_gzip()
            .redirect(redirect::Policy::none())
            .referer(false)
            .user_agent(USER_AGENT)
            .connect_timeout(tls.connect_within.unwrap_or(self.connect_within))
            // Layers that come at once have a connection each, and none waits for another's share of a window.
            .http1_only()
            .http1_max_headers(MAX_HEADERS)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST);
        if way.direct {
            builder = builder.no_proxy();
        }
        let mut roots = Vec::new();
        for pem in &tls.roots {
            roots.extend(Certificate::from_pem_bundle(pem)?);
        }
        builder = if way.plain { builder.tls_certs_only(roots) } else { builder.tls_certs_merge(roots) };
        if let Some(pem) = &tls.identity {
            builder = builder.identity(Identity::from_pem(pem)?);
        }
        builder.tls_danger_accept_invalid_certs(tls.skip_verify).build()
    }
}
