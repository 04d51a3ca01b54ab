//! TLS: who is believed to be who he says.

use super::super::testing::{PATIENT, Reply, Server, basic, registry, session, write_hosts};
use crate::registry::{Fetched, RegistryError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs;
use std::path::Path;
use std::sync::Arc;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test's own");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name`, with its key, valid until the end of `year`.
    fn issue(&self, name: &str, year: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

const VALID: i32 = 2999;
const ENDED: i32 = 2001;

fn server_config((certificate, key): (rcgen::Certificate, KeyPair), clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
}

async fn ask(dir: &Path, server: &Server) -> Result<Fetched, RegistryError> {
    session(&registry(Some(dir), PATIENT), server, None).manifest().await
}

#[tokio::test]
async fn s_b24_whom_tls_trusts() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    // For whom, until when, by whom, with which settings; and what is said if it is refused.
    type Case<'a> = (&'a str, &'a str, i32, &'a Authority, &'a str, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        ("own CA", "127.0.0.1", VALID, &ours, "ca = \"ca.pem\"", None),
        ("an unknown CA", "127.0.0.1", VALID, &ours, "", Some("ca")),
        ("another CA", "127.0.0.1", VALID, &theirs, "ca = \"ca.pem\"", Some("ca")),
        ("ended", "127.0.0.1", ENDED, &ours, "ca = \"ca.pem\"", Some("expired")),
        ("another address", "127.0.0.2", VALID, &ours, "ca = \"ca.pem\"", Some("127.0.0.1")),
        ("another name", "reg.example", VALID, &ours, "ca = \"ca.pem\"", Some("127.0.0.1")),
        ("unverified", "reg.example", ENDED, &theirs, "skip_verify = true", None),
    ];
    for (what, name, year, authority, settings, refused) in cases {
        let config = server_config(authority.issue(name, *year), None);
        let server = Server::start_tls(config, |_| Reply::ok("{}")).await;
        let dir = tempfile::tempdir().unwrap();
        let text = format!("server = \"https://{}\"\n{settings}", server.host());
        write_hosts(dir.path(), &server, &text);
        fs::write(dir.path().join(server.host()).join("ca.pem"), ours.pem()).unwrap();
        match (ask(dir.path(), &server).await, refused) {
            (Ok(_), None) => {}
            (Err(error @ RegistryError::Certificate { .. }), Some(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains(&server.host()), "{what}: {text}");
                assert!(!error.is_unavailable() && server.seen().is_empty());
            }
            (end, _) => panic!("{what}: {end:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_no_reason_to_speak_in_clear() {
    let server =
        Server::start_tls(server_config(Authority::new().issue("127.0.0.1", VALID), None), |_| Reply::ok("{}"));
    let server = server.await;
    let dir = tempfile::tempdir().unwrap();
    let error = ask(dir.path(), &server).await.unwrap_err();
    assert!(matches!(error, RegistryError::Certificate { .. }), "{error:?}");
}

#[tokio::test]
async fn our_own_certificate_is_shown_to_the_host_that_it_is_for() {
    let ours = Authority::new();
    let server =
        Server::start_tls(server_config(ours.issue("127.0.0.1", VALID), Some(&ours)), |_| Reply::ok("{}")).await;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join(server.host());
    let with = format!("server = \"https://{}\"\nca = \"ca.pem\"\n", server.host());
    write_hosts(dir.path(), &server, &with);
    let (certificate, key) = ours.issue("client", VALID);
    fs::write(at.join("ca.pem"), ours.pem()).unwrap();
    fs::write(at.join("client.pem"), certificate.pem()).unwrap();
    fs::write(at.join("client.key"), key.serialize_pem()).unwrap();
    ask(dir.path(), &server).await.unwrap_err();
    write_hosts(dir.path(), &server, &(with + "client = [[\"client.pem\", \"client.key\"]]"));
    ask(dir.path(), &server).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_speaks_no_tls_is_told_so() {
    let server = Server::start(|_| Reply::ok("{}")).await;
    let dir = tempfile::tempdir().unwrap();
    write_hosts(dir.path(), &server, &format!("server = \"https://{}\"", server.host()));
    let error = ask(dir.path(), &server).await.unwrap_err();
    assert!(matches!(error, RegistryError::Connect { .. }), "{error:?}");
    assert!(server.seen().is_empty(), "nothing is asked in clear");
}

#[tokio::test]
async fn s_b22_https_is_left_for_no_plain_http() {
    let ours = Authority::new();
    let plain = Server::start(|_| Reply::ok("{}")).await;
    let other = Server::start_tls(server_config(ours.issue("127.0.0.1", VALID), None), |_| Reply::ok("{}")).await;
    for (to, followed) in [(format!("http://{}/x", plain.host()), false), (format!("https://{}/x", other.host()), true)]
    {
        let config = server_config(ours.issue("127.0.0.1", VALID), None);
        let server = Server::start_tls(config, move |_| Reply::redirect(&to)).await;
        let dir = tempfile::tempdir().unwrap();
        write_hosts(dir.path(), &server, &format!("server = \"https://{}\"\nca = \"ca.pem\"", server.host()));
        fs::write(dir.path().join(server.host()).join("ca.pem"), ours.pem()).unwrap();
        match ask(dir.path(), &server).await {
            Ok(_) => assert!(followed),
            Err(error) => assert!(!followed && matches!(error, RegistryError::Redirect { .. }), "{error:?}"),
        }
    }
    assert!(plain.seen().is_empty() && other.seen().len() == 1);
}

#[tokio::test]
async fn s_b23_a_token_is_not_fetched_in_clear_for_a_registry_with_tls() {
    let ours = Authority::new();
    let tokens = Server::start(|_| Reply::ok(r#"{"token":"x"}"#)).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.host());
    let config = server_config(ours.issue("127.0.0.1", VALID), None);
    let server = Server::start_tls(config, move |_| Reply::challenge(&realm)).await;
    let dir = tempfile::tempdir().unwrap();
    write_hosts(dir.path(), &server, &format!("server = \"https://{}\"\nca = \"ca.pem\"", server.host()));
    fs::write(dir.path().join(server.host()).join("ca.pem"), ours.pem()).unwrap();
    let registry = registry(Some(dir.path()), PATIENT);
    let error = session(&registry, &server, basic("name", "geheim")).manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Realm { .. }), "{error:?}");
    assert!(tokens.seen().is_empty());
}
