//! Streams of commands, of containers and of ports, from the URL that a runtime names for them.
//!
//! They are carried as SPDY/3.1 or over WebSocket. Inside, both speak in the messages of [`channel`]: one byte that names
//! a channel, and what is sent in it.

mod forward;
mod spdy;
mod websocket;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::backlog::{Reading, Sink};
use crate::channel::{self, Outcome, PROTOCOL_V4, PROTOCOL_V5, Resize};
use crate::{Error, ExecSession};

pub(super) use forward::forward;

/// Bytes on their way between the session and its user, each way.
const PIPE_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 16 << 10;
const FRAMES: usize = 16;
const SIZES: usize = 16;
/// containerd passes input on a moment before it listens to a container's output, and nothing it answers tells when it does:
/// an answer that comes at once would be lost. No person types that fast.
const SETTLE: Duration = Duration::from_millis(100);
/// A machine that is busy takes longer, with its listening as with its answers.
const OPENINGS: u32 = 10;
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Whose streams they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A command's, which waits for who reads its output.
    Command,
    /// A container's, which must not: it is not there for whoever attaches.
    Container,
}

/// Which streams there are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) whose: Whose,
    pub(super) stdin: bool,
    /// The end of the input is passed on. Where a container's is not to end, runtimes take it for that of the session.
    pub(super) stdin_ends: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    fn stderr_apart(self) -> bool {
        self.stderr && !self.tty
    }
}

/// How the streams are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// What every runtime speaks, and all of it: the command's input can end before its output.
    Spdy,
    /// For one that has given up the other.
    WebSocket,
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The runtime does not speak this way. The URL is used up by having asked.
    Refused(Error),
    Failed(Error),
}

/// Opens the session.
pub(super) async fn open(
    url: &str,
    transport: Transport,
    (wanted, window): (Wanted, Option<(u16, u16)>),
) -> Result<ExecSession, OpenError> {
    let began = Instant::now();
    let (writer, reader) = match transport {
        Transport::Spdy => {
            let (writer, reader) = spdy::connect(url, wanted).await?;
            (Writer::Spdy(Box::new(writer)), Reader::Spdy(Box::new(reader)))
        }
        Transport::WebSocket => {
            let (writer, reader) = websocket::connect(url, &[PROTOCOL_V5, PROTOCOL_V4]).await?;
            (Writer::WebSocket(Box::new(writer)), Reader::WebSocket(Box::new(reader)))
        }
    };
    let (stdin, our_stdin) = wanted.stdin.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
    let (stdout, our_stdout) = output(wanted.stdout, wanted.whose);
    let (stderr, our_stderr) = output(wanted.stderr_apart(), wanted.whose);
    let (resize, sizes) = mpsc::channel(SIZES);
    let (mut ended, exit) = oneshot::channel();
    let (frames, queued) = mpsc::channel(FRAMES);
    if let Some((width, height)) = window.filter(|_| wanted.tty) {
        // There is room for it.
        let _queued = frames.send(Resize { width, height }.to_frame()).await;
    }
    if let Some(stdin) = our_stdin {
        let (settle, frames) = (settle(wanted.whose, began.elapsed()), frames.clone());
        tokio::spawn(async move {
            tokio::time::sleep(settle).await;
            send_stdin(stdin, wanted, frames).await;
        });
    }
    tokio::spawn(send_sizes(sizes, frames));
    tokio::spawn(async move {
        let (over, until) = oneshot::channel();
        // Apart from each other: a command that writes while it reads must not wait for us to do the same.
        tokio::spawn(write(writer, queued, until));
        let outcome = tokio::select! {
            outcome = read(reader, (our_stdout, our_stderr)) => Some(outcome),
            // A command goes on without us, a container that says nothing would keep the session for ever.
            () = ended.closed(), if wanted.whose == Whose::Container => None,
        };
        drop(over);
        if let Some(outcome) = outcome {
            // Whoever wanted to know may have gone.
            let _gone = ended.send(outcome);
        }
    });
    Ok(ExecSession { stdin: stdin.map(|end| Box::new(end) as _), stdout, stderr, resize, exit })
}

/// How long input waits once its session is open, by the time that the opening took.
fn settle(whose: Whose, opening: Duration) -> Duration {
    match whose {
        Whose::Command => Duration::ZERO,
        Whose::Container => (opening * OPENINGS).clamp(SETTLE, SETTLE_MAX),
    }
}

/// The outputs of one session with the input of another, which lasts for as long as the first.
pub(super) fn as_one(outputs: ExecSession, input: ExecSession) -> ExecSession {
    let (mut ended, exit) = oneshot::channel();
    tokio::spawn(async move {
        let _until_then = input.exit;
        tokio::select! {
            outcome = outputs.exit => {
                if let Ok(outcome) = outcome {
                    // Whoever wanted to know may have gone.
                    let _gone = ended.send(outcome);
                }
            }
            () = ended.closed() => {}
        }
    });
    ExecSession { stdin: input.stdin, exit, ..outputs }
}

/// Both ends of an output.
fn output(wanted: bool, whose: Whose) -> (Option<Reading>, Sink) {
    let (theirs, ours): (Reading, _) = match whose {
        _ if !wanted => return (None, Sink::Nobody),
        Whose::Command => {
            let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
            (Box::new(theirs), Sink::Pipe(Box::new(ours)))
        }
        Whose::Container => Sink::attached(),
    };
    (Some(theirs), ours)
}

enum Writer {
    Spdy(Box<spdy::Writer>),
    WebSocket(Box<websocket::Writer>),
}

impl Writer {
    /// Sends a message of a channel; [`channel::CLOSE`] ends one, where that can be said.
    async fn send(&mut self, message: Bytes) -> Result<(), String> {
        match self {
            Self::Spdy(writer) => writer.send(message).await,
            Self::WebSocket(writer) => writer.send(message).await,
        }
    }

    /// Waits for a ping that is to be answered. WebSocket's are answered where they are read.
    async fn pinged(&mut self) -> u32 {
        match self {
            Self::Spdy(writer) => writer.pinged().await,
            Self::WebSocket(_) => std::future::pending().await,
        }
    }

    async fn answer_ping(&mut self, id: u32) -> Result<(), String> {
        match self {
            Self::Spdy(writer) => writer.answer_ping(id).await,
            Self::WebSocket(_) => Ok(()),
        }
    }

    /// Says farewell; that the other end is not there any more to hear it does not matter.
    async fn close(&mut self) {
        match self {
            Self::Spdy(writer) => writer.close().await,
            Self::WebSocket(writer) => writer.close().await,
        }
    }
}

enum Reader {
    Spdy(Box<spdy::Reader>),
    WebSocket(Box<websocket::Reader>),
}

impl Reader {
    /// The next message; none at the end.
    async fn receive(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Spdy(reader) => reader.receive().await,
            Self::WebSocket(reader) => reader.receive().await,
        }
    }
}

/// The authority and the path of a streaming URL.
fn parts(url: &str) -> Result<(&str, &str), OpenError> {
    let address = url
        .strip_prefix("http://")
        .ok_or_else(|| failed("use", url, &"expected http://, as a runtime on this machine offers it"))?;
    let at = address.find('/').unwrap_or(address.len());
    Ok(address.split_at(at))
}

fn failed(what: &str, url: &str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Failed(Error::internal(format!("{what} the runtime's streaming address {}: {error}", shown(url))))
}

fn refused(url: &str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Refused(Error::internal(format!("the runtime's streaming address {} refuses: {error}", shown(url))))
}

/// Who has the last part of the address may take the session over.
fn shown(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(shown, _)| shown)
}

/// Sends what is queued until the session is over. One that broke off is noticed where it is read.
async fn write(mut writer: Writer, mut queued: mpsc::Receiver<Bytes>, over: oneshot::Receiver<()>) {
    let work = async {
        let mut speaking = true;
        loop {
            let sent = tokio::select! {
                message = queued.recv(), if speaking => match message {
                    Some(message) => writer.send(message).await,
                    // Nothing more to say is no farewell.
                    None => {
                        speaking = false;
                        Ok(())
                    }
                },
                id = writer.pinged() => writer.answer_ping(id).await,
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = over => {}
    }
    writer.close().await;
}

/// Passes the output on until the error channel tells how the command ended.
async fn read(mut reader: Reader, (mut stdout, mut stderr): (Sink, Sink)) -> Result<i32, Error> {
    let broken = |error: &str| Error::unavailable(format!("the session broke off before its end: {error}"));
    loop {
        let message = reader.receive().await.map_err(|error| broken(&error))?;
        let message = message.ok_or_else(|| broken("the runtime closed it"))?;
        match channel::split(message) {
            Some((channel::STDOUT, bytes)) => stdout.pass(&bytes).await?,
            Some((channel::STDERR, bytes)) => stderr.pass(&bytes).await?,
            Some((channel::ERROR, bytes)) if !bytes.is_empty() => {
                return match Outcome::parse(&bytes) {
                    Outcome::Success => Ok(0),
                    Outcome::ExitCode { code } => Ok(code),
                    Outcome::Failure { message } => Err(Error::internal(message)),
                };
            }
            _ => {}
        }
    }
}

async fn send_stdin(mut stdin: DuplexStream, wanted: Wanted, messages: mpsc::Sender<Bytes>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = stdin.read(&mut chunk).await {
        if messages.send(channel::frame(channel::STDIN, &chunk[..length])).await.is_err() {
            return;
        }
    }
    if wanted.stdin_ends {
        // A session that has ended needs no end of its input.
        let _ended = messages.send(channel::frame(channel::CLOSE, &[channel::STDIN])).await;
    }
}

async fn send_sizes(mut sizes: mpsc::Receiver<(u16, u16)>, messages: mpsc::Sender<Bytes>) {
    let mut closed = pin!(messages.closed());
    loop {
        tokio::select! {
            size = sizes.recv() => {
                let Some((width, height)) = size else { return };
                if messages.send(Resize { width, height }.to_frame()).await.is_err() {
                    return;
                }
            }
            () = &mut closed => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_waits_the_longer_the_busier_the_machine_is_and_a_commands_not_at_all() {
        for (opening_ms, settle_ms) in [(0, 100), (3, 100), (30, 300), (200, 2000), (60_000, 2000)] {
            let opening = Duration::from_millis(opening_ms);
            assert_eq!(settle(Whose::Container, opening), Duration::from_millis(settle_ms), "{opening_ms}");
            assert_eq!(settle(Whose::Command, opening), Duration::ZERO);
        }
    }
}
