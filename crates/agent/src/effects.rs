//! Carrying out what machines decide. Every effect runs in a task of its own, within a time limit, and ends in exactly
//! one outcome.

mod container;
mod dns;
mod hook;
mod image;
mod probe;
pub(crate) mod pulls;
mod sandbox;
mod security;
mod setup;
pub(crate) mod teardown;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cri::keys::PodKey;
use cri::{Code, Runtime, v1};
use k8s_openapi::api::core::v1::Pod;
use lifecycle::{Done, Effect, Event, Failure, FailureClass, Millis, ObservedPod, Outcome, ProbeKind, PullPolicy};
use pod::PullSecret;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::AgentConfig;
use crate::config::CALL_WITHIN;
use crate::core::Message;
use crate::messages::Messages;
use crate::pull_records::PullRecords;
use crate::{clock, observe};

/// Beyond what the runtime's own clients give a call, so that their word on it comes first.
const CALL_SLACK: Duration = Duration::from_secs(10);
/// Changes of the world under way at once. Waiting for containers to end and for images is not counted: it takes as
/// long as others please, and must not keep a pod from starting.
const CONCURRENT_MAX: usize = 64;
/// What takes longer does not work, it waits for somebody, and is not counted any more: pods whose runtime hangs must not
/// keep others from starting. A machine has one change of one thing under way, so there is an end to these as well.
const WORKS_WITHIN: Duration = Duration::from_secs(1);

/// Added to what a probe or a hook is given by the pod, before it is given up from outside.
const PROBE_SLACK: Duration = Duration::from_secs(5);
/// A probe that cannot be run is tried again at once as often.
const TRIES_MAX: u32 = 3;

/// What effects work on.
pub(crate) struct World {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) config: AgentConfig,
    /// None where control groups are left to the runtime.
    pub(crate) cgroups: Option<cgroup::Layout>,
    pub(crate) messages: Messages,
    /// Who wants an image from a registry waits here for his turn.
    pub(crate) pulls: pulls::Gate,
    pub(crate) records: Arc<PullRecords>,
    /// What the runtime's own clients give a call.
    pub(crate) call_within: Duration,
    permits: Semaphore,
}

impl World {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, config: AgentConfig, cgroups: Option<cgroup::Layout>) -> Self {
        let messages = Messages::new(&config.root_dir);
        let call_within = if config.call_within.is_zero() { CALL_WITHIN } else { config.call_within };
        let pulls = pulls::Gate::new(&config.images);
        let records = Arc::new(PullRecords::load(&config.root_dir, config.images.verification.clone()));
        let permits = Semaphore::new(CONCURRENT_MAX);
        Self { runtime, config, cgroups, messages, pulls, records, call_within, permits }
    }
}

/// One effect with all it needs to know.
#[derive(Debug, Clone)]
pub struct Job {
    pub key: PodKey,
    /// None for an orphan, of which only the end is ever asked.
    pub pod: Option<Arc<Pod>>,
    pub effect: Effect,
    /// Addresses of the pod: its sandbox's, or the node's.
    pub ips: Vec<String>,
    /// Attempt of the pod's sandbox.
    pub sandbox_attempt: u32,
    pub pull_policy: PullPolicy,
    /// Of [`Effect::EnsureImage`]: the pod's `imagePullSecrets`, in its order.
    pub pull_secrets: Vec<Arc<PullSecret>>,
    /// What all burstable pods request, for their common control group.
    pub burstable_millis: i64,
    pub cancel: CancellationToken,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Performed {
    /// What the runtime said on the way, and when it was asked.
    pub observed: Option<(Millis, ObservedPod)>,
    pub outcome: Outcome,
    /// What a person would want to know of the way it went.
    pub events: Vec<Event>,
}

impl Performed {
    pub fn new(outcome: Outcome) -> Self {
        Self { observed: None, outcome, events: Vec::new() }
    }

    /// With one more event.
    pub fn telling(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }
}

/// The way in which an effect tells of itself while it is under way.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) uid: String,
    pub(crate) generation: u64,
}

impl Teller {
    async fn tell(&self, event: Event) {
        let message = Message::Told { uid: self.uid.clone(), generation: self.generation, event };
        // The loop has ended: there is nobody to tell.
        let _ended = self.messages.send(message).await;
    }
}

pub(crate) use setup::qos_cgroups as make_qos_cgroups;

/// Carries out one effect.
pub(crate) async fn perform(world: Arc<World>, job: Job, teller: Teller) -> Performed {
    let permit = match is_counted(&job.effect) {
        true => world.permits.acquire().await.ok(),
        false => None,
    };
    let limit = time_limit(&job, world.call_within);
    let cancel = job.cancel.clone();
    let cancellable = is_cancellable(&job.effect);
    let pod = observe::name_of(&job.key);
    // On the heap: messages of the protocol make it 16 kB, and there is one for each effect under way.
    let work = Box::pin(cri::calls::for_pod(pod, carry_out(world.clone(), job, teller)));
    let mut within = pin!(async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| outcome(Outcome::Unknown)),
            None => work.await,
        }
    });
    if !cancellable {
        if let Ok(performed) = tokio::time::timeout(WORKS_WITHIN, &mut within).await {
            return performed;
        }
        drop(permit);
        return within.await;
    }
    tokio::select! {
        biased;
        () = cancel.cancelled() => outcome(Outcome::Failed(Failure {
            class: FailureClass::Cancelled,
            reason: String::new(),
            message: "given up".to_owned(),
        })),
        performed = within => performed,
    }
}

/// Whether it counts among those that may be under way at once.
fn is_counted(effect: &Effect) -> bool {
    match effect {
        Effect::EnsureImage { .. }
        | Effect::PostStart { .. }
        | Effect::PreStop { .. }
        | Effect::Probe { .. }
        | Effect::StopContainer { .. } => false,
        Effect::SetUp
        | Effect::RunSandbox { .. }
        | Effect::StartContainer { .. }
        | Effect::RemoveContainer { .. }
        | Effect::StopSandbox { .. }
        | Effect::RemoveSandbox { .. }
        | Effect::Inspect
        | Effect::TearDown => true,
    }
}

/// Whether dropping it half done leaves nothing behind that anybody would have to look for.
fn is_cancellable(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::EnsureImage { .. } | Effect::PostStart { .. } | Effect::PreStop { .. } | Effect::Probe { .. }
    )
}

/// After this nothing is known of it.
fn time_limit(job: &Job, call_within: Duration) -> Option<Duration> {
    let call_within = call_within + CALL_SLACK;
    match &job.effect {
        // Both take as long as others please; who waits for them may give them up.
        Effect::EnsureImage { .. } | Effect::PostStart { .. } => None,
        Effect::StopContainer { grace_ms, .. } => Some(call_within + Duration::from_millis(*grace_ms)),
        Effect::PreStop { grace_ms, .. } => Some(PROBE_SLACK + Duration::from_millis(*grace_ms)),
        Effect::Probe { container, kind, .. } => Some(PROBE_SLACK + TRIES_MAX * probe_timeout(job, container, *kind)),
        // Networks may take twice as long as anything else, and then the sandbox is looked at.
        Effect::RunSandbox { .. } => Some(3 * call_within),
        // Made, then started.
        Effect::StartContainer { .. } => Some(2 * call_within),
        _ => Some(call_within),
    }
}

fn probe_timeout(job: &Job, container: &str, kind: ProbeKind) -> Duration {
    let container = job.pod.as_deref().and_then(|pod| pod::container(pod, container));
    let probe = container.and_then(|container| match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    });
    let seconds = probe.and_then(|probe| probe.timeout_seconds).unwrap_or(1);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
}

async fn carry_out(world: Arc<World>, job: Job, teller: Teller) -> Performed {
    let runtime = world.runtime.clone();
    match job.effect.clone() {
        Effect::SetUp => setup::set_up(world, job).await,
        Effect::RunSandbox { attempt } => sandbox::run(&world, &job, attempt).await,
        Effect::EnsureImage { container } => image::ensure(&world, &job, (&container, &teller)).await,
        Effect::StartContainer { container, attempt, sandbox_id, image_ref } => {
            let start = container::Start { container, attempt, sandbox_id, image_ref };
            container::start(world, job, start).await
        }
        Effect::PostStart { container, container_id } => {
            run_hook(&world, &job, (&container, &container_id), hook::Moment::PostStart).await
        }
        Effect::PreStop { container, container_id, grace_ms } => {
            run_hook(&world, &job, (&container, &container_id), hook::Moment::PreStop { grace_ms }).await
        }
        Effect::Probe { container, container_id, kind } => {
            let target = probe::Target { container: &container, container_id: &container_id, kind };
            outcome(probe::run(&world, &job, target).await)
        }
        Effect::StopContainer { container_id, grace_ms } => {
            let timeout = i64::try_from(grace_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
            let request = v1::StopContainerRequest { container_id, timeout };
            ended(runtime.stop_container(request), pod::reasons::KILL_CONTAINER_ERROR).await
        }
        Effect::RemoveContainer { container_id } => {
            let request = v1::RemoveContainerRequest { container_id };
            ended(runtime.remove_container(request), pod::reasons::REMOVE_CONTAINER_ERROR).await
        }
        Effect::StopSandbox { sandbox_id } => {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox_id };
            ended(runtime.stop_pod_sandbox(request), pod::reasons::KILL_POD_SANDBOX_ERROR).await
        }
        Effect::RemoveSandbox { sandbox_id } => {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox_id };
            ended(runtime.remove_pod_sandbox(request), pod::reasons::KILL_POD_SANDBOX_ERROR).await
        }
        Effect::Inspect => inspect(&world, &job.key.uid).await,
        Effect::TearDown => outcome(teardown::tear_down(world, job.key).await),
    }
}

async fn run_hook(
    world: &World,
    job: &Job,
    (container, container_id): (&str, &str),
    moment: hook::Moment,
) -> Performed {
    let (outcome, event) = hook::run(world, job, hook::Target { container, container_id, moment }).await;
    Performed { events: event.into_iter().collect(), ..Performed::new(outcome) }
}

async fn inspect(world: &World, uid: &str) -> Performed {
    let stamp = clock::mono_ms();
    match observe::inspect(&*world.runtime, uid, &world.messages).await {
        Ok(pod) => {
            let observed = pod.map(|pod| pod.observed).unwrap_or_default();
            Performed { observed: Some((stamp, observed)), ..Performed::new(Outcome::Ok(Done::Nothing)) }
        }
        Err(error) => outcome(failed("InspectFailed", &error)),
    }
}

async fn ended<T>(call: impl Future<Output = Result<T, cri::Error>>, reason: &str) -> Performed {
    outcome(match call.await {
        Ok(_) => Outcome::Ok(Done::Nothing),
        // What is not there has ended.
        Err(error) if error.code == Code::NotFound => Outcome::Ok(Done::Nothing),
        Err(error) => failed(reason, &error),
    })
}

fn outcome(outcome: Outcome) -> Performed {
    Performed::new(outcome)
}

/// The outcome of a call that the runtime answered with an error.
fn failed(reason: &str, error: &cri::Error) -> Outcome {
    if error.code.leaves_outcome_unknown() {
        return Outcome::Unknown;
    }
    let class = if error.code == Code::NotFound { FailureClass::Gone } else { FailureClass::Retry };
    Outcome::Failed(Failure { class, reason: reason.to_owned(), message: error.message.clone() })
}

/// A failure to be tried again.
fn retry(reason: &str, message: impl ToString) -> Outcome {
    Outcome::Failed(Failure { class: FailureClass::Retry, reason: reason.to_owned(), message: message.to_string() })
}

/// The pod of an effect that only wanted pods are given.
fn wanted(job: &Job) -> Result<Arc<Pod>, Outcome> {
    job.pod.clone().ok_or_else(|| retry(pod::reasons::CREATE_CONTAINER_CONFIG_ERROR, "the pod is not wanted any more"))
}

/// Runs file work where blocking is allowed; a panic in it is a failure to be tried again.
async fn blocking(reason: &'static str, work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| retry(reason, format!("file work broke off: {error}")))
}
