//! Where a redirect leads, and what goes along.

use super::super::testing::{PATIENT, Reply, Server, basic, content, read, registry, session};
use crate::registry::RegistryError;
use crate::registry::endpoint::redirected;
use std::sync::{Arc, OnceLock};
use url::Url;

const BASIC: &str = "Basic bmFtZTpnZWhlaW0="; // name:geheim

/// Wants `name:geheim`, and sends whoever has it to `to`.
fn behind_basic(to: String) -> impl Fn(&super::testing::Seen) -> Reply + Send + Sync {
    move |seen| match seen.authorization() {
        Some(BASIC) if seen.target.contains("/blobs/") => Reply::redirect(&to),
        Some(BASIC) => Reply::ok("{}"),
        Some(_) | None => Reply::challenge("Basic realm=\"x\""),
    }
}

#[tokio::test]
async fn s_b22_no_credential_follows_a_redirect_to_another_host() {
    let blob = content(3000);
    let sent = blob.clone();
    let storage = Server::start(move |_| Reply::ok(&sent)).await;
    let registry_server = Server::start(behind_basic(format!("http://{}/data?signature=abc", storage.host()))).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &registry_server, basic("name", "geheim"));
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    let seen = storage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/data?signature=abc", "the signature stays, and nothing is added");
    assert_eq!(seen[0].authorization(), None);
}

#[tokio::test]
async fn s_b22_twin_a_redirect_within_the_host_keeps_the_credential() {
    let blob = content(3000);
    let sent = blob.clone();
    let server = Server::start(move |seen| match (seen.authorization(), seen.target.as_str()) {
        (Some(BASIC), "/store/x") => Reply::ok(&sent),
        (Some(BASIC), _) => Reply::redirect("/store/x"),
        _ => Reply::challenge("Basic realm=\"x\""),
    })
    .await;
    let registry = registry(None, PATIENT);
    assert_eq!(read(&session(&registry, &server, basic("name", "geheim")), &blob).await.unwrap(), blob);
}

#[tokio::test]
async fn s_b22_a_credential_does_not_come_back_with_a_redirect_that_left() {
    let ports = Arc::new(OnceLock::<(u16, u16)>::new());
    let known = ports.clone();
    let home = Server::start(move |seen| match (seen.target.as_str(), seen.authorization()) {
        ("/chosen-by-others", _) => Reply::ok("{}"),
        (_, Some(_)) => Reply::redirect(&format!("http://127.0.0.1:{}/", known.get().unwrap().1)),
        (_, None) => Reply::challenge("Basic realm=\"x\""),
    })
    .await;
    let known = ports.clone();
    let other = Server::start(move |_| {
        Reply::redirect(&format!("http://127.0.0.1:{}/chosen-by-others", known.get().unwrap().0))
    })
    .await;
    ports.set((home.port, other.port)).unwrap();
    let registry = registry(None, PATIENT);
    session(&registry, &home, basic("name", "geheim")).manifest().await.unwrap();
    let [there] = &other.seen()[..] else { panic!("{:?}", other.seen()) };
    let [back] = &home.seen_of("chosen")[..] else { panic!("{:?}", home.seen()) };
    assert_eq!((there.authorization(), back.authorization()), (None, None));
}

#[tokio::test]
async fn s_b22_redirects_have_an_end() {
    for (hops, reaches) in [(10, true), (11, false), (usize::MAX, false)] {
        let server = Server::start(move |seen| {
            let at: usize = seen.target.strip_prefix("/hop").and_then(|n| n.parse().ok()).unwrap_or(0);
            if at == hops { Reply::ok("{}") } else { Reply::redirect(&format!("/hop{}", at + 1)) }
        })
        .await;
        let registry = registry(None, PATIENT);
        let end = session(&registry, &server, None).manifest().await;
        match end {
            Ok(_) => assert!(reaches, "{hops} redirects were followed"),
            Err(error) => {
                assert!(!reaches, "{hops}: {error}");
                assert!(matches!(error, RegistryError::Redirect { .. }) && error.to_string().contains("10"), "{error}");
            }
        }
    }
}

#[test]
fn s_b22_where_a_redirect_may_lead() {
    let home = Url::parse("https://reg.example/v2/x").unwrap();
    let plain = Url::parse("http://reg.example/v2/x").unwrap();
    let local = Url::parse("http://169.254.7.7:5000/v2/x").unwrap();
    for (from, to, end) in [
        (&home, "/other", "https://reg.example/other"),
        (&home, "y?z=1", "https://reg.example/v2/y?z=1"),
        (&home, "https://cdn.example/y#part", "https://cdn.example/y"),
        (&home, "//cdn.example/y", "https://cdn.example/y"),
        (&plain, "https://cdn.example/y", "https://cdn.example/y"),
        (&plain, "http://cdn.example/y", "http://cdn.example/y"),
        (&local, "http://169.254.7.7:5001/y", "http://169.254.7.7:5001/y"),
    ] {
        assert_eq!(redirected(from, to).unwrap().as_str(), end, "{to}");
    }
    for (from, to) in [
        (&home, "http://reg.example/other"),
        (&home, "http://cdn.example/y"),
        (&home, "file:///etc/shadow"),
        (&home, "ftp://cdn.example/y"),
        (&home, "data:text/plain,x"),
        (&home, "https://user:secret@cdn.example/y"),
        (&home, "https://user@cdn.example/y"),
        (&home, "https://"),
        (&plain, "http://169.254.169.254/latest/meta-data"),
        (&plain, "http://2852039166/latest"),
        (&plain, "http://0xA9FEA9FE/latest"),
        (&plain, "http://[::ffff:169.254.169.254]/latest"),
        (&plain, "http://[fe80::1]/"),
        (&plain, "http://[fd00:ec2::254]/latest"),
        (&plain, "http://100.100.100.200/"),
        (&plain, "http://metadata.google.internal/"),
        (&plain, "http://METADATA.google.internal./"),
    ] {
        let refused = redirected(from, to).expect_err(to);
        assert!(!refused.contains("user:") && !refused.contains("secret@"), "{refused}");
    }
}
