mod leaks;

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::{TempDir, secret};

/// A provider that answers with this password for all of `*.example`; its program is in the directory `bin`.
fn provider_config(password: &str) -> String {
    let answer = serde_json::json!({
        "kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry", "auth": { "*.example": { "username": "plugin", "password": password } },
    });
    serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "login", "matchImages": ["*.example"], "defaultCacheDuration": "1h",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "args": ["-c", format!("echo '{answer}'")],
            "env": [{ "name": "PASSWORD", "value": password }],
        }],
    })
    .to_string()
}

fn docker_config(password: &str) -> String {
    serde_json::json!({ "auths": { "r.example": { "username": "file", "password": password } } }).to_string()
}

/// A node with a docker configuration and a provider.
fn config(dir: &TempDir, (file, plugin): (&str, &str)) -> CredentialsConfig {
    let at = |name: &str| dir.path().join(name);
    fs::write(at("config.json"), docker_config(file)).unwrap();
    fs::write(at("providers.json"), provider_config(plugin)).unwrap();
    fs::create_dir(at("bin")).unwrap();
    symlink("/bin/sh", at("bin/login")).unwrap();
    CredentialsConfig {
        provider_config: Some(at("providers.json")),
        provider_bin_dir: Some(at("bin")),
        ..CredentialsConfig::usual(dir.path(), Some(&at("home")))
    }
}

async fn passwords(credentials: &Credentials, image: &str, secrets: &[Arc<PullSecret>]) -> Vec<String> {
    credentials.for_image(image, secrets).await.into_iter().map(|auth| auth.password).collect()
}

#[tokio::test]
async fn the_pods_secrets_come_first_then_files_then_programs_each_once() {
    let dir = TempDir::new();
    let credentials = Credentials::new(config(&dir, ("2", "3"))).unwrap();
    let secrets =
        [secret("a", "r.example/team", "0"), secret("b", "other.example", "x"), secret("c", "r.example", "1")];
    let image = "r.example/team/app:1";
    assert_eq!(passwords(&credentials, image, &secrets).await, ["0", "1", "2", "3"]);
    let twice = [secrets[0].clone(), secrets[0].clone(), secret("file", "*.example", "2")];
    assert_eq!(passwords(&credentials, image, &twice).await, ["0", "2", "3"]);
    assert_eq!(passwords(&credentials, "r.example/app:1", &[]).await, ["2", "3"]);
    assert_eq!(passwords(&credentials, "s.example/app:1", &[]).await, ["3"]);
    assert!(passwords(&credentials, "docker.io/library/nginx:1", &secrets).await.is_empty());
    let docker = [secret("d", "https://index.docker.io/v1/", "4")];
    assert_eq!(passwords(&credentials, "nginx", &docker).await, ["4"]);
    assert!(passwords(&credentials, "No Image", &docker).await.is_empty());
    fs::write(dir.path().join("config.json"), docker_config("two")).unwrap();
    assert_eq!(passwords(&credentials, "r.example/app:1", &[]).await, ["two", "3"]);
}

#[tokio::test]
async fn by_default_only_a_pods_own_are_known() {
    let credentials = Credentials::default();
    assert_eq!(passwords(&credentials, "r.example/app:1", &[secret("a", "r.example", "0")]).await, ["0"]);
    assert!(passwords(&credentials, "r.example/app:1", &[]).await.is_empty());
}

#[tokio::test]
async fn a_runtime_is_told_no_address_to_compare() {
    let auths = Credentials::default().for_image("docker.io/a/b:1", &[secret("a", "index.docker.io/v1/", "0")]).await;
    assert_eq!((auths.len(), auths[0].server_address.as_str(), auths[0].username.as_str()), (1, "", "a"));
}

#[test]
fn s_m01_no_image_has_credentials_without_end() {
    let mut found = Found::default();
    for number in 0..2 * TRIED_MAX {
        found.add(&secret("a", "r.example", &number.to_string()).config, "r.example/app:1");
    }
    assert_eq!(found.0.len(), TRIED_MAX);
}

#[test]
fn docker_keeps_its_configuration_in_the_usual_places() {
    let paths = CredentialsConfig::usual(Path::new("/var/lib/kubelet"), Some(Path::new("/root"))).docker_configs;
    let expected = [
        "/var/lib/kubelet/config.json",
        "/root/.docker/config.json",
        "/.docker/config.json",
        "/var/lib/kubelet/.dockercfg",
        "/root/.dockercfg",
        "/.dockercfg",
    ];
    assert_eq!(paths, expected.map(PathBuf::from));
}

#[test]
fn a_provider_needs_its_configuration_and_its_program() {
    let path = || Some(PathBuf::from("/nowhere/at/all"));
    let told = |provider_config, provider_bin_dir| {
        let config = CredentialsConfig { provider_config, provider_bin_dir, ..CredentialsConfig::default() };
        Credentials::new(config).unwrap_err().to_string()
    };
    assert!(
        told(path(), None)
            .starts_with("--image-credential-provider-config is set and --image-credential-provider-bin-dir is not")
    );
    assert!(
        told(None, path())
            .starts_with("--image-credential-provider-bin-dir is set and --image-credential-provider-config is not")
    );
    assert_eq!(told(path(), path()), "/nowhere/at/all: cannot be read: No such file or directory (os error 2)");
    let dir = TempDir::new();
    let mut config = config(&dir, ("2", "3"));
    config.provider_bin_dir = Some(dir.path().join("home"));
    let told = Credentials::new(config).unwrap_err().to_string();
    assert!(told.contains("providers.json, line 1: providers[0].name: found \"login\": no program at "), "{told}");
}
