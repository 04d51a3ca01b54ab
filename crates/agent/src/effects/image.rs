//! Making a container's image present.

use cri::{Code, v1};
use lifecycle::{Done, Outcome, PullPolicy};
use pod::reasons;

use super::{Job, Performed, World, retry, sandbox, wanted};

pub(super) async fn ensure(world: &World, job: &Job, container: &str) -> Performed {
    Performed::new(make_present(world, job, container).await)
}

async fn make_present(world: &World, job: &Job, container: &str) -> Outcome {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return outcome,
    };
    let name = pod::container(&pod, container).and_then(|c| c.image.as_deref()).unwrap_or_default();
    let normal = match pod::image_name::normalize(name) {
        Ok(normal) => normal,
        Err(error) => return retry(reasons::INVALID_IMAGE_NAME, format!("image {name:?}: {error}")),
    };
    let spec = v1::ImageSpec { image: normal, user_specified_image: name.to_owned(), ..Default::default() };
    let present = match world.runtime.image_status(status_of(&spec)).await {
        Ok(status) => status.image.map(|image| image.id),
        Err(error) => return retry(reasons::IMAGE_INSPECT_ERROR, format!("inspect image {name:?}: {error}")),
    };
    match (job.pull_policy, present) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image_ref)) => Outcome::Ok(Done::Image { image_ref }),
        (PullPolicy::Never, None) => retry(
            reasons::ERR_IMAGE_NEVER_PULL,
            format!("Container image {name:?} is not present with pull policy of Never"),
        ),
        (PullPolicy::IfNotPresent, None) => pull(world, job, spec, None).await,
        (PullPolicy::Always, present) => pull(world, job, spec, present).await,
    }
}

async fn pull(world: &World, job: &Job, spec: v1::ImageSpec, present: Option<String>) -> Outcome {
    let name = spec.user_specified_image.clone();
    let sandbox_config = job.pod.as_deref().and_then(|pod| sandbox::config(world, pod, job.sandbox_attempt).ok());
    let request = v1::PullImageRequest { image: Some(spec), auth: None, sandbox_config };
    match (world.runtime.pull_image(request).await, present) {
        (Ok(pulled), _) => Outcome::Ok(Done::Image { image_ref: pulled.image_ref }),
        // A runtime that cannot pull cannot hold anything newer either.
        (Err(error), Some(image_ref)) if error.code == Code::Unimplemented => Outcome::Ok(Done::Image { image_ref }),
        (Err(error), _) => retry(reasons::ERR_IMAGE_PULL, format!("failed to pull image {name:?}: {error}")),
    }
}

fn status_of(spec: &v1::ImageSpec) -> v1::ImageStatusRequest {
    v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false }
}

/// The user an image names: a number, a name, or root where it names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ImageUser {
    Id(i64),
    Name(String),
}

/// # Errors
/// The runtime's.
pub(super) async fn user_of(world: &World, image_ref: &str) -> Result<ImageUser, cri::Error> {
    let spec = v1::ImageSpec { image: image_ref.to_owned(), ..Default::default() };
    let image = world.runtime.image_status(status_of(&spec)).await?.image.unwrap_or_default();
    Ok(match image.uid {
        Some(uid) => ImageUser::Id(uid.value),
        None if !image.username.is_empty() => ImageUser::Name(image.username),
        None => ImageUser::Id(0),
    })
}
