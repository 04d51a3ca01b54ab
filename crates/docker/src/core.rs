//! The daemon, as all calls reach it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error as DockerError;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use cri::Error;
use cri::settling::Settling;

use crate::Config;
use crate::call::{Failed, NOT_FOUND, within};
use crate::pause::Pause;
use crate::stopping::Stops;
use crate::{labels, status};
use cri::turns::Turns;

/// Every call has a limit of its own; the client's must not come first, even for the longest grace there is.
const CLIENT_SECS: u64 = 400 * 24 * 3600;

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) pause: Pause,
    pub(crate) turns: Turns,
    pub(crate) stops: Stops,
    pub(crate) settling: Settling,
    /// The lowest OOM score that the daemon is known to be able to give; lower ones were refused.
    oom_floor: AtomicI64,
    client: Mutex<Option<bollard::Docker>>,
}

impl Core {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            pause: Pause::new(config.pause),
            turns: Turns::default(),
            stops: Stops::default(),
            settling: Settling::default(),
            oom_floor: AtomicI64::new(i64::MIN),
            client: Mutex::new(None),
            config,
        }
    }

    pub(crate) fn oom_floor(&self) -> i64 {
        self.oom_floor.load(Ordering::Relaxed)
    }

    pub(crate) fn learn_oom_floor(&self, floor: i64) {
        self.oom_floor.store(floor, Ordering::Relaxed);
    }

    /// The client, in a version of the API that both sides speak.
    pub(crate) async fn client(&self) -> Result<bollard::Docker, Failed> {
        if let Some(client) = self.held().clone() {
            return Ok(client);
        }
        let path = self.config.endpoint.display().to_string();
        let connecting = async {
            let client = bollard::Docker::connect_with_unix(&path, CLIENT_SECS, bollard::API_DEFAULT_VERSION)?;
            client.negotiate_version().await
        };
        let client = within("connect to docker", self.config.call_within, connecting).await?;
        *self.held() = Some(client.clone());
        Ok(client)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<bollard::Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call of the daemon, within the usual time.
    pub(crate) async fn call<T, F>(&self, action: &str, call: impl FnOnce(bollard::Docker) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, DockerError>>,
    {
        self.call_within((action, self.config.call_within), call).await
    }

    /// One call of the daemon within a time of its own.
    pub(crate) async fn call_within<T, F>(
        &self,
        (action, limit): (&str, Duration),
        call: impl FnOnce(bollard::Docker) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, DockerError>>,
    {
        let client = self.client().await?;
        let answer = within(action, limit, Box::pin(call(client))).await;
        if answer.as_ref().is_err_and(|failed| failed.error.code == cri::Code::Unavailable) {
            // The daemon that comes back may be another one.
            *self.held() = None;
        }
        answer
    }

    /// A container by its full id or its name; `None` where there is none.
    pub(crate) async fn inspect(&self, id_or_name: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        let of = id_or_name.to_owned();
        let action = format!("inspect container {id_or_name}");
        match self.call(&action, |docker| async move { docker.inspect_container(&of, None).await }).await {
            Ok(found) => Ok(Some(found)),
            Err(failed) if failed.status == Some(NOT_FOUND) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// The pod's own container of this sandbox; `None` for every other id.
    pub(crate) async fn inspect_sandbox(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        Ok(self.inspect_id(id).await?.filter(|found| labels::is_sandbox(labels_of(found))))
    }

    /// A container in a sandbox; `None` for every other id.
    pub(crate) async fn inspect_container(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        Ok(self.inspect_id(id).await?.filter(|found| labels::is_container(labels_of(found))))
    }

    /// A container in a sandbox with all that Docker has to say of its end.
    pub(crate) async fn inspect_settled(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        loop {
            let found = self.inspect_container(id).await?;
            let status = found.as_ref().map(status::container);
            let Some(pause) = status.and_then(|status| self.settling.pause(&status)) else { return Ok(found) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Docker takes names and beginnings of ids for ids; the CRI does not.
    async fn inspect_id(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        if is_id(id) { self.inspect(id).await } else { Ok(None) }
    }

    /// This kubelet's containers that have all these labels, whatever their state.
    pub(crate) async fn list(&self, labelled: &[(&str, &str)]) -> Result<Vec<ContainerSummary>, Error> {
        let wanted = labelled.iter().map(|(key, value)| format!("{key}={value}"));
        let wanted: Vec<String> = wanted.chain([labels::OWN_LABELS.to_owned()]).collect();
        let filters = HashMap::from([("label", wanted)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        Ok(self.call("list containers", |docker| async move { docker.list_containers(Some(options)).await }).await?)
    }
}

/// Whether a text can be the id of one of Docker's containers.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A container's labels.
pub(crate) fn labels_of(container: &ContainerInspectResponse) -> &HashMap<String, String> {
    static NONE: std::sync::LazyLock<HashMap<String, String>> = std::sync::LazyLock::new(HashMap::new);
    container.config.as_ref().and_then(|config| config.labels.as_ref()).unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_full_id_is_an_id() {
        assert!(is_id(&"0123456789abcdef".repeat(4)));
        for other in ["", "web", "0123456789ab", "../../images/json", &"0123456789ABCDEF".repeat(4)] {
            assert!(!is_id(other), "{other}");
        }
    }
}
