//! A command's streams, from the URL that a runtime names for them.
//!
//! They are carried as SPDY/3.1 or over WebSocket. Inside, both speak in the messages of [`channel`]: one byte that names
//! a channel, and what is sent in it.

mod spdy;
mod websocket;

use std::pin::pin;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use crate::channel::{self, Outcome, Resize};
use crate::{Error, ExecSession};

/// Bytes on their way between the session and its user, each way.
const PIPE_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 16 << 10;
const FRAMES: usize = 16;
const SIZES: usize = 16;

/// Which streams the command is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
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
    let link = match transport {
        Transport::Spdy => Link::Spdy(Box::new(spdy::connect(url, wanted).await?)),
        Transport::WebSocket => Link::WebSocket(Box::new(websocket::connect(url).await?)),
    };
    let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
    let (stdin, our_stdin) = pipe(wanted.stdin);
    let (stdout, our_stdout) = pipe(wanted.stdout);
    let (stderr, our_stderr) = pipe(wanted.stderr_apart());
    let (resize, sizes) = mpsc::channel(SIZES);
    let (ended, exit) = oneshot::channel();
    let (frames, queued) = mpsc::channel(FRAMES);
    if let Some((width, height)) = window.filter(|_| wanted.tty) {
        // There is room for it.
        let _queued = frames.send(Resize { width, height }.to_frame()).await;
    }
    if let Some(stdin) = our_stdin {
        tokio::spawn(send_stdin(stdin, frames.clone()));
    }
    tokio::spawn(send_sizes(sizes, frames));
    tokio::spawn(async move {
        let outcome = converse(link, queued, (our_stdout, our_stderr)).await;
        // Whoever wanted to know may have gone.
        let _gone = ended.send(outcome);
    });
    Ok(ExecSession {
        stdin: stdin.map(|end| Box::new(end) as _),
        stdout: stdout.map(|end| Box::new(end) as _),
        stderr: stderr.map(|end| Box::new(end) as _),
        resize,
        exit,
    })
}

enum Link {
    Spdy(Box<spdy::Link>),
    WebSocket(Box<websocket::Link>),
}

impl Link {
    /// Sends a message of a channel; [`channel::CLOSE`] ends one, where that can be said.
    async fn send(&mut self, message: Bytes) -> Result<(), String> {
        match self {
            Self::Spdy(link) => link.send(message).await,
            Self::WebSocket(link) => link.send(message).await,
        }
    }

    /// The next message; none at the end. Nothing is lost when it is dropped while it waits.
    async fn receive(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Spdy(link) => link.receive().await,
            Self::WebSocket(link) => link.receive().await,
        }
    }

    /// Says farewell; that the other end is not there any more to hear it does not matter.
    async fn close(&mut self) {
        match self {
            Self::Spdy(link) => link.close().await,
            Self::WebSocket(link) => link.close().await,
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
    OpenError::Failed(Error::internal(format!("exec: {what} the runtime's streaming address {}: {error}", shown(url))))
}

fn refused(url: &str, error: &dyn std::fmt::Display) -> OpenError {
    let text = format!("exec: the runtime's streaming address {} refuses: {error}", shown(url));
    OpenError::Refused(Error::internal(text))
}

/// Who has the last part of the address may take the session over.
fn shown(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(shown, _)| shown)
}

/// Carries messages both ways until the error channel tells how the command ended.
async fn converse(
    mut link: Link,
    mut queued: mpsc::Receiver<Bytes>,
    (mut stdout, mut stderr): (Option<DuplexStream>, Option<DuplexStream>),
) -> Result<i32, Error> {
    let broken = |error: &str| {
        Error::unavailable(format!("exec: the session broke off, the command's end was not seen: {error}"))
    };
    let mut sending = true;
    loop {
        let message = tokio::select! {
            message = queued.recv(), if sending => {
                match message {
                    Some(message) => link.send(message).await.map_err(|error| broken(&error))?,
                    None => sending = false,
                }
                continue;
            }
            message = link.receive() => message,
        };
        let message = message.map_err(|error| broken(&error))?.ok_or_else(|| broken("the runtime closed it"))?;
        match channel::split(message) {
            Some((channel::STDOUT, bytes)) => pass(&mut stdout, &bytes).await,
            Some((channel::STDERR, bytes)) => pass(&mut stderr, &bytes).await,
            Some((channel::ERROR, bytes)) if !bytes.is_empty() => {
                link.close().await;
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

/// A reader that went away makes the rest of its stream worthless, not the session.
async fn pass(stream: &mut Option<DuplexStream>, bytes: &[u8]) {
    if let Some(writer) = stream
        && writer.write_all(bytes).await.is_err()
    {
        *stream = None;
    }
}

async fn send_stdin(mut stdin: DuplexStream, messages: mpsc::Sender<Bytes>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = stdin.read(&mut chunk).await {
        if messages.send(channel::frame(channel::STDIN, &chunk[..length])).await.is_err() {
            return;
        }
    }
    // A session that has ended needs no end of its input.
    let _ended = messages.send(channel::frame(channel::CLOSE, &[channel::STDIN])).await;
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
