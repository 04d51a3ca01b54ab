//! What the sessions over WebSocket have in common.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use cri::channel::{PROTOCOL_V4, PROTOCOL_V5};
use futures_util::SinkExt;
use futures_util::StreamExt;
use futures_util::stream::{SplitSink, SplitStream};
use tokio::sync::Mutex;
use tokio::time;

use crate::HostError;

/// A message from the client, or one that we send, at most.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Keeps half-dead connections from living for ever: a write to one fails in the end.
const PING_EVERY: Duration = Duration::from_secs(30);
/// After the last message: for the client's answer to the close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The sending half, shared by whoever has something to send; held for one message at a time.
pub(crate) type Sender = Mutex<SplitSink<WebSocket, Message>>;

/// Whether the subprotocol lets either end close a channel without ending the session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfClose {
    Known,
    Unknown,
}

/// The upgrade in the newest subprotocol that both ends speak. `what` is what the session is for.
pub(crate) fn accept(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    what: &str,
) -> Result<(WebSocketUpgrade, HalfClose), HostError> {
    let upgrade = upgrade
        .map_err(|rejection| HostError::invalid(format!("{what} is a WebSocket request: {}", rejection.body_text())))?
        .protocols([PROTOCOL_V5, PROTOCOL_V4])
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .max_write_buffer_size(2 * MAX_MESSAGE_BYTES);
    match upgrade.selected_protocol().and_then(|name| name.to_str().ok()) {
        Some(PROTOCOL_V5) => Ok((upgrade, HalfClose::Known)),
        Some(PROTOCOL_V4) => Ok((upgrade, HalfClose::Unknown)),
        _ => {
            let message = format!("Sec-WebSocket-Protocol must offer {PROTOCOL_V5} or {PROTOCOL_V4}");
            Err(HostError::invalid(message))
        }
    }
}

pub(crate) async fn send(sender: &Sender, frame: Bytes) -> Result<(), axum::Error> {
    sender.lock().await.send(Message::Binary(frame)).await
}

pub(crate) async fn close(sender: &Sender, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let _ = time::timeout(CLOSE_WAIT, async { sender.lock().await.send(Message::Close(Some(frame))).await }).await;
}

/// Closing the socket with the client's bytes unread would reset it and lose what it has not read yet.
pub(crate) async fn drain(receiver: &mut SplitStream<WebSocket>) {
    let _ = time::timeout(CLOSE_WAIT, async { while let Some(Ok(_)) = receiver.next().await {} }).await;
}

/// The next message; none once the client has gone or has closed. Pings are answered below us.
pub(crate) async fn next(receiver: &mut SplitStream<WebSocket>) -> Option<Bytes> {
    loop {
        if let message @ (Message::Binary(_) | Message::Text(_)) = receiver.next().await?.ok()? {
            return Some(message.into_data());
        }
    }
}

/// Pings until one cannot be sent.
pub(crate) async fn ping(sender: &Sender) {
    loop {
        time::sleep(PING_EVERY).await;
        if sender.lock().await.send(Message::Ping(Bytes::new())).await.is_err() {
            return;
        }
    }
}
