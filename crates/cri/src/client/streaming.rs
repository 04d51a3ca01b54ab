//! A command's streams, from the URL that a runtime names for them. Spoken over WebSocket.

use std::pin::pin;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue};

use crate::channel::{self, Outcome, PROTOCOL_V4, PROTOCOL_V5, Resize};
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

type Socket = WebSocketStream<TcpStream>;

/// Opens the session.
pub(super) async fn open(url: &str, wanted: Wanted, window: Option<(u16, u16)>) -> Result<ExecSession, Error> {
    let (socket, half_close) = connect(url).await?;
    let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(PIPE_BYTES)).unzip();
    let (stdin, our_stdin) = pipe(wanted.stdin);
    let (stdout, our_stdout) = pipe(wanted.stdout);
    let (stderr, our_stderr) = pipe(wanted.stderr && !wanted.tty);
    let (resize, sizes) = mpsc::channel(SIZES);
    let (ended, exit) = oneshot::channel();
    let (frames, queued) = mpsc::channel(FRAMES);
    if let Some((width, height)) = window {
        let _ = frames.send(Resize { width, height }.to_frame()).await;
    }
    if let Some(stdin) = our_stdin {
        tokio::spawn(send_stdin(stdin, frames.clone(), half_close));
    }
    tokio::spawn(send_sizes(sizes, frames));
    tokio::spawn(async move {
        let outcome = converse(socket, queued, (our_stdout, our_stderr)).await;
        let _ = ended.send(outcome);
    });
    Ok(ExecSession {
        stdin: stdin.map(|end| Box::new(end) as _),
        stdout: stdout.map(|end| Box::new(end) as _),
        stderr: stderr.map(|end| Box::new(end) as _),
        resize,
        exit,
    })
}

/// Whether the subprotocol lets us end standard input without ending the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HalfClose {
    Known,
    Unknown,
}

async fn connect(url: &str) -> Result<(Socket, HalfClose), Error> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::internal(format!("exec: {what} the runtime's streaming address {url}: {error}"))
    };
    let address = url
        .strip_prefix("http://")
        .ok_or_else(|| failed("use", &"expected http://, as a runtime on this machine offers it"))?;
    let mut request = format!("ws://{address}").into_client_request().map_err(|error| failed("parse", &error))?;
    let offered = format!("{PROTOCOL_V5}, {PROTOCOL_V4}");
    let offered = HeaderValue::try_from(offered).map_err(|error| failed("ask", &error))?;
    request.headers_mut().insert("sec-websocket-protocol", offered);
    let authority = address.split('/').next().unwrap_or_default();
    let stream = TcpStream::connect(authority).await.map_err(|error| failed("reach", &error))?;
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            failed("use", &format!("it answered {}: {}", response.status(), String::from_utf8_lossy(body).trim()))
        }
        error => failed("use", &error),
    })?;
    let chosen = response.headers().get("sec-websocket-protocol");
    let half_close = if chosen.is_some_and(|name| name == PROTOCOL_V5) { HalfClose::Known } else { HalfClose::Unknown };
    Ok((socket, half_close))
}

/// Carries frames both ways until the error channel tells how the command ended.
async fn converse(
    mut socket: Socket,
    mut queued: mpsc::Receiver<bytes::Bytes>,
    (mut stdout, mut stderr): (Option<DuplexStream>, Option<DuplexStream>),
) -> Result<i32, Error> {
    let broken = |error: &dyn std::fmt::Display| {
        Error::unavailable(format!("exec: the session broke off, the command's end was not seen: {error}"))
    };
    let mut sending = true;
    loop {
        let message = tokio::select! {
            frame = queued.recv(), if sending => {
                match frame {
                    Some(frame) => socket.send(Message::Binary(frame)).await.map_err(|error| broken(&error))?,
                    None => sending = false,
                }
                continue;
            }
            message = socket.next() => message,
        };
        let message = match message {
            Some(Ok(Message::Binary(_) | Message::Text(_))) => message,
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(broken(&error)),
            None => return Err(broken(&"the runtime closed it")),
        };
        let Some(Ok(message)) = message else { continue };
        match channel::split(message.into_data()) {
            Some((channel::STDOUT, bytes)) => pass(&mut stdout, &bytes).await,
            Some((channel::STDERR, bytes)) => pass(&mut stderr, &bytes).await,
            Some((channel::ERROR, bytes)) if !bytes.is_empty() => {
                let _ = socket.close(None).await;
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

async fn send_stdin(mut stdin: DuplexStream, frames: mpsc::Sender<bytes::Bytes>, half_close: HalfClose) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = stdin.read(&mut chunk).await {
        if frames.send(channel::frame(channel::STDIN, &chunk[..length])).await.is_err() {
            return;
        }
    }
    if half_close == HalfClose::Known {
        let _ = frames.send(channel::frame(channel::CLOSE, &[channel::STDIN])).await;
    }
}

async fn send_sizes(mut sizes: mpsc::Receiver<(u16, u16)>, frames: mpsc::Sender<bytes::Bytes>) {
    let mut closed = pin!(frames.closed());
    loop {
        tokio::select! {
            size = sizes.recv() => {
                let Some((width, height)) = size else { return };
                if frames.send(Resize { width, height }.to_frame()).await.is_err() {
                    return;
                }
            }
            () = &mut closed => return,
        }
    }
}
