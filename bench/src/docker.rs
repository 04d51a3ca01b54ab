//! Docker's side: a daemon of its own directories, bridge and control group, ordered through its client or its API.

use crate::footprint;
use crate::side::{Marks, Parts, Side, daemon_processes, run};
use crate::stamp::{IMAGE, MOUNT, Stamps, now_ns};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// No answer of the daemon and no end of it is awaited longer than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Behind every subnet that a test's kubelet takes.
const BRIDGE_ADDRESS: &str = "10.199.252.1/23";

/// A running dockerd. Dropping it removes everything it made.
pub(crate) struct Daemon {
    dir: PathBuf,
    stamps: PathBuf,
    marks: Marks,
    child: Child,
}

impl Daemon {
    pub(crate) fn start(archive: &Path, stamps: &Stamps) -> Result<Daemon> {
        let name = format!("bd{}", std::process::id());
        let dir = std::env::temp_dir().join(format!("bench-{name}"));
        std::fs::create_dir_all(dir.join("client"))?;
        // A daemon of this machine's own must not lend its settings.
        std::fs::write(dir.join("daemon.json"), "{}")?;
        run(Command::new("ip").args(["link", "add", &name, "type", "bridge"]))?;
        run(Command::new("ip").args(["addr", "add", BRIDGE_ADDRESS, "dev", &name]))?;
        run(Command::new("ip").args(["link", "set", &name, "up"]))?;
        let log = std::fs::File::create(dir.join("log"))?;
        let child = Command::new("/usr/sbin/dockerd")
            .arg("--config-file")
            .arg(dir.join("daemon.json"))
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", dir.join("docker.sock").display()))
            .arg(format!("--bridge={name}"))
            .arg(format!("--cgroup-parent=/{name}"))
            .args(["--iptables=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("/usr/sbin/dockerd is needed: run `scripts/setup.sh test`")?;
        let marks = Marks { mounts: vec![dir.display().to_string()], bridges: vec![name.clone()], cgroups: vec![name] };
        let daemon = Daemon { dir, stamps: stamps.dir.clone(), marks, child };
        daemon.await_ready()?;
        run(daemon.client().args(["load", "--quiet", "--input"]).arg(archive))?;
        Ok(daemon)
    }

    fn await_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.request("GET", "/_ping", None).is_err() {
            if Instant::now() > deadline {
                bail!("dockerd does not answer:\n{}", std::fs::read_to_string(self.dir.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Version and storage driver, for the head of the report.
    pub(crate) fn description(&self) -> Result<String> {
        let info = self.request("GET", "/info", None)?;
        let word = |key: &str| info[key].as_str().unwrap_or("?").to_owned();
        Ok(format!("Docker {} ({})", word("ServerVersion"), word("Driver")))
    }

    fn client(&self) -> Command {
        // Debian's, the one that belongs to the daemon, before any other that is in the path.
        let debian = Path::new("/usr/bin/docker");
        let mut client = Command::new(if debian.exists() { debian } else { Path::new("docker") });
        client
            .arg("--config")
            .arg(self.dir.join("client"))
            .arg("--host")
            .arg(format!("unix://{}", self.dir.join("docker.sock").display()));
        client
    }

    /// One request of the Engine API. HTTP/1.0: the answer ends with the connection and is never chunked.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.dir.join("docker.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head in the answer")?;
        let status: u16 = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
        ensure!((200..300).contains(&status), "{method} {path}: {status}: {body}");
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn remove_everything(&self) -> Result<()> {
        let containers = self.request("GET", "/containers/json?all=1", None)?;
        for container in containers.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            self.request("DELETE", &format!("/containers/{id}?force=1"), None)?;
        }
        Ok(())
    }

    /// Ends the daemon; it ends its containerd.
    fn end(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Only what names the daemon's own directory: a containerd or a shim that outlived it.
        for pid in footprint::pids_with_command(&self.dir.display().to_string()) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.remove_everything() {
            eprintln!("containers were left to the daemon's end: {error:#}");
        }
        self.end();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let dir = self.dir.display().to_string();
        for point in points.filter(|point| point.starts_with(&dir)) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        if let Err(error) = run(Command::new("ip").args(["link", "del"]).args(&self.marks.bridges)) {
            eprintln!("the bridge is left: {error:#}");
        }
        self.marks.remove_cgroups();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{dir} is left: {error}");
        }
    }
}

/// How Docker is given an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `docker run -d`, the client's start counted in; so many at a time when there are many.
    Client { at_a_time: usize },
    /// The Engine API directly.
    Api,
    /// The Engine API, without the system call filter that Docker compiles anew for each container.
    ApiUnconfined,
}

/// Docker, ordered in one way.
pub(crate) struct Docker<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) order: Order,
}

impl Docker<'_> {
    fn start_by_client(&self, name: &str) -> Result<()> {
        let mount = format!("{}:{MOUNT}", self.daemon.stamps.display());
        let mut client = self.daemon.client();
        client.args(["run", "-d", "--name", name, "--restart=always", "-v", &mount, IMAGE]);
        run(client.arg(format!("{MOUNT}/{name}")))
    }

    fn start_by_api(&self, name: &str) -> Result<()> {
        let security: &[&str] = if self.order == Order::ApiUnconfined { &["seccomp=unconfined"] } else { &[] };
        let container = json!({
            "Image": IMAGE,
            "Cmd": [format!("{MOUNT}/{name}")],
            "HostConfig": {
                "Binds": [format!("{}:{MOUNT}", self.daemon.stamps.display())],
                "RestartPolicy": { "Name": "always" },
                "SecurityOpt": security,
            },
        });
        self.daemon.request("POST", &format!("/containers/create?name={name}"), Some(&container))?;
        self.daemon.request("POST", &format!("/containers/{name}/start"), None)?;
        Ok(())
    }

    /// Hands the names to so many threads as the order says.
    fn each(&self, names: &[String], act: impl Fn(&str) -> Result<u64> + Sync) -> Result<u64> {
        let workers = if let Order::Client { at_a_time } = self.order { at_a_time } else { 1 };
        let ordered_ns = now_ns();
        let left = Mutex::new(names.iter());
        let next = || left.lock().ok().and_then(|mut names| names.next());
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some(name) = next() {
                    act(name)?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a worker does not panic"))
        })?;
        Ok(ordered_ns)
    }
}

impl Side for Docker<'_> {
    fn start(&self, name: &str) -> Result<u64> {
        let ordered_ns = now_ns();
        match self.order {
            Order::Client { .. } => self.start_by_client(name)?,
            Order::Api | Order::ApiUnconfined => self.start_by_api(name)?,
        }
        Ok(ordered_ns)
    }

    fn remove(&self, name: &str) -> Result<u64> {
        let ordered_ns = now_ns();
        match self.order {
            Order::Client { .. } => run(self.daemon.client().args(["rm", "-f", name]))?,
            Order::Api | Order::ApiUnconfined => {
                self.daemon.request("DELETE", &format!("/containers/{name}?force=1"), None)?;
            }
        }
        Ok(ordered_ns)
    }

    fn start_all(&self, names: &[String]) -> Result<u64> {
        self.each(names, |name| self.start(name))
    }

    /// `docker run -d` returns only when its container runs.
    fn await_reported(&self, _names: &[String]) -> Result<()> {
        Ok(())
    }

    fn remove_all(&self, names: &[String]) -> Result<u64> {
        self.each(names, |name| self.remove(name))
    }

    fn traces(&self) -> BTreeSet<String> {
        self.daemon.marks.traces()
    }

    fn supervisors(&self) -> Parts<Vec<u32>> {
        daemon_processes(&self.daemon.dir)
    }
}
