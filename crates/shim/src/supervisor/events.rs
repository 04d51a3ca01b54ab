//! What happens to containers and execs.

use super::{Supervisor, Token};
use crate::container::{Container, Ending, Output, Phase, Read, reap};
use crate::failure::{Result, Step};
use crate::log::Stream;
use crate::pod_init::PodInit;
use crate::startup::{Progress, Reply, Startup};
use crate::{records as files, time};
use shim::protocol::{ExitRecord, ExitStatus, FromShim, Response, StartedRecord, VERSION, records};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

/// Of killing again what init left.
const FIRST_PAUSE_MS: u64 = 1;
const MAX_PAUSE_MS: u64 = 128;
/// What a process that still writes may add to the output after the container's init is gone, before the end is told.
const MAX_DRAIN_BYTES: usize = 1 << 20;

impl Supervisor {
    /// The kernel ends a pid namespace with its PID 1, which is reaped last of all in it. A sandbox without it can have
    /// no further containers: its supervisor ends too, when all is told.
    pub(super) fn on_pod_init_exit(&mut self) {
        if let PodInit::Running(pidfd) = &self.pod_init
            && reap(pidfd).is_some()
        {
            self.unwatch(pidfd);
            self.pod_init = PodInit::Ended;
            self.containers.iter_mut().filter(|container| container.may_run()).for_each(Container::kill);
        }
    }

    pub(super) fn go_on(&self) -> ControlFlow<()> {
        match self.pod_init {
            PodInit::Ended if !self.containers.iter().any(Container::may_run) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    pub(super) fn on_container_channel(&mut self, key: u32) {
        let Some(at) = self.containers.iter().position(|container| container.key == key) else { return };
        let Phase::Starting(startup) = &mut self.containers[at].phase else { return };
        let progress = startup.pump(self.buffer);
        if progress == Progress::Pending {
            return;
        }
        let channel = startup.channel.take();
        let (reply, terminal) = (startup.reply, startup.terminal.take());
        if let Some(channel) = channel {
            self.unwatch(&channel);
        }
        // A failed one is answered for when it is reaped, so that its name is free when the answer is read.
        if progress == Progress::Executed {
            if let Some(master) = terminal {
                let output = Output::new(master, Stream::Stdout);
                self.watch(output.fd.as_fd(), Token::Output(key, 0)).ok();
                self.containers[at].output[0] = Some(output);
            }
            self.started(at, reply);
        }
    }

    fn started(&mut self, at: usize, reply: Reply) {
        let container = &mut self.containers[at];
        match record_start(&self.dir, container) {
            Ok(started) => {
                container.deadline_ms = None;
                container.phase = Phase::Running(started.clone());
                self.arm_timer();
                self.answer(reply, Response::Started(started), None);
            }
            // What is not on disk must not be: after a crash of the kubelet nobody would know of it.
            Err(failure) => {
                container.kill();
                if let Phase::Starting(startup) = &mut container.phase {
                    startup.fail(failure);
                }
            }
        }
    }

    pub(super) fn on_container_exit(&mut self, key: u32) {
        // What it said before it ended comes first.
        self.on_container_channel(key);
        let Some(at) = self.containers.iter().position(|container| container.key == key) else { return };
        let Some(exit) = reap(&self.containers[at].pidfd) else { return };
        self.unwatch(&self.containers[at].pidfd);
        match &self.containers[at].phase {
            Phase::Starting(_) => self.start_failed(at, exit),
            Phase::Running(started) => {
                let started = started.clone();
                let finished_at_ns = time::now_ns();
                let ending = Ending { started, exit, finished_at_ns, pause_ms: FIRST_PAUSE_MS };
                self.containers[at].phase = Phase::Ending(ending);
                self.sweep(key);
            }
            Phase::Ending(_) | Phase::Exited(..) => {}
        }
    }

    /// Kills what init left and tells the end once nothing is left: a process in uninterruptible sleep keeps the
    /// container from having ended, for as long as it takes.
    pub(super) fn sweep(&mut self, key: u32) {
        let Some(at) = self.containers.iter().position(|container| container.key == key) else { return };
        let left = self.containers[at].kill_rest();
        let container = &mut self.containers[at];
        let Phase::Ending(ending) = &mut container.phase else { return };
        if left == 0 {
            return self.exited(at);
        }
        container.deadline_ms = Some(time::boot_ms() + ending.pause_ms);
        ending.pause_ms = (ending.pause_ms * 2).min(MAX_PAUSE_MS);
        self.arm_timer();
    }

    fn start_failed(&mut self, at: usize, exit: ExitStatus) {
        let container = self.containers.swap_remove(at);
        self.unwatch_all(&container);
        container.kill_rest();
        self.arm_timer();
        if let Phase::Starting(startup) = container.phase {
            self.answer_failed(startup, exit);
        }
    }

    fn answer_failed(&mut self, startup: Startup, exit: ExitStatus) {
        if let Some(channel) = &startup.channel {
            self.unwatch(channel);
        }
        let reply = startup.reply;
        self.answer(reply, Response::Failed(startup.into_failure(exit)), None);
    }

    /// The order matters: output, counters, record on disk, word to the engine.
    fn exited(&mut self, at: usize) {
        self.containers[at].deadline_ms = None;
        for stream in 0..self.containers[at].output.len() {
            if self.drain(at, stream) == Read::Ended {
                self.close_output(at, stream);
            }
        }
        self.end_attachments(self.containers[at].key);
        let container = &mut self.containers[at];
        let Phase::Ending(Ending { started, exit, finished_at_ns, .. }) = &container.phase else { return };
        let (started, exit, finished_at_ns) = (started.clone(), *exit, *finished_at_ns);
        let record = ExitRecord { version: VERSION, exit, oom_killed: container.was_oom_killed(exit), finished_at_ns };
        // A full disk must not hide the end; the record stays in memory and is told to whoever lists.
        if let Ok(dir) = files::container_dir(&self.dir, &container.id) {
            files::write(&dir, records::EXIT, &record).ok();
        }
        container.phase = Phase::Exited(started, record.clone());
        let message = FromShim::Exited { container: container.id.clone(), record };
        self.arm_timer();
        self.broadcast(&message);
    }

    pub(super) fn on_output(&mut self, key: u32, stream: usize) {
        let Some(at) = self.containers.iter().position(|container| container.key == key) else { return };
        if self.read_output(at, stream) == Read::Ended {
            self.close_output(at, stream);
        }
    }

    /// Reads once, for the log and for those who are attached.
    fn read_output(&mut self, at: usize, stream: usize) -> Read {
        let read = self.containers[at].read_output(stream, self.buffer, &mut self.batch);
        if let Read::Bytes(count) = read {
            self.pass_on((self.containers[at].key, stream), count);
        }
        read
    }

    /// Reads what is left in a stream, up to a bound: a process in the background may go on writing for ever.
    fn drain(&mut self, at: usize, stream: usize) -> Read {
        let mut left = MAX_DRAIN_BYTES;
        loop {
            match self.read_output(at, stream) {
                Read::Bytes(count) if count < left => left -= count,
                Read::Bytes(_) => return Read::Nothing,
                end => return end,
            }
        }
    }

    fn close_output(&mut self, at: usize, stream: usize) {
        if let Some(output) = self.containers[at].output[stream].take() {
            self.unwatch(&output.fd);
            self.end_attached_stream((self.containers[at].key, stream));
        }
    }

    pub(super) fn on_exec_channel(&mut self, key: u32) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.key == key) else { return };
        let Some(startup) = &mut exec.startup else { return };
        let progress = startup.pump(self.buffer);
        if progress == Progress::Pending {
            return;
        }
        let channel = startup.channel.take();
        let pid = exec.pid;
        // A failed one is answered for when it is reaped.
        let started = if progress == Progress::Executed { exec.startup.take() } else { None };
        if let Some(channel) = channel {
            self.unwatch(&channel);
        }
        if let Some(startup) = started {
            self.answer(startup.reply, Response::ExecStarted { pid }, startup.terminal.as_ref());
        }
    }

    pub(super) fn on_exec_exit(&mut self, key: u32) {
        self.on_exec_channel(key);
        let Some(at) = self.execs.iter().position(|exec| exec.key == key) else { return };
        let Some(exit) = reap(&self.execs[at].pidfd) else { return };
        let exec = self.execs.swap_remove(at);
        self.unwatch(&exec.pidfd);
        // Nothing of it is left once its end is told.
        drop(exec.pidfd);
        match exec.startup {
            Some(startup) => self.answer_failed(startup, exit),
            None => self.broadcast(&FromShim::ExecExited { exec: exec.id, exit }),
        }
    }
}

fn record_start(dir: &std::path::Path, container: &Container) -> Result<StartedRecord> {
    let step = || format!("record the start of the container {}", container.id);
    let started = StartedRecord {
        version: VERSION,
        pid: container.pid,
        start_ticks: files::start_ticks(container.pid).step(step)?,
        started_at_ns: time::now_ns(),
    };
    files::write(&files::container_dir(dir, &container.id)?, records::STARTED, &started).step(step)?;
    Ok(started)
}
