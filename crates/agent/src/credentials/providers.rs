//! Credential providers: programs beside the kubelet that know how to log in to some registries. Each answer is kept for as
//! long as it says, and those who want to know the same at one time share one run.

mod cache;
mod config;
mod plugin;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pod::docker_config::{DockerConfig, Pattern, image_name};
use tokio::sync::{OnceCell, Semaphore};
use tracing::warn;

use super::CredentialsError;
use crate::clock;
use cache::{Cache, Key, KeyType};
use plugin::Plugin;

/// Programs running at a time.
const RUNNING_MAX: usize = 8;
/// An answer that was for somebody else narrows down what may be shared: from all images to a registry to one image.
const ROUNDS: usize = 3;

/// All that are configured.
#[derive(Debug)]
pub(super) struct Providers {
    providers: Vec<Provider>,
    running: Semaphore,
}

impl Default for Providers {
    fn default() -> Self {
        Self { providers: Vec::new(), running: Semaphore::new(RUNNING_MAX) }
    }
}

impl Providers {
    /// # Errors
    /// The configuration is wrong, or a program is missing.
    pub(super) fn load(path: &Path, bin_dir: &Path) -> Result<Self, CredentialsError> {
        let providers = config::load(path, bin_dir)?.into_iter().map(Provider::new).collect();
        Ok(Self { providers, ..Self::default() })
    }

    /// What each provider that is meant for the image says, in the order of the configuration.
    pub(super) async fn for_image(&self, image: &str) -> Vec<Arc<DockerConfig>> {
        let mut configs = Vec::new();
        for provider in self.providers.iter().filter(|provider| provider.is_for(image)) {
            configs.extend(provider.ask(image_name(image), &self.running).await);
        }
        configs
    }
}

/// One provider.
struct Provider {
    patterns: Vec<Pattern>,
    /// For answers that do not say how long they hold.
    keep_ms: u64,
    plugin: Plugin,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    flights: HashMap<Key, Arc<Flight>>,
    /// What the last answer was for.
    key_type: Option<KeyType>,
}

/// A run that several wait for; it ends with whom the answer is for, or with none where there was none.
type Flight = OnceCell<Option<(Key, Arc<DockerConfig>)>>;

impl Provider {
    fn new(found: config::Provider) -> Self {
        Self {
            patterns: found.patterns,
            keep_ms: millis(found.keep_for),
            plugin: found.plugin,
            state: Mutex::default(),
        }
    }

    fn is_for(&self, image: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(image))
    }

    /// `image` is without tag and digest.
    async fn ask(&self, image: &str, running: &Semaphore) -> Option<Arc<DockerConfig>> {
        let mut answer = None;
        for _ in 0..ROUNDS {
            let seat = match self.take_seat(image) {
                Ok(known) => return Some(known),
                Err(seat) => seat,
            };
            answer = seat.flight.get_or_init(|| self.run(image, running)).await.clone();
            if answer.as_ref().is_none_or(|(key, _)| *key == key.key_type().key(image)) {
                break;
            }
        }
        // Whomever it is for, it names the registries that its credentials are for.
        answer.map(|(_, config)| config)
    }

    /// What is known, or a place among those who wait for a run.
    fn take_seat(&self, image: &str) -> Result<Arc<DockerConfig>, Seat<'_>> {
        let mut state = self.state();
        if let Some(known) = state.cache.get(image, clock::mono_ms()) {
            return Ok(known);
        }
        // Nothing is known of a provider yet: a registry is what most answers are for.
        let key = state.key_type.unwrap_or(KeyType::Registry).key(image);
        let flight = state.flights.entry(key.clone()).or_default().clone();
        Err(Seat { provider: self, key, flight })
    }

    async fn run(&self, image: &str, running: &Semaphore) -> Option<(Key, Arc<DockerConfig>)> {
        // It is never closed.
        let _permit = running.acquire().await.ok()?;
        let answer = match self.plugin.ask(image).await {
            Ok(answer) => answer,
            Err(error) => {
                warn!(image, "no credentials from a provider: {error}");
                return None;
            }
        };
        let key = answer.key_type.key(image);
        let config = Arc::new(answer.config);
        let keep_ms = answer.keep_for.map_or(self.keep_ms, millis);
        let mut state = self.state();
        state.key_type = Some(answer.key_type);
        if keep_ms > 0 {
            let now_ms = clock::mono_ms();
            state.cache.insert(key.clone(), config.clone(), (now_ms, now_ms.saturating_add(keep_ms)));
        }
        Some((key, config))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics is done while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// A place among those who wait for one run. The last to leave, and whoever leaves after its end, ends it for those to come.
struct Seat<'p> {
    provider: &'p Provider,
    key: Key,
    flight: Arc<Flight>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.provider.state();
        let is_ours = state.flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
        // Copies are made under the lock only: the map's own and ours.
        let is_last = Arc::strong_count(&self.flight) == 2;
        if is_ours && (self.flight.initialized() || is_last) {
            state.flights.remove(&self.key);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
