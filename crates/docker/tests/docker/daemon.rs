//! A daemon that leaves the machine as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

const PROGRAM: &str = "/usr/sbin/dockerd";
const PATIENCE: Duration = Duration::from_secs(60);
static DAEMONS: AtomicU32 = AtomicU32::new(0);
static SHARED: Mutex<Weak<Daemon>> = Mutex::new(Weak::new());

/// A running daemon. Dropping it ends it and removes everything it made.
pub(crate) struct Daemon {
    pub(crate) dir: PathBuf,
    name: String,
    child: Mutex<Option<Child>>,
}

/// Why the tests cannot run here; in CI that is a failure.
fn missing() -> Option<String> {
    let missing = if !geteuid().is_root() {
        "needs root".to_owned()
    } else if !Path::new(PROGRAM).exists() {
        format!("needs {PROGRAM} (package docker.io)")
    } else if !archive().exists() {
        format!("needs {}: run `scripts/images.sh target/test-images busybox`", archive().display())
    } else {
        return None;
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}, and must not be skipped here");
    println!("skipped: {missing}");
    Some(missing)
}

fn archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-images/busybox.tar")
}

impl Daemon {
    /// The daemon that tests have in common; it ends with the last of them.
    pub(crate) fn shared() -> Option<Arc<Daemon>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = shared.upgrade() {
            return Some(daemon);
        }
        let daemon = Daemon::own()?;
        *shared = Arc::downgrade(&daemon);
        Some(daemon)
    }

    /// A daemon for one test, which may end it.
    pub(crate) fn own() -> Option<Arc<Daemon>> {
        if missing().is_some() {
            return None;
        }
        let number = DAEMONS.fetch_add(1, Ordering::Relaxed);
        let name = format!("dt{}x{number}", std::process::id());
        let dir = std::env::temp_dir().join(format!("docker-{name}"));
        fs::create_dir_all(dir.join("logs")).unwrap();
        // A daemon of this machine's own must not lend its settings.
        fs::write(dir.join("daemon.json"), format!(r#"{{"cgroup-parent": "/{name}"}}"#)).unwrap();
        run(Command::new("ip").args(["link", "add", &name, "type", "bridge"]));
        let address = format!("10.199.{}.1/24", 224 + number % 16);
        run(Command::new("ip").args(["addr", "add", &address, "dev", &name]));
        run(Command::new("ip").args(["link", "set", &name, "up"]));
        let daemon = Arc::new(Daemon { dir, name, child: Mutex::new(None) });
        daemon.start();
        run(daemon.client().args(["load", "--quiet", "--input"]).arg(archive()));
        Some(daemon)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("--config-file")
            .arg(self.dir.join("daemon.json"))
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            .arg("--pidfile")
            .arg(self.dir.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg(format!("--bridge={}", self.name))
            .args(["--iptables=false", "--ip-masq=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.child() = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.client().arg("version").output().unwrap().status.success() {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the daemon does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the daemon with this signal; its containers run on.
    pub(crate) fn end(&self, signal: Signal) {
        let Some(mut child) = self.child().take() else { return };
        let _ = kill_process(Pid::from_child(&child), signal);
        let deadline = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(self.dir.join("pid"));
        // Its containerd goes with it; a daemon that finds it on its way out waits for it in vain.
        let containerd = fs::read_to_string(self.dir.join("exec/containerd/containerd.pid")).unwrap_or_default();
        let gone = || !self.processes().iter().any(|pid| pid.to_string() == containerd.trim());
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Where nobody takes its exit status it seems to run on.
        let _ = fs::remove_file(self.dir.join("exec/containerd/containerd.pid"));
    }

    /// Debian's client, the one that belongs to the daemon.
    pub(crate) fn client(&self) -> Command {
        let debian = Path::new("/usr/bin/docker");
        let mut client = Command::new(if debian.exists() { debian } else { Path::new("docker") });
        client.env_remove("DOCKER_HOST").arg("--config").arg(self.dir.join("client"));
        client.arg("--host").arg(format!("unix://{}", self.socket().display())).stdin(Stdio::null());
        client
    }

    /// What `docker inspect` shows.
    pub(crate) fn inspect(&self, id: &str) -> Value {
        let output = run(self.client().args(["inspect", id]));
        serde_json::from_str::<Vec<Value>>(&output).unwrap().remove(0)
    }

    fn processes(&self) -> Vec<Pid> {
        let mark = self.dir.display().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        let ours = pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        });
        ours.filter_map(Pid::from_raw).collect()
    }

    fn remove_cgroups(&self) {
        let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in below.chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_groups(&hierarchy.join(&self.name));
        }
    }
}

fn remove_groups(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child().is_some() {
            let all = self.client().args(["ps", "-aq"]).output().map(|output| output.stdout).unwrap_or_default();
            let ids = String::from_utf8_lossy(&all).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            if !ids.is_empty() {
                let _ = self.client().args(["rm", "-f", "-v"]).args(ids).output();
            }
        }
        self.end(Signal::TERM);
        // Only what names the daemon's own directory: a containerd or a shim that outlived it.
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.display().to_string();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&dir));
        for point in points.collect::<Vec<_>>().into_iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = Command::new("ip").args(["link", "del", &self.name]).output();
        self.remove_cgroups();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{dir} is left: {error}");
        }
    }
}

/// Runs a program that must succeed; its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
