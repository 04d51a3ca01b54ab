//! Registries that misbehave: each fault ends in an error that names it, and its harmless twin works.

use super::super::testing::{Answering, IMPATIENT, IsRight, PATIENT, Reply, Server, content, read, registry, session};
use crate::Digest;
use crate::registry::RegistryError;
use crate::registry::endpoint::Endpoint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn chunked(pieces: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}"))
}

type Fault = (&'static str, Answering, IsRight);

const STALLS: &[Fault] = &[
    ("no answer", |_| Reply::raw("").hang(), stalled),
    ("half a head", |_| Reply::raw("HTTP/1.1 200 OK\r\nX").hang(), stalled),
    ("a head, a byte at a time", |_| Reply::raw("HTTP/1.1 200 OK\r\nX: ").trickle(), stalled),
    ("a body that stops", |_| Reply::beginning(9, "{").hang(), stalled),
    ("a body, a byte at a time", |_| Reply::beginning(1 << 20, "{").trickle(), stalled),
];

const FAULTS: &[Fault] = &[
    ("a body without end", |_| Reply::beginning(usize::MAX >> 1, "{").flood(), too_large),
    ("chunks without end", |_| chunked("ffffffff\r\n").flood(), too_large),
    ("chunks of junk", |_| chunked("zz\r\n{}\r\n0\r\n\r\n"), broken),
    ("a length that is too long", |_| Reply::beginning(3, "{}"), broken),
    ("no HTTP", |_| Reply::raw("SSH-2.0-OpenSSH_9\r\n\r\n"), broken),
    ("a closed connection", |_| Reply::raw(""), broken),
    ("a head of 10 MiB", |_| Reply::raw(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(10 << 20))), broken),
    ("10000 headers", |_| Reply::raw(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(10_000))), broken),
    ("a web page", |_| Reply::new(200, "Content-Type: text/html; charset=utf-8\r\n", "<html>"), odd),
    ("something compressed", |_| Reply::new(200, "Content-Encoding: gzip\r\n", "{}"), odd),
    ("no content", |_| Reply::new(204, "", ""), odd),
    ("a part", |_| Reply::new(206, "Content-Range: bytes 0-1/9\r\n", "{}"), odd),
    ("a redirect to nowhere", |_| Reply::new(302, "", ""), |e| matches!(e, RegistryError::Redirect { .. })),
    (
        "404",
        |_| Reply::new(404, "", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"geheim"}]}"#),
        |e| matches!(e, RegistryError::NotFound { .. }) && e.is_refusal() && e.to_string().contains("MANIFEST_UNKNOWN"),
    ),
    ("403", |_| Reply::new(403, "", "<html>"), |e| matches!(e, RegistryError::Unauthorized { .. }) && e.is_refusal()),
    ("418", |_| Reply::new(418, "", "x"), |e| is_status(e, 418) && !e.is_unavailable()),
    ("500 for ever", |_| Reply::new(500, "", ""), |e| is_status(e, 500) && e.is_unavailable()),
    (
        "429 for an hour",
        |_| Reply::new(429, "Retry-After: 3600\r\n", ""),
        |e| is_status(e, 429) && e.to_string().contains("3600 s"),
    ),
    (
        "an endless error",
        |_| Reply::raw("HTTP/1.1 404 No\r\nContent-Length: 99999999999\r\n\r\n").flood(),
        |e| matches!(e, RegistryError::NotFound { .. }),
    ),
    ("a challenge of an unknown kind", |_| Reply::challenge("Negotiate"), unauthorized),
    ("a challenge without sense", |_| Reply::challenge("\"=,;"), unauthorized),
    ("a challenge without a challenge", |_| Reply::new(401, "", ""), unauthorized),
    (
        "a digest that is not its own",
        |_| Reply::new(200, &wrong_digest(), "{}"),
        |e| matches!(e, RegistryError::Mismatch { .. }),
    ),
];

fn stalled(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Stalled { .. }) && error.is_unavailable()
}

fn too_large(error: &RegistryError) -> bool {
    matches!(error, RegistryError::TooLarge { limit, .. } if *limit == 4 << 20)
}

fn broken(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Broken { .. })
}

fn odd(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Protocol { .. })
}

fn unauthorized(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Unauthorized { .. })
}

fn is_status(error: &RegistryError, wanted: u16) -> bool {
    matches!(error, RegistryError::Status { status, .. } if *status == wanted)
}

fn wrong_digest() -> String {
    format!("Docker-Content-Digest: {}\r\n", Digest::of(b"something else"))
}

/// A manifest that is answered as `fault` says, by a server that is known to speak plain http.
async fn ask(fault: Answering, progress_within: Duration) -> Result<(), RegistryError> {
    let server = Server::start(fault).await;
    let registry = registry(None, progress_within);
    // Told, not found out: who has little patience may be too late for that already.
    registry.shared.note_plain(&Endpoint::of(&server.host()).unwrap());
    session(&registry, &server, None).manifest().await.map(drop)
}

#[tokio::test]
async fn s_b24_each_fault_has_its_error() {
    let tables = [(STALLS, IMPATIENT), (FAULTS, PATIENT)];
    let faults = tables.into_iter().flat_map(|(table, within)| table.iter().map(move |fault| (fault, within)));
    for ((name, fault, is_right), progress_within) in faults {
        let error = ask(*fault, progress_within).await.expect_err(name);
        assert!(is_right(&error), "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:") && text.len() < 600, "{name}: {text}");
    }
}

#[tokio::test]
async fn s_b24_twins_work() {
    let twins: &[(&str, Answering)] = &[
        ("chunks", |_| chunked("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")),
        ("until the connection ends", |_| Reply::raw("HTTP/1.1 200 OK\r\n\r\n{}")),
        ("another type", |_| Reply::new(200, "Content-Type: text/plain\r\n", "{}")),
        ("identity", |_| Reply::new(200, "Content-Encoding: identity\r\n", "{}")),
        ("99 headers less", |_| Reply::new(200, &"X: y\r\n".repeat(50), "{}")),
        ("a digest", |_| Reply::new(200, &format!("Docker-Content-Digest: {}\r\n", Digest::of(b"{}")), "{}")),
        ("4 MiB", |_| Reply::ok(vec![b' '; 4 << 20])),
    ];
    for (name, twin) in twins {
        ask(*twin, PATIENT).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn s_b24_passing_trouble_is_waited_for_and_counted() {
    for (status, headers, failures, asked, serves) in [
        (500, "", 1, 2, true),
        (502, "", 2, 3, true),
        (504, "", 3, 3, false),
        (503, "Retry-After: 0\r\n", 2, 3, true),
        (503, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", 1, 2, true),
        (429, "Retry-After: 0\r\n", 3, 3, false),
        (429, "Retry-After: 31\r\n", 1, 1, false),
        (501, "", 1, 1, false),
    ] {
        let count = AtomicUsize::new(0);
        let server = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) < failures {
            true => Reply::new(status, headers, ""),
            false => Reply::ok("{}"),
        })
        .await;
        let registry = registry(None, PATIENT);
        let end = session(&registry, &server, None).manifest().await;
        assert_eq!(
            (end.is_ok(), server.seen().len()),
            (serves, asked),
            "{status} {headers:?} {failures} times: {end:?}"
        );
    }
}

#[tokio::test]
async fn s_b24_a_manifest_that_is_not_what_was_asked_for_is_refused() {
    let server = Server::start(|_| Reply::ok("{}")).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    let digest = Digest::of(b"{}");
    session.manifest_at(&digest, 2).await.unwrap();
    for (digest, size, what) in [(Digest::of(b"{ }"), 2, "digest"), (digest.clone(), 3, "size"), (digest, 0, "size")] {
        let error = session.manifest_at(&digest, size).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Mismatch { what: found, .. } if found.contains(what)), "{error:?}");
    }
}

#[tokio::test]
async fn s_b24_an_encoding_that_nobody_asked_for_is_part_of_a_blob() {
    let blob = content(5000);
    let sent = blob.clone();
    let server = Server::start(move |_| Reply::new(200, "Content-Encoding: gzip\r\n", &sent)).await;
    let registry = registry(None, PATIENT);
    assert_eq!(read(&session(&registry, &server, None), &blob).await.unwrap(), blob);
    assert_eq!(server.seen().last().unwrap().header("accept-encoding"), Some("identity"));
}
