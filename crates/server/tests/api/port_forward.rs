use bytes::Bytes;
use cri::ByteStream;
use cri::channel::{self, PROTOCOL_V4, PROTOCOL_V5};
use server::HostError;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Error;

use crate::exec::{Client, server};
use crate::http::Local;

/// The servers of the pod `p`.
pub(crate) fn connect(sandbox: &str, port: u16) -> Result<Box<dyn ByteStream>, HostError> {
    assert_eq!(sandbox, "s1");
    let (theirs, ours) = tokio::io::duplex(4096);
    match port {
        // Gives everything back, and then its length.
        7 => tokio::spawn(echo(ours)),
        // Speaks first and hangs up.
        13 => tokio::spawn(async move {
            let mut ours = ours;
            ours.write_all(b"noon").await.unwrap();
        }),
        // Never reads and never ends.
        9 => tokio::spawn(async move {
            let _open = ours;
            std::future::pending().await
        }),
        _ => return Err(cri::Error::failed_precondition("connection refused").into()),
    };
    Ok(Box::new(theirs))
}

async fn echo(stream: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(stream);
    let length = tokio::io::copy(&mut from, &mut to).await.unwrap();
    to.write_all(length.to_string().as_bytes()).await.unwrap();
    to.shutdown().await.unwrap();
    // As TCP does it: who has said all still listens.
    let _heard = from.read(&mut [0]).await;
}

async fn open(server: &Local, query: &str, protocol: &str) -> Client {
    Client::try_ask(server, &format!("/portForward/ns/p?{query}"), protocol).await.unwrap()
}

fn frame(channel: u8, text: &str) -> Option<(u8, Bytes)> {
    Some((channel, Bytes::copy_from_slice(text.as_bytes())))
}

#[tokio::test]
async fn s_f07_bytes_go_both_ways_and_each_way_ends_for_itself() {
    let server = server();
    let mut client = open(&server, "port=7", PROTOCOL_V5).await;
    for channel in [0, 1] {
        assert_eq!(client.frame().await, frame(channel, "\u{7}\0"));
    }
    client.send(channel::frame(0, b"there and back")).await;
    assert_eq!(client.frame().await, frame(0, "there and back"));
    client.send(channel::frame(channel::CLOSE, &[0])).await;
    assert_eq!(client.frame().await, frame(0, "14"));
    for ended in [0, 1] {
        assert_eq!(client.frame().await, Some((channel::CLOSE, Bytes::copy_from_slice(&[ended]))));
    }
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn s_f07_ports_of_one_session_do_not_stand_in_each_others_way() {
    let server = server();
    let mut client = open(&server, "port=9&port=13,81&port=7", PROTOCOL_V4).await;
    client.send(channel::frame(6, b"x")).await;
    let (mut noon, mut refused, mut echoed, mut greeted) = (String::new(), String::new(), String::new(), Vec::new());
    while noon != "noon" || refused.is_empty() || echoed.is_empty() {
        let (channel, bytes) = client.frame().await.unwrap();
        if !greeted.contains(&channel) {
            let port = [9, 13, 81, 7][usize::from(channel / 2)];
            assert_eq!(bytes[..], u16::to_le_bytes(port), "channel {channel}");
            greeted.push(channel);
            continue;
        }
        let text = std::str::from_utf8(&bytes).unwrap();
        match channel {
            2 => noon += text,
            5 => refused += text,
            6 => echoed += text,
            other => panic!("channel {other}: {text}"),
        }
    }
    assert_eq!(refused, "error forwarding port 81 to pod s1, uid : connection refused");
    assert_eq!(echoed, "x");
    assert_eq!(greeted.len(), 8);
}

#[tokio::test]
async fn s_f07_what_cannot_be_forwarded_is_refused_before_the_upgrade() {
    let server = server();
    for (path, protocol, status, part) in [
        ("/portForward/ns/none?port=80", PROTOCOL_V5, 404, "pod \\\"none\\\" not found"),
        ("/portForward/ns/p", PROTOCOL_V5, 400, "is required"),
        ("/portForward/ns/p?port=0", PROTOCOL_V5, 400, "must be > 0"),
        ("/portForward/ns/p?port=80", "portforward.k8s.io", 400, "v5.channel.k8s.io"),
    ] {
        let Err(Error::Http(answer)) = Client::try_ask(&server, path, protocol).await else { panic!("{path}") };
        assert_eq!(answer.status(), status, "{path}");
        let body = String::from_utf8(answer.into_body().unwrap_or_default()).unwrap();
        assert!(body.contains(part), "{path}: {body}");
    }
}

#[tokio::test]
async fn stopping_the_server_ends_connections() {
    let server = server();
    let mut client = Client::try_ask(&server, "/portForward/ns/p?port=9", PROTOCOL_V5).await.unwrap();
    client.frame().await.unwrap();
    drop(server.stop);
    while client.frame().await.is_some() {}
    server.served.await.unwrap();
}
