//! What the engine asks for.

use super::attach::Wanted;
use super::{MAX_CONTAINERS, MAX_EXECS, Supervisor, Token};
use crate::container::{Container, Exec, Output, Phase, Stopping, known};
use crate::failure::{Result, Step, not_found, refused};
use crate::launch::{self, Birthplace, Launched};
use crate::log::{LogFile, Stream};
use crate::pod_init::{self, PodInit};
use crate::startup::{Reply, Startup};
use crate::{family, records, sys, time};
use shim::protocol::{ContainerSpec, FromShim, PidNamespace, Process, Request, Response};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A set-up that hangs, on a dead network mount say, is given up after this.
const MAX_SETUP_MS: u64 = 60_000;
/// Ten years; more is as good as for ever.
const MAX_GRACE_MS: u64 = 315_360_000_000;

impl Supervisor {
    pub(super) fn answer_request(&mut self, reply: Reply, request: Request, fds: Vec<OwnedFd>) -> ControlFlow<()> {
        let answer = match request {
            // The first two are answered when the child has become the program, or has not.
            Request::Start { container } => self.start(&container, reply).map(|()| None),
            Request::Exec { exec, container, process } => {
                self.exec((exec, &container), &process, fds, reply).map(|()| None)
            }
            Request::Attach { attach, container, stdin, stdout, stderr } => {
                let wanted = Wanted { stdin, output: [stdout, stderr] };
                self.attach((attach, &container), wanted, fds, reply).map(|()| None)
            }
            Request::Stop { container, signal, grace_ms } => self.stop(&container, signal, grace_ms).map(Some),
            Request::KillExec { exec } => self.kill_exec(&exec).map(Some),
            Request::Forget { container } => self.forget(&container).map(Some),
            Request::List => Ok(Some(Response::Containers(self.containers.iter().map(Container::state).collect()))),
            Request::Shutdown => match self.refuse_while_running() {
                Ok(()) => {
                    if self.execs.is_empty() {
                        self.pod_init.end();
                    }
                    self.answer(reply, Response::Done, None);
                    return ControlFlow::Break(());
                }
                Err(failure) => Err(failure),
            },
        };
        match answer {
            Ok(None) => {}
            Ok(Some(response)) => self.answer(reply, response, None),
            Err(failure) => self.answer(reply, Response::Failed(failure), None),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn answer(&mut self, reply: Reply, response: Response, fd: Option<&OwnedFd>) {
        let message = FromShim::Answer { seq: reply.seq, response };
        self.send(reply.connection, &message, fd.map(AsFd::as_fd));
    }

    fn start(&mut self, id: &str, reply: Reply) -> Result<()> {
        let dir = records::container_dir(&self.dir, id)?;
        let step = || format!("start the container {id}");
        if let Some(at) = self.containers.iter().position(|container| container.id == id) {
            self.start_again(at, reply);
            return Ok(());
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(refused(step(), format!("there are {MAX_CONTAINERS} containers already: forget some")));
        }
        let spec = records::read_spec(&dir, id)?;
        let log = spec.log.as_ref().map(LogFile::open).transpose()?;
        let launched = launch::container(&spec, &dir, self.birthplace(&spec, &dir)?)?;
        let key = self.new_key();
        let mut container = new_container(key, spec, launched, (log, reply));
        let watched = self.watch_container(&container).step(step);
        if watched.is_err() {
            container.kill();
        }
        self.containers.push(container);
        self.arm_timer();
        // One that cannot be watched is killed, and nobody will learn of its end: better to say so than to wait.
        watched
    }

    /// An engine that was killed while it waited for a start does not know of it, and its successor asks once more: one
    /// start, of which the last one who asked is told.
    fn start_again(&mut self, at: usize, reply: Reply) {
        let started = match &mut self.containers[at].phase {
            Phase::Starting(startup) => {
                startup.reply = reply;
                return;
            }
            Phase::Running(started) | Phase::Exited(started, _) => started.clone(),
            Phase::Ending(ending) => ending.started.clone(),
        };
        self.answer(reply, Response::Started(started), None);
    }

    /// The pod's PID 1 is made when the first container needs it.
    fn birthplace(&mut self, spec: &ContainerSpec, dir: &Path) -> Result<Birthplace<'_>> {
        match spec.pid_ns {
            PidNamespace::Host => return Ok(Birthplace::Here),
            PidNamespace::Own => return Ok(Birthplace::New),
            PidNamespace::Pod => {}
        }
        if let PodInit::None = self.pod_init {
            let pidfd = pod_init::start(spec, dir, self.buffer)?;
            self.watch(pidfd.as_fd(), Token::PodInit).step(|| "watch the pod's PID 1".into())?;
            self.pod_init = PodInit::Running(pidfd);
        }
        match &self.pod_init {
            PodInit::Running(init) => Ok(Birthplace::Pod { init, own: &self.own_pid_namespace }),
            PodInit::None | PodInit::Ended => {
                Err(refused("enter the pod's pid namespace", "its PID 1 ended, and the pod's sandbox with it"))
            }
        }
    }

    fn watch_container(&self, container: &Container) -> rustix::io::Result<()> {
        self.watch(container.pidfd.as_fd(), Token::ContainerExit(container.key))?;
        if let Phase::Starting(Startup { channel: Some(channel), .. }) = &container.phase {
            self.watch(channel.as_fd(), Token::ContainerChannel(container.key))?;
        }
        for (stream, output) in container.output.iter().enumerate() {
            if let Some(output) = output {
                self.watch(output.fd.as_fd(), Token::Output(container.key, stream))?;
            }
        }
        Ok(())
    }

    fn exec(
        &mut self,
        (id, container): (String, &str),
        process: &Process,
        fds: Vec<OwnedFd>,
        reply: Reply,
    ) -> Result<()> {
        let step = || format!("exec in the container {container}");
        if self.execs.iter().any(|exec| exec.id == id) {
            return Err(refused(step(), format!("the exec {id:?} exists already")));
        }
        if self.execs.len() >= MAX_EXECS {
            return Err(refused(step(), format!("{MAX_EXECS} execs run already")));
        }
        let found = known(self.containers.iter().find(|c| c.id == container), "container", container)?;
        let Phase::Running(_) = found.phase else { return Err(not_found(step(), "it is not running")) };
        let target =
            launch::Target { init: &found.pidfd, cgroups: &found.cgroups, own_pid_namespace: &self.own_pid_namespace };
        let launched = launch::exec(process, &target, fds)?;
        let cgroups = found.cgroups.clone();
        let key = self.new_key();
        let watched = self
            .watch(launched.pidfd.as_fd(), Token::ExecExit(key))
            .and_then(|()| self.watch(launched.channel.as_fd(), Token::ExecChannel(key)));
        if watched.is_err() {
            sys::signal_pidfd(&launched.pidfd, libc::SIGKILL).ok();
        }
        let startup = Some(Startup::new(launched.channel, reply));
        self.execs.push(Exec { key, id, pid: launched.pid, pidfd: launched.pidfd, cgroups, startup });
        watched.step(step)
    }

    fn stop(&mut self, id: &str, signal: i32, grace_ms: u64) -> Result<Response> {
        let container = known(self.containers.iter_mut().find(|container| container.id == id), "container", id)?;
        if !(1..=64).contains(&signal) {
            return Err(refused(
                format!("signal the container {id}"),
                format!("{signal} is no signal, they go from 1 to 64"),
            ));
        }
        match container.phase {
            // What is left of it is being killed.
            Phase::Ending(_) | Phase::Exited(..) => return Ok(Response::Done),
            // Nothing of the container's runs yet that could end gracefully.
            Phase::Starting(_) => container.kill(),
            Phase::Running(_) if grace_ms == 0 => {
                container.deadline_ms = None;
                container.kill();
            }
            Phase::Running(_) => {
                if container.stopping == Stopping::No {
                    container.stopping = Stopping::Signalled;
                    if signal == libc::SIGKILL {
                        container.kill();
                    }
                    // ESRCH: it ended meanwhile, which its exit will tell.
                    sys::signal_pidfd(&container.pidfd, signal).ok();
                }
                let deadline = time::boot_ms() + grace_ms.min(MAX_GRACE_MS);
                container.deadline_ms = Some(container.deadline_ms.map_or(deadline, |old| old.min(deadline)));
            }
        }
        self.arm_timer();
        Ok(Response::Done)
    }

    /// The exec is not reaped while it is in the list, so that its number names nobody else.
    fn kill_exec(&mut self, id: &str) -> Result<Response> {
        let exec = known(self.execs.iter().find(|exec| exec.id == id), "exec", id)?;
        family::kill(exec.pid, &exec.pidfd, &exec.cgroups);
        Ok(Response::Done)
    }

    fn forget(&mut self, id: &str) -> Result<Response> {
        let Some(at) = self.containers.iter().position(|container| container.id == id) else {
            return Ok(Response::Done);
        };
        let Phase::Exited(..) = self.containers[at].phase else {
            return Err(not_found(format!("forget the container {id}"), "it has not ended"));
        };
        let container = self.containers.swap_remove(at);
        self.unwatch_all(&container);
        container.kill_rest();
        self.arm_timer();
        Ok(Response::Done)
    }

    pub(super) fn unwatch_all(&self, container: &Container) {
        self.unwatch(&container.pidfd);
        for output in container.output.iter().flatten() {
            self.unwatch(&output.fd);
        }
    }

    fn refuse_while_running(&self) -> Result<()> {
        match self.containers.iter().find(|container| container.may_run()) {
            Some(container) => Err(refused("end the shim", format!("the container {} runs", container.id))),
            None => Ok(()),
        }
    }
}

fn new_container(
    key: u32,
    spec: ContainerSpec,
    launched: Launched,
    (log, reply): (Option<LogFile>, Reply),
) -> Container {
    let [stdout, stderr] = launched.output.map_or([None, None], |[stdout, stderr]| [Some(stdout), Some(stderr)]);
    Container {
        key,
        id: spec.id,
        pidfd: launched.pidfd,
        pid: launched.pid,
        phase: Phase::Starting(Startup::new(launched.channel, reply)),
        cgroups: spec.cgroups,
        memory_cgroup: spec.memory_cgroup,
        pid_namespace: spec.pid_ns,
        output: [stdout.map(|fd| Output::new(fd, Stream::Stdout)), stderr.map(|fd| Output::new(fd, Stream::Stderr))],
        terminal: spec.process.terminal,
        input: launched.input.zip(spec.stdin),
        log,
        deadline_ms: Some(time::boot_ms() + MAX_SETUP_MS),
        stopping: Stopping::No,
    }
}
