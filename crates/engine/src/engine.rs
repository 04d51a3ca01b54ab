//! The engine as its owner sees it: opened, called through the trait, closed.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use cri::attach::Terms;
use cri::{ByteStream, Error, ExecSession, Runtime, filter, stats, v1};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::error::{internal, on_pool};
use crate::files::{self, FileError};
use crate::network::NetworkError;
use crate::state::Core;
use crate::{Config, repair, shim_process, status};

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error("put the shim's program into memory: {source}")]
    Program { source: std::io::Error },
}

/// The embedded engine. Dropping it ends nothing that runs: whoever opens the same directories finds it all again.
pub struct Engine {
    core: Arc<Core>,
    repair: AbortHandle,
}

impl Engine {
    /// Takes over what an earlier engine left in `config.run_dir`. To be called within a tokio runtime.
    ///
    /// # Errors
    /// The directories cannot be made or read, there are no control groups, or memory is short.
    pub async fn open(config: Config) -> Result<Arc<Engine>, OpenError> {
        let layout = cgroup::Layout::detect()?;
        let program = shim_process::sealed_program().map_err(|source| OpenError::Program { source })?;
        let core = Arc::new(Core::new(config, layout, program));
        files::private_dirs(&core.sandboxes_dir())?;
        files::private_dirs(&core.writable_dir())?;
        core.recover().await?;
        let repair = tokio::spawn(repair::from_time_to_time(Arc::downgrade(&core))).abort_handle();
        Ok(Arc::new(Engine { core, repair }))
    }

    /// Removes the bridge and its rules when no sandbox is left; otherwise they stay for the pods that run on.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn close(&self) -> Result<(), NetworkError> {
        self.repair.abort();
        if !self.core.sandbox_ids().is_empty() {
            return Ok(());
        }
        let network = Arc::clone(&self.core.network);
        on_pool(move || network.remove()).await.unwrap_or(Ok(()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.repair.abort();
    }
}

/// Does all of the work even if the caller does not wait for it: half a sandbox helps nobody.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(internal("do all of a request"))?
}

#[async_trait]
impl Runtime for Engine {
    async fn version(&self, _: v1::VersionRequest) -> Result<v1::VersionResponse, Error> {
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "embedded".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, _: v1::StatusRequest) -> Result<v1::StatusResponse, Error> {
        let met = |kind: &str| v1::RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let conditions = vec![met("RuntimeReady"), met("NetworkReady")];
        let status = v1::RuntimeStatus { conditions };
        Ok(v1::StatusResponse { status: Some(status), ..Default::default() })
    }

    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Error> {
        let absent = || Error::invalid_argument("pod sandbox: a configuration is expected");
        let config = request.config.ok_or_else(absent)?;
        let core = Arc::clone(&self.core);
        let pod_sandbox_id = whole(async move { core.run_sandbox(config).await }).await?;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.stop_sandbox(&request.pod_sandbox_id).await }).await?;
        Ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.remove_sandbox(&request.pod_sandbox_id).await }).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Error> {
        let id = request.pod_sandbox_id;
        let sandbox =
            self.core.sandbox(&id).ok_or_else(|| Error::not_found(format!("there is no pod sandbox {id}")))?;
        let (status, containers_statuses) = status::pod(&sandbox);
        let timestamp = crate::state::now_ns();
        Ok(v1::PodSandboxStatusResponse { status: Some(status), containers_statuses, timestamp, ..Default::default() })
    }

    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Error> {
        let sandboxes = self.core.sandboxes();
        let items = sandboxes.iter().map(|sandbox| status::listed_sandbox(sandbox));
        let items = items.filter(|item| filter::sandbox(request.filter.as_ref(), item)).collect();
        Ok(v1::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Error> {
        let absent = || Error::invalid_argument("container: a configuration is expected");
        let config = request.config.ok_or_else(absent)?;
        let core = Arc::clone(&self.core);
        let container_id = whole(async move { core.create_container(&request.pod_sandbox_id, config).await }).await?;
        Ok(v1::CreateContainerResponse { container_id })
    }

    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.start_container(&request.container_id).await }).await?;
        Ok(v1::StartContainerResponse {})
    }

    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Error> {
        self.core.stop_container(&request.container_id, request.timeout).await?;
        Ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.remove_container(&request.container_id).await }).await?;
        Ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Error> {
        let filter = request.filter.as_ref();
        let mut containers = Vec::new();
        for sandbox in self.core.sandboxes() {
            let state = sandbox.state();
            let listed = state.containers.values().map(|container| status::listed_container(&sandbox, container));
            containers.extend(listed.filter(|item| filter::container(filter, item)));
        }
        Ok(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        let id = request.container_id;
        let sandbox = self.core.sandbox_of(&id);
        let status = sandbox.and_then(|sandbox| sandbox.state().containers.get(&id).map(status::container_status));
        let status = status.ok_or_else(|| Error::not_found(format!("there is no container {id}")))?;
        Ok(v1::ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error> {
        let core = Arc::clone(&self.core);
        let wanted = stats::wanted(request.filter);
        Ok(v1::ListContainerStatsResponse { stats: on_pool(move || core.list_stats(&wanted)).await? })
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Error> {
        let core = Arc::clone(&self.core);
        // Dropped with this future, which tells the task that nobody waits.
        let (_waiting, caller) = oneshot::channel();
        whole(async move { core.exec_sync(request, caller).await }).await
    }

    async fn exec(&self, request: v1::ExecRequest, window: Option<(u16, u16)>) -> Result<ExecSession, Error> {
        self.core.exec(request, window).await
    }

    async fn attach(&self, request: v1::AttachRequest, terms: Terms) -> Result<ExecSession, Error> {
        self.core.attach(request, terms.window).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error> {
        self.core.port_forward(pod_sandbox_id, port).await
    }

    async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Error> {
        Ok(v1::ListImagesResponse { images: self.core.list_images(request.filter.as_ref())? })
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        self.core.image_status(&request)
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
        Ok(v1::PullImageResponse { image_ref: self.core.pull_image(request).await? })
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.remove_image(request.image.as_ref()).await }).await?;
        Ok(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Error> {
        Ok(self.core.image_fs_info())
    }

    async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
        let full = || Error::resource_exhausted("events: there are too many subscribers");
        self.core.events.subscribe().ok_or_else(full)
    }
}
