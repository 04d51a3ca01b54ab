//! A sandbox's life: run, stop, remove.

use std::path::PathBuf;
use std::sync::Arc;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use cri::{Code, Error, v1};
use tracing::warn;

use crate::call::{CONFLICT, Failed, NOT_FOUND, internal, on_pool};
use crate::core::{Core, labels_of};
use crate::facts::{Life, life};
use crate::spec::sandbox::{OOM_SCORE, body};
use crate::{labels, names, resolver};

/// Whoever holds a name is looked at this often, should it be about to go.
const NAME_ATTEMPTS: usize = 5;
/// What a daemon can give that is not allowed to prefer any process.
const NO_PREFERENCE: i64 = 0;

impl Core {
    /// Makes a sandbox; a repeated request gets the one that its first made.
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: v1::PodSandboxConfig) -> Result<String, Error> {
        let absent = || Error::invalid_argument("pod sandbox: metadata: a name and a uid are expected");
        let metadata = config.metadata.clone().ok_or_else(absent)?;
        let name = names::of_sandbox(&metadata);
        let _turn = self.turns.of(&name).await;
        let wanted = OOM_SCORE.max(self.oom_floor());
        let first = Box::pin(self.make(&config, (&name, wanted))).await;
        let Err(error) = first else { return first };
        // Docker does not say that it was the score which kept a container from starting.
        let again = wanted < NO_PREFERENCE && error.code != Code::AlreadyExists && !error.code.leaves_outcome_unknown();
        if !again {
            return Err(error);
        }
        let id = Box::pin(self.make(&config, (&name, NO_PREFERENCE))).await.map_err(|_| error)?;
        warn!(
            "docker cannot prefer a pod's own process to others when memory is short: scores below 0 are raised to 0"
        );
        self.learn_oom_floor(NO_PREFERENCE);
        Ok(id)
    }

    async fn make(&self, config: &v1::PodSandboxConfig, (name, score): (&str, i64)) -> Result<String, Error> {
        let body = body(config, self.pause.reference(), score).map_err(|refused| refused.of("pod sandbox"))?;
        for _ in 0..NAME_ATTEMPTS {
            let (id, made) = match self.create_with_pause(name, body.clone()).await {
                Ok(id) => (id, true),
                Err(failed) if failed.status == Some(CONFLICT) => match self.holder(name, &failed).await? {
                    Some(Holder::Ready(id) | Holder::Half(id)) => (id, false),
                    Some(Holder::Over(error)) => return Err(error),
                    None => continue,
                },
                Err(failed) => return Err(failed.into()),
            };
            let Err(error) = self.finish(&id, config).await else { return Ok(id) };
            // Of one whose daemon went away nobody knows what it is by now; it shows in the list.
            if made || !error.code.leaves_outcome_unknown() {
                self.remove_failed(&id).await;
            }
            return Err(error);
        }
        Err(Error::new(Code::Internal, format!("create pod sandbox {name}: its name is taken again and again")))
    }

    async fn create_with_pause(&self, name: &str, body: ContainerCreateBody) -> Result<String, Failed> {
        match self.create(name, body.clone()).await {
            Err(failed) if failed.status == Some(NOT_FOUND) => {
                self.load_pause().await?;
                self.create(name, body).await
            }
            answer => answer,
        }
    }

    /// Creates a container; its id.
    pub(crate) async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, Failed> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let action = format!("create {name}");
        let create = |docker: bollard::Docker| async move { docker.create_container(Some(options), body).await };
        Ok(Box::pin(self.call(&action, create)).await?.id)
    }

    /// Who holds a sandbox's name; `None` where it is free by now.
    async fn holder(&self, name: &str, conflict: &Failed) -> Result<Option<Holder>, Error> {
        let Some(found) = self.inspect(name).await? else { return Ok(None) };
        let id = found.id.clone().unwrap_or_default();
        if !labels::is_sandbox(labels_of(&found)) {
            return Ok(Some(Holder::Over(Error::already_exists(conflict.error.message.clone()))));
        }
        Ok(Some(match life(&found) {
            Life::Running => Holder::Ready(id),
            // It was made and never started.
            Life::Created => Holder::Half(id),
            Life::Ended(_) => Holder::Over(Error::already_exists(format!(
                "pod sandbox {id} with the name {name} exists and is not ready: remove it, or ask for another attempt"
            ))),
        }))
    }

    /// Starts a sandbox and makes its resolver file; one that is all there stays as it is.
    async fn finish(&self, id: &str, config: &v1::PodSandboxConfig) -> Result<(), Error> {
        let of = id.to_owned();
        let action = format!("start pod sandbox {id}");
        self.call(&action, |docker| async move { docker.start_container(&of, None).await }).await?;
        let gone = || Error::internal(format!("pod sandbox {id} is gone as soon as it was started"));
        let found = self.inspect(id).await?.ok_or_else(gone)?;
        if life(&found) != Life::Running {
            return Err(Error::internal(format!("pod sandbox {id} ended as soon as it was started")));
        }
        self.settle_resolver(&found, config).await
    }

    /// Makes sure that the resolver file of a running sandbox says what the pod asked for: whoever made the sandbox may
    /// have been killed before it could.
    pub(crate) async fn settle_resolver(
        &self,
        sandbox: &ContainerInspectResponse,
        config: &v1::PodSandboxConfig,
    ) -> Result<(), Error> {
        let Some(dns) = config.dns_config.clone() else { return Ok(()) };
        let path = sandbox.resolv_conf_path.as_deref().filter(|path| path.starts_with('/')).map(PathBuf::from);
        let none = || Error::internal("docker names no resolver file for the pod sandbox");
        let path = path.ok_or_else(none)?;
        on_pool(move || resolver::write(&path, &dns)).await?.map_err(internal("write the pod's resolver file"))
    }

    async fn remove_failed(&self, id: &str) {
        if let Err(error) = self.remove(id).await {
            warn!(sandbox = id, %error, "a sandbox that could not be made is not removed");
        }
    }

    /// Kills what runs in a sandbox and gives back its network.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some(sandbox) = self.inspect_sandbox(id).await? else { return Ok(()) };
        let _turn = self.turns.of(id).await;
        self.stop_held(id, &sandbox).await
    }

    /// As [`Core::stop_sandbox`], by whoever holds the turn.
    async fn stop_held(self: &Arc<Self>, id: &str, sandbox: &ContainerInspectResponse) -> Result<(), Error> {
        for container in self.list(&[(labels::SANDBOX_ID, id)]).await? {
            let running = crate::status::listed_container(container)
                .filter(|item| item.state == i32::from(v1::ContainerState::ContainerRunning));
            if let Some(container) = running {
                self.kill(&container.id).await?;
            }
        }
        if life(sandbox) == Life::Running { self.kill(id).await } else { Ok(()) }
    }

    /// Removes a sandbox with all its containers.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some(sandbox) = self.inspect_sandbox(id).await? else { return Ok(()) };
        let _turn = self.turns.of(id).await;
        self.stop_held(id, &sandbox).await?;
        for container in self.list(&[(labels::SANDBOX_ID, id)]).await? {
            self.remove_container(&container.id.unwrap_or_default()).await?;
        }
        self.remove(id).await
    }
}

/// A container that has a sandbox's name.
enum Holder {
    Ready(String),
    Half(String),
    /// It stands in the way.
    Over(Error),
}
