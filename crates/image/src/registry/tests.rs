use super::testing::{PATIENT, Reply, Server, registry, session};
use super::*;

mod any_input;
mod credentials;
mod faults;
mod mirrors;
mod proxies;
mod redirects;
mod resume;
mod trust;

fn needs_send<T: Send>(_: T) {}

#[test]
fn every_question_may_be_asked_by_any_task() {
    let registry = registry(None, PATIENT);
    let reference = Reference::parse("reg.example/x").unwrap();
    let session = registry.session(&reference, None).unwrap();
    let digest = Digest::of(b"");
    needs_send(session.digest());
    needs_send(session.manifest());
    needs_send(session.manifest_at(&digest, 0));
    needs_send(async { session.blob(&digest, 0).await?.next().await });
}

#[tokio::test]
async fn a_manifest_is_asked_for_by_tag_and_by_digest() {
    let server = Server::start(|_| Reply::new(200, "Content-Type: application/X; charset=utf-8\r\n", "{}")).await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    let by_tag = session.manifest().await.unwrap();
    assert_eq!((&by_tag.bytes[..], by_tag.media_type.as_deref()), (&b"{}"[..], Some("application/x")));
    assert_eq!(by_tag.digest, Digest::of(b"{}"));
    session.manifest_at(&by_tag.digest, 2).await.unwrap();
    let reference = Reference::parse(&format!("{}/app:v1@{}", server.host(), by_tag.digest)).unwrap();
    let fixed = registry.session(&reference, None).unwrap();
    fixed.manifest().await.unwrap();
    assert_eq!(fixed.digest().await.unwrap(), by_tag.digest, "a digest means itself, if it is given");

    let by_digest = format!("/v2/app/manifests/{}", by_tag.digest);
    let seen: Vec<String> = server.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    let (get, head) = (format!("GET {by_digest}"), format!("HEAD {by_digest}"));
    // Where the answer's head tells no digest, its body does.
    assert_eq!(seen, ["GET /v2/app/manifests/v1", &get, &get, &head, &get]);
    let accept = server.seen()[0].header("accept").unwrap().to_owned();
    for part in ["oci.image.index.v1", "oci.image.manifest.v1", "manifest.list.v2", "distribution.manifest.v2"] {
        assert!(accept.contains(part), "{accept}");
    }
}

#[tokio::test]
async fn s_b24_what_a_tag_means_is_found_out_however_little_the_registry_says() {
    let digest = Digest::of(b"{}");
    let head = |status: u16, header: String| {
        move |seen: &testing::Seen| match seen.method.as_str() {
            "HEAD" => Reply::new(status, &header, "{}"),
            _ => Reply::ok("{}"),
        }
    };
    let told = format!("Docker-Content-Digest: {digest}\r\n");
    for (what, status, header, gets) in [
        ("a digest", 200, told.clone(), 0),
        ("no digest", 200, String::new(), 1),
        ("a digest of another kind", 200, "Docker-Content-Digest: sha512:00\r\n".into(), 1),
        ("no HEAD", 405, String::new(), 1),
    ] {
        let server = Server::start(head(status, header)).await;
        let registry = registry(None, PATIENT);
        assert_eq!(session(&registry, &server, None).digest().await.unwrap(), digest, "{what}");
        let got = server.seen().iter().filter(|seen| seen.method == "GET").count();
        assert_eq!(got, gets, "{what}");
    }
    let server = Server::start(head(404, told)).await;
    let missing = session(&registry(None, PATIENT), &server, None).digest().await.unwrap_err();
    assert!(matches!(missing, RegistryError::NotFound { .. }), "{missing}");
}

#[tokio::test]
async fn s_b24_a_tag_that_moves_is_never_mixed() {
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    let told = format!("Docker-Content-Digest: {old}\r\n");
    let server = Server::start(move |seen| match seen.method.as_str() {
        "HEAD" => Reply::new(200, &told, "old"),
        _ => Reply::ok("new"),
    })
    .await;
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    assert_eq!(session.digest().await.unwrap(), old);
    assert_eq!(session.manifest().await.unwrap().digest, new, "what was fetched is what it is");
    session.manifest_at(&old, 3).await.unwrap_err();
}

#[tokio::test]
async fn a_registry_on_this_machine_may_speak_plain_http_and_is_remembered_for_it() {
    let server = Server::start(|_| Reply::ok("{}")).await;
    let registry = registry(None, PATIENT);
    session(&registry, &server, None).manifest().await.unwrap();
    let reference = Reference::parse(&format!("{}/app", server.host())).unwrap();
    let again = registry.session(&reference, None).unwrap();
    assert!(registry.shared.is_plain(&Endpoint::of(reference.domain()).unwrap()));
    again.manifest().await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_told_with_the_host() {
    let (_held, port) = testing::dead_port();
    let reference = Reference::parse(&format!("localhost:{port}/x")).unwrap();
    let error = registry(None, PATIENT).session(&reference, None).unwrap().manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Connect { .. }) && error.is_unavailable(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("localhost:{port}")) && text.contains("refused"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_host_is_forgotten_after_a_while() {
    let (one, other) = (Endpoint::of("one.example").unwrap(), Endpoint::of("other.example").unwrap());
    let mut notes = Notes::default();
    notes.add(&one);
    tokio::time::advance(REMEMBERED - Duration::from_millis(1)).await;
    assert!(notes.has(&one) && !notes.has(&other));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!notes.has(&one));
}
