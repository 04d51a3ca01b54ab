//! Streams of commands and containers, as Docker carries them: over a connection that stops being HTTP once they begin.

use std::path::Path;

use bytes::Bytes;
use cri::backlog::{Behind, Sink};
use cri::{Code, Error};
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

use crate::call::code_of;

/// What a failed start says of itself is cut here.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 16 << 10;
/// Stream, three bytes of nothing, length.
const HEADER_BYTES: usize = 8;
const STDERR: u8 = 2;

/// The connection, both ways.
pub(crate) type Wire = TokioIo<hyper::upgrade::Upgraded>;

/// Makes the call, after whose answer the connection is the streams'.
pub(crate) async fn start(endpoint: &Path, (call, path): (&str, &str), body: String) -> Result<Wire, Error> {
    let failed =
        |error: &dyn std::fmt::Display| Error::unavailable(format!("{call}: docker cannot be reached: {error}"));
    let stream = UnixStream::connect(endpoint).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, "docker")
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(|error| failed(&error))?));
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    let told = serde_json::from_str::<serde_json::Value>(&text).ok();
    let message = told.and_then(|told| told.get("message")?.as_str().map(str::to_owned)).unwrap_or(text);
    Err(Error::new(code_of(status, &message), format!("{call}: {message}")))
}

/// The ends at which output arrives.
pub(crate) struct Outputs {
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
}

impl Outputs {
    /// Those of a command, which waits for who reads them.
    pub(crate) fn new<O, E>(stdout: Option<O>, stderr: Option<E>) -> Self
    where
        O: AsyncWrite + Send + Unpin + 'static,
        E: AsyncWrite + Send + Unpin + 'static,
    {
        Self {
            stdout: stdout.map_or(Sink::Nobody, |end| Sink::Pipe(Box::new(end))),
            stderr: stderr.map_or(Sink::Nobody, |end| Sink::Pipe(Box::new(end))),
        }
    }

    async fn pass(&mut self, stream: u8, bytes: &[u8]) -> Result<(), Behind> {
        let stream = if stream == STDERR { &mut self.stderr } else { &mut self.stdout };
        stream.pass(bytes).await
    }
}

/// Passes on a terminal's output, which is one stream of bytes.
///
/// # Errors
/// One of the outputs waits for nobody, and its reader is too far behind.
pub(crate) async fn read_plain(mut wire: impl AsyncRead + Unpin, mut outputs: Outputs) -> Result<(), Behind> {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = wire.read(&mut chunk).await {
        outputs.pass(0, &chunk[..length]).await?;
    }
    Ok(())
}

/// Passes on output of which every piece says whose it is.
///
/// # Errors
/// As for [`read_plain`].
pub(crate) async fn read_framed(mut wire: impl AsyncRead + Unpin, mut outputs: Outputs) -> Result<(), Behind> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut header = [0; HEADER_BYTES];
    while wire.read_exact(&mut header).await.is_ok() {
        let [stream, .., a, b, c, d] = header;
        // Passed on piece by piece: what a length promises costs no memory.
        let mut left = u32::from_be_bytes([a, b, c, d]) as usize;
        while left > 0 {
            let wanted = left.min(CHUNK_BYTES);
            match wire.read(&mut chunk[..wanted]).await {
                Ok(length @ 1..) => {
                    outputs.pass(stream, &chunk[..length]).await?;
                    left -= length;
                }
                _ => return Ok(()),
            }
        }
    }
    Ok(())
}

/// What becomes of our direction of the connection when there is no more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// It alone is closed: the end of what a command reads.
    Close,
    Keep,
}

/// Passes on what is to be read. Gives the connection back, which may close when it is dropped.
pub(crate) async fn write<W: AsyncWrite + Unpin>(mut wire: W, stdin: Option<DuplexStream>, end: AtEnd) -> W {
    if let Some(mut stdin) = stdin {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = stdin.read(&mut chunk).await {
            if wire.write_all(&chunk[..length]).await.is_err() {
                return wire;
            }
        }
    }
    if end == AtEnd::Close {
        let _ = wire.shutdown().await;
    }
    wire
}

/// Docker's answer to a call that is no more.
pub(crate) fn broken(what: &str) -> Error {
    Error::new(Code::Unavailable, format!("exec: {what}: how the command ended is not known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(wire: &[u8], framed: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, to_stdout) = tokio::io::duplex(1 << 16);
        let (mut stderr, to_stderr) = tokio::io::duplex(1 << 16);
        let outputs = Outputs::new(Some(to_stdout), Some(to_stderr));
        match framed {
            true => read_framed(wire, outputs).await.unwrap(),
            false => read_plain(wire, outputs).await.unwrap(),
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stdout.read_to_end(&mut out).await.unwrap();
        stderr.read_to_end(&mut err).await.unwrap();
        (out, err)
    }

    #[tokio::test]
    async fn pieces_go_to_their_streams() {
        let wire = b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x02er\x01\0\0\0\0\0\0\x00\x01\0\0\0\0\0\0\x03two";
        assert_eq!(read(wire, true).await, (b"onetwo".to_vec(), b"er".to_vec()));
    }

    #[tokio::test]
    async fn a_terminal_may_say_anything() {
        let wire = b"\x01\x02\0\0\0\xff\xff\xffprompt";
        assert_eq!(read(wire, false).await, (wire.to_vec(), Vec::new()));
    }

    #[tokio::test]
    async fn s_m01_a_stream_that_breaks_off_or_lies_ends_there() {
        for wire in [&b"\x01\0\0"[..], b"\x01\0\0\0\xff\xff\xff\xffshort", b"\x09\0\0\0\0\0\0\x01x"] {
            let (out, _) = read(wire, true).await;
            assert!(out.len() <= 5);
        }
    }
}
