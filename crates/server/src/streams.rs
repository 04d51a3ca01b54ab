//! `/exec` and `/attach`: the streams of a command or a container over one WebSocket.
//!
//! A session is one task that owns everything: whichever way it ends, dropping it drops the streams. There are no queues
//! in it; a client that does not read stops a command's output in the command's own pipe, and a command that does not
//! read stops the client in its socket. A container's output does not wait: the runtime cuts such a client off.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use cri::ExecSession;
use cri::channel::{self, Outcome, Resize};
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time;

use crate::listen::Connection;
use crate::websocket::{self, HalfClose, Sender, accept, close, drain, ping, send};
use crate::{AttachRequest, ContainerRef, ExecRequest, Host, HostError, StreamOptions};

/// Read at once.
const OUTPUT_BYTES: usize = 32 * 1024;
/// After the command has exited: silence on a stream that something it left behind holds open, which ends it.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

type Names = (String, String, String);
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// `GET /exec/{namespace}/{pod}/{container}?command=…&input=&output=&error=&tty=&width=&height=`
pub(crate) async fn exec(
    State(host): State<Arc<dyn Host>>,
    Path((namespace, pod, container)): Path<Names>,
    Query(query): Query<Vec<(String, String)>>,
    connection: Option<Extension<Connection>>,
    upgrade: Upgrade,
) -> Result<Response, HostError> {
    let (words, query): (Vec<_>, Vec<_>) = query.into_iter().partition(|(key, _)| key == "command");
    let command: Vec<_> = words.into_iter().map(|(_, word)| word).collect();
    let streams = parse(&query).map_err(HostError::invalid)?;
    if command.first().is_none_or(String::is_empty) {
        return Err(HostError::invalid("command must be given: ?command=PROGRAM&command=ARGUMENT…"));
    }
    let (upgrade, half_close) = accept(upgrade, "exec")?;
    let container = ContainerRef { namespace, pod, container };
    let session = host.exec(ExecRequest { container, command, streams }).await?;
    let manner = Manner { act: "executing command in container", greeting: greeting(&streams), half_close };
    Ok(carry((upgrade, connection), session, manner))
}

/// `GET /attach/{namespace}/{pod}/{container}?input=&output=&error=&tty=&width=&height=`
pub(crate) async fn attach(
    State(host): State<Arc<dyn Host>>,
    Path((namespace, pod, container)): Path<Names>,
    Query(query): Query<Vec<(String, String)>>,
    connection: Option<Extension<Connection>>,
    upgrade: Upgrade,
) -> Result<Response, HostError> {
    let streams = parse(&query).map_err(HostError::invalid)?;
    let (upgrade, half_close) = accept(upgrade, "attach")?;
    let container = ContainerRef { namespace, pod, container };
    let session = host.attach(AttachRequest { container, streams }).await?;
    let manner = Manner { act: "attaching to container", greeting: greeting(&streams), half_close };
    Ok(carry((upgrade, connection), session, manner))
}

/// How a session is told of.
struct Manner {
    /// What failed, where it fails.
    act: &'static str,
    /// The lowest channel that the server writes to.
    greeting: u8,
    half_close: HalfClose,
}

fn carry(
    (upgrade, connection): (WebSocketUpgrade, Option<Extension<Connection>>),
    session: ExecSession,
    manner: Manner,
) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        let stop = connection.as_ref().map(|connection| connection.stop.clone()).unwrap_or_default();
        let (sender, receiver) = socket.split();
        let sender = Mutex::new(sender);
        // The client's end of the session ends it, whatever the command is doing.
        tokio::select! {
            () = serve(&sender, receiver, session, manner) => {}
            () = stop.cancelled() => close(&sender, close_code::AWAY, "the kubelet is shutting down").await,
        }
    })
}

/// Which streams there are to be.
fn parse(query: &[(String, String)]) -> Result<StreamOptions, String> {
    let mut streams = StreamOptions { stdin: false, stdout: false, stderr: false, tty: false, window: None };
    let (mut width, mut height) = (None, None);
    for (key, value) in query {
        match &**key {
            "input" => streams.stdin = flag(key, value)?,
            "output" => streams.stdout = flag(key, value)?,
            "error" => streams.stderr = flag(key, value)?,
            "tty" => streams.tty = flag(key, value)?,
            "width" => width = Some(cells(key, value)?),
            "height" => height = Some(cells(key, value)?),
            _ => {
                let known = "input, output, error, tty, width and height";
                return Err(format!("unknown parameter {key:?}: those of the streams are {known}"));
            }
        }
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err("at least one of input, output and error must be 1".into());
    }
    // Read by the command with its first instruction, which a resize on the session's channel may come too late for.
    streams.window = match (width, height) {
        (Some(width), Some(height)) if streams.tty => Some(Resize { width, height }),
        (None, None) => None,
        _ => return Err("width and height are the size of a terminal: give both, with tty=1".into()),
    };
    // A terminal has one output.
    streams.stderr &= !streams.tty;
    Ok(streams)
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
fn greeting(streams: &StreamOptions) -> u8 {
    match (streams.stdout, streams.stderr) {
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
    Manner { act, greeting, half_close }: Manner,
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
        send(sender, outcome.to_frame(act)).await?;
        Ok::<(), axum::Error>(())
    };
    let finished = tokio::select! {
        sent = output => sent.is_ok(),
        () = receive(&mut receiver, (stdin, half_close), resize) => false,
        () = ping(sender) => false,
    };
    if finished {
        close(sender, close_code::NORMAL, "").await;
        drain(&mut receiver).await;
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
        while let Some(message) = websocket::next(receiver).await {
            match channel::split(message) {
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

    fn parsed(query: &str) -> Result<StreamOptions, String> {
        parse(&pairs(query))
    }

    #[test]
    fn requests() {
        let streams = parsed("input=1&output=true&error=0").unwrap();
        assert_eq!((streams.stdin, streams.stdout, streams.stderr, streams.tty), (true, true, false, false));
        assert_eq!(greeting(&streams), channel::STDOUT);
        let streams = parsed("output=1&tty=1&width=77&height=33").unwrap();
        assert_eq!(streams.window, Some(Resize { width: 77, height: 33 }));
        let streams = parsed("error=1&tty=1&input=1").unwrap();
        assert!(!streams.stderr && streams.tty);
        assert_eq!((streams.window, greeting(&streams)), (None, channel::ERROR));
        for (query, part) in [
            ("", "at least one"),
            ("output=yes", "output is \"yes\""),
            ("output=1&tty=1&width=80", "give both"),
            ("output=1&width=80&height=24", "with tty=1"),
            ("output=1&tty=1&width=80&height=70000", "height is \"70000\""),
            ("output=1&stdin=1", "unknown parameter \"stdin\": those of the streams are input"),
            ("output=1&command=x", "unknown parameter \"command\""),
        ] {
            let message = parsed(query).unwrap_err();
            assert!(message.contains(part), "{query}: {message}");
        }
    }
}
