//! The daemon of a runtime, of a machine's own: beneath its directory, with its own socket, state and bridge. It is ended
//! by its process id, and nothing of it is left.

mod containerd;
mod docker;

use crate::{PATIENCE, Runtime, machine};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

pub use containerd::Containerd;
pub use docker::Docker;

/// A running daemon.
pub enum Daemon {
    Docker(Docker),
    Containerd(Containerd),
}

impl Daemon {
    /// Starts it beneath `dir` with these images; nothing for the embedded engine, which is no daemon.
    pub(crate) fn start(runtime: Runtime, dir: &Path, images: &[&str]) -> Option<Daemon> {
        let images: Vec<PathBuf> = images.iter().map(|name| machine::image_archive(name)).collect();
        match runtime {
            Runtime::Embedded => None,
            Runtime::Docker => Some(Daemon::Docker(Docker::start(dir, &images))),
            Runtime::Containerd | Runtime::ContainerdSid => {
                Some(Daemon::Containerd(Containerd::start(dir, &runtime.programs())))
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        match self {
            Daemon::Docker(docker) => docker.socket(),
            Daemon::Containerd(containerd) => containerd.socket(),
        }
    }

    /// The file that it is configured by, and reads when it starts.
    pub fn settings(&self) -> PathBuf {
        match self {
            Daemon::Docker(docker) => docker.settings(),
            Daemon::Containerd(containerd) => containerd.settings(),
        }
    }

    /// The bridge of its pods.
    pub fn bridge(&self) -> Option<String> {
        match self {
            Daemon::Docker(docker) => Some(docker.bridge().to_owned()),
            Daemon::Containerd(containerd) => containerd.bridge(),
        }
    }

    /// The flags with which a kubelet uses it, at this socket.
    pub(crate) fn flags(&self, socket: &Path) -> Vec<String> {
        let socket = format!("unix://{}", socket.display());
        match self {
            Daemon::Docker(_) => {
                vec!["--container-runtime=docker".to_owned(), format!("--docker-endpoint={socket}")]
            }
            Daemon::Containerd(_) => vec![format!("--container-runtime-endpoint={socket}")],
        }
    }

    /// `kill -9`; what it runs goes on.
    pub fn kill(&mut self) {
        match self {
            Daemon::Docker(docker) => docker.end(Signal::KILL),
            Daemon::Containerd(containerd) => containerd.kill(),
        }
    }

    /// Starts it again after a kill, and waits until it answers.
    pub fn restart(&mut self) {
        match self {
            Daemon::Docker(docker) => docker.launch(),
            Daemon::Containerd(containerd) => containerd.launch(),
        }
    }

    /// What it still holds of pods, one a line.
    pub(crate) fn holds(&self) -> Vec<String> {
        match self {
            Daemon::Docker(docker) => docker.holds(),
            Daemon::Containerd(containerd) => containerd.holds(),
        }
    }

    /// The lines of a census that are its own, and no pod's.
    pub(crate) fn owns(&self, line: &str) -> bool {
        let own = |pid: u32| line.starts_with(&format!("process {pid} "));
        match self {
            // The network namespace of this machine, for pods that ask for it: Docker pins it once.
            Daemon::Docker(docker) => docker.pids().into_iter().any(own) || line.contains("/netns/default "),
            Daemon::Containerd(containerd) => {
                own(containerd.pid()) || containerd.bridge().is_some_and(|bridge| line.contains(&bridge))
            }
        }
    }
}

/// What a program that must succeed prints.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    told(command, &output)
}

/// The same, of a program that reads `input`.
#[track_caller]
fn run_with(command: &mut Command, input: &[u8]) -> String {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("the program reads");
    let output = child.wait_with_output().expect("the program ends");
    told(command, &output)
}

#[track_caller]
fn told(command: &Command, output: &Output) -> String {
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Processes on whose command lines `mark` stands.
fn pids_naming(mark: &Path) -> Vec<Pid> {
    let mark = mark.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let named = pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    });
    named.filter_map(Pid::from_raw).collect()
}

/// A failed test leaves the daemon's log for reading, beside the directory that goes.
fn keep_log(dir: &Path) {
    if std::thread::panicking() {
        let _ = std::fs::copy(dir.join("log"), dir.with_extension("log"));
    }
}

/// Kills what a daemon left running, unmounts what it left mounted: after a test that failed.
fn sweep(dir: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let left = pids_naming(dir);
        if left.is_empty() {
            break;
        }
        for pid in left {
            // Gone already is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for target in targets.filter(|target| Path::new(target).starts_with(dir)).collect::<Vec<_>>().into_iter().rev() {
        let _ = unmount(target, UnmountFlags::DETACH);
    }
}
