//! A connection to a pod's port: a pair of streams, one for its bytes and one for what went wrong.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::{CHUNK_BYTES, OpenError, PIPE_BYTES, Reader, Transport, Writer, spdy, websocket};
use crate::channel::{self, PORT_DATA, PORT_ERROR, PROTOCOL_V4};
use crate::spdy::{HeaderMap, PORT_FORWARD, STREAM_TYPE};

/// Of what went wrong.
const ERROR_MAX_BYTES: usize = 4 << 10;
/// For the reason of an end, after the end.
const REASON_WITHIN: Duration = Duration::from_secs(2);

/// Opens a connection to this port.
pub(in super::super) async fn forward(url: &str, transport: Transport, port: u16) -> Result<Forwarded, OpenError> {
    let (writer, reader) = match transport {
        Transport::Spdy => {
            // There is one connection in each session, so any number tells it from the others.
            let of = |kind: &str| {
                HeaderMap::from([
                    spdy::header(STREAM_TYPE, kind),
                    spdy::header("port", &port.to_string()),
                    spdy::header("requestid", "0"),
                ])
            };
            let streams = vec![(PORT_ERROR, of("error")), (PORT_DATA, of("data"))];
            let (mut writer, reader) = spdy::open(url, PORT_FORWARD, streams).await?;
            // We have nothing to say in it, and the runtime reads it to its end.
            let _told_when_read = writer.send(channel::frame(channel::CLOSE, &[PORT_ERROR])).await;
            (Writer::Spdy(Box::new(writer)), Messages { reader: Reader::Spdy(Box::new(reader)), greetings: Vec::new() })
        }
        Transport::WebSocket => {
            let (writer, reader) = websocket::connect(url, &[PROTOCOL_V4]).await?;
            let greetings = vec![PORT_DATA, PORT_ERROR];
            (Writer::WebSocket(Box::new(writer)), Messages { reader: Reader::WebSocket(Box::new(reader)), greetings })
        }
    };
    let (stream, ours) = tokio::io::duplex(PIPE_BYTES);
    let (from_user, to_user) = tokio::io::split(ours);
    let failure = Failure::default();
    let (held, released) = oneshot::channel();
    tokio::spawn(carry((writer, reader), (from_user, to_user), (failure.clone(), released)));
    Ok(Forwarded { stream, failure, _held: held })
}

/// Why the connection failed, once it is known.
type Failure = Arc<Mutex<Option<String>>>;

/// The user's end. What went wrong at the other one shows as an error in place of the end of its bytes.
pub(in super::super) struct Forwarded {
    stream: DuplexStream,
    failure: Failure,
    /// Tells whoever carries the bytes that nobody wants them any more.
    _held: oneshot::Sender<()>,
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if before > 0 && buffer.remaining() == before {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(failure) = failure {
                return Poll::Ready(Err(io::Error::other(failure)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What comes from the runtime, without the port's number at the beginning of each channel.
struct Messages {
    reader: Reader,
    greetings: Vec<u8>,
}

impl Messages {
    async fn next(&mut self) -> Result<Option<(u8, Bytes)>, String> {
        while let Some(message) = self.reader.receive().await? {
            let Some((channel, bytes)) = channel::split(message) else { continue };
            match self.greetings.iter().position(|of| *of == channel) {
                Some(at) => drop(self.greetings.swap_remove(at)),
                None => return Ok(Some((channel, bytes))),
            }
        }
        Ok(None)
    }
}

/// Carries bytes both ways until both ways have ended, or either side has gone.
async fn carry(
    (mut writer, messages): (Writer, Messages),
    (from_user, to_user): (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>),
    (failure, released): (Failure, oneshot::Receiver<()>),
) {
    let sending = send(&mut writer, from_user);
    let receiving = async {
        if let Err(text) = receive(messages, to_user, &failure).await {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        }
    };
    tokio::select! {
        // What the port's server says after its client has nothing more to say is still wanted, the other way round not.
        () = receiving => {}
        never = sending => match never {},
        _ = released => {}
    }
    writer.close().await;
}

/// Never ends by itself: whoever receives sees the end of the connection, and why it broke.
async fn send(writer: &mut Writer, mut from_user: ReadHalf<DuplexStream>) -> Infallible {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut speaking = true;
    loop {
        let sent = tokio::select! {
            read = from_user.read(&mut chunk), if speaking => match read {
                Ok(length @ 1..) => writer.send(channel::frame(PORT_DATA, &chunk[..length])).await,
                _ => {
                    speaking = false;
                    writer.send(channel::frame(channel::CLOSE, &[PORT_DATA])).await
                }
            },
            id = writer.pinged() => writer.answer_ping(id).await,
        };
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Ends with the port's bytes.
async fn receive(
    mut messages: Messages,
    mut to_user: WriteHalf<DuplexStream>,
    failure: &Failure,
) -> Result<(), String> {
    let mut told = false;
    while let Some((channel, bytes)) = messages.next().await? {
        let passed = match (channel, bytes.first()) {
            (PORT_DATA, Some(_)) => to_user.write_all(&bytes).await,
            (PORT_ERROR, Some(_)) => {
                tell(failure, &bytes);
                Ok(())
            }
            (channel::CLOSE, Some(&PORT_ERROR)) => {
                told = true;
                Ok(())
            }
            (channel::CLOSE, Some(&PORT_DATA)) => break,
            _ => Ok(()),
        };
        if passed.is_err() {
            // Nobody listens any more.
            return Ok(());
        }
    }
    if !told {
        // A runtime may end the bytes first and then say why. One that says nothing has nothing to say.
        let _nothing = tokio::time::timeout(REASON_WITHIN, reason(&mut messages, failure)).await;
    }
    // The end for whoever reads; by now it is known whether it is a failure's.
    let _gone = to_user.shutdown().await;
    Ok(())
}

async fn reason(messages: &mut Messages, failure: &Failure) {
    while let Ok(Some((channel, bytes))) = messages.next().await {
        match (channel, bytes.first()) {
            (PORT_ERROR, Some(_)) => tell(failure, &bytes),
            (channel::CLOSE, Some(&PORT_ERROR)) => return,
            _ => {}
        }
    }
}

fn tell(failure: &Failure, text: &[u8]) {
    let text = String::from_utf8_lossy(&text[..text.len().min(ERROR_MAX_BYTES)]).into_owned();
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
}
