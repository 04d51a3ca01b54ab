//! Making a container's image present.

use std::time::{Duration, Instant};

use cri::{Code, v1};
use lifecycle::{Done, Outcome, PullPolicy};
use pod::reasons;

use super::{Job, Performed, World, retry, sandbox, wanted};
use crate::events::{normal, warning};

pub(super) async fn ensure(world: &World, job: &Job, container: &str) -> Performed {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return Performed::new(outcome),
    };
    let name = pod::container(&pod, container).and_then(|c| c.image.as_deref()).unwrap_or_default();
    let normalised = match pod::image_name::normalize(name) {
        Ok(normalised) => normalised,
        Err(error) => {
            let text = format!("Failed to apply default image tag {name:?}: {error}");
            return refused(reasons::INVALID_IMAGE_NAME, format!("image {name:?}: {error}"), container)
                .telling(warning(reasons::INSPECT_FAILED, text, container));
        }
    };
    let spec = v1::ImageSpec { image: normalised, user_specified_image: name.to_owned(), ..Default::default() };
    let present = match world.runtime.image_status(status_of(&spec)).await {
        Ok(status) => status.image.map(|image| image.id),
        Err(error) => {
            let text = format!("Failed to inspect image {name:?}: {error}");
            return refused(reasons::IMAGE_INSPECT_ERROR, format!("inspect image {name:?}: {error}"), container)
                .telling(warning(reasons::INSPECT_FAILED, text, container));
        }
    };
    match (job.pull_policy, present) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Some(image_ref)) => already_present(name, image_ref, container),
        (PullPolicy::Never, None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            refused(reasons::ERR_IMAGE_NEVER_PULL, message.clone(), container).telling(warning(
                reasons::ERR_IMAGE_NEVER_PULL,
                message,
                container,
            ))
        }
        (PullPolicy::IfNotPresent, None) => pull(world, job, (spec, None), container).await,
        (PullPolicy::Always, present) => pull(world, job, (spec, present), container).await,
    }
}

fn already_present(name: &str, image_ref: String, container: &str) -> Performed {
    let text = format!("Container image {name:?} already present on machine and can be accessed by the pod");
    Performed::new(Outcome::Ok(Done::Image { image_ref })).telling(normal(reasons::PULLED, text, container))
}

/// A failure, as the container's history names it.
fn refused(reason: &str, message: String, container: &str) -> Performed {
    let event = warning(reasons::FAILED, format!("Error: {reason}"), container);
    Performed::new(retry(reason, message)).telling(event)
}

async fn pull(
    world: &World,
    job: &Job,
    (spec, present): (v1::ImageSpec, Option<String>),
    container: &str,
) -> Performed {
    let name = spec.user_specified_image.clone();
    let config = job.pod.as_deref().and_then(|pod| sandbox::config(world, pod, job.sandbox_attempt).ok());
    let sandbox_config = config.map(|(config, _)| config);
    let request = v1::PullImageRequest { image: Some(spec.clone()), auth: None, sandbox_config };
    let began = Instant::now();
    let result = world.runtime.pull_image(request).await;
    let took = began.elapsed();
    match (result, present) {
        (Ok(pulled), _) => {
            let size = world.runtime.image_status(status_of(&spec)).await.ok().and_then(|status| status.image);
            let text = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                size.map_or(0, |image| image.size),
                took = go_duration(took)
            );
            Performed::new(Outcome::Ok(Done::Image { image_ref: pulled.image_ref }))
                .telling(normal(reasons::PULLING, format!("Pulling image {name:?}"), container))
                .telling(normal(reasons::PULLED, text, container))
        }
        // A runtime that cannot pull cannot hold anything newer either.
        (Err(error), Some(image_ref)) if error.code == Code::Unimplemented => {
            already_present(&name, image_ref, container)
        }
        (Err(error), _) => {
            let failed = retry(reasons::ERR_IMAGE_PULL, format!("failed to pull image {name:?}: {error}"));
            Performed::new(failed)
                .telling(normal(reasons::PULLING, format!("Pulling image {name:?}"), container))
                .telling(warning(reasons::FAILED, format!("Failed to pull image {name:?}: {error}"), container))
                .telling(warning(reasons::FAILED, format!("Error: {}", reasons::ERR_IMAGE_PULL), container))
                .telling(normal(reasons::BACK_OFF, format!("Back-off pulling image {name:?}"), container))
                .telling(warning(reasons::FAILED, format!("Error: {}", reasons::IMAGE_PULL_BACK_OFF), container))
        }
    }
}

/// To the millisecond, as durations in events are written everywhere: `1m2.5s`, `1.234s`, `56ms`.
fn go_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1_000 {
        return if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") };
    }
    let (minutes, seconds) = (ms / 60_000, ms % 60_000);
    let fraction = format!("{}.{:03}", seconds / 1_000, seconds % 1_000);
    let seconds = fraction.trim_end_matches('0').trim_end_matches('.');
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_know_them() {
        let table = [
            (0, "0s"),
            (56, "56ms"),
            (1_000, "1s"),
            (1_234, "1.234s"),
            (62_500, "1m2.5s"),
            (120_000, "2m0s"),
            (3_661_010, "1h1m1.01s"),
        ];
        for (ms, text) in table {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
