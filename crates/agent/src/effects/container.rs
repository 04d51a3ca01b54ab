//! Creating and starting one attempt of a container.

mod config;
mod files;

use std::sync::Arc;

use cri::{Code, v1};
use lifecycle::{Done, Outcome};
use pod::reasons;

use super::{Job, Performed, World, failed, image, retry, security, wanted};
use crate::events::{normal, warning};
use config::request;

/// What is to be started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) container: String,
    pub(super) attempt: u32,
    pub(super) sandbox_id: String,
    pub(super) image_ref: String,
}

pub(super) async fn start(world: Arc<World>, job: Job, start: Start) -> Performed {
    let performed = match prepare(&world, job, &start).await {
        Ok(request) => create_and_start(&world, request, &start).await,
        Err(outcome) => Performed::new(outcome),
    };
    match &performed.outcome {
        Outcome::Failed(failure) => {
            let event = warning(reasons::FAILED, format!("Error: {}", failure.message), &start.container);
            performed.telling(event)
        }
        Outcome::Ok(_) | Outcome::Unknown => performed,
    }
}

/// All that can be found wrong before the runtime is asked.
async fn prepare(world: &Arc<World>, job: Job, start: &Start) -> Result<v1::CreateContainerRequest, Outcome> {
    let wrong = |message: String| retry(reasons::CREATE_CONTAINER_CONFIG_ERROR, message);
    let pod = wanted(&job)?;
    let Some(container) = pod::container(&pod, &start.container).cloned() else {
        return Err(wrong(format!("the pod has no container {:?}", start.container)));
    };
    if security::must_not_be_root(&pod, &container) {
        let user = image::user_of(world, &start.image_ref).await;
        let user = user.map_err(|error| failed(reasons::IMAGE_INSPECT_ERROR, &error))?;
        security::verify_not_root(&pod, &container, &user).map_err(wrong)?;
    }
    let (world, start) = (world.clone(), start.clone());
    let request = tokio::task::spawn_blocking(move || request(&world, &job, (&pod, &container), &start)).await;
    request.unwrap_or_else(|error| Err(format!("file work broke off: {error}"))).map_err(wrong)
}

async fn create_and_start(world: &World, request: v1::CreateContainerRequest, start: &Start) -> Performed {
    let failed = |reason, error: &cri::Error| Performed::new(failed(reason, error));
    let id = match world.runtime.create_container(request).await {
        Ok(response) => response.container_id,
        Err(error) if error.code == Code::AlreadyExists => match existing(world, start).await {
            Ok(Some((id, v1::ContainerState::ContainerCreated))) => id,
            Ok(Some((id, _))) => return Performed::new(Outcome::Ok(Done::Container { id })),
            Ok(None) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
            Err(error) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
        },
        Err(error) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
    };
    let created = normal(reasons::CREATED, "Container created", &start.container);
    match world.runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await {
        Ok(_) => Performed::new(Outcome::Ok(Done::Container { id })).telling(created).telling(normal(
            reasons::STARTED,
            "Container started",
            &start.container,
        )),
        Err(error) => failed(reasons::RUN_CONTAINER_ERROR, &error).telling(created),
    }
}

/// The attempt that an earlier call created whose answer was lost.
async fn existing(world: &World, start: &Start) -> Result<Option<(String, v1::ContainerState)>, cri::Error> {
    let filter = v1::ContainerFilter { pod_sandbox_id: start.sandbox_id.clone(), ..Default::default() };
    let listed = world.runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let same = |metadata: &v1::ContainerMetadata| metadata.name == start.container && metadata.attempt == start.attempt;
    let found = listed.containers.into_iter().find(|container| container.metadata.as_ref().is_some_and(same));
    Ok(found.map(|container| (container.id, cri::names::container_state(container.state))))
}
