//! Blobs whose connections break.

use super::super::testing::{
    Giving, IMPATIENT, IsRight, PATIENT, Reply, Server, content, read, registry, session, write_hosts,
};
use crate::Digest;
use crate::registry::RegistryError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LEN: usize = 300_000;
/// Given before a connection breaks.
const PIECE: usize = 100_000;

/// An answer to who asked for a blob from a byte on.
type Lie = fn(&[u8], usize) -> Reply;

/// A blob that never comes: its name, how it is given, and which error tells of it.
type Never = (&'static str, Giving, IsRight);

fn range_reply(blob: &[u8], from: usize, to: usize) -> Reply {
    let range = format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, blob.len());
    Reply::new(206, &range, &blob[from..to])
}

/// A server that breaks off after `PIECE` bytes of each answer, which begins where `from` says.
async fn breaking(answer: Giving) -> Server {
    let blob = content(LEN);
    Server::start(move |seen| answer(&blob, seen)).await
}

#[tokio::test]
async fn s_b24_a_broken_blob_is_resumed() {
    let cases: &[(&str, Giving)] = &[
        ("range kept", |blob, seen| match seen.range() {
            None => Reply::beginning(LEN, &blob[..PIECE]),
            Some(from) => range_reply(blob, from, LEN),
        }),
        ("range without total", |blob, seen| match seen.range() {
            None => Reply::beginning(LEN, &blob[..PIECE]),
            Some(from) => Reply::new(206, &format!("Content-Range: bytes {from}-{}/*\r\n", LEN - 1), &blob[from..]),
        }),
        ("range cut short", |blob, seen| match seen.range() {
            None => Reply::beginning(LEN, &blob[..PIECE]),
            Some(from) => range_reply(blob, from, (from + PIECE / 2).min(LEN)),
        }),
        ("range ignored", |blob, seen| match seen.range() {
            None => Reply::beginning(LEN, &blob[..PIECE]),
            Some(_) => Reply::ok(blob),
        }),
        ("each piece another connection", |blob, seen| {
            let from = seen.range().unwrap_or(0);
            let head = match seen.range() {
                None => format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"),
                Some(_) => format!(
                    "HTTP/1.1 206 Part\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{LEN}\r\n\r\n",
                    LEN - from,
                    LEN - 1
                ),
            };
            Reply::raw([head.as_bytes(), &blob[from..(from + 20_000).min(LEN)]].concat())
        }),
        ("a connection that stalls", |blob, seen| match seen.range() {
            None => Reply::beginning(LEN, &blob[..PIECE]).hang(),
            Some(from) => range_reply(blob, from, LEN),
        }),
    ];
    for (name, answer) in cases {
        let server = breaking(*answer).await;
        let stalls = *name == "a connection that stalls";
        let registry = registry(None, if stalls { Duration::from_secs(2) } else { PATIENT });
        let session = session(&registry, &server, None);
        let got = read(&session, &content(LEN)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Digest::of(&got), Digest::of(&content(LEN)), "{name}");
    }
}

#[tokio::test]
async fn s_b24_a_range_that_is_not_the_one_asked_for_is_not_used() {
    let lies: &[(&str, Lie)] = &[
        ("another beginning", |blob, _| range_reply(blob, 0, LEN)),
        ("later", |blob, from| range_reply(blob, from + 1, LEN)),
        ("another total", |blob, from| {
            Reply::new(206, &format!("Content-Range: bytes {from}-{}/{}\r\n", LEN - 1, LEN + 1), &blob[from..])
        }),
        ("none", |blob, from| Reply::new(206, "", &blob[from..])),
        ("no sense", |blob, from| Reply::new(206, "Content-Range: bytes x-y/z\r\n", &blob[from..])),
    ];
    for (name, lie) in lies {
        let (blob, lie, firsts) = (content(LEN), *lie, AtomicUsize::new(0));
        let server = Server::start(move |seen| match seen.range() {
            Some(from) => lie(&blob, from),
            None if firsts.fetch_add(1, Ordering::Relaxed) == 0 => Reply::beginning(LEN, &blob[..PIECE]),
            None => Reply::ok(&blob),
        })
        .await;
        let registry = registry(None, PATIENT);
        let got = read(&session(&registry, &server, None), &content(LEN)).await;
        assert_eq!(got.unwrap_or_else(|error| panic!("{name}: {error}")), content(LEN), "{name}");
        assert_eq!(server.seen().len(), 3, "{name}: the beginning, the lie, the whole");
    }
}

#[tokio::test]
async fn s_b24_a_blob_that_never_comes_ends() {
    // Connections are counted after the first of each, which gave something.
    let stalls: &[Never] = &[
        (
            "stalled for ever",
            |blob, _| Reply::beginning(LEN, &blob[..PIECE]).hang(),
            |e| matches!(e, RegistryError::Stalled { .. }),
        ),
        (
            "a byte at a time",
            |blob, _| Reply::beginning(LEN, &blob[..PIECE]).trickle(),
            |e| matches!(e, RegistryError::Stalled { .. }),
        ),
    ];
    let cases: &[Never] = &[
        (
            "broken for ever",
            |blob, _| Reply::beginning(LEN, &blob[..PIECE]),
            |e| matches!(e, RegistryError::Broken { .. }),
        ),
        (
            "a byte a connection",
            |blob, seen| match seen.range() {
                None => Reply::beginning(LEN, &blob[..1]),
                Some(from) => {
                    let range = format!("Content-Range: bytes {from}-{}/{LEN}\r\n", LEN - 1);
                    let head = format!("HTTP/1.1 206 Part\r\nContent-Length: {}\r\n{range}\r\n", LEN - from);
                    Reply::raw([head.as_bytes(), &blob[from..=from]].concat())
                }
            },
            |e| matches!(e, RegistryError::Broken { .. }),
        ),
        (
            "another size",
            |blob, _| Reply::ok(&blob[..PIECE]),
            |e| matches!(e, RegistryError::Mismatch { expected, .. } if *expected == LEN.to_string()),
        ),
        (
            "more than its size",
            |blob, _| Reply::raw([&b"HTTP/1.1 200 OK\r\n\r\n"[..], blob, b"more"].concat()),
            |e| matches!(e, RegistryError::TooLarge { .. }),
        ),
        (
            "without end",
            |_, _| Reply::raw("HTTP/1.1 200 OK\r\n\r\n").flood(),
            |e| matches!(e, RegistryError::TooLarge { .. }),
        ),
        ("nothing", |_, _| Reply::new(204, "", ""), |e| matches!(e, RegistryError::Protocol { .. })),
        (
            "a web page",
            |_, _| Reply::new(200, "Content-Type: text/html\r\n", "<html>"),
            |e| matches!(e, RegistryError::Protocol { .. }),
        ),
        ("not there", |_, _| Reply::new(404, "", ""), |e| matches!(e, RegistryError::NotFound { .. })),
    ];
    let tables = [(stalls, IMPATIENT), (cases, PATIENT)];
    let cases = tables.into_iter().flat_map(|(table, within)| table.iter().map(move |case| (case, within)));
    for ((name, answer, is_right), progress_within) in cases {
        let server = breaking(*answer).await;
        let registry = registry(None, progress_within);
        let error = read(&session(&registry, &server, None), &content(LEN)).await.expect_err(name);
        assert!(is_right(&error), "{name}: {error:?}");
        assert!(server.seen().len() <= 8, "{name}: asked {} times", server.seen().len());
    }
}

#[tokio::test]
async fn never_more_than_its_size_is_given() {
    let server = breaking(|blob, _| Reply::raw([&b"HTTP/1.1 200 OK\r\n\r\n"[..], blob, b"more"].concat())).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    let mut blob = session.blob(&Digest::of(b""), LEN as u64).await.unwrap();
    let mut given = 0;
    while let Ok(Some(bytes)) = blob.next().await {
        given += bytes.len();
    }
    assert!(given <= LEN, "{given}");
}

#[tokio::test]
async fn s_b24_the_next_host_goes_on_where_one_gave_up() {
    let blob = content(LEN);
    let (first, rest) = (blob.clone(), blob.clone());
    let mirror = Server::start(move |seen| match seen.range() {
        None => Reply::beginning(LEN, &first[..PIECE]),
        Some(_) => Reply::raw(""),
    })
    .await;
    let server = Server::start(move |seen| match seen.range() {
        Some(from) => range_reply(&rest, from, LEN),
        None => Reply::new(500, "", ""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", server.host(), mirror.host());
    write_hosts(dir.path(), &server, &text);
    let registry = registry(Some(dir.path()), PATIENT);
    assert_eq!(read(&session(&registry, &server, None), &blob).await.unwrap(), blob);
    assert_eq!(server.seen()[0].range(), Some(PIECE));
}

#[tokio::test]
async fn s_b24_a_registry_that_started_anew_goes_on() {
    let blob = content(LEN);
    let (begun, rest) = (blob.clone(), blob.clone());
    let first = Server::start(move |_| Reply::beginning(LEN, &begun[..PIECE])).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &first, None);
    let mut stream = session.blob(&Digest::of(&blob), LEN as u64).await.unwrap();
    let mut got = Vec::new();
    while got.len() < PIECE {
        got.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    let port = first.stop().await;
    let again = Server::start_at(port, move |seen| range_reply(&rest, seen.range().unwrap(), LEN)).await;
    while let Some(bytes) = stream.next().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert_eq!(again.seen()[0].range(), Some(PIECE));
    assert_eq!(Digest::of(&got), Digest::of(&blob));
}

#[tokio::test]
async fn s_b24_a_registry_that_stays_away_is_told() {
    let blob = content(LEN);
    let server = Server::start(move |_| Reply::beginning(LEN, &blob[..PIECE])).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    let mut stream = session.blob(&Digest::of(b""), LEN as u64).await.unwrap();
    server.stop().await;
    let error = loop {
        match stream.next().await {
            Ok(bytes) => assert!(bytes.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RegistryError::Connect { .. }), "{error:?}");
}
