//! Sessions on a container's own streams, and connections to a pod's ports.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cri::attach::Has;
use cri::backlog::{BEHIND_MAX_BYTES, Backlog, Behind, Feed, backlog};
use cri::ports::{self, Network};
use cri::{ByteStream, Error, ExecSession, v1};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use shim::protocol::{ATTACH_VERSION, Request};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{internal, of_shim, on_pool};
use crate::ids;
use crate::network::Pins;
use crate::record::Phase;
use crate::spec::Scope;
use crate::state::{Core, End, Sandbox};
use crate::terminal::{Terminal, TerminalWriter};

/// For the shim's answer; it only takes note of whom to pass the output on to.
const ANSWER: Duration = Duration::from_secs(10);
/// What the shim can pass on while we are not looking: the most that a pipe may have without asking the administrator.
const PIPE_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;

/// What the user writes to, and how he tells a terminal's size.
struct Input {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: mpsc::Sender<(u16, u16)>,
    master: Option<Arc<Terminal>>,
}

/// One output: where the shim writes, where we read, and to whom we pass it on.
struct Output {
    theirs: OwnedFd,
    ours: pipe::Receiver,
    feed: Feed,
}

/// A shim that an older kubelet started knows nothing of attaching, and would hang up if it were asked.
pub(crate) fn check_shim(sandbox: &Sandbox) -> Result<(), Error> {
    match sandbox.shim_version() {
        ATTACH_VERSION.. => Ok(()),
        _ => Err(Error::failed_precondition(
            "the pod's supervisor was started by an older kubelet, which could not attach; a pod that is started anew can be attached to",
        )),
    }
}

impl Core {
    /// Attaches to a running container.
    pub(crate) async fn attach(
        &self,
        request: v1::AttachRequest,
        window: Option<(u16, u16)>,
    ) -> Result<ExecSession, Error> {
        let id = &request.container_id;
        let absent = || Error::not_found(format!("there is no container {id}"));
        let stopped = || Error::failed_precondition(format!("container {id} is not running"));
        let sandbox = self.sandbox_of(id).ok_or_else(absent)?;
        let (has, end, link) = {
            let state = sandbox.state();
            let container = state.containers.get(id).ok_or_else(absent)?;
            if !container.is_running() {
                return Err(stopped());
            }
            let config = container.record.config.as_ref();
            let has = Has { stdin: config.is_some_and(|c| c.stdin), tty: config.is_some_and(|c| c.tty) };
            (has, container.end.subscribe(), state.shim.clone().ok_or_else(stopped)?)
        };
        cri::attach::check(&request, has)?;
        check_shim(&sandbox)?;
        let (stdout, our_stdout) = output(request.stdout)?.unzip();
        let (stderr, our_stderr) = output(request.stderr)?.unzip();
        let attach = ids::new_id().map_err(internal("make an id"))?;
        let cut_off = link.cut_off(&attach).map_err(|error| of_shim("attach", &error))?;
        let asked = Request::Attach {
            attach,
            container: id.clone(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let fds: Vec<_> =
            [&our_stdout, &our_stderr].into_iter().flatten().map(|output| output.theirs.as_fd()).collect();
        let answer = link.call_with_fds(asked, &fds, ANSWER).await.map_err(|error| of_shim("attach", &error))?;
        let terminal = Terminals { has: has.tty, window };
        let Input { stdin, resize, master } = input(answer.fd, request.stdin, terminal)?;
        let (ended, exit) = oneshot::channel();
        tokio::spawn(async move {
            attend((our_stdout, our_stderr), (end, cut_off), ended).await;
            // A session without input has a size all the same.
            drop(master);
        });
        let reading = |backlog: Option<Backlog>| backlog.map(|end| Box::new(end) as _);
        Ok(ExecSession { stdin, stdout: reading(stdout), stderr: reading(stderr), resize, exit })
    }

    /// Connects to a port of a sandbox.
    pub(crate) async fn port_forward(&self, id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error> {
        let sandbox = self.sandbox(id).ok_or_else(|| Error::not_found(format!("there is no pod sandbox {id}")))?;
        if sandbox.phase() != Phase::Ready {
            return Err(Error::failed_precondition(format!("the pod sandbox {id} is not ready")));
        }
        let network = match sandbox.shares().network {
            Scope::Machine => Network::Machine,
            Scope::Pod => {
                let pin = Pins::new(&sandbox.dir).net();
                let opened = on_pool(move || std::fs::File::open(pin)).await?;
                Network::Pod(opened.map_err(internal("open the pod's network namespace"))?.into())
            }
        };
        Ok(Box::new(ports::connect(network, id, port).await?))
    }
}

/// The user's end of an output, and all that is ours of it.
fn output(wanted: bool) -> Result<Option<(Backlog, Output)>, Error> {
    if !wanted {
        return Ok(None);
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(internal("make a pipe"))?;
    // Refused where the administrator allows less; then there is less time to look.
    let _smaller = fcntl_setpipe_size(&ours, PIPE_BYTES);
    let ours = pipe::Receiver::from_owned_fd(ours).map_err(internal("use a pipe"))?;
    let (feed, backlog) = backlog(BEHIND_MAX_BYTES);
    Ok(Some((backlog, Output { theirs, ours, feed })))
}

struct Terminals {
    has: bool,
    window: Option<(u16, u16)>,
}

fn input(fd: Option<OwnedFd>, wanted: bool, terminal: Terminals) -> Result<Input, Error> {
    let lost = || Error::internal("attach: the shim sent no input");
    if terminal.has {
        let master = Terminal::new(fd.ok_or_else(lost)?).map_err(internal("use the container's terminal"))?;
        if let Some((columns, rows)) = terminal.window {
            master.resize(columns, rows).map_err(internal("set the terminal's size"))?;
        }
        let resize = Terminal::resizer(&master);
        let stdin = wanted.then(|| Box::new(TerminalWriter(Arc::clone(&master))) as _);
        return Ok(Input { stdin, resize, master: Some(master) });
    }
    // Nothing listens to sizes without a terminal.
    let (resize, _) = mpsc::channel(1);
    if !wanted {
        return Ok(Input { stdin: None, resize, master: None });
    }
    let sender = pipe::Sender::from_owned_fd(fd.ok_or_else(lost)?).map_err(internal("use the container's input"))?;
    Ok(Input { stdin: Some(Box::new(sender)), resize, master: None })
}

/// Passes a container's output on until it ends, or nobody wants it any more.
async fn attend(
    (stdout, stderr): (Option<Output>, Option<Output>),
    (mut end, cut_off): (watch::Receiver<Option<End>>, oneshot::Receiver<()>),
    mut ended: oneshot::Sender<Result<i32, Error>>,
) {
    let whole = async {
        tokio::try_join!(pass(stdout), pass(stderr))?;
        // A container may close its output and run on.
        match end.wait_for(Option::is_some).await {
            Ok(end) if end.as_ref().is_some_and(End::was_seen) => Ok(0),
            _ => Err(gone()),
        }
    };
    let outcome = tokio::select! {
        biased;
        // Told before the container's end is.
        Ok(()) = cut_off => Err(Behind.into()),
        outcome = whole => outcome,
        () = ended.closed() => return,
    };
    // Whoever wanted to know may have gone.
    let _gone = ended.send(outcome);
}

fn gone() -> Error {
    Error::unavailable("attach: the container's supervisor is gone: how the container ended is not known")
}

async fn pass(output: Option<Output>) -> Result<(), Error> {
    let Some(Output { theirs, mut ours, feed }) = output else { return Ok(()) };
    // The shim has its own by now; with ours open there would be no end.
    drop(theirs);
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        chunk.clear();
        match ours.read_buf(&mut chunk).await {
            Ok(1..) => feed.push(&chunk)?,
            Ok(0) => return Ok(()),
            Err(error) => return Err(Error::internal(format!("attach: read the container's output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn s_f04_a_session_ends_when_it_is_let_go_of() {
        let (stdout, ours) = output(true).unwrap().unwrap();
        let ended = watch::Sender::new(None);
        let (_cut, cut_off) = oneshot::channel();
        let (exit, gone) = oneshot::channel();
        let attending = tokio::spawn(attend((Some(ours), None), (ended.subscribe(), cut_off), exit));
        drop((stdout, gone));
        attending.await.unwrap();
    }

    #[tokio::test]
    async fn f_g05_an_end_that_nobody_saw_is_no_success() {
        let seen = End { code: 3, finished_at_ns: 0, reason: "Error".into(), message: String::new() };
        for (end, outcome) in [(Some(seen), Ok(0)), (Some(End::unknown()), Err(gone())), (None, Err(gone()))] {
            let ended = watch::Sender::new(end);
            let (_cut, cut_off) = oneshot::channel();
            let (exit, told) = oneshot::channel();
            let receiver = ended.subscribe();
            // Removed without an end.
            drop(ended);
            attend((None, None), (receiver, cut_off), exit).await;
            assert_eq!(told.await.unwrap(), outcome);
        }
    }

    #[tokio::test]
    async fn s_f04_one_that_was_cut_off_is_told_so() {
        let (mut stdout, ours) = output(true).unwrap().unwrap();
        rustix::io::write(&ours.theirs, b"before").unwrap();
        let end = End { code: 0, finished_at_ns: 0, reason: String::new(), message: String::new() };
        let ended = watch::Sender::new(Some(end));
        let (cut, cut_off) = oneshot::channel();
        cut.send(()).unwrap();
        let (exit, outcome) = oneshot::channel();
        attend((Some(ours), None), (ended.subscribe(), cut_off), exit).await;
        let error = outcome.await.unwrap().unwrap_err();
        assert!(error.message.contains("more than 16 MiB behind"), "{error}");
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.unwrap();
    }
}
