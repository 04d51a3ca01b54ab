//! Running another process in a container: with its streams attached, or for its output.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::{Code, Error, ExecSession, v1};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use shim::protocol::{ExitStatus, Process, Request, SpecHead, records};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{internal, of_shim, on_pool};
use crate::ids;
use crate::shim_link::{ShimError, ShimLink};
use crate::state::Core;
use crate::terminal::{Terminal, TerminalReader, TerminalWriter};

/// Entering a container's namespaces and executing a program; more only when the disk is sick.
const START: Duration = Duration::from_secs(60);
const KILLED: Duration = Duration::from_secs(10);
/// Of each stream; the rest is read and dropped, so that the command is not held up.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// What a pipe can still hold when the command has ended; a child that lives on may write without end.
const MAX_LAST_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 16 * 1024;

struct Running {
    id: String,
    link: Arc<ShimLink>,
    exit: oneshot::Receiver<ExitStatus>,
    /// The terminal's master.
    master: Option<OwnedFd>,
}

/// What the command gets for its standard streams.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// What the command's standard streams are.
enum Attached {
    Streams(Streams),
    /// A new terminal; its first size as (columns, rows).
    Terminal(Option<(u16, u16)>),
}

impl Core {
    /// Starts a command with its streams attached.
    pub(crate) async fn exec(
        &self,
        request: v1::ExecRequest,
        window: Option<(u16, u16)>,
    ) -> Result<ExecSession, Error> {
        let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        if tty && stderr {
            return Err(Error::invalid_argument(
                "exec: a terminal has one output: stderr cannot be asked for with tty",
            ));
        }
        if tty {
            let streams = (stdin, stdout);
            return self.exec_terminal(&container_id, (cmd, window), streams).await;
        }
        let (child_in, our_in) = input(stdin)?;
        let (our_out, child_out) = output(stdout)?;
        let (our_err, child_err) = output(stderr)?;
        let streams = Streams { stdin: child_in, stdout: child_out, stderr: child_err };
        let running = self.start_exec((&container_id, cmd), Attached::Streams(streams), START).await?;
        // Nothing listens to sizes without a terminal.
        let (resize, _) = mpsc::channel(1);
        Ok(ExecSession {
            stdin: our_in.map(|sender| Box::new(sender) as _),
            stdout: our_out.map(|receiver| Box::new(receiver) as _),
            stderr: our_err.map(|receiver| Box::new(receiver) as _),
            resize,
            exit: exit_code(running),
        })
    }

    async fn exec_terminal(
        &self,
        container: &str,
        (cmd, window): (Vec<String>, Option<(u16, u16)>),
        (stdin, stdout): (bool, bool),
    ) -> Result<ExecSession, Error> {
        let mut running = self.start_exec((container, cmd), Attached::Terminal(window), START).await?;
        let master = running.master.take().ok_or_else(|| Error::internal("exec: the shim sent no terminal"))?;
        let terminal = Terminal::new(master).map_err(internal("use the exec's terminal"))?;
        let resize = Terminal::resizer(&terminal);
        Ok(ExecSession {
            stdin: stdin.then(|| Box::new(TerminalWriter(Arc::clone(&terminal))) as _),
            // Always held by the session: a terminal of which nobody has the master is hung up.
            stdout: (stdout || !stdin).then(|| Box::new(TerminalReader(terminal)) as _),
            stderr: None,
            resize,
            exit: exit_code(running),
        })
    }

    /// Runs a command and returns its output and exit code. When its time is over, or nobody waits for it any more
    /// (`caller` closes), it is killed.
    pub(crate) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
        caller: oneshot::Receiver<()>,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let v1::ExecSyncRequest { container_id, cmd, timeout } = request;
        let limit = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let began = Instant::now();
        let (stdin, _) = input(false)?;
        let (our_out, stdout) = output(true)?;
        let (our_err, stderr) = output(true)?;
        let attached = Attached::Streams(Streams { stdin, stdout, stderr });
        let patience = limit.map_or(START, |limit| limit.min(START));
        let running = self.start_exec((&container_id, cmd), attached, patience).await?;
        let (ended, watching) = watch::channel(false);
        let collect = |receiver: Option<pipe::Receiver>| tokio::spawn(collect(receiver, watching.clone()));
        let (stdout, stderr) = (collect(our_out), collect(our_err));
        let exit = wait(running, limit.map(|limit| (limit, began)), caller).await;
        ended.send_replace(true);
        let stdout = stdout.await.map_err(internal("read the command's output"))?;
        let stderr = stderr.await.map_err(internal("read the command's errors"))?;
        Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: exit?.code() })
    }

    async fn start_exec(
        &self,
        (container, cmd): (&str, Vec<String>),
        attached: Attached,
        patience: Duration,
    ) -> Result<Running, Error> {
        if cmd.first().is_none_or(String::is_empty) {
            return Err(Error::invalid_argument("exec: a command is expected"));
        }
        let absent = || Error::not_found(format!("there is no container {container}"));
        let sandbox = self.sandbox_of(container).ok_or_else(absent)?;
        let stopped = || Error::failed_precondition(format!("container {container} is not running"));
        if !sandbox.is_running(container).ok_or_else(absent)? {
            return Err(stopped());
        }
        let link = sandbox.state().shim.clone().ok_or_else(stopped)?;
        let spec = sandbox.container_dir(container).join(records::SPEC);
        let (streams, terminal) = match attached {
            Attached::Streams(streams) => (Some(streams), None),
            Attached::Terminal(window) => (None, Some(window)),
        };
        let process = on_pool(move || {
            let bytes = std::fs::read(spec).map_err(internal("read the container's specification"))?;
            let spec: SpecHead =
                postcard::from_bytes(&bytes).map_err(internal("read the container's specification"))?;
            Ok::<_, Error>(process(spec.process, cmd, terminal))
        });
        let process = process.await??;
        let exec = ids::new_id().map_err(internal("make an id"))?;
        let exit = link.exec_exit(&exec).map_err(|error| of_shim("exec", &error))?;
        let request = Request::Exec { exec: exec.clone(), container: container.to_owned(), process };
        let fds = streams.as_ref().map(|s| [s.stdin.as_fd(), s.stdout.as_fd(), s.stderr.as_fd()]);
        let fds = fds.as_ref().map(<[_; 3]>::as_slice).unwrap_or_default();
        match link.call_with_fds(request, fds, patience).await {
            Ok(answer) => Ok(Running { id: exec, link, exit, master: answer.fd }),
            Err(error) => {
                if let ShimError::Timeout { .. } = error {
                    // Whatever it answers: what may still come of it must not run unattended.
                    let _ = link.call(Request::KillExec { exec }, KILLED).await;
                }
                Err(of_shim("exec", &error))
            }
        }
    }
}

/// The command as the container's own process would run it; with a terminal where one is wanted, of this size if known.
fn process(init: Process, args: Vec<String>, terminal: Option<Option<(u16, u16)>>) -> Process {
    let mut process = Process { args, terminal: terminal.is_some(), window: terminal.flatten(), ..init };
    if process.terminal && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    process
}

fn exit_code(running: Running) -> oneshot::Receiver<Result<i32, Error>> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let exit = running.exit.await.map(ExitStatus::code).map_err(|_| gone());
        let _ = sender.send(exit);
    });
    receiver
}

fn gone() -> Error {
    Error::unavailable("exec: the container's supervisor is gone: how the command ended is not known")
}

/// Waits for a command's end; when its time is over, or nobody waits for it any more, it is killed with its descendants.
async fn wait(
    running: Running,
    limit: Option<(Duration, Instant)>,
    caller: oneshot::Receiver<()>,
) -> Result<ExitStatus, Error> {
    let Running { id, link, mut exit, .. } = running;
    let late = async {
        match limit {
            Some((limit, began)) => tokio::time::sleep_until((began + limit).into()).await,
            None => std::future::pending().await,
        }
    };
    let error = tokio::select! {
        ended = &mut exit => return ended.map_err(|_| gone()),
        () = late => {
            let seconds = limit.map_or(0, |(limit, _)| limit.as_secs());
            Error::deadline_exceeded(format!("exec: the command did not end within {seconds} s and was killed"))
        }
        _ = caller => Error::new(Code::Unknown, "exec: nobody waited for the command any more and it was killed"),
    };
    let killed = link.call(Request::KillExec { exec: id.clone() }, KILLED).await;
    if tokio::time::timeout(KILLED, exit).await.is_err() {
        tracing::warn!(exec = %id, ?killed, "a command that was killed is still there");
    }
    Err(error)
}

/// Reads a stream until its end or the command's, whichever is first: a child that lives on may keep it open.
async fn collect(receiver: Option<pipe::Receiver>, mut ended: watch::Receiver<bool>) -> Vec<u8> {
    let Some(mut receiver) = receiver else { return Vec::new() };
    let mut output = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        tokio::select! {
            read = receiver.read(&mut chunk) => match read {
                Ok(count) if count > 0 => keep(&mut output, &chunk[..count]),
                _ => return output,
            },
            _ = ended.wait_for(|ended| *ended) => break,
        }
    }
    // All that the command wrote is in the pipe by now. Asked of the kernel: the runtime may not know of it yet.
    let mut last = 0;
    while last < MAX_LAST_BYTES {
        match rustix::io::read(&receiver, chunk.as_mut_slice()) {
            Ok(0) => break,
            Ok(count) => {
                keep(&mut output, &chunk[..count]);
                last += count;
            }
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    output
}

fn keep(output: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_OUTPUT_BYTES - output.len();
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// The command's end and ours of its standard input.
fn input(wanted: bool) -> Result<(OwnedFd, Option<pipe::Sender>), Error> {
    if !wanted {
        return Ok((null()?, None));
    }
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(internal("make a pipe"))?;
    Ok((theirs, Some(pipe::Sender::from_owned_fd(ours).map_err(internal("use a pipe"))?)))
}

/// Our end and the command's of one of its outputs.
fn output(wanted: bool) -> Result<(Option<pipe::Receiver>, OwnedFd), Error> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(internal("make a pipe"))?;
    Ok((Some(pipe::Receiver::from_owned_fd(ours).map_err(internal("use a pipe"))?), theirs))
}

fn null() -> Result<OwnedFd, Error> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(internal("open /dev/null"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn f_e01_reading_ends_with_the_command_even_when_the_stream_stays_open() {
        let (ours, theirs) = output(true).unwrap();
        let (ended, watching) = watch::channel(false);
        let collecting = tokio::spawn(collect(ours, watching));
        rustix::io::write(&theirs, b"ok\n").unwrap();
        ended.send_replace(true);
        assert_eq!(collecting.await.unwrap(), b"ok\n");
        rustix::io::write(&theirs, b"nobody reads this").unwrap_err();
    }

    #[test]
    fn s_f03_output_is_cut_at_its_limit() {
        let mut output = vec![0; MAX_OUTPUT_BYTES - 3];
        keep(&mut output, b"abc");
        keep(&mut output, b"def");
        assert_eq!(output.len(), MAX_OUTPUT_BYTES);
        assert!(output.ends_with(b"abc"));
    }
}
