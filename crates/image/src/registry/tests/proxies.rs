//! Proxies of the environment, which is a process's own: the test runs itself again in another one.

use super::super::testing::{PATIENT, Reply, Server, registry};
use crate::Reference;
use crate::registry::RegistryError;
use std::process::Command;

/// Says to the inner run which registry on loopback it is to ask.
const INNER: &str = "REGISTRY_PROXY_TEST";

#[tokio::test]
async fn a_proxy_is_asked_for_all_hosts_but_this_machine() {
    if let Ok(local) = std::env::var(INNER) {
        return inner(&local).await;
    }
    let local = Server::start(|_| Reply::ok("{}")).await;
    let proxy = Server::start(|_| Reply::new(403, "", "")).await;
    let name = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(INNER, local.host());
    command.env("HTTPS_PROXY", format!("http://name:geheim@{}", proxy.host())).env("NO_PROXY", "direct.invalid");
    let end = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let output = String::from_utf8_lossy(&end.stdout) + String::from_utf8_lossy(&end.stderr);
    assert!(end.status.success() && output.contains("1 passed"), "{output}");
    assert!(!output.contains("geheim"), "{output}");
    let asked: Vec<String> = proxy.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(asked, ["CONNECT reg.invalid:443"]);
    assert_eq!(local.seen().len(), 1);
}

async fn inner(local: &str) {
    let registry = registry(None, PATIENT);
    for (domain, through) in [("reg.invalid", true), ("direct.invalid", false)] {
        let reference = Reference::parse(&format!("{domain}/x")).unwrap();
        let error = registry.session(&reference, None).unwrap().manifest().await.unwrap_err();
        println!("{error}");
        assert!(matches!(error, RegistryError::Connect { .. }), "{error:?}");
        assert!(!through || error.to_string().contains("HTTPS_PROXY"), "{error}");
    }
    let reference = Reference::parse(&format!("{local}/x")).unwrap();
    registry.session(&reference, None).unwrap().manifest().await.unwrap();
}
