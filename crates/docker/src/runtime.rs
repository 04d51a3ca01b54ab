//! The adapter as its owner sees it: made, and called through the trait.

use std::sync::Arc;

use async_trait::async_trait;
use cri::attach::Terms;
use cri::{ByteStream, Error, ExecSession, Runtime, filter, stats, v1};
use tokio::sync::{mpsc, oneshot};

use crate::call::{NOT_FOUND, whole};
use crate::core::Core;
use crate::stopping::is_created;
use crate::{Config, facts, labels, status};

/// The network that sandboxes join.
const NETWORK: &str = "bridge";
/// What the pods' control groups are named for.
const CGROUP_DRIVER: &str = "cgroupfs";
const CGROUP_SETTING: &str = "docker: \"exec-opts\": [\"native.cgroupdriver=cgroupfs\"] in its daemon.json";

/// The Docker Engine. Dropping it ends nothing that runs.
pub struct Docker {
    core: Arc<Core>,
}

impl Docker {
    /// The daemon is called when it is first needed, and found again whenever it was away.
    pub fn connect(config: Config) -> Self {
        Self { core: Arc::new(Core::new(config)) }
    }
}

fn condition(kind: &str, fault: Option<(&str, String)>) -> v1::RuntimeCondition {
    let (reason, message) = fault.clone().unwrap_or_default();
    v1::RuntimeCondition { r#type: kind.to_owned(), status: fault.is_none(), reason: reason.to_owned(), message }
}

/// Whether the daemon makes control groups as the kubelet names them.
fn fits(version: &v1::VersionResponse, driver: &str) -> Result<(), Error> {
    match driver {
        CGROUP_DRIVER => Ok(()),
        other => Err(cri::cgroup_driver_refused(version, other, CGROUP_SETTING)),
    }
}

#[async_trait]
impl Runtime for Docker {
    /// Answers once the daemon is known to fit: it makes control groups by path.
    async fn version(&self, _: v1::VersionRequest) -> Result<v1::VersionResponse, Error> {
        let asked = self.core.call("ask what docker is", |docker| async move {
            let spoken = docker.client_version();
            Ok((docker.info().await?, spoken))
        });
        let (info, spoken) = asked.await?;
        let version = v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "docker".to_owned(),
            runtime_version: info.server_version.unwrap_or_default(),
            runtime_api_version: format!("{}.{}", spoken.major_version, spoken.minor_version),
        };
        let driver = info.cgroup_driver.map(|driver| driver.to_string()).filter(|driver| !driver.is_empty());
        fits(&version, driver.as_deref().unwrap_or("none"))?;
        Ok(version)
    }

    async fn status(&self, _: v1::StatusRequest) -> Result<v1::StatusResponse, Error> {
        let network =
            self.core.call("inspect the network", |docker| async move { docker.inspect_network(NETWORK, None).await });
        let no_network = match network.await {
            Ok(_) => None,
            Err(failed) if failed.status == Some(NOT_FOUND) => {
                Some(("NetworkPluginNotReady", format!("docker has no network {NETWORK:?}: it was started without")))
            }
            Err(failed) => return Err(failed.into()),
        };
        // A daemon that answers is ready.
        let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", no_network)];
        let status = v1::RuntimeStatus { conditions };
        Ok(v1::StatusResponse { status: Some(status), ..Default::default() })
    }

    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Error> {
        let absent = || Error::invalid_argument("pod sandbox: a configuration is expected");
        let config = request.config.ok_or_else(absent)?;
        if !request.runtime_handler.is_empty() {
            let text = "pod sandbox: runtime_handler: not supported yet with docker";
            return Err(Error::invalid_argument(text));
        }
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
        let (status, containers_statuses) = self.core.pod(&id).await?;
        let status = status.ok_or_else(|| Error::not_found(format!("there is no pod sandbox {id}")))?;
        let timestamp = facts::now_ns();
        Ok(v1::PodSandboxStatusResponse { status: Some(status), containers_statuses, timestamp, ..Default::default() })
    }

    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Error> {
        let listed = self.core.list(&[(labels::TYPE, labels::TYPE_SANDBOX)]).await?;
        let items = listed.into_iter().filter_map(status::listed_sandbox);
        let items = items.filter(|item| filter::sandbox(request.filter.as_ref(), item)).collect();
        Ok(v1::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Error> {
        let core = Arc::clone(&self.core);
        let container_id = Box::pin(whole(async move { core.create_container(request).await })).await?;
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
        let listed = self.core.list(&[(labels::TYPE, labels::TYPE_CONTAINER)]).await?;
        let mut containers = Vec::new();
        for mut item in listed.into_iter().filter_map(status::listed_container) {
            if is_created(&item) {
                // It may be one that failed to start.
                let Some(found) = self.core.inspect_container(&item.id).await? else { continue };
                item.state = status::container_state(&facts::life(&found)).into();
            }
            containers.push(item);
        }
        containers.retain(|item| filter::container(request.filter.as_ref(), item));
        Ok(v1::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        let id = request.container_id;
        let found = self.core.inspect_settled(&id).await?;
        let found = found.ok_or_else(|| Error::not_found(format!("there is no container {id}")))?;
        Ok(v1::ContainerStatusResponse { status: Some(status::container(&found)), ..Default::default() })
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error> {
        let wanted = stats::wanted(request.filter);
        Ok(v1::ListContainerStatsResponse { stats: self.core.list_stats(&wanted).await? })
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
        Ok(v1::ListImagesResponse { images: self.core.list_images(request.filter.as_ref()).await? })
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        let image = self.core.image_status(request.image.as_ref()).await?;
        Ok(v1::ImageStatusResponse { image, ..Default::default() })
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
        Ok(v1::PullImageResponse { image_ref: self.core.pull_image(request.image.as_ref(), request.auth).await? })
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error> {
        let core = Arc::clone(&self.core);
        whole(async move { core.remove_image(request.image.as_ref()).await }).await?;
        Ok(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Error> {
        self.core.image_fs_info().await
    }

    async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
        self.core.events().await
    }
}
