//! `/exec`: a command's streams over one WebSocket.
//!
//! A session is one task that owns everything: whichever way it ends, dropping it drops the command's streams. There
//! are no queues in it; a client that does not read stops the command's output in the command's own pipe, and a
//! command that does not read stops the client in its socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use cri::ExecSession;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time;

use crate::listen::Connection;
use crate::{ContainerRef, ExecRequest, Host, HostError};
use cri::channel::{self, Outcome, PROTOCOL_V4, PROTOCOL_V5, Resize};

/// A message from the client, or one that we send, at most.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Read from the command at once.
const OUTPUT_BYTES: usize = 32 * 1024;
/// Keeps half-dead connections from living for ever: a write to one fails in the end.
const PING_EVERY: Duration = Duration::from_secs(30);
/// After the command has exited: silence on a stream that something it left behind holds open, which ends it.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);
/// After the last message: for the client's answer to the close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The sending half, shared by the two outputs and the pings; held for one message at a time.
type Sender = Mutex<SplitSink<WebSocket, Message>>;

/// `GET /exec/{namespace}/{pod}/{container}?command=…&input=&output=&error=&tty=&width=&height=`
pub(crate) async fn exec(
    State(host): State<Arc<dyn Host>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    connection: Option<Extension<Connection>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, HostError> {
    let request = parse(ContainerRef { namespace, pod, container }, &query).map_err(HostError::invalid)?;
    let upgrade = upgrade
        .map_err(|rejection| HostError::invalid(format!("exec is a WebSocket request: {}", rejection.body_text())))?
        .protocols([PROTOCOL_V5, PROTOCOL_V4])
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .max_write_buffer_size(2 * MAX_MESSAGE_BYTES);
    let half_close = match upgrade.selected_protocol().and_then(|name| name.to_str().ok()) {
        Some(PROTOCOL_V5) => HalfClose::Known,
        Some(PROTOCOL_V4) => HalfClose::Unknown,
        _ => {
            let message = format!("Sec-WebSocket-Protocol must offer {PROTOCOL_V5} or {PROTOCOL_V4}");
            return Err(HostError::invalid(message));
        }
    };
    let greeting = greeting(&request);
    let session = host.exec(request).await?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        let stop = connection.as_ref().map(|connection| connection.stop.clone()).unwrap_or_default();
        let (sender, receiver) = socket.split();
        let sender = Mutex::new(sender);
        // The client's end of the session ends it, whatever the command is doing.
        tokio::select! {
            () = serve(&sender, receiver, session, (greeting, half_close)) => {}
            () = stop.cancelled() => close(&sender, close_code::AWAY, "the kubelet is shutting down").await,
        }
    }))
}

/// Whether the subprotocol lets the client end standard input without ending the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HalfClose {
    Known,
    Unknown,
}

fn parse(container: ContainerRef, query: &[(String, String)]) -> Result<ExecRequest, String> {
    let mut request = ExecRequest {
        container,
        command: Vec::new(),
        stdin: false,
        stdout: false,
        stderr: false,
        tty: false,
        window: None,
    };
    let (mut width, mut height) = (None, None);
    for (key, value) in query {
        match &**key {
            "command" => request.command.push(value.clone()),
            "input" => request.stdin = flag(key, value)?,
            "output" => request.stdout = flag(key, value)?,
            "error" => request.stderr = flag(key, value)?,
            "tty" => request.tty = flag(key, value)?,
            "width" => width = Some(cells(key, value)?),
            "height" => height = Some(cells(key, value)?),
            _ => {
                let expected = "command, input, output, error, tty, width or height";
                return Err(format!("unknown parameter {key:?}: expected {expected}"));
            }
        }
    }
    if request.command.first().is_none_or(String::is_empty) {
        return Err("command must be given: ?command=PROGRAM&command=ARGUMENT…".into());
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err("at least one of input, output and error must be 1".into());
    }
    // Read by the command with its first instruction, which a resize on the session's channel may come too late for.
    request.window = match (width, height) {
        (Some(width), Some(height)) if request.tty => Some(Resize { width, height }),
        (None, None) => None,
        _ => return Err("width and height are the size of a terminal: give both, with tty=1".into()),
    };
    // A terminal has one output.
    request.stderr &= !request.tty;
    Ok(request)
}

pub(crate) fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(format!("{key} is {value:?}: expected 1, true, 0 or false")),
    }
}

fn cells(key: &str, value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("{key} is {value:?}: expected a number of characters up to 65535"))
}

/// The lowest channel that the server writes to; an empty message on it tells the client that it is connected.
fn greeting(request: &ExecRequest) -> u8 {
    match (request.stdout, request.stderr) {
        (true, _) => channel::STDOUT,
        (false, true) => channel::STDERR,
        (false, false) => channel::ERROR,
    }
}

/// Runs until the command has ended and its output is sent, or the client has gone.
async fn serve(
    sender: &Sender,
    mut receiver: SplitStream<WebSocket>,
    session: ExecSession,
    (greeting, half_close): (u8, HalfClose),
) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let (exited, watch_exit) = watch::channel(false);
    let output = async {
        send(sender, channel::frame(greeting, b"")).await?;
        let (outcome, stdout, stderr) = tokio::join!(
            wait_exit(exit, exited),
            copy(channel::STDOUT, stdout, sender, watch_exit.clone()),
            copy(channel::STDERR, stderr, sender, watch_exit),
        );
        stdout.and(stderr)?;
        send(sender, outcome.to_frame()).await?;
        Ok::<(), axum::Error>(())
    };
    let finished = tokio::select! {
        sent = output => sent.is_ok(),
        () = receive(&mut receiver, (stdin, half_close), resize) => false,
        () = ping(sender) => false,
    };
    if finished {
        close(sender, close_code::NORMAL, "").await;
        // Closing the socket with the client's bytes unread would reset it and lose what it has not read yet.
        let _ = time::timeout(CLOSE_WAIT, async { while let Some(Ok(_)) = receiver.next().await {} }).await;
    }
}

async fn send(sender: &Sender, frame: bytes::Bytes) -> Result<(), axum::Error> {
    sender.lock().await.send(Message::Binary(frame)).await
}

async fn close(sender: &Sender, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let _ = time::timeout(CLOSE_WAIT, async { sender.lock().await.send(Message::Close(Some(frame))).await }).await;
}

/// Pings until one cannot be sent.
async fn ping(sender: &Sender) {
    loop {
        time::sleep(PING_EVERY).await;
        if sender.lock().await.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
            return;
        }
    }
}

async fn wait_exit(exit: oneshot::Receiver<Result<i32, cri::Error>>, exited: watch::Sender<bool>) -> Outcome {
    let outcome = match exit.await {
        Ok(Ok(0)) => Outcome::Success,
        Ok(Ok(code)) => Outcome::ExitCode { code },
        Ok(Err(error)) => Outcome::Failure { message: error.message },
        Err(_) => Outcome::Failure { message: "the command's end was not seen".into() },
    };
    exited.send_replace(true);
    outcome
}

/// Sends a stream of the command until its end; once the command has exited, until it falls silent.
async fn copy(
    channel: u8,
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    sender: &Sender,
    mut exited: watch::Receiver<bool>,
) -> Result<(), axum::Error> {
    let Some(mut from) = from else { return Ok(()) };
    loop {
        let mut frame = BytesMut::with_capacity(1 + OUTPUT_BYTES);
        frame.put_u8(channel);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut frame) => read,
            () = silence_after(&mut exited) => return Ok(()),
        };
        // EIO is how a terminal says that its last user has gone.
        if !read.is_ok_and(|length| length > 0) {
            return Ok(());
        }
        send(sender, frame.freeze()).await?;
    }
}

/// Ends [`DRAIN_SILENCE`] after it was first polled or the command exited, whichever is later.
async fn silence_after(exited: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which it is after the exit.
    let _ = exited.wait_for(|exited| *exited).await;
    time::sleep(DRAIN_SILENCE).await;
}

/// Takes the client's messages until it goes away or closes.
async fn receive(
    receiver: &mut SplitStream<WebSocket>,
    (mut stdin, half_close): (Option<Box<dyn AsyncWrite + Send + Unpin>>, HalfClose),
    resize: mpsc::Sender<(u16, u16)>,
) {
    // Only the latest size matters: a thousand of them in a row are one.
    let (size, sizes) = watch::channel(None);
    let messages = async {
        while let Some(Ok(message)) = receiver.next().await {
            let (Message::Binary(_) | Message::Text(_)) = message else {
                // Pings are answered below us; after a close frame the stream ends.
                continue;
            };
            match channel::split(message.into_data()) {
                Some((channel::STDIN, bytes)) => write(&mut stdin, &bytes).await,
                Some((channel::RESIZE, bytes)) => {
                    if let Some(Resize { width, height }) = Resize::parse(&bytes) {
                        size.send_replace(Some((width, height)));
                    }
                }
                Some((channel::CLOSE, bytes)) if half_close == HalfClose::Known && bytes[..] == [channel::STDIN] => {
                    stdin = None;
                }
                // Channels that this end does not read, as upstream has it.
                _ => {}
            }
        }
    };
    tokio::select! {
        () = messages => {}
        () = forward_sizes(sizes, resize) => {}
    }
}

/// A command that has closed its input makes the rest of it worthless, not the session.
async fn write(stdin: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>, bytes: &[u8]) {
    let Some(writer) = stdin else { return };
    let written = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    if written.await.is_err() {
        *stdin = None;
    }
}

/// Never ends by itself.
async fn forward_sizes(mut sizes: watch::Receiver<Option<(u16, u16)>>, resize: mpsc::Sender<(u16, u16)>) {
    while sizes.changed().await.is_ok() {
        let latest = *sizes.borrow_and_update();
        if let Some(size) = latest {
            // Refused once the command is gone: its exit ends the session.
            let _ = resize.send(size).await;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(query: &str) -> Vec<(String, String)> {
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn parsed(query: &str) -> Result<ExecRequest, String> {
        let container = ContainerRef { namespace: "default".into(), pod: "p".into(), container: "c".into() };
        parse(container, &pairs(query))
    }

    #[test]
    fn requests() {
        let request = parsed("command=sh&command=-c&command=&input=1&output=true&error=0").unwrap();
        assert_eq!(request.command, ["sh", "-c", ""]);
        assert_eq!((request.stdin, request.stdout, request.stderr, request.tty), (true, true, false, false));
        assert_eq!(greeting(&request), channel::STDOUT);
        let request = parsed("command=top&error=1&tty=1&input=1").unwrap();
        assert!(!request.stderr && request.tty);
        assert_eq!(request.window, None);
        let request = parsed("command=top&output=1&tty=1&width=77&height=33").unwrap();
        assert_eq!(request.window, Some(Resize { width: 77, height: 33 }));
        let request = parsed("command=top&error=1&tty=1&input=1").unwrap();
        assert_eq!(greeting(&request), channel::ERROR);
        for (query, part) in [
            ("output=1", "command must be given"),
            ("command=&output=1", "command must be given"),
            ("command=x", "at least one"),
            ("command=x&output=yes", "output is \"yes\""),
            ("command=x&output=1&tty=1&width=80", "give both"),
            ("command=x&output=1&width=80&height=24", "with tty=1"),
            ("command=x&output=1&tty=1&width=80&height=70000", "height is \"70000\""),
            ("command=x&output=1&stdin=1", "unknown parameter \"stdin\""),
        ] {
            let message = parsed(query).unwrap_err();
            assert!(message.contains(part), "{query}: {message}");
        }
    }
}
