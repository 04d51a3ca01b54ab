//! Sessions on a container's own streams, and connections to a pod's ports.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::ResizeContainerTTYOptionsBuilder;
use cri::attach::Has;
use cri::backlog::Sink;
use cri::ports::{self, Network};
use cri::{ByteStream, Error, ExecSession, v1};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};

use crate::call::{Failed, internal, on_pool};
use crate::core::Core;
use crate::facts::{Life, life};
use crate::session::{self, AtEnd, Outputs, Wire};

/// Bytes on their way from the user.
const PIPE_BYTES: usize = 64 << 10;
const SIZES: usize = 16;
/// Docker tells of a container's end a moment after its output has ended.
const ENDED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// Docker leaves a session when its user types this, and cannot be told not to. Nobody does: the usual keys, Ctrl-P and
/// Ctrl-Q, are the container's.
const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-^,ctrl-@,ctrl-_,ctrl-^";

/// A terminal's columns and rows.
type Size = (u16, u16);

impl Core {
    /// Attaches to a running container.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        request: v1::AttachRequest,
        window: Option<Size>,
    ) -> Result<ExecSession, Error> {
        let id = request.container_id.clone();
        let absent = || Error::not_found(format!("there is no container {id}"));
        let found = self.inspect_container(&id).await?.ok_or_else(absent)?;
        if life(&found) != Life::Running {
            return Err(Error::failed_precondition(format!("container {id} is not running")));
        }
        let config = found.config.unwrap_or_default();
        let has = Has { stdin: config.open_stdin == Some(true), tty: config.tty == Some(true) };
        cri::attach::check(&request, has)?;
        let wire = self.open(&request).await?;
        if let Some(size) = window.filter(|_| has.tty) {
            self.resize(&id, size).await?;
        }
        let (stdin, our_stdin) = request.stdin.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
        // Docker ends the outputs with the input where the container's own is not to end.
        let end = if config.stdin_once == Some(true) && !has.tty { AtEnd::Close } else { AtEnd::Keep };
        let output = |wanted: bool| wanted.then(Sink::attached).unzip();
        let (stdout, our_stdout) = output(request.stdout);
        let (stderr, our_stderr) = output(request.stderr);
        let (resize, sizes) = mpsc::channel(SIZES);
        let (mut ended, exit) = oneshot::channel();
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let outputs = Outputs { stdout: our_stdout.unwrap_or_default(), stderr: our_stderr.unwrap_or_default() };
            let outcome = tokio::select! {
                outcome = core.attend((&id, has), wire, (our_stdin, end, outputs)) => outcome,
                // Sizes alone are no session.
                () = core.pass_on(&id, sizes) => return,
                () = ended.closed() => return,
            };
            // Whoever wanted to know may have gone.
            let _gone = ended.send(outcome);
        });
        let stdin = stdin.map(|end: DuplexStream| Box::new(end) as _);
        Ok(ExecSession { stdin, stdout, stderr, resize, exit })
    }

    async fn open(&self, request: &v1::AttachRequest) -> Result<Wire, Error> {
        let version = self.client().await?.client_version();
        let v1::AttachRequest { container_id, stdin, stdout, stderr, .. } = request;
        let path = format!(
            "/v{}.{}/containers/{container_id}/attach?stream=1&stdin={}&stdout={}&stderr={}&detachKeys={}",
            version.major_version,
            version.minor_version,
            u8::from(*stdin),
            u8::from(*stdout),
            u8::from(*stderr),
            DETACH_KEYS.replace('@', "%40").replace('^', "%5E").replace(',', "%2C"),
        );
        let seconds = self.config.call_within.as_secs();
        let late = |_| Error::deadline_exceeded(format!("attach: docker opened no streams within {seconds} s"));
        let opening = session::start(&self.config.endpoint, ("attach", &path), String::new());
        tokio::time::timeout(self.config.call_within, opening).await.map_err(late)?
    }

    /// Carries the streams until the container has ended.
    async fn attend(
        &self,
        (id, has): (&str, Has),
        wire: Wire,
        (stdin, end, outputs): (Option<DuplexStream>, AtEnd, Outputs),
    ) -> Result<i32, Error> {
        let (reading, writing) = tokio::io::split(wire);
        let reading = async {
            match has.tty {
                true => session::read_plain(reading, outputs).await,
                false => session::read_framed(reading, outputs).await,
            }
        };
        let writing = async {
            // The other half stays open as long as this one is held.
            let _writing = session::write(writing, stdin, end).await;
            std::future::pending().await
        };
        tokio::select! {
            read = reading => read?,
            () = writing => {}
        }
        self.container_end(id).await
    }

    /// The output has ended: so has the container, or the session broke off.
    async fn container_end(&self, id: &str) -> Result<i32, Error> {
        let deadline = tokio::time::Instant::now() + ENDED;
        while tokio::time::Instant::now() < deadline {
            match self.inspect_container(id).await?.as_ref().map(life) {
                Some(Life::Ended(_)) | None => return Ok(0),
                Some(Life::Created | Life::Running) => tokio::time::sleep(LOOK).await,
            }
        }
        Err(Error::unavailable("attach: docker ended the session before the container's end"))
    }

    async fn resize(&self, id: &str, (columns, rows): Size) -> Result<(), Failed> {
        let options = ResizeContainerTTYOptionsBuilder::new().w(columns.into()).h(rows.into()).build();
        let of = id.to_owned();
        self.call("resize a terminal", |docker| async move { docker.resize_container_tty(&of, options).await }).await
    }

    /// Passes sizes on; ends only when the session does.
    async fn pass_on(&self, id: &str, mut sizes: mpsc::Receiver<Size>) {
        while let Some(size) = sizes.recv().await {
            if let Err(failed) = self.resize(id, size).await {
                tracing::debug!(error = %failed.error, "a terminal's size is not passed on");
            }
        }
        std::future::pending().await
    }

    /// Connects to a port of a sandbox.
    pub(crate) async fn port_forward(&self, id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error> {
        let absent = || Error::not_found(format!("there is no pod sandbox {id}"));
        let stopped = || Error::failed_precondition(format!("the pod sandbox {id} is not ready"));
        let pid = pid_of(&self.inspect_sandbox(id).await?.ok_or_else(absent)?).ok_or_else(stopped)?;
        let opened = on_pool(move || File::open(format!("/proc/{pid}/ns/net"))).await?;
        let namespace = opened.map_err(internal("open the pod's network namespace"))?;
        // Only a process that is still there now was the pod's when its namespace was opened.
        if self.inspect_sandbox(id).await?.as_ref().and_then(pid_of) != Some(pid) {
            return Err(stopped());
        }
        Ok(Box::new(ports::connect(Network::Pod(namespace.into()), id, port).await?))
    }
}

/// The process that holds a running container.
fn pid_of(container: &ContainerInspectResponse) -> Option<i64> {
    let state = container.state.as_ref().filter(|_| life(container) == Life::Running)?;
    state.pid.filter(|pid| *pid > 0)
}
