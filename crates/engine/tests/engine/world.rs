//! An engine of a test's own, and the census that must be empty when the test is over.

use crate::busybox;
use cri::{Runtime, v1};
use engine::{Config, Engine};
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) config: Config,
    /// Names everything of this test on the machine: paths, control groups, bridge.
    pub(crate) mark: String,
    dirs: TempDir,
    run: TempDir,
}

/// Runs a test with a world, and takes the census after it. Without root there is nothing to test.
pub(crate) fn with_world<F: Future<Output = World>>(test: impl FnOnce(World) -> F) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "these tests need root, and must not be skipped here");
        println!("skipped: needs root");
        return;
    }
    if !Path::new("/bin/busybox").exists() {
        assert!(std::env::var_os("CI").is_none(), "these tests need /bin/busybox (package busybox-static)");
        println!("skipped: needs /bin/busybox (package busybox-static)");
        return;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Ends in a letter: no mark is the beginning of another.
    let mark = format!("ke{}x{number}e", std::process::id());
    // Before the runtime, so that it is dropped after it, when nothing works on anything any more.
    let clean = CleanUp(mark.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = test(World::new(mark, number).await).await;
        world.remove_all().await;
        world.engine().close().await.unwrap();
        world.engine = None;
        let left = census_when_quiet(&world).await;
        assert!(left.is_empty(), "left behind: {left:#?}");
    });
    std::mem::forget(clean);
}

/// A failed test must not leave processes and mounts to those that follow.
struct CleanUp(String);

impl Drop for CleanUp {
    fn drop(&mut self) {
        if let Ok(layout) = cgroup::Layout::detect() {
            let group = layout.group(&format!("/{}", self.0));
            let _ = group.kill();
            let _ = group.remove();
        }
        for line in mounts(&self.0) {
            let _ = rustix::mount::unmount(&line, rustix::mount::UnmountFlags::DETACH);
        }
        for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&self.0) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        let _ = std::process::Command::new("ip").args(["link", "delete", &bridge(&self.0)]).output();
        for table in command_lines("table", "nft", &["list", "tables"], &bridge(&self.0)) {
            if let Some(name) = table.split_whitespace().last() {
                let _ = std::process::Command::new("nft").args(["delete", "table", "ip", name]).output();
            }
        }
    }
}

/// One that asks only registries on this machine: in the place of all others is a port at which nobody is.
fn puller(store: &Arc<image::Store>, dir: &Path) -> Arc<image::Puller> {
    // Another test of the process may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let hosts_dir = dir.join("registries");
    fs::create_dir_all(hosts_dir.join("docker.io")).unwrap();
    fs::write(hosts_dir.join("docker.io/hosts.toml"), "server = \"http://127.0.0.1:1\"\n").unwrap();
    let config = image::registry::RegistryConfig { hosts_dir: Some(hosts_dir), progress_within: PATIENCE };
    let registry = image::registry::Registry::new(config);
    image::Puller::new(Arc::clone(store), registry, image::PullConfig::default())
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    async fn new(mark: String, number: u32) -> World {
        let dirs = tempfile::Builder::new().prefix(&format!("{mark}-")).tempdir().unwrap();
        // As /run is: memory, where a durable write costs nothing.
        let run = tempfile::Builder::new().prefix(&format!("{mark}-")).tempdir_in("/dev/shm").unwrap();
        let image = image::Store::open(&dirs.path().join("image-store")).unwrap();
        let archive = dirs.path().join("busybox.tar");
        busybox::write(&archive);
        image.import(&archive, image::ImportOptions::default()).unwrap();
        let third = (std::process::id() % 250) as u8;
        let config = Config {
            root_dir: dirs.path().to_owned(),
            run_dir: run.path().to_owned(),
            bridge: bridge(&mark),
            pod_cidr: format!("10.{}.{third}.{}/25", 190 + number / 2 % 10, number % 2 * 128).parse().unwrap(),
            cgroup_root: format!("/{mark}"),
            resolv_conf: None,
            log_max_bytes: 10 << 20,
            log_max_files: 3,
            puller: puller(&image, dirs.path()),
            image,
        };
        let engine = Some(Engine::open(config.clone()).await.unwrap());
        World { engine, config, mark, dirs, run }
    }

    pub(crate) fn engine(&self) -> Arc<Engine> {
        Arc::clone(self.engine.as_ref().unwrap())
    }

    /// As if the daemon had been killed and started again.
    pub(crate) async fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(Engine::open(self.config.clone()).await.unwrap());
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dirs.path().join("logs")
    }

    pub(crate) fn sandbox_dir(&self, sandbox: &str) -> PathBuf {
        self.run.path().join("sandboxes").join(sandbox)
    }

    pub(crate) fn root_dir(&self) -> &Path {
        self.dirs.path()
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
            log_directory: self.logs().join(name).display().to_string(),
            dns_config: Some(v1::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() }),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}/pod-{name}", self.mark),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn sandbox(&self, name: &str) -> String {
        let request = v1::RunPodSandboxRequest { config: Some(self.sandbox_config(name)), ..Default::default() };
        self.engine().run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    pub(crate) async fn create(&self, sandbox: &str, config: v1::ContainerConfig) -> Result<String, cri::Error> {
        let request =
            v1::CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), ..Default::default() };
        self.engine().create_container(request).await.map(|response| response.container_id)
    }

    pub(crate) async fn start(&self, container: &str) -> Result<(), cri::Error> {
        let request = v1::StartContainerRequest { container_id: container.into() };
        self.engine().start_container(request).await.map(drop)
    }

    /// Creates and starts a container that runs a shell script.
    pub(crate) async fn run(&self, sandbox: &str, name: &str, script: &str) -> String {
        let id = self.create(sandbox, shell(name, script)).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    pub(crate) async fn stop(&self, container: &str, timeout: i64) -> Result<(), cri::Error> {
        let request = v1::StopContainerRequest { container_id: container.into(), timeout };
        self.engine().stop_container(request).await.map(drop)
    }

    pub(crate) async fn remove(&self, container: &str) -> Result<(), cri::Error> {
        self.engine().remove_container(v1::RemoveContainerRequest { container_id: container.into() }).await.map(drop)
    }

    pub(crate) async fn status(&self, container: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.engine().container_status(request).await.unwrap().status.unwrap()
    }

    pub(crate) async fn used(&self, sandbox: &str) -> Vec<v1::ContainerStats> {
        let filter = v1::ContainerStatsFilter { pod_sandbox_id: sandbox.into(), ..Default::default() };
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        self.engine().list_container_stats(request).await.unwrap().stats
    }

    pub(crate) async fn sandbox_status(&self, sandbox: &str) -> v1::PodSandboxStatus {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: false };
        self.engine().pod_sandbox_status(request).await.unwrap().status.unwrap()
    }

    /// The status of a container once it has exited.
    pub(crate) async fn exited(&self, container: &str) -> v1::ContainerStatus {
        let exited: i32 = v1::ContainerState::ContainerExited.into();
        eventually("the container's exit", || async {
            Some(self.status(container).await).filter(|status| status.state == exited)
        })
        .await
    }

    /// Output and exit code of a command in a container.
    pub(crate) async fn exec(&self, container: &str, script: &str) -> (String, i32) {
        let request = v1::ExecSyncRequest { container_id: container.into(), cmd: words(script), timeout: 60 };
        let response = self.engine().exec_sync(request).await.unwrap();
        (String::from_utf8(response.stdout).unwrap(), response.exit_code)
    }

    pub(crate) async fn remove_sandbox(&self, sandbox: &str) {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.into() };
        self.engine().stop_pod_sandbox(request).await.unwrap();
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() };
        self.engine().remove_pod_sandbox(request).await.unwrap();
    }

    pub(crate) async fn sandboxes(&self) -> Vec<v1::PodSandbox> {
        self.engine().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().items
    }

    async fn remove_all(&self) {
        for sandbox in self.sandboxes().await {
            self.remove_sandbox(&sandbox.id).await;
        }
        // The pods' groups are their owner's to remove, which here is the test.
        cgroup::Layout::detect().unwrap().group(&format!("/{}", self.mark)).remove().unwrap();
    }

    /// The log of a container of attempt 0.
    pub(crate) fn log(&self, pod: &str, container: &str) -> String {
        fs::read_to_string(self.logs().join(pod).join(container).join("0.log")).unwrap_or_default()
    }

    /// What there is of this test on the machine.
    pub(crate) fn census(&self) -> Vec<String> {
        let mut found = processes(&self.mark);
        found.extend(mounts(&self.mark).into_iter().map(|path| format!("mount {path}")));
        found.extend(command_lines("link", "ip", &["-o", "link", "show"], &bridge(&self.mark)));
        found.extend(command_lines("table", "nft", &["list", "tables"], &bridge(&self.mark)));
        found.extend(groups(&self.mark));
        for dir in [self.run.path().join("sandboxes"), self.dirs.path().join("containers")] {
            found.extend(fs::read_dir(dir).unwrap().flatten().map(|entry| format!("file {}", entry.path().display())));
        }
        found
    }
}

/// Links and dying processes go in the kernel's own time.
async fn census_when_quiet(world: &World) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = world.census();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn words(script: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), script.into()]
}

pub(crate) fn shell(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: busybox::NAME.into(), ..Default::default() }),
        command: words(script),
        log_path: format!("{name}/0.log"),
        ..Default::default()
    }
}

fn bridge(mark: &str) -> String {
    mark.to_owned()
}

fn processes(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        if command.contains(mark) || read("cgroup").contains(mark) {
            found.push(format!("process {name} {command}"));
        }
    }
    found
}

pub(crate) fn mounts(mark: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.contains(mark)).map(str::to_owned).collect()
}

fn command_lines(kind: &str, program: &str, args: &[&str], part: &str) -> Vec<String> {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains(part)).map(|line| format!("{kind} {line}")).collect()
}

fn groups(mark: &str) -> Vec<String> {
    let dirs = cgroup::Layout::detect().unwrap().group(&format!("/{mark}")).dirs();
    dirs.iter().filter(|dir| dir.exists()).map(|dir| format!("cgroup {}", dir.display())).collect()
}
