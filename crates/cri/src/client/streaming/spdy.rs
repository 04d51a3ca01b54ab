//! Streams as SPDY/3.1: one for each channel, made by us, named by a header.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::{OpenError, Wanted, failed, parts, refused};
use crate::channel;
use crate::spdy::{Decoder, Encoder, Frame, HeaderMap, PROTOCOL, STREAM_TYPE, UPGRADE};

/// The answer to the upgrade: a status line and a few headers.
const ANSWER_MAX_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 32 << 10;
/// Pings that wait for their answer.
const PINGS: usize = 4;
/// Of a refusal's text.
const REASON_MAX_BYTES: usize = 1 << 10;

pub(super) struct Writer {
    socket: OwnedWriteHalf,
    encoder: Encoder,
    outgoing: BytesMut,
    /// Stream and channel.
    streams: Vec<(u32, u8)>,
    pings: mpsc::Receiver<u32>,
}

pub(super) struct Reader {
    socket: OwnedReadHalf,
    decoder: Decoder,
    incoming: BytesMut,
    streams: Vec<(u32, u8)>,
    /// The channel of which what was told last was its end.
    closed: Option<u8>,
    /// To be sent back.
    pings: mpsc::Sender<u32>,
}

/// The streams of a command or a container.
pub(super) async fn connect(url: &str, wanted: Wanted) -> Result<(Writer, Reader), OpenError> {
    let streams = [
        (true, channel::ERROR, "error"),
        (wanted.stdin, channel::STDIN, "stdin"),
        (wanted.stdout, channel::STDOUT, "stdout"),
        (wanted.stderr_apart(), channel::STDERR, "stderr"),
        (wanted.tty, channel::RESIZE, "resize"),
    ];
    let wanted = streams.iter().filter(|(wanted, ..)| *wanted);
    let streams = wanted.map(|(_, channel, name)| (*channel, HeaderMap::from([header(STREAM_TYPE, name)])));
    open(url, PROTOCOL, streams.collect()).await
}

pub(super) fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Upgrades a connection to this protocol and opens these streams in it: their channels with us, and their headers. The
/// first is the one whose loss is the session's.
pub(super) async fn open(
    url: &str,
    protocol: &str,
    streams: Vec<(u8, HeaderMap)>,
) -> Result<(Writer, Reader), OpenError> {
    let (authority, path) = parts(url)?;
    let mut socket = TcpStream::connect(authority).await.map_err(|error| failed("reach", url, &error))?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.map_err(|error| failed("ask", url, &error))?;
    let incoming = upgraded(&mut socket, url).await?;
    let (reading, writing) = socket.into_split();
    let (sender, pings) = mpsc::channel(PINGS);
    let mut writer =
        Writer { socket: writing, encoder: Encoder::default(), outgoing: BytesMut::new(), streams: Vec::new(), pings };
    for (channel, headers) in streams {
        writer.open(channel, headers).map_err(|error| failed("use", url, &error))?;
    }
    writer.flush().await.map_err(|error| failed("use", url, &error))?;
    let streams = writer.streams.clone();
    let reader =
        Reader { socket: reading, decoder: Decoder::default(), incoming, streams, closed: None, pings: sender };
    Ok((writer, reader))
}

/// Reads the answer; what came behind it belongs to the session.
async fn upgraded(socket: &mut TcpStream, url: &str) -> Result<BytesMut, OpenError> {
    let mut answer = BytesMut::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        let length = socket.read_buf(&mut answer).await.map_err(|error| failed("use", url, &error))?;
        if length == 0 || answer.len() > ANSWER_MAX_BYTES {
            return Err(failed("use", url, &"it gave no answer to the upgrade"));
        }
    };
    let status = answer[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
    if status.split(|byte| *byte == b' ').nth(1) == Some(b"101") {
        answer.advance(end);
        return Ok(answer);
    }
    let status = String::from_utf8_lossy(status).into_owned();
    let rest = &answer[end..];
    let reason = String::from_utf8_lossy(&rest[..rest.len().min(REASON_MAX_BYTES)]);
    Err(refused(url, &format!("it answered {status}: {}", reason.trim())))
}

impl Writer {
    fn open(&mut self, channel: u8, headers: HeaderMap) -> Result<(), String> {
        // A client's numbers are odd.
        let stream = u32::try_from(self.streams.len()).map_err(|error| error.to_string())? * 2 + 1;
        self.streams.push((stream, channel));
        self.queue(&Frame::Open { stream, headers })
    }

    pub(super) async fn send(&mut self, message: Bytes) -> Result<(), String> {
        let Some((channel, payload)) = channel::split(message) else { return Ok(()) };
        let (channel, payload, last) = match (channel, payload.first()) {
            (channel::CLOSE, Some(closed)) => (*closed, Bytes::new(), true),
            _ => (channel, payload, false),
        };
        // What was not asked for has no stream: a size without a terminal.
        let Some((stream, _)) = self.streams.iter().find(|(_, of)| *of == channel) else { return Ok(()) };
        self.queue(&Frame::Data { stream: *stream, payload, last })?;
        self.flush().await
    }

    /// Waits for a ping; never ready when there will be none.
    pub(super) async fn pinged(&mut self) -> u32 {
        match self.pings.recv().await {
            Some(id) => id,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn answer_ping(&mut self, id: u32) -> Result<(), String> {
        self.queue(&Frame::Ping { id })?;
        self.flush().await
    }

    pub(super) async fn close(&mut self) {
        let _queued = self.queue(&Frame::GoAway);
        let _gone = self.flush().await;
    }

    fn queue(&mut self, frame: &Frame) -> Result<(), String> {
        self.encoder.encode(frame, &mut self.outgoing).map_err(|error| error.to_string())
    }

    async fn flush(&mut self) -> Result<(), String> {
        self.socket.write_all_buf(&mut self.outgoing).await.map_err(|error| error.to_string())
    }
}

impl Reader {
    /// The next message; the end of a stream is one of [`channel::CLOSE`].
    pub(super) async fn receive(&mut self) -> Result<Option<Bytes>, String> {
        if let Some(channel) = self.closed.take() {
            return Ok(Some(channel::frame(channel::CLOSE, &[channel])));
        }
        loop {
            match self.decoder.decode(&mut self.incoming).map_err(|error| error.to_string())? {
                Some(Frame::Data { stream, payload, last }) => {
                    let Some(channel) = self.channel(stream) else { continue };
                    if !payload.is_empty() {
                        self.closed = last.then_some(channel);
                        return Ok(Some(channel::frame(channel, &payload)));
                    }
                    if last {
                        return Ok(Some(channel::frame(channel::CLOSE, &[channel])));
                    }
                }
                // One of many that waits already says as much.
                Some(Frame::Ping { id }) => drop(self.pings.try_send(id)),
                Some(Frame::Reset { stream, .. }) => {
                    if self.streams.first().is_some_and(|(error, _)| *error == stream) {
                        return Err("the runtime gave the session up".to_owned());
                    }
                    if let Some(channel) = self.channel(stream) {
                        return Ok(Some(channel::frame(channel::CLOSE, &[channel])));
                    }
                }
                Some(_) => {}
                None => {
                    self.incoming.reserve(READ_BYTES);
                    if self.socket.read_buf(&mut self.incoming).await.map_err(|error| error.to_string())? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn channel(&self, stream: u32) -> Option<u8> {
        self.streams.iter().find(|(of, _)| *of == stream).map(|(_, channel)| *channel)
    }
}
