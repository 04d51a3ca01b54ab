//! A runtime in memory, that does what it is told at once, or not at all.

pub(crate) mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use cri::attach::Terms;
use cri::keys::{self, Map};
use cri::{ByteStream, Error, ExecSession, LogRotation, Runtime, names, v1};
use tokio::sync::{mpsc, watch};

use images::Images;

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) images: Images,
    state: Mutex<State>,
    /// Names of pods of which no call returns.
    stuck: watch::Sender<BTreeSet<String>>,
    /// Listings of everything that are never answered, from now on.
    listings_lost: Mutex<u32>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, (v1::ContainerStatus, String)>,
    configs: Vec<v1::ContainerConfig>,
    events: Vec<mpsc::Sender<v1::ContainerEventResponse>>,
    mute: bool,
    /// Where the kubelet rotates its logs, and what it answers instead of reopening one.
    logs: Option<PathBuf>,
    not_reopening: Option<Error>,
    calls: Vec<String>,
    /// What commands in containers were asked for, and what all of them answer; none: they never end.
    commands: Vec<v1::ExecSyncRequest>,
    answer: Option<Result<v1::ExecSyncResponse, Error>>,
    next: u64,
}

impl Fake {
    pub(crate) fn new(images: &[&str]) -> Self {
        let fake = Self::default();
        images.iter().for_each(|image| fake.add_image(image));
        fake
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn add_image(&self, image: &str) {
        self.images.add(images::image("sha256:1", &[&format!("docker.io/library/{image}")]));
    }

    /// What was asked of it, as `call pod[/container]`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    pub(crate) fn configs(&self) -> Vec<v1::ContainerConfig> {
        self.lock().configs.clone()
    }

    /// From now on every command in a container answers this.
    pub(crate) fn answer_commands(&self, answer: Result<v1::ExecSyncResponse, Error>) {
        self.lock().answer = Some(answer);
    }

    pub(crate) fn commands(&self) -> Vec<v1::ExecSyncRequest> {
        self.lock().commands.clone()
    }

    /// Every running container as `pod/container/attempt`.
    pub(crate) fn running(&self) -> Vec<String> {
        let state = self.lock();
        let running = state.containers.values().filter(|(c, _)| c.state == v1::ContainerState::ContainerRunning as i32);
        running
            .map(|(c, _)| {
                let metadata = c.metadata.clone().unwrap();
                format!("{}/{}/{}", c.labels[keys::POD_NAME], metadata.name, metadata.attempt)
            })
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// From now on calls for the pod do not return.
    pub(crate) fn hold(&self, pod: &str) {
        self.stuck.send_modify(|stuck| _ = stuck.insert(pod.to_owned()));
    }

    pub(crate) fn release(&self, pod: &str) {
        self.stuck.send_modify(|stuck| _ = stuck.remove(pod));
    }

    /// From now on so many listings of everything are never answered.
    pub(crate) fn lose_listings(&self, count: u32) {
        *self.listings_lost.lock().unwrap() = count;
    }

    /// Those that are still to be lost.
    pub(crate) fn listings_to_lose(&self) -> u32 {
        *self.listings_lost.lock().unwrap()
    }

    fn loses_listing(&self, selector: &Map) -> bool {
        let mut lost = self.listings_lost.lock().unwrap();
        let loses = selector.is_empty() && *lost > 0;
        *lost -= u32::from(loses);
        loses
    }

    /// A runtime that has no events.
    pub(crate) fn without_events(self) -> Self {
        self.lock().mute = true;
        self
    }

    /// A runtime that leaves the rotation of the logs in `dir` to the kubelet.
    pub(crate) fn leaving_logs_in(self, dir: PathBuf) -> Self {
        self.lock().logs = Some(dir);
        self
    }

    pub(crate) fn refuse_reopening(&self, with: Option<Error>) {
        self.lock().not_reopening = with;
    }

    /// Ends every running container of the pod.
    pub(crate) fn exit(&self, pod: &str, code: i32) {
        let mut state = self.lock();
        let ids: Vec<String> = state
            .containers
            .iter()
            .filter(|(_, (c, _))| c.labels[keys::POD_NAME] == pod)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            state.end(&id, code);
        }
    }

    async fn pass(&self, call: &str, labels: &Map) {
        let pod = labels.get(keys::POD_NAME).cloned().unwrap_or_default();
        let container = labels.get(keys::CONTAINER_NAME).map(|name| format!("/{name}")).unwrap_or_default();
        self.lock().calls.push(format!("{call} {pod}{container}"));
        self.wait(labels).await;
    }

    /// Until no call for the pod is held any more.
    async fn wait(&self, labels: &Map) {
        let pod = labels.get(keys::POD_NAME).cloned().unwrap_or_default();
        let mut stuck = self.stuck.subscribe();
        stuck.wait_for(|stuck| !stuck.contains(&pod)).await.unwrap();
    }

    fn labels_of_container(&self, id: &str) -> Map {
        self.lock().containers.get(id).map(|(c, _)| c.labels.clone()).unwrap_or_default()
    }

    fn labels_of_sandbox(&self, id: &str) -> Map {
        self.lock().sandboxes.get(id).map(|s| s.labels.clone()).unwrap_or_default()
    }
}

impl State {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("id{}", self.next)
    }

    fn clock(&mut self) -> i64 {
        self.next += 1;
        1_000_000_000 * i64::try_from(self.next).unwrap()
    }

    fn end(&mut self, id: &str, code: i32) {
        let now = self.clock();
        let Some((container, sandbox)) = self.containers.get_mut(id) else { return };
        if container.state == v1::ContainerState::ContainerExited as i32 {
            return;
        }
        container.state = v1::ContainerState::ContainerExited as i32;
        container.exit_code = code;
        container.finished_at = now;
        let sandbox = sandbox.clone();
        self.emit(id, &sandbox, v1::ContainerEventType::ContainerStoppedEvent);
    }

    fn emit(&mut self, container_id: &str, sandbox: &str, kind: v1::ContainerEventType) {
        let event = v1::ContainerEventResponse {
            container_id: container_id.to_owned(),
            container_event_type: kind as i32,
            created_at: 0,
            pod_sandbox_status: self.sandboxes.get(sandbox).cloned(),
            containers_statuses: self.of(sandbox),
        };
        self.events.retain(|events| events.try_send(event.clone()).is_ok());
    }

    fn of(&self, sandbox: &str) -> Vec<v1::ContainerStatus> {
        self.containers.values().filter(|(_, of)| of == sandbox).map(|(c, _)| c.clone()).collect()
    }
}

fn matches(labels: &Map, selector: &Map) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self, _: v1::VersionRequest) -> Result<v1::VersionResponse, Error> {
        Ok(v1::VersionResponse { runtime_name: "fake".into(), ..Default::default() })
    }

    async fn status(&self, _: v1::StatusRequest) -> Result<v1::StatusResponse, Error> {
        Ok(self.images.runtime_status())
    }

    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Error> {
        let config = request.config.unwrap();
        self.pass("run", &config.labels).await;
        let mut state = self.lock();
        let id = state.id();
        let created_at = state.clock();
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at,
            network: Some(v1::PodSandboxNetworkStatus { ip: "10.1.0.2".into(), ..Default::default() }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        state.emit(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Error> {
        let id = request.pod_sandbox_id;
        self.pass("stop-sandbox", &self.labels_of_sandbox(&id)).await;
        let mut state = self.lock();
        let containers: Vec<String> = state.of(&id).into_iter().map(|c| c.id).collect();
        for container in containers {
            state.end(&container, 137);
        }
        if let Some(sandbox) = state.sandboxes.get_mut(&id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        }
        state.emit(&id, &id, v1::ContainerEventType::ContainerStoppedEvent);
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Error> {
        let id = request.pod_sandbox_id;
        self.pass("remove-sandbox", &self.labels_of_sandbox(&id)).await;
        let mut state = self.lock();
        state.containers.retain(|_, (_, of)| *of != id);
        state.sandboxes.remove(&id);
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Error> {
        let labels = self.lock().sandboxes.get(&request.pod_sandbox_id).map(|status| status.labels.clone());
        self.wait(&labels.unwrap_or_default()).await;
        let state = self.lock();
        let status = state.sandboxes.get(&request.pod_sandbox_id).cloned();
        let status = status.ok_or_else(|| Error::not_found("no such sandbox"))?;
        let containers_statuses = state.of(&status.id);
        Ok(v1::PodSandboxStatusResponse { status: Some(status), containers_statuses, ..Default::default() })
    }

    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Error> {
        let selector = request.filter.unwrap_or_default().label_selector;
        if self.loses_listing(&selector) {
            std::future::pending::<()>().await;
        }
        let state = self.lock();
        let sandboxes = state.sandboxes.values().filter(|s| matches(&s.labels, &selector)).map(|s| v1::PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            ..Default::default()
        });
        Ok(v1::ListPodSandboxResponse { items: sandboxes.collect() })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Error> {
        let config = request.config.unwrap();
        self.pass("create", &config.labels).await;
        let mut state = self.lock();
        let id = state.id();
        let created_at = state.clock();
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at,
            image_ref: config.image.clone().unwrap_or_default().image,
            image: config.image.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), (status, request.pod_sandbox_id.clone()));
        state.configs.push(config);
        state.emit(&id, &request.pod_sandbox_id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Error> {
        let id = request.container_id;
        self.pass("start", &self.labels_of_container(&id)).await;
        let mut state = self.lock();
        let started_at = state.clock();
        let (container, sandbox) =
            state.containers.get_mut(&id).ok_or_else(|| Error::not_found("no such container"))?;
        container.state = v1::ContainerState::ContainerRunning as i32;
        container.started_at = started_at;
        let sandbox = sandbox.clone();
        state.emit(&id, &sandbox, v1::ContainerEventType::ContainerStartedEvent);
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Error> {
        self.pass("stop", &self.labels_of_container(&request.container_id)).await;
        self.lock().end(&request.container_id, 143);
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Error> {
        self.pass("remove", &self.labels_of_container(&request.container_id)).await;
        let mut state = self.lock();
        if let Some((_, sandbox)) = state.containers.remove(&request.container_id) {
            state.emit(&request.container_id, &sandbox, v1::ContainerEventType::ContainerDeletedEvent);
        }
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Error> {
        let selector = request.filter.unwrap_or_default().label_selector;
        let state = self.lock();
        let containers = state.containers.values().filter(|(c, _)| matches(&c.labels, &selector));
        let containers = containers.map(|(c, sandbox)| v1::Container {
            id: c.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: c.metadata.clone(),
            image: c.image.clone(),
            image_ref: c.image_ref.clone(),
            state: c.state,
            labels: c.labels.clone(),
            annotations: c.annotations.clone(),
            ..Default::default()
        });
        Ok(v1::ListContainersResponse { containers: containers.collect() })
    }

    async fn list_container_stats(
        &self,
        _: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error> {
        Ok(v1::ListContainerStatsResponse::default())
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        let status = self.lock().containers.get(&request.container_id).map(|(c, _)| c.clone());
        let status = status.ok_or_else(|| Error::not_found("no such container"))?;
        Ok(v1::ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    fn log_rotation(&self) -> LogRotation {
        match self.lock().logs {
            Some(_) => LogRotation::Kubelet,
            None => LogRotation::Runtime,
        }
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Error> {
        let labels = self.labels_of_container(&request.container_id);
        self.pass("reopen", &labels).await;
        let state = self.lock();
        if let Some(error) = &state.not_reopening {
            return Err(error.clone());
        }
        let (container, _) = &state.containers[&request.container_id];
        let (pod, metadata) = (keys::PodKey::from_labels(&labels).unwrap(), container.metadata.as_ref().unwrap());
        let dir = names::log_directory(state.logs.as_ref().unwrap(), &pod);
        let path = dir.join(names::log_path(&metadata.name, metadata.attempt));
        File::options().append(true).create(true).open(path).unwrap();
        Ok(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Error> {
        let answer = {
            let mut state = self.lock();
            state.commands.push(request);
            state.answer.clone()
        };
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn exec(&self, _: v1::ExecRequest, _: Option<(u16, u16)>) -> Result<ExecSession, Error> {
        Err(Error::unimplemented("exec"))
    }

    async fn attach(&self, _: v1::AttachRequest, _: Terms) -> Result<ExecSession, Error> {
        Err(Error::unimplemented("attach"))
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<Box<dyn ByteStream>, Error> {
        Err(Error::unimplemented("port_forward"))
    }

    async fn list_images(&self, _: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Error> {
        Ok(self.images.list())
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        self.images.status(request)
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
        self.images.pull(request).await
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error> {
        self.images.remove(request)
    }

    async fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Error> {
        self.images.fs_info()
    }

    async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
        let (sender, events) = mpsc::channel(1024);
        let mut state = self.lock();
        if state.mute {
            return Err(Error::unimplemented("events"));
        }
        state.events.push(sender);
        Ok(events)
    }
}
