//! Asking registries: the OCI distribution protocol, mirrors, credentials and TLS.
//!
//! A registry is trusted with nothing but its own credential. What it sends has a limit and a time; where it redirects,
//! no credential follows; what it says is shown without secrets.

mod auth;
mod blob;
mod body;
mod endpoint;
mod error;
mod exchange;
mod hosts;
mod session;
mod tls;

use crate::{Digest, Login, Reference};
use auth::{Authorization, TokenKey, Tokens};
pub(crate) use blob::Blob;
use bytes::Bytes;
use endpoint::Endpoint;
pub use error::RegistryError;
use exchange::Pace;
use reqwest::header::HeaderValue;
pub(crate) use session::Session;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tls::Clients;
use tokio::time::Instant;

/// A connection is there by then, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// What is known of a host's state is forgotten after this.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Hosts of which it is known.
const MAX_REMEMBERED: usize = 1024;

/// How registries are asked.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Directory with a `<host[:port]>/hosts.toml` for each registry that has mirrors, a CA or headers of its own.
    pub hosts_dir: Option<PathBuf>,
    /// A request that makes no progress for so long ends.
    pub progress_within: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { hosts_dir: None, progress_within: Duration::from_secs(60) }
    }
}

/// A client of all registries. Clones share connections, tokens and what is known of dead mirrors.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    hosts_dir: Option<PathBuf>,
    pace: Pace,
    clients: Clients,
    tokens: Mutex<Tokens>,
    /// Mirrors that did not answer lately.
    dead: Mutex<Notes>,
    /// Hosts of this machine that speak no TLS.
    plain: Mutex<Notes>,
}

impl Registry {
    pub fn new(config: RegistryConfig) -> Self {
        let pace = Pace { progress_within: config.progress_within, first_wait: FIRST_WAIT };
        Self::paced(config.hosts_dir, pace)
    }

    fn paced(hosts_dir: Option<PathBuf>, pace: Pace) -> Self {
        let shared = Shared {
            hosts_dir,
            pace,
            clients: Clients::new(CONNECT_WITHIN),
            tokens: Mutex::default(),
            dead: Mutex::default(),
            plain: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is to be asked about `reference`. Reads its `hosts.toml` anew, so that an edit needs no restart.
    ///
    /// # Errors
    /// [`RegistryError::Hosts`] when that file is wrong.
    pub(crate) fn session(&self, reference: &Reference, login: Option<Login>) -> Result<Session, RegistryError> {
        let endpoints = hosts::endpoints(self.shared.hosts_dir.as_deref(), reference.domain())?;
        Ok(Session::new(self.shared.clone(), reference, login, endpoints))
    }
}

impl Shared {
    fn token(&self, key: &TokenKey) -> Option<HeaderValue> {
        lock(&self.tokens).get(key)
    }

    fn put_token(&self, key: TokenKey, authorization: &Authorization) {
        lock(&self.tokens).put(key, authorization);
    }

    fn forget_token(&self, key: &TokenKey, refused: &HeaderValue) {
        lock(&self.tokens).forget(key, refused);
    }

    fn is_dead(&self, endpoint: &Endpoint) -> bool {
        lock(&self.dead).has(endpoint)
    }

    fn note_dead(&self, endpoint: &Endpoint) {
        lock(&self.dead).add(endpoint);
    }

    fn is_plain(&self, endpoint: &Endpoint) -> bool {
        lock(&self.plain).has(endpoint)
    }

    fn note_plain(&self, endpoint: &Endpoint) {
        lock(&self.plain).add(endpoint);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holder leaves it whole: there is nothing that a panic could have left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hosts of which something is known for a while.
#[derive(Default)]
struct Notes(HashMap<String, Instant>);

impl Notes {
    fn has(&self, endpoint: &Endpoint) -> bool {
        self.0.get(endpoint.base.as_str()).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn add(&mut self, endpoint: &Endpoint) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(endpoint.base.as_str().to_owned(), Instant::now());
    }
}

/// A manifest or an index as the registry sent it.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// Digest of `bytes`.
    pub(crate) digest: Digest,
    /// The `Content-Type`, without parameters.
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
