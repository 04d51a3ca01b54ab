//! Making a container's image present.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cri::keys::IMAGE_GIVEN;
use cri::v1;
use lifecycle::image_access::{Access, Bearer, Verdict};
use lifecycle::{Done, Event, Outcome, PullPolicy};
use pod::reasons;
use tracing::warn;

use super::{Job, Performed, Teller, World, retry, sandbox, wanted};
use crate::credentials::{Credentials, PullFailure, with_each};
use crate::events::{normal, warning};
use crate::pull_records::Ended;

/// What runtimes put before the message of a pull that failed for a reason with a name of its own, and what it means.
const NAMED: [(&str, &str); 2] = [
    (reasons::REGISTRY_UNAVAILABLE, "the registry is unavailable"),
    (reasons::SIGNATURE_VALIDATION_FAILED, "the signature validation failed"),
];

/// An image that a container wants.
struct Want<'a> {
    world: &'a World,
    job: &'a Job,
    container: &'a str,
    /// As the manifest says it.
    name: &'a str,
    spec: v1::ImageSpec,
}

struct Present {
    id: String,
    size_bytes: u64,
    /// No registry is asked for it: an archive brought it.
    given: bool,
}

struct Pulled {
    image_ref: String,
    /// What it is known by from now on; none where the runtime did not tell.
    id: Option<String>,
    size_bytes: u64,
    /// Without waiting for its turn.
    took: Duration,
}

pub(super) async fn ensure(world: &World, job: &Job, (container, teller): (&str, &Teller)) -> Performed {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return Performed::new(outcome),
    };
    let name = pod::container(&pod, container).and_then(|c| c.image.as_deref()).unwrap_or_default();
    let image = match pod::image_name::normalize(name) {
        Ok(image) => image,
        Err(error) => {
            let unparsed = format!("couldn't parse image name {name:?}: {error}");
            let text = format!("Failed to apply default image tag {name:?}: {unparsed}");
            let event = warning(reasons::INSPECT_FAILED, text, container);
            return refused(reasons::INVALID_IMAGE_NAME, event);
        }
    };
    let spec = v1::ImageSpec { image, user_specified_image: name.to_owned(), ..Default::default() };
    let want = Want { world, job, container, name, spec };
    let present = match want.look().await {
        Ok(present) => present,
        Err(error) => {
            let text = format!("Failed to inspect image {name:?}: {error}");
            return refused(reasons::IMAGE_INSPECT_ERROR, warning(reasons::INSPECT_FAILED, text, container));
        }
    };
    let present = match present {
        Some(present) if job.pull_policy != PullPolicy::Always && want.may_use(&present).await => {
            return want.already_present(present);
        }
        other => other,
    };
    match job.pull_policy {
        PullPolicy::Never => {
            let text = format!("Container image {name:?} is not present with pull policy of Never");
            refused(reasons::ERR_IMAGE_NEVER_PULL, warning(reasons::ERR_IMAGE_NEVER_PULL, text, container))
        }
        PullPolicy::IfNotPresent | PullPolicy::Always => want.pull(present, teller).await,
    }
}

/// A failure that is no failed pull, as the container's status and history name it.
fn refused(reason: &str, event: Event) -> Performed {
    let error = Event { reason: reasons::FAILED, message: format!("Error: {reason}"), ..event.clone() };
    Performed::new(retry(reason, &event.message)).telling(event).telling(error)
}

impl Want<'_> {
    async fn look(&self) -> Result<Option<Present>, cri::Error> {
        // It costs other runtimes something.
        self.look_at(self.job.pull_policy == PullPolicy::Always).await
    }

    async fn look_at(&self, verbose: bool) -> Result<Option<Present>, cri::Error> {
        let request = v1::ImageStatusRequest { image: Some(self.spec.clone()), verbose };
        let status = self.world.runtime.image_status(request).await?;
        let given = status.info.get(IMAGE_GIVEN).is_some_and(|given| given == "true");
        let present = |image: v1::Image| Present { id: image.id, size_bytes: image.size, given };
        Ok(status.image.map(present))
    }

    /// Whether the pod may have what is here, as far as is known.
    async fn may_use(&self, present: &Present) -> bool {
        let (image, records) = (&self.spec.image, &self.world.records);
        let own = Credentials::own(image, &self.job.pull_secrets);
        let own: Vec<Bearer> = own.into_iter().map(|(_, bearer)| bearer).collect();
        match records.judge(image, Some(&present.id), &own) {
            Verdict::Granted => true,
            Verdict::GrantedTo(bearer) => {
                self.remember(&present.id, Access::Bearers(vec![bearer.clone()])).await;
                true
            }
            Verdict::Ask => {
                // A digest tells what is meant, and not whose it is.
                let by_name = !image.contains('@');
                let given = by_name && matches!(self.look_at(true).await, Ok(Some(present)) if present.given);
                given && records.judge(image, None, &own) == Verdict::Granted
            }
        }
    }

    async fn remember(&self, id: &str, access: Access) {
        let (records, image, id) = (self.world.records.clone(), self.spec.image.clone(), id.to_owned());
        let granted = on_disk(move || records.grant(&image, &id, access)).await;
        if let Err(error) = granted {
            warn!(image = self.name, %error, "who may use an image cannot be written down");
        }
    }

    fn already_present(&self, present: Present) -> Performed {
        let name = self.name;
        let text = format!("Container image {name:?} already present on machine and can be accessed by the pod");
        Performed::new(Outcome::Ok(Done::Image { image_ref: present.id })).telling(normal(
            reasons::PULLED,
            text,
            self.container,
        ))
    }

    async fn pull(&self, present: Option<Present>, teller: &Teller) -> Performed {
        let (name, container) = (self.name, self.container);
        teller.tell(normal(reasons::PULLING, format!("Pulling image {name:?}"), container)).await;
        let began = Instant::now();
        let pulled = match present {
            // It costs no registry anything and waits for none.
            Some(present) if present.given && self.may_use(&present).await => Ok(Pulled::as_it_is(present)),
            _ => match self.pull_in_turn().await {
                Ok(Turned::Pulled(pulled)) => Ok(pulled),
                Ok(Turned::Present(present)) => return self.already_present(present),
                Err(message) => Err(message),
            },
        };
        match pulled {
            Ok(pulled) => {
                let text = format!(
                    "Successfully pulled image {name:?} in {} ({} including waiting). Image size: {} bytes.",
                    go_duration(pulled.took),
                    go_duration(began.elapsed()),
                    pulled.size_bytes,
                );
                Performed::new(Outcome::Ok(Done::Image { image_ref: pulled.image_ref })).telling(normal(
                    reasons::PULLED,
                    text,
                    container,
                ))
            }
            Err(message) => {
                let (reason, status) = named(name, &message);
                Performed::new(retry(reason, status))
                    .telling(warning(reasons::FAILED, format!("Failed to pull image {name:?}: {message}"), container))
                    .telling(warning(reasons::FAILED, format!("Error: {reason}"), container))
            }
        }
    }

    /// Pulls when its turn has come. Giving it up gives up the turn and the pull.
    async fn pull_in_turn(&self) -> Result<Turned, String> {
        let gate = &self.world.pulls;
        let credentials = &self.world.config.images.credentials;
        let credentials = credentials.for_image(&self.spec.image, &self.job.pull_secrets).await;
        let turn = gate.turn().await;
        // Those before may have brought the very image.
        if self.job.pull_policy == PullPolicy::IfNotPresent
            && let Ok(Some(present)) = self.look().await
            && self.may_use(&present).await
        {
            return Ok(Turned::Present(present));
        }
        if !gate.is_paced() {
            return Err("pull QPS exceeded".to_owned());
        }
        gate.pull(turn, self.pull_with(credentials)).await.map(Turned::Pulled)
    }

    /// Pulls with one credential after the other, and remembers whom the registry let in.
    async fn pull_with(&self, credentials: Vec<v1::AuthConfig>) -> Result<Pulled, String> {
        let (records, image) = (self.world.records.clone(), self.spec.image.clone());
        let before = self.look_at(false).await.map_err(|error| error.message)?.map(|present| present.id);
        let pulling = on_disk(move || records.begin(&image, before.as_deref())).await;
        let pulling = pulling.map_err(|error| format!("the pull cannot be written down before it begins: {error}"))?;
        let own = Credentials::own(&self.spec.image, &self.job.pull_secrets);
        let is_unknown = AtomicBool::new(false);
        let outcome = with_each(credentials, async |auth| match self.ask(auth.clone()).await {
            Ok(pulled) => {
                let bearer = own.iter().find(|(known, _)| Some(known) == auth.as_ref());
                let access = bearer.map_or(Access::Everyone, |(_, bearer)| Access::Bearers(vec![bearer.clone()]));
                Ok((pulled, access))
            }
            Err(error) => {
                is_unknown.fetch_or(error.code.leaves_outcome_unknown(), Ordering::Relaxed);
                Err(PullFailure::from(error))
            }
        });
        let outcome = outcome.await;
        let ended = match &outcome {
            Ok((Pulled { id: Some(id), .. }, access)) => Ended::Pulled(id.clone(), access.clone()),
            Ok(_) => Ended::Unknown,
            Err(_) if is_unknown.into_inner() => Ended::Unknown,
            Err(_) => Ended::Failed,
        };
        // Should it break off, the pull stays as one whose end nobody saw.
        let _written = tokio::task::spawn_blocking(move || pulling.end(ended)).await;
        outcome.map(|(pulled, _)| pulled)
    }

    async fn ask(&self, auth: Option<v1::AuthConfig>) -> Result<Pulled, cri::Error> {
        let (world, job) = (self.world, self.job);
        let config = job.pod.as_deref().and_then(|pod| sandbox::config(world, pod, job.sandbox_attempt).ok());
        let sandbox_config = config.map(|(config, _)| config);
        let request = v1::PullImageRequest { image: Some(self.spec.clone()), auth, sandbox_config };
        let began = Instant::now();
        let image_ref = world.runtime.pull_image(request).await?.image_ref;
        let took = began.elapsed();
        let present = self.look_at(false).await.ok().flatten();
        let (id, size_bytes) = present.map(|image| (image.id, image.size_bytes)).unzip();
        Ok(Pulled { image_ref, id, size_bytes: size_bytes.unwrap_or(0), took })
    }
}

/// Work with files.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Pulled {
    fn as_it_is(Present { id, size_bytes, .. }: Present) -> Self {
        Self { image_ref: id.clone(), id: Some(id), size_bytes, took: Duration::ZERO }
    }
}

/// What there is after its turn.
enum Turned {
    Pulled(Pulled),
    Present(Present),
}

/// The reason of a failed pull, and what the container's status says of it.
fn named(name: &str, message: &str) -> (&'static str, String) {
    for (reason, because) in NAMED {
        if let Some(detail) = message.strip_prefix(reason) {
            return (reason, format!("image pull failed for {name} because {because}{detail}"));
        }
    }
    (reasons::ERR_IMAGE_PULL, message.to_owned())
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
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
    let image = world.runtime.image_status(request).await?.image.unwrap_or_default();
    Ok(match image.uid {
        Some(uid) => ImageUser::Id(uid.value),
        None if !image.username.is_empty() => ImageUser::Name(image.username),
        None => ImageUser::Id(0),
    })
}

#[cfg(test)]
mod tests;
