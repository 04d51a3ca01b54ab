//! The streams of a runtime that has given SPDY up, or sends its callers elsewhere.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cri::attach::Terms;
use cri::channel::{self, Outcome, PORT_DATA, PORT_ERROR, PROTOCOL_V4, PROTOCOL_V5};
use cri::client::{Client, Config, Endpoint};
use cri::{ExecSession, Runtime, v1};
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tonic::codegen::http;

/// What the streaming server does with those who want SPDY.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Refuses,
    Redirects,
}

/// A runtime that has nothing but streams.
struct Streams {
    client: Client,
    /// The paths that were asked for, with how.
    asked: Arc<Mutex<Vec<String>>>,
    _dir: std::path::PathBuf,
}

impl Drop for Streams {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self._dir).unwrap();
    }
}

async fn streams(name: &str, manner: Manner) -> Streams {
    let dir = std::env::temp_dir().join(format!("cri-streams-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("runtime.sock");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    tokio::spawn(calls(UnixListener::bind(&socket).unwrap(), port));
    tokio::spawn(connections(listener, (manner, Arc::clone(&asked))));
    let within = Duration::from_secs(30);
    let runtime = Endpoint::parse(socket.to_str().unwrap()).unwrap();
    let client = Client::new(&Config { runtime, images: None, call_within: within, pull_within: within });
    Streams { client, asked, _dir: dir }
}

/// Answers calls with addresses, each another one.
async fn calls(listener: UnixListener, port: u16) {
    let number = Arc::new(Mutex::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(call_connection(stream, (port, Arc::clone(&number))));
    }
}

async fn call_connection(stream: UnixStream, (port, number): (u16, Arc<Mutex<u32>>)) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let name = request.uri().path().rsplit('/').next().unwrap().to_lowercase();
        let token = {
            let mut number = number.lock().unwrap();
            *number += 1;
            *number
        };
        // All three answers have the address in their first field.
        let answer = v1::ExecResponse { url: format!("http://127.0.0.1:{port}/{name}/{token}") }.encode_to_vec();
        let mut body = vec![0];
        body.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
        body.extend(answer);
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut send = respond.send_response(head, false).unwrap();
        send.send_data(body.into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        send.send_trailers(trailers).unwrap();
    }
}

type Asked = Arc<Mutex<Vec<String>>>;

async fn connections(listener: TcpListener, (manner, asked): (Manner, Asked)) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, (manner, Arc::clone(&asked))));
    }
}

async fn connection(mut stream: TcpStream, (manner, asked): (Manner, Asked)) {
    let mut head = [0; 4096];
    let length = stream.peek(&mut head).await.unwrap();
    let text = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = text.split(' ').nth(1).unwrap().to_owned();
    let spdy = text.contains("SPDY/3.1");
    asked.lock().unwrap().push(format!("{} {path}", if spdy { "spdy" } else { "websocket" }));
    let refusal = match manner {
        Manner::Refuses if spdy => "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nno SPDY",
        Manner::Refuses => "",
        Manner::Redirects => "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    };
    if !refusal.is_empty() {
        stream.read_exact(&mut head[..length]).await.unwrap();
        stream.write_all(refusal.as_bytes()).await.unwrap();
        return;
    }
    let protocol = if path.starts_with("/exec/") { PROTOCOL_V5 } else { PROTOCOL_V4 };
    #[allow(clippy::result_large_err, reason = "the callback's type is not ours")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers()["sec-websocket-protocol"].to_str().unwrap();
        assert!(offered.split(", ").any(|offered| offered == protocol), "{offered}");
        response.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static(protocol));
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.unwrap();
    match path.split('/').nth(1).unwrap() {
        "exec" => exec(socket).await,
        "attach" => attach(socket).await,
        _ => port_forward(socket).await,
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn next(socket: &mut Socket) -> Option<(u8, Bytes)> {
    loop {
        match socket.next().await?.ok()? {
            Message::Binary(bytes) => return channel::split(bytes),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

async fn say(socket: &mut Socket, frame: Bytes) {
    socket.send(Message::Binary(frame)).await.unwrap();
}

/// A command that gives its input back, says something on stderr when it ends, and ends with 9.
async fn exec(mut socket: Socket) {
    loop {
        match next(&mut socket).await.unwrap() {
            (channel::STDIN, bytes) => say(&mut socket, channel::frame(channel::STDOUT, &bytes)).await,
            (channel::CLOSE, bytes) => {
                assert_eq!(&bytes[..], [channel::STDIN]);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    say(&mut socket, channel::frame(channel::STDERR, b"err\n")).await;
    say(&mut socket, Outcome::ExitCode { code: 9 }.to_frame("executing command in container")).await;
    socket.close(None).await.unwrap();
}

/// A container with a terminal that tells its size and then ends.
async fn attach(mut socket: Socket) {
    let (channel, size) = next(&mut socket).await.unwrap();
    assert_eq!(channel, channel::RESIZE);
    say(&mut socket, channel::frame(channel::STDOUT, &size)).await;
    say(&mut socket, Outcome::Success.to_frame("attaching to container")).await;
    socket.close(None).await.unwrap();
}

/// A port whose server gives everything back, until that is "fail".
async fn port_forward(mut socket: Socket) {
    for channel in [PORT_DATA, PORT_ERROR] {
        say(&mut socket, channel::frame(channel, &7_u16.to_le_bytes())).await;
    }
    while let Some((channel, bytes)) = next(&mut socket).await {
        assert_eq!(channel, PORT_DATA);
        if &bytes[..] == b"fail" {
            say(&mut socket, channel::frame(PORT_ERROR, b"error forwarding port 7")).await;
            socket.close(None).await.unwrap();
            return;
        }
        say(&mut socket, channel::frame(PORT_DATA, &bytes)).await;
    }
}

fn exec_request() -> v1::ExecRequest {
    let cmd = vec!["cat".into()];
    v1::ExecRequest { container_id: "c".into(), cmd, stdin: true, stdout: true, stderr: true, tty: false }
}

async fn all(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn where_spdy_is_refused_a_command_speaks_websocket() {
    let streams = streams("exec", Manner::Refuses).await;
    let session = streams.client.exec(exec_request(), None).await.unwrap();
    let ExecSession { stdin, stdout, stderr, exit, .. } = session;
    stdin.unwrap().write_all(b"there and back").await.unwrap();
    assert_eq!(exit.await.unwrap(), Ok(9));
    assert_eq!((all(stdout).await.as_str(), all(stderr).await.as_str()), ("there and back", "err\n"));
    // An address is good for one try.
    assert_eq!(*streams.asked.lock().unwrap(), ["spdy /exec/1", "websocket /exec/2"]);
}

#[tokio::test]
async fn where_spdy_is_refused_a_container_speaks_websocket() {
    let streams = streams("attach", Manner::Refuses).await;
    let request = v1::AttachRequest { container_id: "c".into(), stdin: true, stdout: true, stderr: false, tty: true };
    let session = streams.client.attach(request, Terms { window: Some((77, 33)), stdin_once: false }).await.unwrap();
    assert_eq!(session.exit.await.unwrap(), Ok(0));
    assert_eq!(all(session.stdout).await, r#"{"Width":77,"Height":33}"#);
    assert_eq!(*streams.asked.lock().unwrap(), ["spdy /attach/1", "websocket /attach/2"]);
}

#[tokio::test]
async fn where_spdy_is_refused_a_port_speaks_websocket() {
    let streams = streams("port", Manner::Refuses).await;
    let mut stream = streams.client.port_forward("s", 7).await.unwrap();
    stream.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
    stream.write_all(b"fail").await.unwrap();
    let error = stream.read(&mut back).await.unwrap_err();
    assert_eq!(error.to_string(), "error forwarding port 7");
    assert_eq!(*streams.asked.lock().unwrap(), ["spdy /portforward/1", "websocket /portforward/2"]);
}

#[tokio::test]
async fn s_f05_nobody_is_followed_elsewhere() {
    let streams = streams("elsewhere", Manner::Redirects).await;
    let error = streams.client.exec(exec_request(), None).await.err().unwrap();
    assert!(error.message.starts_with("exec: ") && error.message.contains("302"), "{error}");
    let error = streams.client.port_forward("s", 7).await.err().unwrap();
    assert!(error.message.starts_with("port_forward: ") && error.message.contains("302"), "{error}");
    let asked = streams.asked.lock().unwrap().clone();
    assert_eq!(asked, ["spdy /exec/1", "websocket /exec/2", "spdy /portforward/3", "websocket /portforward/4"]);
}
