//! What the HTTP server asks, answered from the agent, the runtime and the images.

use crate::images::Images;
use crate::log::LogOutput;
use crate::readiness::Readiness;
use crate::stats::{self, Rates};
use agent::credentials::Credentials;
use agent::{AgentHandle, ContainerView, PodView, PruneError, RunState};
use async_trait::async_trait;
use cri::attach::Terms;
use cri::calls::{self, Calls};
use cri::channel::Resize;
use cri::{Code, Runtime, keys, v1};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod::reasons;
use server::logs::LogSource;
use server::stats::Summary;
use server::{
    AttachRequest, ContainerRef, EventFilter, ExecRequest, HealthCheck, HostError, HostErrorKind, ImagePull,
    ImageSummary, ImportRequest, ImportedImage, LogRequest, ManifestStatus, PodRef, PruneFailure, Pruned, PrunedImage,
    PulledImage, StreamOptions,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A loop that does not answer within this time hangs.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// No more is told of a runtime that answers nothing.
const TROUBLES: usize = 20;
/// Between two looks at a container whose runtime has no events.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Host {
    pub(crate) agent: AgentHandle,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// What the runtime is being asked.
    pub(crate) calls: Arc<Calls>,
    /// What it says of itself.
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) images: Images,
    pub(crate) node_name: String,
    pub(crate) rates: Rates,
    /// Of the node.
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) log: LogOutput,
    pub(crate) root_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
}

impl Host {
    fn runtime_health(&self) -> Result<(), String> {
        let calls = self.calls.troubles();
        let troubles = self.readiness.trouble().into_iter().chain(calls.iter().map(ToString::to_string));
        let troubles: Vec<String> = troubles.take(TROUBLES).collect();
        if troubles.is_empty() { Ok(()) } else { Err(troubles.join("; ")) }
    }

    async fn container(&self, target: &ContainerRef) -> Result<(PodView, ContainerView), HostError> {
        let pod = self.agent.pod(&target.namespace, &target.pod).await;
        let pod = pod.map_err(|error| HostError::not_found(error.to_string()))?;
        match pod.containers.iter().find(|container| container.name == target.container) {
            Some(container) => Ok((pod.clone(), container.clone())),
            None => {
                let text = format!("container {:?} not found in pod {:?}", target.container, pod.name);
                Err(HostError::not_found(text))
            }
        }
    }
}

#[async_trait]
impl server::Host for Host {
    async fn pods(&self) -> List<Pod> {
        self.agent.pods().await
    }

    async fn machine_info(&self) -> node::MachineInfo {
        let root_dir = self.root_dir.clone();
        tokio::task::spawn_blocking(move || node::machine_info(&root_dir)).await.unwrap_or_default()
    }

    async fn stats(&self) -> Result<Summary, HostError> {
        let used = self.runtime.list_container_stats(v1::ListContainerStatsRequest::default()).await?.stats;
        let node = tokio::task::spawn_blocking(node::usage).await.unwrap_or_default();
        let now_ns = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        let pods = self.agent.pods().await.items;
        Ok(stats::summary((&self.node_name, node, now_ns), &pods, &used, &self.rates))
    }

    async fn health(&self, check: HealthCheck) -> Result<(), String> {
        match check {
            HealthCheck::Log if self.log.is_well() => Ok(()),
            HealthCheck::Log => Err("the last log line could not be written to standard error".into()),
            HealthCheck::SyncLoop => match tokio::time::timeout(ALIVE_TIMEOUT, self.agent.is_alive()).await {
                Ok(true) => self.runtime_health(),
                Ok(false) => Err("the loop has ended".into()),
                Err(_) => Err(format!("the loop has not answered for {ALIVE_TIMEOUT:?}")),
            },
        }
    }

    async fn events(&self, of: EventFilter) -> List<Event> {
        let items = match of {
            EventFilter::All => self.agent.events(None).await,
            EventFilter::Pod { namespace, pod } => self.agent.events(Some((&namespace, &pod))).await,
            EventFilter::Namespace { namespace } => {
                let mut items = self.agent.events(None).await;
                items.retain(|event| event.involved_object.namespace.as_deref() == Some(&namespace));
                items
            }
        };
        List { items, ..List::default() }
    }

    async fn manifests(&self) -> Vec<ManifestStatus> {
        let told = |status: agent::ManifestStatus| ManifestStatus {
            file: status.file,
            error: status.error,
            ignored: status.ignored,
            since: Time(status.since),
            keeps_last_good: status.keeps_last_good,
            pods: status.pods,
        };
        self.agent.manifests().await.into_iter().map(told).collect()
    }

    async fn logs(&self, request: LogRequest) -> Result<LogSource, HostError> {
        let (pod, container) = self.container(&request.container).await?;
        let (name, pod_name) = (&container.name, &pod.name);
        if request.options.previous {
            let path = container.previous_log_path.ok_or_else(|| {
                HostError::invalid(format!("previous terminated container {name:?} in pod {pod_name:?} not found"))
            })?;
            return Ok(LogSource {
                root: self.log_dir.clone(),
                path: beneath(&self.log_dir, path),
                ended: Box::pin(async {}),
            });
        }
        let Some(path) = container.log_path else {
            let what = waits(&container.state);
            return Err(HostError::invalid(format!(
                "container {name:?} in pod {pod_name:?} is waiting to start{what}"
            )));
        };
        let ended = wait_for_exit(Arc::clone(&self.runtime), container.id);
        Ok(LogSource { root: self.log_dir.clone(), path: beneath(&self.log_dir, path), ended: Box::pin(ended) })
    }

    async fn exec(&self, request: ExecRequest) -> Result<cri::ExecSession, HostError> {
        let (pod, container) = self.container(&request.container).await?;
        let StreamOptions { stdin, stdout, stderr, tty, window } = request.streams;
        let container_id = running(&pod, &container)?;
        let request = v1::ExecRequest { container_id, cmd: request.command, tty, stdin, stdout, stderr };
        Ok(calls::for_pod(named(&pod), self.runtime.exec(request, size(window))).await?)
    }

    async fn attach(&self, request: AttachRequest) -> Result<cri::ExecSession, HostError> {
        let (pod, container) = self.container(&request.container).await?;
        let StreamOptions { stdin, stdout, stderr, window, .. } = request.streams;
        let container_id = running(&pod, &container)?;
        if stdin && !container.stdin {
            let text = format!(
                "container {:?} in pod {:?} has no input: it is declared without `stdin: true`",
                container.name, pod.name
            );
            return Err(HostError::new(HostErrorKind::Conflict, text));
        }
        // Whether there is a terminal was decided when the container was made.
        let tty = container.tty;
        let terms = Terms { window: size(window), stdin_once: container.stdin_once };
        let request = v1::AttachRequest { container_id, stdin, stdout, stderr: stderr && !tty, tty };
        Ok(calls::for_pod(named(&pod), self.runtime.attach(request, terms)).await?)
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<String, HostError> {
        let found = self.agent.pod(&pod.namespace, &pod.pod).await;
        let found = found.map_err(|error| HostError::not_found(error.to_string()))?;
        let filter = v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
            label_selector: [(keys::POD_UID.to_owned(), found.uid.clone())].into(),
            ..Default::default()
        };
        let list = self.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) });
        let listed = calls::for_pod(named(&found), list).await?.items;
        let newest = listed.into_iter().max_by_key(|sandbox| sandbox.created_at);
        let none = || format!("unable to forward port because pod {:?} is not running: it has no sandbox", found.name);
        newest.map(|sandbox| sandbox.id).ok_or_else(|| HostError::new(HostErrorKind::Conflict, none()))
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn cri::ByteStream>, HostError> {
        Ok(self.runtime.port_forward(sandbox, port).await?)
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, HostError> {
        self.images.list().await
    }

    async fn image_import(&self, request: ImportRequest) -> Result<Vec<ImportedImage>, HostError> {
        let imported = self.images.import(request).await?;
        self.agent.images_changed().await;
        Ok(imported)
    }

    async fn image_remove(&self, reference: &str) -> Result<(), HostError> {
        self.images.remove(reference).await
    }

    async fn image_pull(&self, reference: &str) -> Result<PulledImage, HostError> {
        let credentials = self.credentials.for_image(reference, &[]).await;
        let pulled = self.images.pull(reference, credentials).await?;
        self.agent.images_changed().await;
        Ok(pulled)
    }

    async fn image_pulls(&self) -> Vec<ImagePull> {
        self.images.pulls()
    }

    async fn image_prune(&self) -> Result<Pruned, HostError> {
        let pruned = self.agent.prune_images().await.map_err(|error| match &error {
            PruneError::NotReady | PruneError::Closed => HostError::new(HostErrorKind::Unavailable, error.to_string()),
            PruneError::Runtime { error: of_call, .. } => {
                HostError { message: error.to_string(), ..of_call.clone().into() }
            }
        })?;
        let removed =
            |image: agent::PrunedImage| PrunedImage { id: image.id, names: image.names, size_bytes: image.size_bytes };
        let failed = |image: agent::PruneFailure| PruneFailure { id: image.id, names: image.names, error: image.error };
        Ok(Pruned {
            removed: pruned.removed.into_iter().map(removed).collect(),
            failed: pruned.failed.into_iter().map(failed).collect(),
            freed_bytes: pruned.freed_bytes,
        })
    }
}

/// A pod as calls of the runtime are told to be for.
fn named(pod: &PodView) -> Arc<str> {
    format!("{}/{}", pod.namespace, pod.name).into()
}

fn size(window: Option<Resize>) -> Option<(u16, u16)> {
    window.map(|size| (size.width, size.height))
}

/// The id of a container that runs.
fn running(pod: &PodView, container: &ContainerView) -> Result<String, HostError> {
    let (name, pod) = (&container.name, &pod.name);
    let text = match (&container.state, &container.id) {
        (RunState::Running, Some(id)) => return Ok(id.clone()),
        (RunState::Running, None) => return Err(HostError::internal("a running container without an id")),
        (RunState::Exited { exit_code }, _) => {
            format!("container {name:?} in pod {pod:?} has exited with code {exit_code}")
        }
        (RunState::Waiting { reason, .. }, _) => format!("container {name:?} in pod {pod:?} does not run: {reason}"),
    };
    Err(HostError::new(HostErrorKind::Conflict, text))
}

/// What a container without a log waits for, in the words that people and tools look for.
fn waits(state: &RunState) -> String {
    match state {
        RunState::Waiting { reason, .. } => match reason.as_str() {
            reasons::ERR_IMAGE_PULL => ": image can't be pulled".into(),
            reasons::IMAGE_PULL_BACK_OFF => ": trying and failing to pull image".into(),
            reason => format!(": {reason}"),
        },
        RunState::Running | RunState::Exited { .. } => " - no logs yet".into(),
    }
}

/// The path as the log reader wants it: relative to the directory that is trusted.
fn beneath(root: &std::path::Path, path: PathBuf) -> PathBuf {
    path.strip_prefix(root).map(PathBuf::from).unwrap_or(path)
}

/// Ready once the container has exited or is gone.
async fn wait_for_exit(runtime: Arc<dyn Runtime>, id: Option<String>) {
    let Some(id) = id else { return };
    loop {
        // Subscribed before asking, so that no exit falls between.
        let events = runtime.events().await;
        let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
        match runtime.container_status(request).await {
            Ok(answer) if answer.status.as_ref().is_some_and(still_runs) => {}
            // A runtime that is away says nothing about the container.
            Err(error) if error.code.leaves_outcome_unknown() => {}
            _ => return,
        }
        match events {
            Ok(mut events) => {
                if seen_to_exit(&mut events, &id).await {
                    return;
                }
            }
            Err(error) if error.code == Code::Unimplemented || error.code.leaves_outcome_unknown() => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(_) => return,
        }
    }
}

/// False where the subscription was cut for falling behind.
async fn seen_to_exit(events: &mut mpsc::Receiver<v1::ContainerEventResponse>, id: &str) -> bool {
    while let Some(event) = events.recv().await {
        let seen = event.containers_statuses.iter().find(|status| status.id == id);
        let of_this = event.container_id == id || seen.is_some();
        if of_this && !seen.is_some_and(still_runs) {
            return true;
        }
    }
    false
}

fn still_runs(status: &v1::ContainerStatus) -> bool {
    use v1::ContainerState::{ContainerCreated, ContainerRunning};
    matches!(cri::names::container_state(status.state), ContainerCreated | ContainerRunning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_a_log_says_what_it_waits_for() {
        let waiting = |reason: &str| RunState::Waiting { reason: reason.into(), message: String::new() };
        for (state, text) in [
            (waiting("PodInitializing"), ": PodInitializing"),
            (waiting("ContainerCreating"), ": ContainerCreating"),
            (waiting("ErrImagePull"), ": image can't be pulled"),
            (waiting("ImagePullBackOff"), ": trying and failing to pull image"),
            (RunState::Running, " - no logs yet"),
            (RunState::Exited { exit_code: 0 }, " - no logs yet"),
        ] {
            assert_eq!(waits(&state), text);
        }
    }
}
