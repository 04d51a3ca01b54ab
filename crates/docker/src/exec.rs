//! Running another process in a container with its streams attached.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use cri::{Error, ExecSession, v1};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use crate::call::{CONFLICT, NOT_FOUND, on_pool};
use crate::core::{Core, is_id};
use crate::kill::signal_tree;
use crate::session::{self, AtEnd, Outputs, Wire, broken};

/// Bytes on their way between the session and its user, each way.
const PIPE_BYTES: usize = 64 << 10;
const SIZES: usize = 16;
/// Between looks at a command that has closed its output: a little longer each time.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Docker knows the process of a command a moment after the command may have begun to write.
const KNOWN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// A terminal's columns and rows.
type Size = (u16, u16);

/// Which streams a command is to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// A terminal, and its first size.
    pub(crate) terminal: Option<Option<Size>>,
}

/// A command that runs.
pub(crate) struct Running {
    pub(crate) exec: String,
    pub(crate) container: String,
    pub(crate) wire: Wire,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    /// False where the program could not be executed.
    pub(crate) ran: bool,
}

impl Core {
    /// Starts a command.
    pub(crate) async fn start_exec(
        &self,
        (container, cmd): (&str, Vec<String>),
        wanted: Wanted,
    ) -> Result<Running, Error> {
        if cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid_argument("exec: a command is expected"));
        }
        let absent = || Error::not_found(format!("there is no container {container}"));
        if !is_id(container) {
            return Err(absent());
        }
        // Docker has it as height and width; versions that do not know it pass it over.
        let size = wanted.terminal.flatten().map(|(columns, rows)| [rows, columns]);
        let config = ExecConfig {
            attach_stdin: Some(wanted.stdin),
            attach_stdout: Some(wanted.stdout),
            attach_stderr: Some(wanted.stderr),
            tty: Some(wanted.terminal.is_some()),
            console_size: size.map(|size| size.map(usize::from).to_vec()),
            cmd: Some(cmd),
            ..Default::default()
        };
        let of = container.to_owned();
        let create = |docker: bollard::Docker| async move { docker.create_exec(&of, config).await };
        let created = self.call("exec", create).await.map_err(|failed| match failed.status {
            Some(NOT_FOUND) => absent(),
            Some(CONFLICT) => Error::failed_precondition(format!("container {container} is not running")),
            _ => failed.error,
        });
        let exec = created?.id;
        let version = self.client().await?.client_version();
        let path = format!("/v{}.{}/exec/{exec}/start", version.major_version, version.minor_version);
        let body = serde_json::json!({ "Detach": false, "Tty": wanted.terminal.is_some(), "ConsoleSize": size });
        let starting = session::start(&self.config.endpoint, ("exec", &path), body.to_string());
        let seconds = self.config.call_within.as_secs();
        let late = |_| Error::deadline_exceeded(format!("exec: docker did not start the command within {seconds} s"));
        let wire = tokio::time::timeout(self.config.call_within, starting).await.map_err(late)??;
        Ok(Running { exec, container: container.to_owned(), wire })
    }

    /// Starts a command with its streams attached.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        request: v1::ExecRequest,
        window: Option<(u16, u16)>,
    ) -> Result<ExecSession, Error> {
        let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        if tty && stderr {
            let text = "exec: a terminal has one output: stderr cannot be asked for with tty";
            return Err(Error::invalid_argument(text));
        }
        // A terminal's output tells when it is hung up.
        let stdout = stdout || (tty && !stdin);
        let terminal = tty.then_some(window);
        let running = self.start_exec((&container_id, cmd), Wanted { stdin, stdout, stderr, terminal }).await?;
        let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
        let (stdin, our_stdin) = pipe(stdin);
        let (stdout, our_stdout) = pipe(stdout);
        let (stderr, our_stderr) = pipe(stderr);
        let (resize, sizes) = mpsc::channel(SIZES);
        let (ended, exit) = oneshot::channel();
        let core = Arc::clone(self);
        if tty {
            tokio::spawn(Arc::clone(self).pass_sizes(running.exec.clone(), window, sizes));
            tokio::spawn(async move {
                let _ = ended.send(core.converse_terminal(running, our_stdin, our_stdout).await);
            });
        } else {
            let outputs = Outputs::new(our_stdout, our_stderr);
            tokio::spawn(async move {
                let _ = ended.send(core.converse(running, our_stdin, outputs).await.map(|ended| ended.code));
            });
        }
        Ok(ExecSession {
            stdin: stdin.map(|end| Box::new(end) as _),
            stdout: stdout.map(|end| Box::new(end) as _),
            stderr: stderr.map(|end| Box::new(end) as _),
            resize,
            exit,
        })
    }

    /// Carries the streams of a command until it has ended.
    pub(crate) async fn converse(
        &self,
        running: Running,
        stdin: Option<DuplexStream>,
        outputs: Outputs,
    ) -> Result<Ended, Error> {
        let (reading, writing) = tokio::io::split(running.wire);
        let writer = tokio::spawn(session::write(writing, stdin, AtEnd::Close)).abort_handle();
        session::read_framed(reading, outputs).await?;
        let ended = self.exec_end(&running.exec).await;
        writer.abort();
        ended
    }

    async fn converse_terminal(
        self: &Arc<Self>,
        running: Running,
        stdin: Option<DuplexStream>,
        stdout: Option<DuplexStream>,
    ) -> Result<i32, Error> {
        let Running { exec, container, wire } = running;
        let (reading, mut writing) = tokio::io::split(wire);
        let (mut dropped, stdout) = stdout.map(tokio::io::split).unzip();
        let (core, of) = (Arc::clone(self), exec.clone());
        let user = tokio::spawn(async move {
            if let Some(mut stdin) = stdin {
                let _ = tokio::io::copy(&mut stdin, &mut writing).await;
            }
            if let Some(dropped) = &mut dropped {
                // Nobody writes to it: it ends when its user lets go.
                let _ = dropped.read(&mut [0]).await;
            }
            // As when a terminal's line is cut.
            core.signal_exec(&of, &container, Signal::HUP).await;
        });
        session::read_plain(reading, Outputs::new(stdout, None::<DuplexStream>)).await?;
        let ended = self.exec_end(&exec).await;
        user.abort();
        ended.map(|ended| ended.code)
    }

    /// Daemons that know nothing of a first size (API before 1.42) are told it when the command has just begun, as they
    /// are any later one. It cannot be told sooner: they open the terminal, start the command and only then know a
    /// terminal to resize; nor can the command be held back until then without a shell of the image's own in front of it.
    async fn pass_sizes(self: Arc<Self>, exec: String, first: Option<Size>, mut sizes: mpsc::Receiver<Size>) {
        let mut next = first;
        loop {
            let size = match next.take() {
                Some(size) => size,
                None => match sizes.recv().await {
                    Some(size) => size,
                    None => return,
                },
            };
            let of = exec.clone();
            let options = ResizeExecOptionsBuilder::new().w(i32::from(size.0)).h(i32::from(size.1)).build();
            let told = self.call("resize a terminal", |docker| async move { docker.resize_exec(&of, options).await });
            if let Err(failed) = told.await {
                tracing::debug!(error = %failed.error, "a terminal's size is not passed on");
            }
        }
    }

    /// Waits for a command's end, of which Docker tells only when it is asked.
    pub(crate) async fn exec_end(&self, exec: &str) -> Result<Ended, Error> {
        let mut pause = FIRST_LOOK;
        loop {
            let of = exec.to_owned();
            let found = self.call("inspect exec", |docker| async move { docker.inspect_exec(&of).await }).await;
            let found = found.map_err(|failed| broken(&failed.error.message))?;
            if let (Some(false), Some(code)) = (found.running, found.exit_code) {
                let code = i32::try_from(code).unwrap_or(i32::MAX);
                return Ok(Ended { code, ran: found.pid.unwrap_or(0) != 0 });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Sends a signal to a command and its descendants, as soon as Docker knows its process. False where there is none.
    pub(crate) async fn signal_exec(&self, exec: &str, container: &str, signal: Signal) -> bool {
        let deadline = tokio::time::Instant::now() + KNOWN;
        while tokio::time::Instant::now() < deadline {
            let of = exec.to_owned();
            let found = self.call("inspect exec", |docker| async move { docker.inspect_exec(&of).await }).await;
            let Ok(found) = found else { return false };
            if found.running == Some(false) && found.exit_code.is_some() {
                return false;
            }
            if let Some(pid @ 1..) = found.pid {
                let container = container.to_owned();
                return on_pool(move || signal_tree(pid, &container, signal)).await.unwrap_or(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}
