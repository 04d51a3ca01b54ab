//! Streams over WebSocket: each message begins with its channel.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue};

use super::{OpenError, failed, parts, refused};
use crate::channel::{self, PROTOCOL_V5};

type Socket = WebSocketStream<TcpStream>;

pub(super) struct Writer {
    socket: SplitSink<Socket, Message>,
    /// The older subprotocol cannot end a channel without ending the session.
    closes: bool,
}

pub(super) struct Reader {
    socket: SplitStream<Socket>,
}

/// Opens a session in one of these subprotocols, the dearest first.
pub(super) async fn connect(url: &str, protocols: &[&str]) -> Result<(Writer, Reader), OpenError> {
    let (authority, path) = parts(url)?;
    let mut request =
        format!("ws://{authority}{path}").into_client_request().map_err(|error| failed("parse", url, &error))?;
    let offered = HeaderValue::try_from(protocols.join(", "));
    let offered = offered.map_err(|error| failed("ask", url, &error))?;
    request.headers_mut().insert("sec-websocket-protocol", offered);
    let stream = TcpStream::connect(authority).await.map_err(|error| failed("reach", url, &error))?;
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
        tungstenite::Error::Http(response) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).trim().to_owned();
            refused(url, &format!("it answered {}: {body}", response.status()))
        }
        error => failed("use", url, &error),
    })?;
    let chosen = response.headers().get("sec-websocket-protocol");
    let closes = chosen.is_some_and(|name| name == PROTOCOL_V5);
    let (sink, stream) = socket.split();
    Ok((Writer { socket: sink, closes }, Reader { socket: stream }))
}

impl Writer {
    pub(super) async fn send(&mut self, message: Bytes) -> Result<(), String> {
        if message.first() == Some(&channel::CLOSE) && !self.closes {
            return Ok(());
        }
        self.socket.send(Message::Binary(message)).await.map_err(|error| error.to_string())
    }

    pub(super) async fn close(&mut self) {
        let _gone = self.socket.close().await;
    }
}

impl Reader {
    pub(super) async fn receive(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.socket.next().await {
                Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => return Ok(Some(message.into_data())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Ok(None),
            }
        }
    }
}
