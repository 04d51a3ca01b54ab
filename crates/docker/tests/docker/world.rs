//! A pod of a test's own, and what is asked of the adapter for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cri::keys::{self, PodKey};
use cri::{Error, Runtime, v1};
use docker::{Config, Docker};

use crate::daemon::Daemon;

/// Nothing of what a test waits for takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const IMAGE: &str = "docker.io/library/busybox:latest";
static PODS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) docker: Docker,
    pub(crate) pod: v1::PodSandboxConfig,
}

pub(crate) fn adapter(daemon: &Daemon) -> Docker {
    Docker::connect(Config {
        endpoint: daemon.socket(),
        pause: engine::pause_program(),
        call_within: PATIENCE,
        log_max_bytes: 1 << 20,
        log_max_files: 3,
    })
}

impl World {
    /// On the daemon that the tests share.
    pub(crate) fn new() -> Option<World> {
        Daemon::shared().map(World::on)
    }

    pub(crate) fn on(daemon: Arc<Daemon>) -> World {
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let key = PodKey { namespace: "shop".into(), name: format!("web{number}"), uid: format!("u-{number}") };
        let pod = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: key.name.clone(),
                namespace: key.namespace.clone(),
                uid: key.uid.clone(),
                attempt: 0,
            }),
            hostname: key.name.clone(),
            log_directory: cri::names::log_directory(&daemon.dir.join("logs"), &key).display().to_string(),
            labels: keys::sandbox_labels(&key, &keys::Map::from([("app".into(), "web".into())])),
            annotations: keys::Map::from([("a/b".into(), "{\"c\": 1}".into())]),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["shop.svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            }),
            linux: Some(v1::LinuxPodSandboxConfig { cgroup_parent: daemon.cgroup() + "/pod", ..Default::default() }),
            ..Default::default()
        };
        let docker = adapter(&daemon);
        World { daemon, docker, pod }
    }

    pub(crate) fn key(&self) -> PodKey {
        PodKey::from_labels(&self.pod.labels).unwrap()
    }

    /// Asks for these namespaces: network, pid, IPC.
    pub(crate) fn sharing(&mut self, options: v1::NamespaceOption) {
        let context = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        self.pod.linux.get_or_insert_default().security_context = Some(context);
    }

    pub(crate) async fn run(&self) -> Result<String, Error> {
        let request = v1::RunPodSandboxRequest { config: Some(self.pod.clone()), runtime_handler: String::new() };
        Ok(self.docker.run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    /// A container that runs a script.
    pub(crate) fn container(&self, name: &str, script: &str) -> v1::ContainerConfig {
        let options = self.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let context = v1::LinuxContainerSecurityContext {
            namespace_options: options.and_then(|context| context.namespace_options.clone()),
            ..Default::default()
        };
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: IMAGE.into(),
                user_specified_image: "busybox".into(),
                ..Default::default()
            }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            labels: keys::container_labels(&self.key(), name),
            annotations: keys::Map::from([(keys::CONTAINER_RESTART_COUNT.into(), "0".into())]),
            log_path: cri::names::log_path(name, 0),
            linux: Some(v1::LinuxContainerConfig { security_context: Some(context), ..Default::default() }),
            ..Default::default()
        }
    }

    pub(crate) async fn create(&self, sandbox: &str, config: v1::ContainerConfig) -> Result<String, Error> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(self.pod.clone()),
        };
        Ok(self.docker.create_container(request).await?.container_id)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), Error> {
        self.docker.start_container(v1::StartContainerRequest { container_id: id.into() }).await.map(drop)
    }

    /// A container that runs the script now.
    pub(crate) async fn started(&self, sandbox: &str, name: &str, script: &str) -> String {
        let id = self.create(sandbox, self.container(name, script)).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    pub(crate) async fn stop(&self, id: &str, timeout: i64) -> Result<(), Error> {
        let request = v1::StopContainerRequest { container_id: id.into(), timeout };
        self.docker.stop_container(request).await.map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), Error> {
        self.docker.remove_container(v1::RemoveContainerRequest { container_id: id.into() }).await.map(drop)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        self.docker.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.docker.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await.map(drop)
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatusResponse, Error> {
        self.docker
            .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), ..Default::default() })
            .await
    }

    pub(crate) async fn status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let request = v1::ContainerStatusRequest { container_id: id.into(), ..Default::default() };
        Ok(self.docker.container_status(request).await?.status.unwrap())
    }

    /// The container's status when it has ended.
    pub(crate) async fn ended(&self, id: &str) -> v1::ContainerStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await.unwrap();
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "the container does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn listed(&self) -> (Vec<v1::PodSandbox>, Vec<v1::Container>) {
        let selector = keys::Map::from([(keys::POD_UID.to_owned(), self.key().uid)]);
        let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let sandboxes = v1::ListPodSandboxRequest { filter: Some(filter) };
        let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
        let containers = v1::ListContainersRequest { filter: Some(filter) };
        let sandboxes = self.docker.list_pod_sandbox(sandboxes).await.unwrap().items;
        (sandboxes, self.docker.list_containers(containers).await.unwrap().containers)
    }

    pub(crate) async fn exec(&self, id: &str, script: &str, timeout: i64) -> Result<v1::ExecSyncResponse, Error> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        self.docker.exec_sync(v1::ExecSyncRequest { container_id: id.into(), cmd, timeout }).await
    }

    /// What a script in the container prints.
    pub(crate) async fn says(&self, id: &str, script: &str) -> String {
        let answer = self.exec(id, script, 0).await.unwrap();
        assert_eq!(answer.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).trim().to_owned()
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.pod.log_directory).join(cri::names::log_path(name, 0))
    }
}
