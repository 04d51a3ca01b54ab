use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use cri::channel;
use server::{Limits, ListenError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::exec::Client;
use crate::host::FakeHost;
use crate::http::{Local, Tcp, exchange};

async fn start(limits: Limits) -> Tcp {
    Tcp::start(server::read_only(Arc::new(FakeHost::default())), limits).await
}

#[tokio::test]
async fn s_g06_headers_are_bounded() {
    let server = start(Limits::PUBLIC).await;
    let mut stream = server.connect().await;
    let request = format!("GET /pods HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = [0; 32];
    // The rest of the request may make the kernel reset the connection before the answer is read.
    if let Ok(length @ 1..) = stream.read(&mut answer).await {
        assert!(answer[..length].starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }
    for number in 0..500 {
        let answer = server.get(&format!("/healthz/{number}?{number}={number}")).await;
        assert_eq!(answer.status, 404);
    }
    server.stop().await;
}

#[tokio::test]
async fn s_g06_a_client_that_sends_nothing_is_cut() {
    let server = start(Limits { header_read_timeout: Duration::from_millis(20), ..Limits::PUBLIC }).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /pods HT").await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    for stream in [&mut silent, &mut slow, &mut idle] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn s_g06_connections_are_bounded_and_wait_their_turn() {
    let server = Local::start_with(Arc::new(FakeHost::default()), Limits { connections: 1, ..Limits::LOCAL });
    let mut session = Client::open(&server, "command=cat&input=1&output=1").await;
    session.frame().await.unwrap();
    let stream = server.connect().await;
    let waiting = tokio::spawn(exchange(stream, "GET", "/healthz", ""));
    // Everything runs on this one thread: the server has had every chance to answer the second connection.
    for _ in 0..200 {
        session.send(channel::frame(channel::STDIN, b"x")).await;
        session.frame().await.unwrap();
    }
    assert!(!waiting.is_finished());
    drop(session);
    assert_eq!(waiting.await.unwrap().body, "ok");
}

#[tokio::test]
async fn connections_have_a_lifetime() {
    let short = Some(Duration::from_millis(20));
    let server = start(Limits { connection_lifetime: short, drain: Duration::ZERO, ..Limits::PUBLIC }).await;
    let mut idle = server.connect().await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = Local::start(Arc::new(FakeHost::default()));
    let body = format!(r#"{{"path":"/{}"}}"#, "x".repeat(2 << 20));
    let answer = server.send("POST", "/images/import", &body).await;
    assert_eq!(answer.status, 413);
    assert!(answer.message().contains("1048576 bytes"));
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_removes_the_socket() {
    let server = Local::start(Arc::new(FakeHost::default()));
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    drop(server.stop);
    server.served.await.unwrap();
    assert_eq!(idle.read(&mut answer).await.unwrap(), 0);
    assert!(!server.path.exists());
}

#[tokio::test]
async fn the_socket_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/kubelet.sock");
    let bound = server::bind_unix(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().mode() & 0o7777, 0o700);
    drop(bound);
    assert!(!path.exists());

    fs::set_permissions(dir.path().join("a/b"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(server::bind_unix(&path), Err(ListenError::OpenDirectory { .. })));
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubelet.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = server::bind_unix(&path).unwrap();
    assert!(matches!(server::bind_unix(&path), Err(ListenError::InUse { .. })));

    // A successor's socket at the same path is not the first one's to remove.
    fs::remove_file(&path).unwrap();
    let second = server::bind_unix(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);

    fs::write(&path, "precious").unwrap();
    assert!(matches!(server::bind_unix(&path), Err(ListenError::NotASocket { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(matches!(server::bind_unix(&path), Err(ListenError::NotASocket { .. })));

    let long = dir.path().join("x".repeat(200));
    assert!(matches!(server::bind_unix(&long), Err(ListenError::Unix { .. })));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = start(Limits::PUBLIC).await;
    let error = server::bind_tcp(server.address).await.unwrap_err().to_string();
    assert!(error.contains(&server.address.to_string()), "{error}");
    let stop = CancellationToken::new();
    stop.cancel();
    let bound = server::bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    server::serve(bound, server::healthz(Arc::new(FakeHost::default())), Limits::PUBLIC, stop).await;
}
