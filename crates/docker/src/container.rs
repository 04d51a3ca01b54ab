//! A container's life: create, start, remove.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use cri::{Error, v1};

use crate::call::{CONFLICT, NOT_FOUND, absent_is_done, internal, on_pool};
use crate::core::{Core, labels_of};
use crate::facts::{Life, life};
use crate::spec::container::{Inputs, body};
use crate::{labels, logs, names, status};

/// A removal that another one has begun ends within this.
const REMOVED: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

impl Core {
    /// Prepares a container; a repeated request gets what its first made.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        request: v1::CreateContainerRequest,
    ) -> Result<String, Error> {
        let expected = |what: &str| Error::invalid_argument(format!("container: {what} is expected"));
        let config = request.config.ok_or_else(|| expected("a configuration"))?;
        let sandbox_config = request.sandbox_config.ok_or_else(|| expected("the sandbox's configuration"))?;
        let metadata = config.metadata.clone().ok_or_else(|| expected("metadata with a name"))?;
        check_name(&metadata.name)?;
        let sandbox_id = request.pod_sandbox_id;
        let _turn = self.turns.of(&format!("create in {sandbox_id}")).await;
        let absent = || Error::not_found(format!("there is no pod sandbox {sandbox_id}"));
        let sandbox = self.inspect_sandbox(&sandbox_id).await?.ok_or_else(absent)?;
        if life(&sandbox) != Life::Running {
            return Err(Error::failed_precondition(format!("pod sandbox {sandbox_id} is not ready")));
        }
        if let Some(existing) = self.existing(&sandbox_id, &metadata).await? {
            return Ok(existing);
        }
        self.settle_resolver(&sandbox, &sandbox_config).await?;
        Box::pin(self.make_container((&sandbox_id, &sandbox), &config, &sandbox_config)).await
    }

    /// The container that a repeated request asks for; `None` where it is the first.
    async fn existing(&self, sandbox_id: &str, wanted: &v1::ContainerMetadata) -> Result<Option<String>, Error> {
        let listed = self.list(&[(labels::SANDBOX_ID, sandbox_id)]).await?;
        let mut containers = listed.into_iter().filter_map(status::listed_container);
        let Some(found) = containers.find(|item| item.metadata.as_ref() == Some(wanted)) else { return Ok(None) };
        match self.inspect_container(&found.id).await?.as_ref().map(life) {
            None => Ok(None),
            Some(Life::Created) => Ok(Some(found.id)),
            Some(Life::Running | Life::Ended(_)) => Err(Error::already_exists(format!(
                "container {} with the name {} and attempt {} exists and was started before",
                found.id, wanted.name, wanted.attempt
            ))),
        }
    }

    async fn make_container(
        &self,
        (sandbox_id, sandbox): (&str, &ContainerInspectResponse),
        config: &v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let metadata = config.metadata.clone().unwrap_or_default();
        let spec = config.image.clone().unwrap_or_default();
        let absent = || Error::not_found(format!("image {} is not present", spec.image));
        let image = self.inspect_image(&spec.image).await?.ok_or_else(absent)?;
        let image_id = image.id.clone().unwrap_or_default();
        let image_user = image.config.as_ref().and_then(|config| config.user.as_deref()).unwrap_or_default();
        let host = sandbox.host_config.clone().unwrap_or_default();
        let refused = |refused: cri::Refused| refused.of(&format!("container {}", metadata.name));
        let body = body(&Inputs {
            config,
            sandbox_config,
            sandbox_id,
            sandbox: &host,
            image: &self.image_word(&spec.user_specified_image, &image_id).await,
            image_ref: crate::images::reference(&image),
            image_user,
            adapter: &self.config,
        })
        .map_err(refused)?;
        let name = names::of_container(&metadata, sandbox_config.metadata.as_ref().unwrap_or(&Default::default()));
        let created = match self.create(&name, body.clone()).await {
            // An older sandbox's container of the same attempt: it keeps its name, and this one gets another.
            Err(failed) if failed.status == Some(CONFLICT) => {
                self.create(&names::beside(&name, sandbox_id), body.clone()).await
            }
            answer => answer,
        };
        let id = created?;
        let made = self.inspect_container(&id).await?;
        if made.is_some_and(|made| made.image.as_deref() == Some(&image_id)) {
            return Ok(id);
        }
        // The name means another image by now; only the id is certain.
        self.remove(&id).await?;
        let body = bollard::models::ContainerCreateBody { image: Some(image_id), ..body };
        Ok(self.create(&names::beside(&name, sandbox_id), body).await?)
    }

    /// What Docker is to call an image: as the pod does, if that is this image, so that people know it again in lists.
    async fn image_word(&self, user_specified: &str, image_id: &str) -> String {
        let named = match user_specified.is_empty() {
            true => None,
            false => self.inspect_image(user_specified).await.ok().flatten(),
        };
        let same = named.is_some_and(|named| named.id.as_deref() == Some(image_id));
        if same { user_specified.to_owned() } else { image_id.to_owned() }
    }

    /// Starts a created container.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let _turn = self.turns.of(id).await;
        let absent = || Error::not_found(format!("there is no container {id}"));
        let found = self.inspect_container(id).await?.ok_or_else(absent)?;
        if life(&found) != Life::Created {
            // Docker would start it once more.
            return Err(Error::failed_precondition(format!("container {id} was started before")));
        }
        self.link_log(&found, id).await?;
        let of = id.to_owned();
        let start = |docker: bollard::Docker| async move { docker.start_container(&of, None).await };
        // Without its id: the same refusal again, of the next attempt, is the same text and so one event.
        match self.call("start container", start).await {
            Err(failed) if failed.status == Some(NOT_FOUND) && self.inspect_container(id).await?.is_some() => {
                // Docker's answer to a program that is not there.
                Err(Error::internal(failed.error.message))
            }
            answer => Ok(answer?),
        }
    }

    /// Before the start: a container that runs has its log where it is looked for.
    async fn link_log(&self, container: &ContainerInspectResponse, id: &str) -> Result<(), Error> {
        let labels = labels_of(container);
        let path = labels::text(labels, labels::LOG_PATH).to_owned();
        if path.is_empty() {
            return Ok(());
        }
        let sandbox_id = labels::text(labels, labels::SANDBOX_ID);
        let lost = || Error::failed_precondition(format!("the sandbox of container {id} is not ready"));
        let sandbox = self.inspect_sandbox(sandbox_id).await?.ok_or_else(lost)?;
        let target = logs::target(&sandbox, id).ok_or_else(lost)?;
        let linked = on_pool(move || logs::link(path.as_ref(), &target)).await?;
        linked.map_err(internal("link the container's log"))
    }

    /// Removes a container, killing it first where it runs. Its log, which is Docker's, goes with it.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let _turn = self.turns.of(id).await;
        let Some(found) = self.inspect_container(id).await? else { return Ok(()) };
        self.remove(id).await?;
        let log = labels::text(labels_of(&found), labels::LOG_PATH).to_owned();
        let of = id.to_owned();
        on_pool(move || logs::unlink(log.as_ref(), &of)).await
    }

    /// Removes one of Docker's containers, whatever it is for.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let (of, action) = (id.to_owned(), format!("remove container {id}"));
        let remove = |docker: bollard::Docker| async move { docker.remove_container(&of, Some(options)).await };
        match self.call(&action, remove).await {
            Err(failed) if failed.status == Some(CONFLICT) && failed.error.message.contains("in progress") => {}
            answer => return Ok(absent_is_done(answer)?),
        }
        let deadline = tokio::time::Instant::now() + REMOVED;
        while self.inspect(id).await?.is_some() {
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::deadline_exceeded(format!("{action}: it is being removed, and still there")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// It becomes part of a name.
fn check_name(name: &str) -> Result<(), Error> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("container: metadata.name: {name:?}: expected letters, digits, '.' and '-'")))
}
