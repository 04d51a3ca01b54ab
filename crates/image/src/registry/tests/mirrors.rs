//! Mirrors: in order, with what they may be asked for, and without those that are dead.

use super::super::testing::{PATIENT, Reply, Server, content, dead_port, read, registry, session, write_hosts};
use crate::registry::RegistryError;
use crate::{Digest, Reference};
use std::fs;
use std::time::Duration;

async fn serving(body: &'static str) -> Server {
    Server::start(move |_| Reply::ok(body)).await
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_told_for_whom() {
    let (first, second, server) = (
        Server::start(|_| Reply::new(404, "", "")).await,
        serving("from the second").await,
        serving("from the registry").await,
    );
    let dir = tempfile::tempdir().unwrap();
    // In the order of the file, which is not that of the alphabet for one of the two ways to write it.
    for (a, b) in [(&first, &second), (&second, &first)] {
        let text = format!("[host.\"http://{}\"]\n[host.\"http://{}/sub\"]\n", a.host(), b.host());
        write_hosts(dir.path(), &server, &text);
        let registry = registry(Some(dir.path()), PATIENT);
        let found = session(&registry, &server, None).manifest().await.unwrap();
        assert_eq!(&found.bytes[..], b"from the second");
    }
    let seen: Vec<_> = second.seen().into_iter().map(|seen| seen.target).collect();
    let ns = server.host().replace(':', "%3A");
    assert_eq!(
        seen,
        [format!("/sub/v2/app/manifests/v1?ns={ns}"), format!("/v2/app/manifests/v1?ns={ns}")],
        "the one that has it is asked second at first, and then first"
    );
    assert_eq!(first.seen().len(), 1);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn the_registry_itself_is_asked_last_and_tells_all_errors() {
    let (mirror, server) = (
        Server::start(|_| Reply::new(403, "", "")).await,
        Server::start(|seen| match seen.target.contains("v1") {
            true => Reply::ok("{}"),
            false => Reply::new(404, "", ""),
        })
        .await,
    );
    let dir = tempfile::tempdir().unwrap();
    write_hosts(
        dir.path(),
        &server,
        &format!("server = \"http://{}\"\n[host.\"http://{}\"]", server.host(), mirror.host()),
    );
    let registry = registry(Some(dir.path()), PATIENT);
    session(&registry, &server, None).manifest().await.unwrap();
    assert_eq!(server.seen()[0].target, "/v2/app/manifests/v1", "the registry itself needs not be told for whom");
    let missing = Reference::parse(&format!("{}/app:none", server.host())).unwrap();
    let error = registry.session(&missing, None).unwrap().manifest().await.unwrap_err();
    let RegistryError::AllHosts { tried } = &error else { panic!("{error:?}") };
    assert!(matches!(tried[..], [RegistryError::Unauthorized { .. }, RegistryError::NotFound { .. }]), "{error:?}");
    assert!(error.is_refusal() && error.to_string().contains(&mirror.host()), "{error}");
}

#[tokio::test]
async fn a_mirror_that_does_not_answer_is_left_alone_for_a_while() {
    let silent = Server::start(|_| Reply::raw("").hang()).await;
    let server = serving("{}").await;
    let dir = tempfile::tempdir().unwrap();
    let (_held, nobody) = dead_port();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://127.0.0.1:{nobody}\"]\n[host.\"http://{}\"]",
        server.host(),
        silent.host()
    );
    write_hosts(dir.path(), &server, &text);
    // For the one that answers as well.
    let registry = registry(Some(dir.path()), Duration::from_secs(2));
    for _ in 0..3 {
        session(&registry, &server, None).manifest().await.unwrap();
    }
    assert_eq!((silent.seen().len(), server.seen().len()), (1, 3));
}

#[tokio::test]
async fn a_mirror_that_cannot_serve_is_left_alone_for_a_while() {
    let blob = content(100);
    // An answer that tells of a passing trouble is asked for twice more.
    for (status, asked) in [(502, 3), (500, 3), (501, 1), (404, 4), (403, 4)] {
        let mirror = Server::start(move |_| Reply::new(status, "", "")).await;
        let server = Server::start(|seen| match seen.target.contains("/blobs/") {
            true => Reply::ok(content(100)),
            false => Reply::ok("{}"),
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]", server.host(), mirror.host());
        write_hosts(dir.path(), &server, &text);
        let registry = registry(Some(dir.path()), PATIENT);
        for _ in 0..2 {
            let session = session(&registry, &server, None);
            session.manifest().await.unwrap();
            assert_eq!(read(&session, &blob).await.unwrap(), blob);
        }
        assert_eq!((mirror.seen().len(), server.seen().len()), (asked, 4), "{status}");
    }
}

#[tokio::test]
async fn what_a_host_is_not_capable_of_is_not_asked_of_it() {
    let blob = content(100);
    let (tags, contents) = (serving("{}").await, Server::start(|_| Reply::ok(content(100))).await);
    let server = Server::start(|_| Reply::new(500, "", "")).await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"resolve\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]",
        server.host(),
        tags.host(),
        contents.host(),
    );
    write_hosts(dir.path(), &server, &text);
    let registry = registry(Some(dir.path()), PATIENT);
    let session = session(&registry, &server, None);
    assert_eq!(session.digest().await.unwrap(), Digest::of(b"{}"));
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    assert!(tags.seen().iter().all(|seen| seen.target.contains("/manifests/v1")));
    assert!(contents.seen().iter().all(|seen| seen.target.contains("sha256:")));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_tag_that_one_host_knows_is_content_of_another() {
    let digest = Digest::of(b"{}");
    let told = format!("Docker-Content-Digest: {digest}\r\n");
    let tags = Server::start(move |_| Reply::new(200, &told, "{}")).await;
    let server = serving("{}").await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"resolve\"]",
        server.host(),
        tags.host()
    );
    write_hosts(dir.path(), &server, &text);
    let registry = registry(Some(dir.path()), PATIENT);
    assert_eq!(session(&registry, &server, None).manifest().await.unwrap().digest, digest);
    assert!(tags.seen().iter().all(|seen| seen.method == "HEAD"));
    assert!(server.seen()[0].target.ends_with(digest.as_str()));
}

#[tokio::test]
async fn an_edit_of_hosts_toml_needs_no_restart() {
    let (mirror, server) = (serving("mirror").await, serving("registry").await);
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(Some(dir.path()), PATIENT);
    let ask = async || session(&registry, &server, None).manifest().await.unwrap().bytes;
    assert_eq!(&ask().await[..], b"registry");
    write_hosts(dir.path(), &server, &format!("[host.\"http://{}\"]", mirror.host()));
    assert_eq!(&ask().await[..], b"mirror");
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(&ask().await[..], b"registry");
}

#[tokio::test]
async fn a_wrong_hosts_toml_is_told_with_its_path() {
    let server = serving("{}").await;
    let dir = tempfile::tempdir().unwrap();
    write_hosts(dir.path(), &server, "servr = \"x\"");
    let reference = Reference::parse(&format!("{}/x", server.host())).unwrap();
    let Err(error) = registry(Some(dir.path()), PATIENT).session(&reference, None) else { panic!("it was accepted") };
    let text = error.to_string();
    assert!(text.contains("hosts.toml") && text.contains("servr") && text.contains("server"), "{text}");
}
