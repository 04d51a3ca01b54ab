//! Debian's Docker Engine.

use super::{keep_log, pids_naming, run, run_with, sweep};
use crate::{PATIENCE, await_true, machine::own_groups};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The daemon, its containerd and its bridge.
pub struct Docker {
    dir: PathBuf,
    /// Of its bridge and its control group.
    name: String,
    child: Option<Child>,
}

impl Docker {
    pub(super) fn start(dir: &Path, images: &[PathBuf]) -> Docker {
        let name = format!("dk{}", std::process::id());
        std::fs::create_dir_all(dir).expect("the daemon's directory");
        // Containers outlive the daemon by this setting of it alone.
        let settings = json!({"live-restore": true, "cgroup-parent": format!("/{name}")});
        std::fs::write(dir.join("daemon.json"), settings.to_string()).expect("written");
        run(Command::new("ip").args(["link", "add", &name, "type", "bridge"]));
        let address = format!("10.198.{}.1/24", std::process::id() % 250);
        run(Command::new("ip").args(["addr", "add", &address, "dev", &name]));
        run(Command::new("ip").args(["link", "set", &name, "up"]));
        let mut docker = Docker { dir: dir.to_owned(), name, child: None };
        docker.launch();
        for image in images {
            let archive = saved_archive(image, &dir.join("image"));
            run_with(docker.client().args(["load", "--quiet"]), &archive);
        }
        docker
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    pub(super) fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("the log");
        let path = |name: &str| self.dir.join(name);
        let child = Command::new("/usr/sbin/dockerd")
            .arg("--config-file")
            .arg(path("daemon.json"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg(format!("--host=unix://{}", self.socket().display()))
            .arg(format!("--bridge={}", self.name))
            // The machine's own filter rules and addresses stay as they are.
            .args(["--iptables=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        self.child = Some(child);
        await_true("the Docker daemon answers", || {
            self.client().arg("version").output().is_ok_and(|output| output.status.success())
        });
    }

    /// Ends the daemon with a signal. Its containerd, which lives by it, goes a moment later.
    pub(super) fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill_process(rustix::process::Pid::from_child(&child), signal);
        let deadline = Instant::now() + PATIENCE;
        let pause = || std::thread::sleep(Duration::from_millis(20));
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            pause();
        }
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_file(self.dir.join("pid"));
        // A daemon that finds its containerd on its way out waits for it in vain.
        while self.containerd().is_some() && Instant::now() < deadline {
            pause();
        }
        let _ = std::fs::remove_file(self.containerd_pid_file());
    }

    pub(super) fn bridge(&self) -> &str {
        &self.name
    }

    fn containerd_pid_file(&self) -> PathBuf {
        self.dir.join("exec/containerd/containerd.pid")
    }

    /// The pid of the daemon's containerd, while it runs.
    fn containerd(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.containerd_pid_file()).ok()?.trim().parse().ok()?;
        let runs = pids_naming(&self.dir).iter().any(|found| found.as_raw_nonzero().get().unsigned_abs() == pid);
        runs.then_some(pid)
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.child.iter().map(Child::id).chain(self.containerd()).collect()
    }

    pub(super) fn holds(&self) -> Vec<String> {
        let listed = self.run(&["ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.Status}}"]);
        listed.lines().map(|line| format!("container {line}")).collect()
    }

    /// Debian's client, at this daemon.
    pub fn client(&self) -> Command {
        let mut client = Command::new("/usr/bin/docker");
        client.env_remove("DOCKER_HOST").arg("--config").arg(self.dir.join("client"));
        client.arg(format!("--host=unix://{}", self.socket().display())).stdin(Stdio::null());
        client
    }

    /// What a command of the client prints.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        run(self.client().args(args))
    }

    /// What `docker inspect` shows of a container.
    #[track_caller]
    pub fn inspect(&self, container: &str) -> Value {
        let text = self.run(&["inspect", container]);
        serde_json::from_str::<Vec<Value>>(&text).expect("JSON").remove(0)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        keep_log(&self.dir);
        self.end(Signal::TERM);
        sweep(&self.dir);
        let _ = Command::new("ip").args(["link", "delete", &self.name]).output();
        for group in own_groups(&self.name) {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// The archive in the form that every Docker loads: old ones do not know the layout of the OCI.
fn saved_archive(archive: &Path, work: &Path) -> Vec<u8> {
    std::fs::create_dir_all(work).expect("a directory to unpack into");
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(work));
    if !work.join("manifest.json").exists() {
        let read = |path: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(work.join(path)).expect("a file of the layout")).expect("JSON")
        };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            Path::new("blobs").join(digest.replace(':', "/"))
        };
        let descriptor = &read(Path::new("index.json"))["manifests"][0];
        let manifest = read(&blob(descriptor));
        let layers: Vec<PathBuf> = manifest["layers"].as_array().expect("layers").iter().map(blob).collect();
        let name = &descriptor["annotations"]["org.opencontainers.image.ref.name"];
        let saved = json!([{"Config": blob(&manifest["config"]), "RepoTags": [name], "Layers": layers}]);
        std::fs::write(work.join("manifest.json"), saved.to_string()).expect("written");
    }
    let output = Command::new("tar").arg("-c").arg("-C").arg(work).arg(".").output().expect("tar");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_dir_all(work).expect("removed");
    output.stdout
}
