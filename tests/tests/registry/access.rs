//! The ways to a registry: open, by password from three places, by token, by an authority of its own, through mirrors.

use crate::{
    app, docker_config, finish, hosts_in, label, labelled, machine, pod, refused_pull, secret, sleeping, with,
};
use e2e::oci::{self, Form, Image, Packing, architecture};
use e2e::registry::{self, Access, PASSWORD, Proxy, Registry, USER, Wire, write_hosts};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_pod_from_an_open_registry() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = app("open");
    registry.put("shop/app:1", &image);
    let name = format!("{}/shop/app:1", registry.host());
    let machine = machine(&[]);
    pod(&machine, "open", &name, &sleeping());
    assert_eq!(label(&machine, "open"), "open");
    let status = machine.await_running("open", "main");
    let expected = format!("{}/shop/app@{}", registry.host(), image.manifest.digest);
    assert!(
        status["imageID"].as_str().is_some_and(|id| id.ends_with(&expected) || id.ends_with(image.id())),
        "{status}"
    );
    let events = machine.await_events("open", |events| events.contains("Pulled"));
    assert!(events.contains(&format!("Pulling image \"{name}\"")), "{events}");
    let pulled = events.lines().find(|line| line.contains("Successfully pulled image")).expect("an event");
    for part in [&format!("\"{name}\" in "), "s including waiting). Image size: ", " bytes."] {
        assert!(pulled.contains(part), "{part} in {pulled}");
    }
    pod(&machine, "again", &name, &with(sleeping(), json!({"imagePullPolicy": "IfNotPresent"})));
    machine.await_running("again", "main");
    machine.await_events("again", |events| events.contains("already present on machine"));
    assert!(machine.cli(&["image", "list"]).contains(&name));
    finish(machine);
}

/// OCI's words and Docker's, plain, gzip and zstd layers, by tag and by digest, from an index that has others' images too
/// (S-B25).
#[test]
fn s_b25_every_form_of_image_and_the_right_one_of_an_index() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let machine = machine(&[]);
    let forms = [
        ("plain", Form::Oci, Packing::Plain),
        ("gzip", Form::Oci, Packing::Gzip),
        ("zstd", Form::Oci, Packing::Zstd),
        ("docker-plain", Form::Docker, Packing::Plain),
        ("docker", Form::Docker, Packing::Gzip),
        ("docker-zstd", Form::Docker, Packing::Zstd),
    ];
    for (name, form, packing) in forms {
        let image = Image::in_form(form, vec![oci::busybox(packing), labelled(name, packing)]);
        registry.put(&format!("forms/{name}:1"), &image);
        pod(&machine, name, &format!("{}/forms/{name}:1", registry.host()), &sleeping());
    }
    let mut expected: Vec<(String, String)> =
        forms.iter().map(|(name, ..)| (name.to_string(), name.to_string())).collect();
    for (name, form) in [("index", Form::Oci), ("list", Form::Docker)] {
        let repository = format!("{}/forms/{name}", registry.host());
        let theirs = put_index(&registry, name, form);
        pod(&machine, name, &format!("{repository}:1"), &sleeping());
        let by_digest = format!("{name}-digest");
        pod(&machine, &by_digest, &format!("{repository}@{theirs}"), &sleeping());
        expected.extend([(name.to_owned(), format!("{name} ours")), (by_digest, format!("{name} theirs"))]);
        let told = refused_pull(&machine, &format!("{repository}:foreign"));
        assert!(told.contains("s390x"), "what there is instead: {told}");
    }
    for (name, expected) in expected {
        assert_eq!(label(&machine, &name), expected);
    }
    finish(machine);
}

/// An index whose last image is for this machine, and as `foreign` one that has none; gives the digest of the image that is
/// for another.
fn put_index(registry: &Registry, name: &str, form: Form) -> String {
    let image = |whose: &str| {
        let layers = vec![oci::busybox(Packing::Gzip), labelled(&format!("{name} {whose}"), Packing::Gzip)];
        let image = Image::in_form(form, layers);
        registry.put(&format!("forms/{name}:{whose}"), &image);
        image
    };
    let entry = |image: &Image, os: &str, architecture: &str| {
        let mut descriptor = image.manifest.descriptor();
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        descriptor
    };
    let theirs = image("theirs");
    let entries = [
        entry(&image("attestation"), "unknown", "unknown"),
        entry(&theirs, "linux", "s390x"),
        entry(&image("ours"), "linux", architecture()),
    ];
    registry.put_manifest(&format!("forms/{name}:1"), &form.index(&entries));
    registry.put_manifest(&format!("forms/{name}:foreign"), &form.index(&entries[1..2]));
    theirs.manifest.digest
}

#[test]
fn a_password_from_dockers_configuration_a_secret_and_a_provider() {
    if !registry::is_available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(Access::Password, Wire::Plain);
    for name in ["config", "secret", "provider"] {
        registry.put(&format!("private/{name}:1"), &app(name));
    }
    let image = |name: &str| format!("{}/private/{name}:1", registry.host());
    let programs = dir.path().join("programs");
    let (configuration, asked) = (dir.path().join("providers.yaml"), dir.path().join("asked"));
    std::fs::create_dir_all(&programs).expect("a directory");
    let answer = json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry", "cacheDuration": "1h",
        "auth": {registry.host(): {"username": USER, "password": PASSWORD}},
    });
    let script = format!("#!/bin/sh\ncat >> '{}'\ncat <<'END'\n{answer}\nEND\n", asked.display());
    std::fs::write(programs.join("keeper"), script).expect("written");
    std::fs::set_permissions(programs.join("keeper"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    let providers = json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "keeper", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "defaultCacheDuration": "1h",
            "matchImages": [format!("{}/private/provider", registry.host())],
        }],
    });
    std::fs::write(&configuration, providers.to_string()).expect("written");
    let machine = machine(&[
        format!("--image-credential-provider-config={}", configuration.display()),
        format!("--image-credential-provider-bin-dir={}", programs.display()),
    ]);
    let told = refused_pull(&machine, &image("config"));
    assert!(told.contains(&registry.host()), "who refused: {told}");

    pod(&machine, "provider", &image("provider"), &sleeping());
    assert_eq!(label(&machine, "provider"), "provider");
    let asked = std::fs::read_to_string(asked).expect("the program was asked");
    assert!(asked.contains("CredentialProviderRequest") && asked.contains("/private/provider\""), "{asked}");

    secret(&machine, "keys", &docker_config(&registry.host(), PASSWORD));
    let names = json!({"spec": {"imagePullSecrets": [{"name": "keys"}]}});
    pod(&machine, "secret", &image("secret"), &with(sleeping(), names));
    assert_eq!(label(&machine, "secret"), "secret");

    let config = docker_config(&registry.host(), PASSWORD).to_string();
    std::fs::write(machine.dir.join("root/config.json"), config).expect("written");
    pod(&machine, "config", &image("config"), &sleeping());
    assert_eq!(label(&machine, "config"), "config");
    // The command line asks with what the node knows.
    machine.cli(&["image", "pull", &image("secret")]);
    finish(machine);
}

#[test]
fn s_b23_a_token_is_asked_for_once_and_goes_to_its_registry_alone() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    proxy.demand_token();
    registry.put("private/app:1", &app("token"));
    let name = format!("{}/private/app:1", proxy.host());
    let machine = machine(&[]);
    refused_pull(&machine, &name);
    secret(&machine, "keys", &docker_config(&proxy.host(), PASSWORD));
    pod(&machine, "token", &name, &with(sleeping(), json!({"spec": {"imagePullSecrets": [{"name": "keys"}]}})));
    assert_eq!(label(&machine, "token"), "token");
    let seen = proxy.seen();
    let basic =
        |authorization: &Option<String>| authorization.as_deref().is_some_and(|text| text.starts_with("Basic "));
    for request in seen.iter().filter(|request| basic(&request.authorization)) {
        assert!(request.path.starts_with("/token"), "the password is for the door alone: {request:?}");
    }
    let asked = seen.iter().filter(|request| basic(&request.authorization)).count();
    assert_eq!(asked, 1, "one token serves a whole pull: {seen:#?}");
    finish(machine);
}

#[test]
fn an_authority_of_its_own() {
    if !registry::is_available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(Access::Password, Wire::Tls);
    registry.put("private/app:1", &app("tls"));
    let name = format!("{}/private/app:1", registry.host());
    let machine = machine(&[hosts_in(dir.path())]);
    std::fs::write(machine.dir.join("root/config.json"), docker_config(&registry.host(), PASSWORD).to_string())
        .expect("written");
    let told = refused_pull(&machine, &name);
    assert!(told.contains("certificate"), "nobody vouches for it: {told}");
    let hosts = format!(
        "server = \"{url}\"\n[host.\"{url}\"]\n  ca = \"{}\"\n",
        registry.ca_file().display(),
        url = registry.url()
    );
    // Without a restart.
    write_hosts(dir.path(), &registry.host(), &hosts);
    pod(&machine, "tls", &name, &sleeping());
    assert_eq!(label(&machine, "tls"), "tls");
    finish(machine);
}

#[test]
fn mirrors_one_after_the_other() {
    if !registry::is_available() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let empty = Registry::start(Access::Anonymous, Wire::Plain);
    // Held to the end: nobody else begins to listen there.
    let (_held, dead) = e2e::machine::closed_port();
    let (lacking, proxy) = (Proxy::start(&empty), Proxy::start(&registry));
    registry.put("library/app:1", &app("mirrored"));
    registry.put("cache/library/app:1", &app("prefixed"));
    let server = format!("server = \"http://127.0.0.1:{dead}\"\n");
    let host = |url: &str, more: &str| format!("[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{more}");
    let dead = host(&format!("http://127.0.0.1:{dead}"), "");
    let list = [server.clone(), dead, host(&lacking.url(), ""), host(&proxy.url(), "")].concat();
    write_hosts(dir.path(), "images.test", &list);
    let path = format!("{}/v2/cache", proxy.url());
    write_hosts(dir.path(), "prefixed.test", &(server + &host(&path, "  override_path = true\n")));
    let machine = machine(&[hosts_in(dir.path())]);
    pod(&machine, "mirrored", "images.test/library/app:1", &sleeping());
    assert_eq!(label(&machine, "mirrored"), "mirrored");
    assert!(!lacking.seen().is_empty(), "the second in the list was asked before the third");
    assert!(proxy.seen().iter().all(|seen| seen.path.contains("ns=images.test")), "{:#?}", proxy.seen());
    pod(&machine, "prefixed", "prefixed.test/library/app:1", &sleeping());
    assert_eq!(label(&machine, "prefixed"), "prefixed");
    assert!(machine.cli(&["image", "list"]).contains("images.test/library/app:1"));
    // A list that is wrong is told with its file, and is no reason to go elsewhere.
    write_hosts(dir.path(), "images.test", "serwer = \"http://127.0.0.1\"\n");
    let told = refused_pull(&machine, "images.test/library/app:1");
    assert!(told.contains("images.test/hosts.toml") && told.contains("serwer"), "{told}");
    finish(machine);
}
