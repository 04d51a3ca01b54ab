//! What the shim knows of a container and of an exec in it.

use crate::failure::Result;
use crate::log::{Batch, Lines, LogFile, Stream};
use crate::startup::Startup;
use crate::sys;
use crate::time;
use crate::wire::Buffer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use shim::protocol::{ContainerState, ExitRecord, ExitStatus, PidNamespace, StartedRecord, Stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

pub(crate) struct Container {
    /// Never used twice, so that a late event finds nothing.
    pub(crate) key: u32,
    pub(crate) id: String,
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: i32,
    pub(crate) phase: Phase,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) memory_cgroup: Option<PathBuf>,
    pub(crate) pid_namespace: PidNamespace,
    /// Standard output, or the terminal, and standard error.
    pub(crate) output: [Option<Output>; 2],
    pub(crate) terminal: bool,
    /// The writing end of its input, and how long it stays open.
    pub(crate) input: Option<(OwnedFd, Stdin)>,
    pub(crate) log: Option<LogFile>,
    /// When everything in it is killed, `time::boot_ms`.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) stopping: Stopping,
}

/// What was done to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stopping {
    No,
    /// The stop signal was sent: it is sent once.
    Signalled,
    /// It was killed while its init lived.
    Killed,
}

pub(crate) enum Phase {
    Starting(Startup),
    Running(StartedRecord),
    /// Init is gone and others of the container's are not, so the container is not.
    Ending(Ending),
    Exited(StartedRecord, ExitRecord),
}

pub(crate) struct Ending {
    pub(crate) started: StartedRecord,
    pub(crate) exit: ExitStatus,
    pub(crate) finished_at_ns: i64,
    /// Until what is left is killed again; doubled each time.
    pub(crate) pause_ms: u64,
}

pub(crate) struct Exec {
    pub(crate) key: u32,
    pub(crate) id: String,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Control groups of its container.
    pub(crate) cgroups: Vec<PathBuf>,
    /// `None` once the program runs.
    pub(crate) startup: Option<Startup>,
}

pub(crate) struct Output {
    pub(crate) fd: OwnedFd,
    lines: Lines,
}

/// Whether more may come from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    Nothing,
    Ended,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd, stream: Stream) -> Output {
        Output { fd, lines: Lines::new(stream) }
    }

    /// Reads once and logs it, so that a container that floods its output takes turns with all others.
    fn read(&mut self, log: &mut Option<LogFile>, buffer: &mut Buffer, batch: &mut Batch) -> Read {
        let mut sink = |bytes: &[u8]| {
            if let Some(log) = log {
                log.write(bytes);
            }
        };
        let result = match rustix::io::read(&self.fd, &mut buffer[..]) {
            Ok(0) => Read::Ended,
            Ok(count) => {
                self.lines.push(time::now_ns(), &buffer[..count], batch, &mut sink);
                Read::Bytes(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            // EIO: the last process that had the terminal open is gone.
            Err(_) => Read::Ended,
        };
        if result == Read::Ended {
            self.lines.finish(time::now_ns(), batch, &mut sink);
        }
        batch.flush(&mut sink);
        result
    }
}

impl Container {
    pub(crate) fn read_output(&mut self, stream: usize, buffer: &mut Buffer, batch: &mut Batch) -> Read {
        match &mut self.output[stream] {
            Some(output) => output.read(&mut self.log, buffer, batch),
            None => Read::Nothing,
        }
    }

    /// SIGKILL for all of it.
    pub(crate) fn kill(&mut self) {
        if !has_ended(&self.pidfd) {
            self.stopping = Stopping::Killed;
        }
        // ESRCH: it is gone already.
        sys::signal_pidfd(&self.pidfd, libc::SIGKILL).ok();
        self.kill_rest();
    }

    /// Where it shares its pid namespace, init's end is not the end of the others. Returns how many were left.
    pub(crate) fn kill_rest(&self) -> usize {
        match self.pid_namespace {
            PidNamespace::Own => 0,
            // A group that cannot be read is none of which processes could be known.
            PidNamespace::Host | PidNamespace::Pod => cgroup::kill_dirs(&self.cgroups).unwrap_or(0),
        }
    }

    /// Whether a process of it may be there.
    pub(crate) fn may_run(&self) -> bool {
        !matches!(self.phase, Phase::Exited(..))
    }

    pub(crate) fn state(&self) -> ContainerState {
        let (started, exit) = match &self.phase {
            Phase::Starting(_) => (None, None),
            Phase::Running(started) | Phase::Ending(Ending { started, .. }) => (Some(started.clone()), None),
            Phase::Exited(started, exit) => (Some(started.clone()), Some(exit.clone())),
        };
        ContainerState { container: self.id.clone(), started, exit }
    }

    /// The kernel killed one of its processes for want of memory, and init died as such a kill makes it die, and not
    /// because it was told to.
    pub(crate) fn was_oom_killed(&self, exit: ExitStatus) -> bool {
        exit == ExitStatus::Signal(libc::SIGKILL as u8)
            && self.stopping != Stopping::Killed
            && self.memory_cgroup.as_ref().is_some_and(|dir| cgroup::oom_kills(dir).is_ok_and(|kills| kills > 0))
    }
}

/// A zombie's pidfd is readable.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(1))
}

/// Reaps a child if it has ended.
pub(crate) fn reap(pidfd: &OwnedFd) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), options).ok()??;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(ExitStatus::Code(code as u8)),
        (None, Some(signal)) => Some(ExitStatus::Signal(signal as u8)),
        (None, None) => None,
    }
}

/// The one answer to what is not there.
pub(crate) fn known<T>(found: Option<T>, what: &str, id: &str) -> Result<T> {
    found.ok_or_else(|| crate::failure::not_found(format!("find the {what} {id:?}"), "there is none of this name"))
}
