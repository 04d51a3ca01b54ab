//! A container's life: create, start, stop, remove, and what the shim tells of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::{Error, v1};
use shim::protocol::{
    ContainerSpec, ExitRecord, Failure, FailureKind, Log, Request, Response, Root, StartedRecord, records,
};

use crate::attach;
use crate::delete;
use crate::error::{internal, of_shim, on_pool};
use crate::files;
use crate::ids;
use crate::machine;
use crate::record::{self, ContainerRecord, Phase};
use crate::sandbox::ANSWER;
use crate::shim_link::ShimError;
use crate::spec::{self, Inputs};
use crate::state::{Container, Core, End, Sandbox, now_ns};

/// A start waits for mounts, which a sick disk can hold up.
const START: Duration = Duration::from_secs(60);
/// A process that was killed is gone at once, unless it is in uninterruptible sleep.
const KILLED: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;
/// The CRI's code for a container whose program could not be executed.
const START_FAILED: i32 = 128;
/// Longest grace period, a year: what is longer does not fit the shim's arithmetic.
const MAX_GRACE_SECS: i64 = 365 * 24 * 3600;

impl Core {
    /// Prepares a container; a repeated request gets what its first made.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, Error> {
        let absent = || Error::not_found(format!("there is no pod sandbox {sandbox_id}"));
        let sandbox = self.sandbox(sandbox_id).ok_or_else(absent)?;
        let _turn = sandbox.turn.lock().await;
        match sandbox.phase() {
            Phase::Ready => {}
            Phase::Removed => return Err(absent()),
            Phase::Creating | Phase::NotReady | Phase::Stopped => {
                return Err(Error::failed_precondition(format!("pod sandbox {sandbox_id} is not ready")));
            }
        }
        if let Some(existing) = existing(&sandbox, &config)? {
            return Ok(existing);
        }
        let id = ids::new_id().map_err(internal("make an id"))?;
        let _using = self.image_use.read().await;
        let (core, of, new) = (Arc::clone(self), Arc::clone(&sandbox), id.clone());
        let record = on_pool(move || core.make_container(&of, &new, config)).await??;
        self.insert_container(&sandbox, Container::new(id.clone(), record));
        self.announce(&sandbox, &id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn make_container(
        &self,
        sandbox: &Sandbox,
        id: &str,
        config: v1::ContainerConfig,
    ) -> Result<ContainerRecord, Error> {
        let made = self.try_make_container(sandbox, id, config);
        if made.is_err() {
            // A restart would remove what is left: there is no record of it.
            let _ = self.remove_container_files(sandbox, id);
        }
        made
    }

    fn try_make_container(
        &self,
        sandbox: &Sandbox,
        id: &str,
        config: v1::ContainerConfig,
    ) -> Result<ContainerRecord, Error> {
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let refused = |refused| Error::invalid_argument(format!("container {name}: {refused}"));
        let image = self.resolve(config.image.as_ref())?;
        let log_path = cri::names::log_file(&sandbox.config.log_directory, &config.log_path).map_err(refused)?;
        let (upper, work) = (self.writable_dir().join(id).join("u"), self.writable_dir().join(id).join("w"));
        let group = self.container_group(sandbox, id);
        let built = spec::build(Inputs {
            version: sandbox.shim_version(),
            id,
            config: &config,
            image: &image.config,
            root: Root {
                layers_dir: self.config.image.layers_dir().to_owned(),
                lower: image.layers.clone(),
                upper,
                work,
                read_only: spec::read_only_root(&config),
            },
            sandbox: &sandbox.config,
            sandbox_dir: &sandbox.dir,
            hostname: &sandbox.hostname(),
            group: &group,
            log: log_path.clone().map(|path| Log {
                path,
                max_bytes: self.config.log_max_bytes,
                max_files: self.config.log_max_files,
            }),
            devices: if spec::is_privileged(&config) { machine::host_devices() } else { Vec::new() },
            held: self.held,
            cpus: self.cpus,
        });
        let built = built.map_err(refused)?;
        if built.stdin.is_some() {
            attach::check_shim(sandbox)?;
        }
        let limits = spec::limits(&config);
        let record = ContainerRecord {
            created_at_ns: now_ns(),
            image_id: image.id.clone(),
            image_ref: image.digests.first().unwrap_or(&image.id).clone(),
            log_path: log_path.map(|path| path.display().to_string()).unwrap_or_default(),
            stop_signal: spec::stop_signal(config.stop_signal, image.config.stop_signal.as_deref()),
            end: None,
            config: Some(config),
        };
        group.create(&limits).map_err(internal("make the container's control group"))?;
        lay_out(&sandbox.container_dir(id), &built, &record)?;
        Ok(record)
    }

    /// Starts a created container.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let absent = || Error::not_found(format!("there is no container {id}"));
        let sandbox = self.sandbox_of(id).ok_or_else(absent)?;
        let _turn = sandbox.turn.lock().await;
        let link = {
            let state = sandbox.state();
            let container = state.containers.get(id).ok_or_else(absent)?;
            if container.started.is_some() || container.end.borrow().is_some() {
                return Err(Error::failed_precondition(format!("container {id} was started before")));
            }
            let lost = || Error::failed_precondition(format!("the sandbox of container {id} is not ready"));
            state.shim.clone().ok_or_else(lost)?
        };
        let (core, of, started) = (Arc::downgrade(self), Arc::downgrade(&sandbox), id.to_owned());
        let apply = Box::new(move |response: &Response| {
            if let (Some(core), Some(sandbox)) = (core.upgrade(), of.upgrade()) {
                core.start_answered(&sandbox, &started, response);
            }
        });
        let request = Request::Start { container: id.to_owned() };
        let answer = link.call_applied(request, START, apply).await;
        answer.map(drop).map_err(|error| of_shim("start container", &error))
    }

    /// Takes note of a start's outcome, in the order in which the shim told it.
    fn start_answered(&self, sandbox: &Sandbox, id: &str, response: &Response) {
        match response {
            Response::Started(record) => {
                if let Some(container) = sandbox.state().containers.get_mut(id) {
                    container.started = Some(record.clone());
                }
                self.announce(sandbox, id, v1::ContainerEventType::ContainerStartedEvent);
            }
            Response::Failed(failure) => self.end_container(sandbox, id, start_failed(failure)),
            _ => {}
        }
    }

    /// Takes note of a container's end.
    pub(crate) fn container_exited(&self, sandbox: &Sandbox, id: &str, record: &ExitRecord) {
        {
            let mut state = sandbox.state();
            let Some(container) = state.containers.get_mut(id) else { return };
            if container.started.is_none() {
                container.started = read_started(&sandbox.container_dir(id));
            }
            if container.end.borrow().is_some() {
                return;
            }
            container.end.send_replace(Some(End::of(record)));
        }
        self.announce(sandbox, id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    /// Records an end that the shim did not record.
    fn end_container(&self, sandbox: &Sandbox, id: &str, end: End) {
        let record = {
            let mut state = sandbox.state();
            let Some(container) = state.containers.get_mut(id) else { return };
            if container.end.borrow().is_some() {
                return;
            }
            container.record.end = Some(end.to_record());
            container.record.clone()
        };
        if let Err(error) = record::write(&sandbox.container_dir(id).join(record::CONTAINER), &record) {
            tracing::error!(container = id, %error, "a container's end cannot be recorded");
        }
        // Durable before it is said.
        if let Some(container) = sandbox.state().containers.get(id) {
            container.end.send_replace(Some(end));
        }
        self.announce(sandbox, id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    /// Asks a container to end, and kills it when its time is over. Not held up by the sandbox's turn: a second call
    /// with less time must reach the shim while the first one waits.
    pub(crate) async fn stop_container(&self, id: &str, timeout_secs: i64) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox_of(id) else { return Ok(()) };
        let Some(mut end) = sandbox.watch_end(id) else { return Ok(()) };
        if sandbox.is_running(id) != Some(true) {
            // A start may be under way; whoever makes it holds the turn.
            drop(sandbox.turn.lock().await);
            if sandbox.is_running(id) != Some(true) {
                return Ok(());
            }
        }
        let seconds = timeout_secs.clamp(0, MAX_GRACE_SECS);
        let (signal, link) = {
            let state = sandbox.state();
            let Some(container) = state.containers.get(id) else { return Ok(()) };
            (if seconds == 0 { SIGKILL } else { container.record.stop_signal }, state.shim.clone())
        };
        let grace = Duration::from_secs(seconds.unsigned_abs());
        if let Some(link) = link {
            let request = Request::Stop { container: id.to_owned(), signal, grace_ms: grace.as_millis() as u64 };
            match link.call(request, ANSWER).await {
                // It ended before it was asked to, or the shim did and its containers are being buried.
                Ok(_) | Err(ShimError::Gone) => {}
                Err(ShimError::Failed(Failure { kind: FailureKind::NotFound, .. })) => {}
                Err(error) => return Err(of_shim("stop container", &error)),
            }
        }
        let ended = tokio::time::timeout(grace + KILLED, end.wait_for(Option::is_some));
        match ended.await {
            Ok(_) => Ok(()),
            Err(_) => Err(still_alive(id)),
        }
    }

    /// Kills all containers of a sandbox and waits for their end; by whoever holds the turn.
    pub(crate) async fn kill_containers(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let Some(link) = sandbox.state().shim.clone() else { return self.kill_without_shim(sandbox).await };
        let running: Vec<String> =
            sandbox.unended().into_iter().filter(|id| sandbox.is_running(id) == Some(true)).collect();
        for id in &running {
            let request = Request::Stop { container: id.clone(), signal: SIGKILL, grace_ms: 0 };
            if let Err(ShimError::Gone | ShimError::Timeout { .. }) = link.call(request, ANSWER).await {
                return self.bury(sandbox).await;
            }
        }
        for id in &running {
            let Some(mut end) = sandbox.watch_end(id) else { continue };
            let ended = tokio::time::timeout(KILLED, end.wait_for(Option::is_some)).await;
            if ended.is_err() {
                return Err(still_alive(id));
            }
        }
        Ok(())
    }

    /// Kills all containers of a sandbox whose shim is gone; by whoever holds the turn.
    pub(crate) async fn kill_without_shim(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let (core, of) = (Arc::clone(self), Arc::clone(sandbox));
        on_pool(move || {
            for id in of.unended() {
                core.kill_orphan(&of, &id)?;
            }
            Ok(())
        })
        .await?
    }

    fn kill_orphan(&self, sandbox: &Sandbox, id: &str) -> Result<(), Error> {
        let dir = sandbox.container_dir(id);
        if let Some(record) = read_exit(&dir) {
            self.container_exited(sandbox, id, &record);
            return Ok(());
        }
        let group = self.container_group(sandbox, id);
        let started = read_started(&dir);
        let ran = started.is_some() || !group.procs().is_empty();
        group.kill().map_err(internal("kill a container whose shim is gone"))?;
        if ran {
            if let Some(container) = sandbox.state().containers.get_mut(id) {
                container.started = started.or(container.started.take());
            }
            self.end_container(sandbox, id, End::unknown());
        }
        Ok(())
    }

    /// Removes a container, killing it first where it runs; its log stays.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let Some(sandbox) = self.sandbox_of(id) else { return Ok(()) };
        let _turn = sandbox.turn.lock().await;
        self.remove_container_held(&sandbox, id).await
    }

    /// As [`Core::remove_container`], by whoever holds the turn.
    pub(crate) async fn remove_container_held(self: &Arc<Self>, sandbox: &Arc<Sandbox>, id: &str) -> Result<(), Error> {
        let Some(running) = sandbox.is_running(id) else { return Ok(()) };
        let link = sandbox.state().shim.clone();
        if running {
            self.kill_one(sandbox, id).await?;
        }
        if let Some(link) = link {
            // Whatever it answers, it holds nothing of a container that has ended but its memory of it.
            let _ = link.call(Request::Forget { container: id.to_owned() }, ANSWER).await;
        }
        let (core, of, removed) = (Arc::clone(self), Arc::clone(sandbox), id.to_owned());
        on_pool(move || core.remove_container_files(&of, &removed)).await??;
        self.forget_container(sandbox, id);
        self.announce(sandbox, id, v1::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    async fn kill_one(self: &Arc<Self>, sandbox: &Arc<Sandbox>, id: &str) -> Result<(), Error> {
        let Some(mut end) = sandbox.watch_end(id) else { return Ok(()) };
        let Some(link) = sandbox.state().shim.clone() else { return self.kill_without_shim(sandbox).await };
        let request = Request::Stop { container: id.to_owned(), signal: SIGKILL, grace_ms: 0 };
        if let Err(ShimError::Gone | ShimError::Timeout { .. }) = link.call(request, ANSWER).await {
            return self.bury(sandbox).await;
        }
        match tokio::time::timeout(KILLED, end.wait_for(Option::is_some)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(still_alive(id)),
        }
    }

    /// Removes what a container left: its control group, its directories, its writable layer.
    pub(crate) fn remove_container_files(&self, sandbox: &Sandbox, id: &str) -> Result<(), Error> {
        let group = self.container_group(sandbox, id);
        group.remove().map_err(internal("remove the container's control group"))?;
        let dir = sandbox.container_dir(id);
        // The record goes first: what is found without one is removed at the next start.
        let _ = std::fs::remove_file(dir.join(record::CONTAINER));
        delete::remove_tree(&self.writable_dir().join(id))
            .map_err(internal("remove the container's writable layer"))?;
        delete::remove_tree(&dir).map_err(internal("remove the container's directory"))
    }
}

/// The container that a repeated request asks for; `None` where it is the first.
fn existing(sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<String>, Error> {
    let Some(metadata) = &config.metadata else {
        return Err(Error::invalid_argument("container: metadata: a name is expected"));
    };
    let state = sandbox.state();
    let same = |container: &&Container| {
        container.record.config.as_ref().is_some_and(|config| config.metadata.as_ref() == Some(metadata))
    };
    match state.containers.values().find(same) {
        None => Ok(None),
        Some(container) if container.started.is_none() && container.end.borrow().is_none() => {
            Ok(Some(container.id.clone()))
        }
        Some(container) => Err(Error::already_exists(format!(
            "container {} with the name {} and attempt {} exists and was started before",
            container.id, metadata.name, metadata.attempt
        ))),
    }
}

/// The container's files, its record last: without one they are found unfinished.
fn lay_out(dir: &Path, spec: &ContainerSpec, record: &ContainerRecord) -> Result<(), Error> {
    let write = || -> Result<(), files::FileError> {
        files::private_dirs(&dir.join(records::ROOT))?;
        for path in [&spec.root.upper, &spec.root.work] {
            files::private_dirs(path)?;
        }
        // The upper directory is the container's `/`, which everyone in it must be able to enter.
        files::chmod(&spec.root.upper, 0o755)?;
        if let Some(parent) = spec.log.as_ref().and_then(|log| log.path.parent()) {
            files::public_dirs(parent)?;
        }
        Ok(())
    };
    write().map_err(internal("lay out the container"))?;
    let bytes = postcard::to_allocvec(spec).map_err(internal("encode the container's specification"))?;
    files::write_new(&dir.join(records::SPEC), &bytes, 0o600).map_err(internal("lay out the container"))?;
    record::write(&dir.join(record::CONTAINER), record).map_err(internal("record the container"))
}

fn start_failed(failure: &Failure) -> End {
    End { code: START_FAILED, finished_at_ns: now_ns(), reason: "StartError".to_owned(), message: failure.to_string() }
}

fn still_alive(id: &str) -> Error {
    Error::deadline_exceeded(format!("container {id} was killed and is still there: its processes wait for the kernel"))
}

/// What the shim wrote when it started a container.
pub(crate) fn read_started(dir: &Path) -> Option<StartedRecord> {
    let bytes = std::fs::read(dir.join(records::STARTED)).ok()?;
    postcard::from_bytes::<StartedRecord>(&bytes).ok().filter(|record| shim::protocol::is_known(record.version))
}

/// What the shim wrote when a container ended.
pub(crate) fn read_exit(dir: &Path) -> Option<ExitRecord> {
    let bytes = std::fs::read(dir.join(records::EXIT)).ok()?;
    postcard::from_bytes::<ExitRecord>(&bytes).ok().filter(|record| shim::protocol::is_known(record.version))
}
