//! A containerd of the test's own, and pods in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cri::client::{Client, Config, Endpoint};
use cri::{Runtime, v1};

/// Nothing of what a test waits for takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox:latest";
static WORLDS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) has_events: bool,
}

/// Runs `test` against every containerd that there is; it must leave no pod.
pub(crate) fn with_each<F>(test: impl Fn(World) -> F)
where
    F: Future<Output = World>,
{
    if !is_root() {
        assert!(std::env::var_os("CI").is_none(), "the tests with containerd need root");
        eprintln!("skipped: containerd needs root");
        return;
    }
    let sid = workspace().join("target/containerd-sid/usr/bin");
    let sid = Some(sid).filter(|bin| bin.join("containerd").exists());
    if sid.is_none() {
        let missing = "the newer containerd is fetched by scripts/containerd.sh fetch-sid target/containerd-sid";
        assert!(std::env::var_os("CI").is_none(), "{missing}, and must not be skipped here");
        eprintln!("only the installed containerd: {missing}");
    }
    for bin in std::iter::once(PathBuf::from("/usr/bin")).chain(sid) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            eprintln!("with {}/containerd", bin.display());
            let world = test(World::start(&bin).await).await;
            let left = world.client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().items;
            assert!(left.is_empty(), "the test left {left:?}");
        });
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0")))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn script(arguments: &[&str]) {
    let status = Command::new(workspace().join("scripts/containerd.sh")).args(arguments).status().unwrap();
    assert!(status.success(), "scripts/containerd.sh {arguments:?}: {status}");
}

impl World {
    async fn start(bin: &Path) -> World {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("cri-{}-{number}", std::process::id()));
        script(&["start", dir.to_str().unwrap(), bin.to_str().unwrap()]);
        let client = client(&dir.join("containerd.sock"), PATIENCE);
        let world = World { dir, client, has_events: bin != Path::new("/usr/bin") };
        world.initialized().await;
        world
    }

    /// containerd answers a moment before it knows its own containers.
    async fn initialized(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = self.client.status(v1::StatusRequest::default()).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(crate) fn kill(&self) {
        let pid = std::fs::read_to_string(self.dir.join("pid")).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    pub(crate) async fn restart(&self) {
        script(&["restart", self.dir.to_str().unwrap()]);
        self.initialized().await;
    }

    pub(crate) fn sandbox_config(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.dir.join("logs").join(name).display().to_string(),
            labels: [("pod".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                // Beneath the test's own group, which goes when it is empty.
                cgroup_parent: format!("/{}", self.dir.file_name().unwrap().to_str().unwrap()),
                security_context: Some(v1::LinuxSandboxSecurityContext::default()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn sandbox(&self, name: &str) -> String {
        let request = v1::RunPodSandboxRequest { config: Some(self.sandbox_config(name)), ..Default::default() };
        self.client.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    pub(crate) fn container_request(&self, sandbox: (&str, &str), script: &str) -> v1::CreateContainerRequest {
        let (name, id) = sandbox;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
            command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            log_path: "main.log".into(),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        v1::CreateContainerRequest {
            pod_sandbox_id: id.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.sandbox_config(name)),
        }
    }

    /// A running container in a sandbox of its own: both ids.
    pub(crate) async fn container(&self, name: &str, script: &str) -> (String, String) {
        let sandbox = self.sandbox(name).await;
        let request = self.container_request((name, &sandbox), script);
        let id = self.client.create_container(request).await.unwrap().container_id;
        self.client.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
        (sandbox, id)
    }

    pub(crate) async fn status(&self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.client.container_status(request).await.unwrap().status.unwrap()
    }

    /// Waits until the container has exited.
    pub(crate) async fn exited(&self, id: &str) -> v1::ContainerStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await;
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "the container does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn remove(&self, sandbox: &str) {
        let pod_sandbox_id = sandbox.to_owned();
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        // A stop that the runtime fails at is asked for again, as the agent does.
        let mut tries = 0;
        while let Err(error) = self.client.stop_pod_sandbox(stop.clone()).await {
            tries += 1;
            assert!(tries < 50, "the sandbox is not stopped: {error}");
            println!("stop_pod_sandbox: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    }
}

pub(crate) fn client(socket: &Path, call_within: Duration) -> Client {
    let runtime = Endpoint::parse(socket.to_str().unwrap()).unwrap();
    Client::new(&Config { runtime, images: None, call_within, pull_within: call_within })
}

impl Drop for World {
    fn drop(&mut self) {
        let group = self.dir.file_name().unwrap().to_owned();
        script(&["stop", self.dir.to_str().unwrap()]);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            // Where it is not, or not empty, it stays.
            let _absent = std::fs::remove_dir(hierarchy.unwrap().path().join(&group));
        }
        let _absent = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&group));
    }
}
