//! Our end of a session with a command or a container, over WebSocket (`v5.channel.k8s.io`), with a real terminal where
//! asked.

use crate::client::{Client, failure};
use anyhow::{Context, Result, anyhow};
use cri::channel;
use futures_util::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::Write;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};

const STDIN_CHUNK_BYTES: usize = 32 * 1024;
/// Frames waiting to be sent; a slow command slows the reading of our stdin.
const QUEUED_FRAMES: usize = 8;

/// What of ours is lent to the other side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours {
    pub(super) stdin: bool,
    /// The far side has a terminal, of the size of ours.
    pub(super) tty: bool,
}

impl Ours {
    /// Whether our terminal is the far side's. One that gives it no input stays ours, or nobody would see Ctrl-C.
    pub(super) fn is_typing(self) -> bool {
        self.stdin && self.tty
    }

    /// As part of a session's query.
    pub(super) fn query(self) -> Vec<String> {
        let mut query = vec!["output=1".to_owned(), if self.tty { "tty=1" } else { "error=1" }.to_owned()];
        if self.stdin {
            query.push("input=1".into());
        }
        // A command that is quick to look would find no size if it came with the session's first frame.
        if self.tty
            && let Ok(size) = tcgetwinsize(std::io::stdin())
        {
            query.push(format!("width={}&height={}", size.ws_col, size.ws_row));
        }
        query
    }
}

/// Opens a session at this path of the kubelet's.
pub(super) async fn open(client: &Client, path: &str) -> Result<WebSocketStream<UnixStream>> {
    let mut request = format!("ws://kubelet{path}").into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(channel::PROTOCOL_V5));
    match tokio_tungstenite::client_async(request, client.connect().await?).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            Err(failure(response.status(), response.body().as_deref().unwrap_or_default()))
        }
        Err(error) => Err(error).context("the kubelet did not open the session"),
    }
}

/// Holds the session and ends the program with its code.
pub(super) async fn run(mut socket: WebSocketStream<UnixStream>, ours: Ours) -> Result<u8> {
    // Restored when dropped, also on the way out of an error.
    let raw = if ours.is_typing() { Some(RawTerminal::enter()?) } else { None };
    let outcome = converse(&mut socket, ours).await;
    drop(raw);
    let code = outcome?;
    // A read of our stdin may still block a thread of the runtime; nothing is left to wait for.
    std::process::exit(code);
}

/// Carries bytes both ways until the error channel tells how it ended.
async fn converse(socket: &mut WebSocketStream<UnixStream>, ours: Ours) -> Result<i32> {
    let (frames, mut queued) = mpsc::channel::<Vec<u8>>(QUEUED_FRAMES);
    if ours.stdin {
        tokio::spawn(send_stdin(frames.clone()));
    }
    if ours.tty {
        tokio::spawn(send_window_sizes(frames));
    } else {
        drop(frames);
    }
    let mut sending = true;
    loop {
        tokio::select! {
            frame = queued.recv(), if sending => match frame {
                Some(frame) => socket.send(Message::Binary(frame.into())).await.context("the session broke off")?,
                None => sending = false,
            },
            message = socket.next() => {
                let message = message.ok_or_else(|| anyhow!("the session ended without an exit code"))?;
                if let Message::Binary(bytes) = message.context("the session broke off")?
                    && let Some(code) = receive(&bytes)? {
                    return Ok(code);
                }
            }
        }
    }
}

/// One frame of the kubelet's: output is written, the status ends the session.
fn receive(bytes: &[u8]) -> Result<Option<i32>> {
    let Some((&number, payload)) = bytes.split_first() else { return Ok(None) };
    match number {
        channel::STDOUT => write(&mut std::io::stdout().lock(), payload)?,
        channel::STDERR => write(&mut std::io::stderr().lock(), payload)?,
        channel::ERROR if !payload.is_empty() => {
            return match channel::Outcome::parse(payload) {
                channel::Outcome::Success => Ok(Some(0)),
                channel::Outcome::ExitCode { code } => Ok(Some(code)),
                channel::Outcome::Failure { message } => Err(anyhow!(message)),
            };
        }
        _ => {}
    }
    Ok(None)
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

async fn send_stdin(frames: mpsc::Sender<Vec<u8>>) {
    let mut stdin = tokio::io::stdin();
    loop {
        let mut frame = vec![0; STDIN_CHUNK_BYTES + 1];
        frame[0] = channel::STDIN;
        match stdin.read(&mut frame[1..]).await {
            Ok(0) | Err(_) => {
                // The far side sees the end of its input, and goes on.
                let _ = frames.send(vec![channel::CLOSE, channel::STDIN]).await;
                return;
            }
            Ok(count) => {
                frame.truncate(count + 1);
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The size of our window, now and whenever it changes.
async fn send_window_sizes(frames: mpsc::Sender<Vec<u8>>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdin()) {
            let frame = channel::Resize { width: size.ws_col, height: size.ws_row }.to_frame();
            if frames.send(frame.to_vec()).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Our terminal in raw mode: keys, also Ctrl-C, go to the command.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<RawTerminal> {
        let before = tcgetattr(std::io::stdin()).context("standard input is not a terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
