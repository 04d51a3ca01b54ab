//! A kubelet of a test's own: its directories, ports, bridge and control group, and the census around its life.

use crate::daemon::Docker;
use crate::faults::Faults;
use crate::{Census, Daemon, Runtime, await_some, await_true, http, registry};
use rustix::net;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
static MACHINES: AtomicU32 = AtomicU32::new(0);

/// What differs between tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Start with `--config=<manifest directory>`.
    pub manifests: bool,
    pub flags: Vec<String>,
    /// Archives that the runtime has from the beginning, the embedded one by its drop-in directory: `busybox`, `nginx`.
    pub images: Vec<&'static str>,
    pub runtime: Runtime,
    /// Whether the kubelet talks to its runtime through a proxy that makes [`Faults`].
    pub faulty: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            manifests: true,
            flags: Vec::new(),
            images: vec!["busybox"],
            runtime: Runtime::Embedded,
            faulty: false,
        }
    }
}

pub struct Machine {
    pub dir: PathBuf,
    pub run_dir: PathBuf,
    pub manifests: PathBuf,
    pub read_only_port: u16,
    pub healthz_port: u16,
    name: String,
    options: Options,
    kubelet: Option<Child>,
    faults: Option<Faults>,
    daemon: Option<Daemon>,
    /// Before anything of this machine was there.
    before: Census,
    /// When its daemon was there, and nothing else yet.
    with_daemon: Census,
}

/// The built binary: `KUBELET_BIN`, or the release build of this workspace.
pub fn kubelet_binary() -> PathBuf {
    let default = workspace().join("target/x86_64-unknown-linux-gnu/release/kubelet");
    let path = std::env::var_os("KUBELET_BIN").map_or(default, PathBuf::from);
    assert!(path.exists(), "{}: build it with `cargo build --release -p kubelet`, or set KUBELET_BIN", path.display());
    path
}

/// The root of the source tree.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// An archive made by `scripts/images.sh target/test-images`.
pub fn image_archive(name: &str) -> PathBuf {
    let path = workspace().join("target/test-images").join(format!("{name}.tar"));
    assert!(path.exists(), "{}: make it with `scripts/images.sh target/test-images`", path.display());
    path
}

/// The directory of a control group in every hierarchy that a runtime may put containers into.
pub(crate) fn own_groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.join(name)];
    }
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let real = |dir: &PathBuf| !dir.is_symlink() && dir.join("cgroup.procs").exists();
    hierarchies.filter(real).map(|dir| dir.join(name)).collect()
}

/// Ports that nobody has yet. All are held while they are drawn, so that no two are the same.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

/// A port of 127.0.0.1 at which nobody listens, nor ever will while the socket is held.
pub fn closed_port() -> (OwnedFd, u16) {
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).expect("a socket");
    net::bind(&socket, &SocketAddr::from((LOOPBACK, 0))).expect("a free port");
    let bound = net::getsockname(&socket).and_then(SocketAddr::try_from).expect("its address");
    (socket, bound.port())
}

impl Machine {
    /// Makes the directories and starts the kubelet.
    pub fn start(options: Options) -> Machine {
        assert!(rustix::process::geteuid().is_root(), "the end-to-end suites need root");
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let name = format!("kt{}x{number}", std::process::id());
        let dir = std::env::temp_dir().join(format!("kubelet-{name}"));
        let run_dir = PathBuf::from("/run").join(format!("kubelet-{name}"));
        let manifests = dir.join("manifests");
        std::fs::create_dir_all(&manifests).expect("the manifest directory");
        std::fs::create_dir_all(dir.join("root/images")).expect("the image directory");
        // The control group given to --cgroup-root is the caller's: made here, removed here.
        for group in own_groups(&name) {
            std::fs::create_dir_all(&group).expect("the control group");
        }
        let before = Census::take(&name);
        let daemon = Daemon::start(options.runtime, &dir.join("daemon"), &options.images);
        if daemon.is_none() {
            drop_images(&options.images, &dir.join("root/images"));
        }
        let with_daemon = Census::take(&name);
        let faulty = daemon.as_ref().filter(|_| options.faulty);
        let faults = faulty.map(|daemon| Faults::start(daemon, &dir.join("faulty.sock")));
        let [read_only_port, healthz_port] = free_ports();
        let mut machine = Machine {
            dir,
            run_dir,
            manifests,
            read_only_port,
            healthz_port,
            name,
            options,
            kubelet: None,
            faults,
            daemon,
            before,
            with_daemon,
        };
        machine.start_kubelet();
        machine
    }

    /// The daemon of its runtime.
    #[track_caller]
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a runtime with a daemon")
    }

    /// The Docker Engine that is its runtime, if it is.
    pub fn docker(&self) -> Option<&Docker> {
        match &self.daemon {
            Some(Daemon::Docker(docker)) => Some(docker),
            _ => None,
        }
    }

    /// What stands between the kubelet and its runtime.
    #[track_caller]
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().expect("a machine that is faulty")
    }

    pub fn runtime(&self) -> Runtime {
        self.options.runtime
    }

    /// A flag that the kubelet has from its next start on.
    pub fn add_flag(&mut self, flag: String) {
        self.options.flags.push(flag);
    }

    fn runtime_flags(&self) -> Vec<String> {
        let Some(daemon) = &self.daemon else { return Vec::new() };
        let socket = self.faults.as_ref().map_or_else(|| daemon.socket(), |faults| faults.socket().to_owned());
        daemon.flags(&socket)
    }

    /// However full the disk is on which the suites run, no image goes for it; unless a test is about that.
    fn threshold_flag(&self) -> Option<&'static str> {
        let own = self.options.flags.iter().any(|flag| flag.starts_with("--image-gc-high-threshold"));
        (!own).then_some("--image-gc-high-threshold=100")
    }

    /// What is not here is asked of no registry of the world: names without a host lead nowhere, unless a test says where.
    fn registries_flag(&self) -> Option<String> {
        let own = self.options.flags.iter().any(|flag| flag.starts_with("--registry-config-dir"));
        if own || self.options.runtime != Runtime::Embedded {
            return None;
        }
        let dir = self.dir.join("registries");
        // The discard service, which nobody runs.
        registry::write_hosts(&dir, "docker.io", "server = \"http://127.0.0.1:9\"\n");
        Some(format!("--registry-config-dir={}", dir.display()))
    }

    pub fn start_kubelet(&mut self) {
        assert!(self.kubelet.is_none(), "one kubelet at a time");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log");
        // One of 2,500 networks, as suites may run beside each other.
        let number = self.name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let mut command = Command::new(kubelet_binary());
        if self.options.manifests {
            command.arg(format!("--config={}", self.manifests.display()));
        }
        command
            .arg(format!("--root-dir={}", self.dir.join("root").display()))
            .arg(format!("--run-dir={}", self.run_dir.display()))
            .arg(format!("--pod-logs-dir={}", self.dir.join("logs").display()))
            .arg(format!("--read-only-port={}", self.read_only_port))
            .arg(format!("--healthz-port={}", self.healthz_port))
            .arg(format!("--pod-bridge={}", self.bridge()))
            .arg(format!("--pod-cidr=10.19{}.{}.0/24", number % 10, number / 10 % 250))
            .arg(format!("--cgroup-root=/{}", self.name))
            .arg("--hostname-override=node-1")
            .args(self.threshold_flag())
            .args(self.registries_flag())
            .args(self.runtime_flags())
            .args(&self.options.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log);
        self.kubelet = Some(command.spawn().expect("the kubelet starts"));
        await_true("the kubelet is healthy", || self.healthz().is_ok_and(|body| body == "ok"));
        for image in self.options.images.clone() {
            let listed = || String::from_utf8_lossy(&self.try_cli(&["image", "list"]).stdout).contains(image);
            await_true(&format!("image {image} is imported"), listed);
        }
    }

    /// What marks everything of this machine: directories, control groups, command lines.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The bridge of its pods, and the nft table.
    pub(crate) fn bridge(&self) -> String {
        self.name.replace("kt", "k")
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("kubelet.log")
    }

    pub fn is_running(&self) -> bool {
        self.kubelet.is_some()
    }

    pub fn kubelet_pid(&self) -> u32 {
        self.kubelet.as_ref().expect("the kubelet runs").id()
    }

    pub fn healthz(&self) -> Result<String, String> {
        http::get(LOOPBACK, self.healthz_port, "/healthz").map(|(_, body)| body)
    }

    /// A GET on the read-only port.
    pub fn get(&self, path: &str) -> (u16, String) {
        http::get(LOOPBACK, self.read_only_port, path).expect("the read-only port answers")
    }

    /// `kill -9` of the kubelet alone.
    pub fn kill_kubelet(&mut self) {
        let mut kubelet = self.kubelet.take().expect("the kubelet runs");
        kubelet.kill().expect("killed");
        assert_eq!(kubelet.wait().expect("waited").signal(), Some(9));
    }

    pub(crate) fn kill_if_running(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            let _ = kubelet.kill();
            let _ = kubelet.wait();
        }
    }

    /// SIGTERM, and waits for a clean end.
    pub fn stop_kubelet(&mut self) {
        let mut kubelet = self.kubelet.take().expect("the kubelet runs");
        let pid = rustix::process::Pid::from_child(&kubelet);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let status = kubelet.wait().expect("waited");
        assert!(status.success(), "the kubelet ended with {status}; its log:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Writes a manifest the careful way: to a dot-file, then renamed.
    pub fn drop_manifest(&self, file: &str, text: &str) {
        let temporary = self.manifests.join(format!(".{file}"));
        std::fs::write(&temporary, text).expect("written");
        std::fs::rename(temporary, self.manifests.join(file)).expect("renamed");
    }

    pub fn remove_manifest(&self, file: &str) {
        std::fs::remove_file(self.manifests.join(file)).expect("removed");
    }

    pub fn try_cli(&self, args: &[&str]) -> Output {
        let (subcommand, rest) = match args {
            ["image", verb, rest @ ..] => (vec!["image", *verb], rest),
            [verb, rest @ ..] => (vec![*verb], rest),
            [] => panic!("no subcommand"),
        };
        let run_dir = format!("--run-dir={}", self.run_dir.display());
        Command::new(kubelet_binary())
            .args(subcommand)
            .arg(run_dir)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .expect("runs")
    }

    /// Standard output of a subcommand that must succeed.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        let output = self.try_cli(args);
        assert!(output.status.success(), "kubelet {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The items of `/pods`.
    pub fn pods(&self) -> Vec<Value> {
        let (status, body) = self.get("/pods");
        assert_eq!(status, 200, "{body}");
        let list: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("PodList"), Some("v1")));
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn pod(&self, name: &str) -> Option<Value> {
        self.pods().into_iter().find(|pod| pod["metadata"]["name"] == format!("{name}-node-1"))
    }

    /// Status of a container, once `wanted` holds for it.
    #[track_caller]
    pub fn await_container(&self, pod: &str, container: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        await_some(&format!("container {container} of pod {pod}"), || {
            let found = self.pod(pod).ok_or("no such pod")?;
            let statuses = found["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            let status = statuses
                .into_iter()
                .find(|status| status["name"] == container)
                .ok_or_else(|| found["status"].to_string())?;
            if wanted(&status) { Ok(status) } else { Err(format!("{status}; log:\n{}", self.log())) }
        })
    }

    #[track_caller]
    pub fn await_running(&self, pod: &str, container: &str) -> Value {
        self.await_container(pod, container, |status| !status["state"]["running"].is_null())
    }

    #[track_caller]
    pub fn await_no_pods(&self) {
        await_some("no pods", || {
            let pods = self.pods();
            if pods.is_empty() { Ok(()) } else { Err(format!("{}; log:\n{}", Value::from(pods), self.log())) }
        });
    }

    pub fn pod_ip(&self, pod: &str) -> IpAddr {
        await_some(&format!("the address of pod {pod}"), || {
            let found = self.pod(pod).ok_or("no such pod")?;
            found["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()).ok_or_else(|| found["status"].to_string())
        })
    }

    /// Pids of the machine's processes inside a container of this test, by control group: what really runs.
    pub fn container_pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let ours = |line: &str| line.contains(&format!(":/{}/", self.name)) && !line.ends_with("/shim");
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
            if !zombie && groups.lines().any(ours) {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        pids
    }

    /// Pids of the containers' inits alone: their children may come and go.
    pub fn init_pids(&self) -> Vec<u32> {
        let is_init = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
        };
        self.container_pids().into_iter().filter(is_init).collect()
    }

    /// Pids of this test's shims.
    pub fn shim_pids(&self) -> Vec<u32> {
        let mark = self.run_dir.join("sandboxes").display().to_string();
        let mut pids: Vec<u32> = std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
            .filter(|pid: &u32| {
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&mark))
            })
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Takes the census. The kernel takes a namespace's links away a moment after its last process and file are gone. What
    /// is left behind is there whenever one looks; what another program makes and removes meanwhile is not.
    #[track_caller]
    fn count(&self, before: &Census) {
        let now = || {
            let left = Census::take(&self.name).left_behind(before);
            let others = |line: &String| !self.daemon.as_ref().is_some_and(|daemon| daemon.owns(line));
            left.into_iter().filter(others).collect::<Vec<_>>()
        };
        let mut left = now();
        await_some("a clean census", || {
            let now = now();
            left.retain(|line| now.contains(line));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}; log:\n{}", self.log())) }
        });
    }

    /// Removes every manifest, awaits an empty machine, ends the kubelet and takes the census.
    #[track_caller]
    pub fn finish(mut self) {
        for entry in std::fs::read_dir(&self.manifests).expect("the manifest directory").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        self.await_no_pods();
        // A pod whose manifest went while no kubelet ran is an orphan: not in /pods, but still to be cleaned up.
        let sandboxes = self.run_dir.join("sandboxes");
        await_true("no sandbox is left", || {
            std::fs::read_dir(&sandboxes).map_or(true, |mut left| left.next().is_none())
        });
        let pods = self.dir.join("root/pods");
        await_true("no pod directory is left", || {
            std::fs::read_dir(&pods).map_or(true, |mut left| left.next().is_none())
        });
        if let Some(daemon) = &self.daemon {
            await_some("the runtime holds nothing", || {
                let held = daemon.holds();
                if held.is_empty() { Ok(()) } else { Err(format!("{held:#?}; log:\n{}", self.log())) }
            });
        }
        self.stop_kubelet();
        for empty in ["root/pods", "root/containers", "logs"] {
            let left: Vec<_> =
                std::fs::read_dir(self.dir.join(empty)).into_iter().flatten().flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "files left behind: {left:?}");
        }
        let left: Vec<_> = std::fs::read_dir(self.run_dir.join("sandboxes"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        assert!(left.is_empty(), "sandboxes left behind: {left:?}");
        self.count(&self.with_daemon);
        if self.daemon.take().is_some() {
            // Its own things go with it, and nothing is left that was a pod's.
            self.faults = None;
            self.count(&self.before);
        }
        for group in own_groups(&self.name) {
            std::fs::remove_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_dir_all(&self.run_dir);
    }
}

fn drop_images(images: &[&str], dir: &Path) {
    for image in images {
        let link = dir.join(format!("{image}.tar"));
        std::os::unix::fs::symlink(image_archive(image), link).expect("the image");
    }
}

impl Drop for Machine {
    /// A failed test leaves its directory for reading, but nothing that runs.
    fn drop(&mut self) {
        if self.kubelet.is_none() && !std::thread::panicking() {
            return;
        }
        self.power_cut();
        for group in own_groups(&self.name) {
            let _ = std::fs::remove_dir(&group);
        }
    }
}
