//! A server for a test and the plainest client there is.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use server::{Host, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A router on a TCP port of its own, until dropped.
pub(crate) struct Tcp {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Tcp {
    pub(crate) async fn start(router: Router, limits: Limits) -> Self {
        let bound = server::bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::serve(bound, router, limits, stop.clone()));
        Self { address, stop, served }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str) -> Answer {
        exchange(self.connect().await, method, path, "").await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }
}

/// The local router on a socket in a directory of its own.
pub(crate) struct Local {
    pub(crate) path: PathBuf,
    pub(crate) stop: DropGuard,
    pub(crate) served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Local {
    pub(crate) fn start(host: Arc<dyn Host>) -> Self {
        Self::start_with(host, Limits::LOCAL)
    }

    pub(crate) fn start_with(host: Arc<dyn Host>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/kubelet.sock");
        let bound = server::bind_unix(&path).unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::serve(bound, server::local(host), limits, stop.clone()));
        Self { path, stop: stop.drop_guard(), served, _dir: dir }
    }

    pub(crate) async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        exchange(self.connect().await, method, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// What an error of the local socket says.
    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

/// HTTP/1.0, so that the answer ends with the connection and nothing is chunked.
pub(crate) async fn exchange<S>(mut stream: S, method: &str, path: &str, body: &str) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses a large body may have closed already.
    let _ = stream.write_all(body.as_bytes()).await;
    parse(&mut stream).await
}

pub(crate) async fn parse(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Answer {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}
