//! Who is shown which credential.

use super::super::testing::{
    Answering, PATIENT, Reply, Seen, Server, basic, begin_log, content, end_log, read, registry, session, write_hosts,
};
use crate::registry::RegistryError;
use crate::{Login, Reference};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

const BASIC: &str = "Basic bmFtZTpnZWhlaW0="; // name:geheim
const SCOPE: &str = "repository:app:pull";

/// A registry with its token server on one port: `token` answers the token server's requests.
async fn with_tokens(wanted: &'static str, token: fn(&Seen) -> Reply) -> Server {
    let port = Arc::new(OnceLock::<u16>::new());
    let known = port.clone();
    let server = Server::start(move |seen| {
        if seen.target.starts_with("/token") {
            return token(seen);
        }
        match seen.authorization() {
            Some(shown) if shown == wanted => Reply::ok("{}"),
            _ => Reply::challenge(&format!(
                "Bearer realm=\"http://127.0.0.1:{}/token\",service=\"reg\",scope=\"{SCOPE}\"",
                known.get().unwrap()
            )),
        }
    })
    .await;
    port.set(server.port).unwrap();
    server
}

fn query(seen: &Seen) -> Vec<(String, String)> {
    let text = if seen.body.is_empty() { seen.target.split_once('?').unwrap().1 } else { &seen.body };
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

fn has(seen: &Seen, key: &str, value: &str) -> bool {
    query(seen).iter().any(|(k, v)| (k.as_str(), v.as_str()) == (key, value))
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_kept() {
    let server = with_tokens("Bearer open", |_| Reply::ok(r#"{"token":"open","expires_in":300}"#)).await;
    let registry = registry(None, PATIENT);
    let first = session(&registry, &server, None);
    first.manifest().await.unwrap();
    first.manifest().await.unwrap();
    session(&registry, &server, None).manifest().await.unwrap();
    let asked = server.seen_of("/token");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(has(&asked[0], "scope", SCOPE) && has(&asked[0], "service", "reg"), "{asked:?}");
    assert_eq!((asked[0].method.as_str(), asked[0].authorization()), ("GET", None));
    assert_eq!(server.seen_of("/v2/").len(), 4, "one was refused");

    session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap();
    assert_eq!(server.seen_of("/token").len(), 2, "whom a token was given to is part of it");
}

#[tokio::test]
async fn many_at_once_ask_for_one_token() {
    let server = with_tokens("Bearer open", |_| Reply::ok(r#"{"access_token":"open"}"#)).await;
    let registry = registry(None, PATIENT);
    let session = Arc::new(session(&registry, &server, None));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let session = session.clone();
        asking.spawn(async move { session.manifest().await.map(drop) });
    }
    while let Some(end) = asking.join_next().await {
        end.unwrap().unwrap();
    }
    assert_eq!(server.seen_of("/token").len(), 1);
}

#[tokio::test]
async fn a_password_is_exchanged_for_a_token() {
    let server = with_tokens("Bearer mine", |seen| match seen.authorization() {
        Some(BASIC) => Reply::ok(r#"{"token":"mine"}"#),
        _ => Reply::ok(r#"{"token":"anonymous"}"#),
    })
    .await;
    let registry = registry(None, PATIENT);
    session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap();
    let [asked] = &server.seen_of("/token")[..] else { panic!("asked once") };
    assert!(has(asked, "account", "name"));
    for seen in server.seen_of("/v2/") {
        assert_ne!(seen.authorization(), Some(BASIC), "a registry with tokens never sees the password");
    }
}

#[tokio::test]
async fn an_identity_token_is_posted_and_exchanged() {
    let server = with_tokens("Bearer mine", |seen| match seen.method.as_str() {
        "POST" => Reply::ok(r#"{"access_token":"mine","refresh_token":"new"}"#),
        _ => Reply::new(401, "", ""),
    })
    .await;
    let registry = registry(None, PATIENT);
    session(&registry, &server, Some(Login::Refresh { token: "ge heim&".into() })).manifest().await.unwrap();
    let [asked] = &server.seen_of("/token")[..] else { panic!("asked once") };
    assert_eq!(asked.target, "/token");
    for (key, value) in
        [("grant_type", "refresh_token"), ("refresh_token", "ge heim&"), ("scope", SCOPE), ("service", "reg")]
    {
        assert!(has(asked, key, value), "{asked:?}");
    }
}

#[tokio::test]
async fn s_b22_an_identity_token_is_not_posted_elsewhere() {
    let elsewhere = Server::start(|_| Reply::ok(r#"{"token":"mine"}"#)).await;
    let there: &'static str = elsewhere.host().leak();
    static THERE: OnceLock<&'static str> = OnceLock::new();
    THERE.set(there).unwrap();
    let server = with_tokens("Bearer mine", |_| Reply::redirect(&format!("http://{}/", THERE.get().unwrap()))).await;
    let registry = registry(None, PATIENT);
    let login = Some(Login::Refresh { token: "geheim".into() });
    let error = session(&registry, &server, login).manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_token_that_ended_is_renewed_once() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let valid = Arc::new(Mutex::new("Bearer t0".to_owned()));
    let (now, port) = (valid.clone(), Arc::new(OnceLock::<u16>::new()));
    let known = port.clone();
    let server = Server::start(move |seen| match seen.target.starts_with("/token") {
        true => Reply::ok(format!("{{\"token\":\"t{}\"}}", COUNT.fetch_add(1, Ordering::Relaxed))),
        false if seen.authorization() == Some(&now.lock().unwrap()) => Reply::ok("{}"),
        false => Reply::challenge(&format!("Bearer realm=\"http://127.0.0.1:{}/token\"", known.get().unwrap())),
    })
    .await;
    port.set(server.port).unwrap();
    let registry = registry(None, PATIENT);
    let session = session(&registry, &server, None);
    session.manifest().await.unwrap();
    *valid.lock().unwrap() = "Bearer t1".into();
    session.manifest().await.unwrap();
    let tokens = server.seen_of("/token");
    assert_eq!(tokens.len(), 2);
    assert!(has(&tokens[0], "scope", SCOPE), "it is asked for what a pull needs where nothing is said");
    *valid.lock().unwrap() = "Bearer never".into();
    let before = server.seen_of("/v2/").len();
    let error = session.manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
    assert_eq!(server.seen_of("/v2/").len() - before, 2, "once with the old, once with the new");
}

#[tokio::test]
async fn s_b24_401_for_ever_ends() {
    let server = Server::start(|_| Reply::challenge("Basic realm=\"x\"")).await;
    let registry = registry(None, PATIENT);
    let refused = session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap_err();
    assert!(matches!(refused, RegistryError::Unauthorized { .. }) && refused.is_refusal(), "{refused:?}");
    assert_eq!(server.seen().len(), 2);
    let none = session(&registry, &server, None).manifest().await.unwrap_err();
    assert!(none.to_string().contains("name and a password, and none was given"), "{none}");
}

/// What a server was shown, in order.
fn shown(server: &Server) -> Vec<Option<String>> {
    server.seen_of("/v2/").iter().map(|seen| seen.authorization().map(str::to_owned)).collect()
}

#[tokio::test]
async fn s_b24_what_was_refused_is_not_shown_again_before_somebody_asks() {
    let bearer = with_tokens("Bearer other", |_| Reply::ok(r#"{"token":"wrong","expires_in":3600}"#)).await;
    let basic_only = Server::start(|_| Reply::challenge("Basic realm=\"x\"")).await;
    let forbidden = Server::start(|seen| match seen.authorization() {
        None => Reply::challenge("Basic realm=\"x\""),
        Some(_) => Reply::new(403, "", ""),
    })
    .await;
    for (server, wrong) in [(&bearer, "Bearer wrong"), (&basic_only, BASIC), (&forbidden, BASIC)] {
        let registry = registry(None, PATIENT);
        for _ in 0..2 {
            let error = session(&registry, server, basic("name", "geheim")).manifest().await.unwrap_err();
            assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
        }
        let once = [None, Some(wrong.to_owned())];
        assert_eq!(shown(server), [once.clone(), once].concat());
    }
    assert_eq!(bearer.seen_of("/token").len(), 2, "each session has a new one");
}

#[tokio::test]
async fn s_b23_a_token_server_that_is_not_trusted_is_not_asked() {
    for realm in [
        "http://169.254.169.254/token",
        "http://localhost:1/token",
        "file:///etc/shadow",
        "https://name:geheim@127.0.0.1/token",
        "token",
    ] {
        for login in [None, basic("name", "geheim"), Some(Login::Refresh { token: "geheim".into() })] {
            let server = Server::start(move |_| Reply::challenge(&format!("Bearer realm=\"{realm}\""))).await;
            let registry = registry(None, PATIENT);
            let error = session(&registry, &server, login).manifest().await.unwrap_err();
            assert!(matches!(error, RegistryError::Realm { .. }), "{realm}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
            assert_eq!(server.seen().len(), 1);
        }
    }
}

#[tokio::test]
async fn token_servers_that_misbehave_have_their_errors() {
    let cases: &[(Answering, &str)] = &[
        (|_| Reply::new(401, "", r#"{"details":"incorrect username or password"}"#), "incorrect username"),
        (|_| Reply::new(403, "", ""), "not accepted"),
        (|_| Reply::new(404, "", ""), "404"),
        (|_| Reply::new(500, "", ""), "500"),
        (|_| Reply::ok("<html>"), "no token"),
        (|_| Reply::ok("{}"), "no token"),
        (|_| Reply::ok(r#"{"token":""}"#), "no token"),
        (|_| Reply::ok(r#"{"token":"a\nb"}"#), "no token"),
        (|_| Reply::ok(vec![b' '; 1 << 20]), "more than"),
    ];
    for (token, part) in cases {
        let server = with_tokens("Bearer never", *token).await;
        let registry = registry(None, PATIENT);
        let error = session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap_err();
        assert!(error.to_string().contains(part), "expected {part:?}: {error}");
    }
}

#[tokio::test]
async fn a_token_of_the_registry_itself_is_shown_when_it_asks() {
    let server = with_tokens("Bearer given", |_| Reply::new(500, "", "")).await;
    let registry = registry(None, PATIENT);
    session(&registry, &server, Some(Login::Bearer { token: "given".into() })).manifest().await.unwrap();
    assert!(server.seen_of("/token").is_empty());
    assert_eq!(server.seen()[0].authorization(), None, "nothing is shown before somebody asks");
}

#[tokio::test]
async fn s_b22_a_mirror_is_shown_its_own_headers_and_no_credential() {
    let mirror = Server::start(|_| Reply::challenge("Basic realm=\"x\"")).await;
    let server = Server::start(|seen| match seen.authorization() {
        Some(BASIC) => Reply::ok("{}"),
        _ => Reply::challenge("Basic realm=\"x\""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (server.host(), mirror.host());
    let text = format!(
        "server = \"http://{own}\"\n[host.\"http://{other}\"]\n[host.\"http://{other}\".header]\nx-key = [\"mirror-key\"]\n"
    );
    write_hosts(dir.path(), &server, &text);
    let registry = registry(Some(dir.path()), PATIENT);
    session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap();
    let [seen] = &mirror.seen()[..] else { panic!("asked once: {:?}", mirror.seen()) };
    assert_eq!((seen.authorization(), seen.header("x-key")), (None, Some("mirror-key")));
    assert!(server.seen().iter().all(|seen| seen.header("x-key").is_none()));
}

/// Says all it knows about whoever asks: its errors hold what it was shown.
fn chatty(seen: &Seen) -> Reply {
    if seen.target.starts_with("/storage") {
        return Reply::new(403, "", error_with(&seen.head));
    }
    match seen.authorization() {
        None => Reply::challenge("Basic realm=\"x\""),
        Some(_) if seen.target.contains("/blobs/") => Reply::redirect("/storage?signature=geheimsignature"),
        Some(shown) => {
            let password = if shown.starts_with("Basic") { "geheim12" } else { "" };
            let text = error_with(&format!("{shown} {password}"));
            Reply::new(500, &format!("Content-Type: {shown}\r\n"), text)
        }
    }
}

fn error_with(text: &str) -> String {
    let text = text.replace(['\r', '\n', '"'], " ");
    format!("{{\"errors\":[{{\"code\":\"{text}\",\"message\":\"{text}\"}}]}}")
}

#[tokio::test]
async fn s_b23_no_secret_is_in_an_error_or_a_log_at_any_level() {
    begin_log();
    let server = Server::start(chatty).await;
    let dir = tempfile::tempdir().unwrap();
    let host = server.host();
    let text = format!("server = \"http://{host}\"\n[header]\nx-key = \"geheimkey\"\n");
    write_hosts(dir.path(), &server, &text);
    let registry = registry(Some(dir.path()), PATIENT);
    let mut errors = Vec::new();
    for login in [basic("name", "geheim12"), Some(Login::Bearer { token: "geheimtoken".into() })] {
        let session = session(&registry, &server, login);
        errors.push(session.manifest().await.unwrap_err());
        errors.push(read(&session, &content(10)).await.unwrap_err());
        errors.push(session.digest().await.unwrap_err());
    }
    let refresh = Some(Login::Refresh { token: "geheimrefresh".into() });
    errors.push(session(&registry, &server, refresh).manifest().await.unwrap_err());
    let shown = errors.iter().map(|error| format!("{error}\n{error:?}\n")).collect::<String>();
    let logged = end_log();
    assert!(logged.contains("asking a registry"), "the log is captured");
    assert!(shown.contains("500") && shown.contains("does not allow"), "the server's words were shown: {shown}");
    // `name:geheim12` as a header has it.
    for secret in ["geheim", "bmFtZTpnZWhlaW0xMg"] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!logged.contains(secret), "{logged}");
    }
    let reference = Reference::parse(&format!("{host}/app")).unwrap();
    assert!(!format!("{reference:?}").contains("geheim"));
}
