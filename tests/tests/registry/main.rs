//! Images from registries: Debian's `docker-registry` on the loopback in every way in which one is reached, with a proxy in
//! front that counts and fails. Each test has a kubelet of its own; none of their secrets is in anything that it tells.

mod access;
mod bombs;
mod crashes;
mod faults;
mod policies;
mod runtimes;
mod sharing;
mod space;
mod terminal;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::dice::Dice;
use e2e::layer::{Attributes, Layer};
use e2e::oci::{self, Image, Packed, Packing, sha256};
use e2e::registry::{PASSWORD, TOKEN, USER};
use e2e::{Machine, Options, await_some};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// A password that opens nothing.
const WRONG_PASSWORD: &str = "pw-wrong-6Jd0Ue";

/// A kubelet without any image, which writes down all that it can.
fn machine(flags: &[String]) -> Machine {
    let flags = [&["--v=9".to_owned(), "--registry-qps=0".to_owned()], flags].concat();
    Machine::start(Options { images: vec![], flags, ..Options::default() })
}

/// The flag for a directory of `hosts.toml` files.
fn hosts_in(dir: &Path) -> String {
    format!("--registry-config-dir={}", dir.display())
}

/// S-B23: ends the machine, after a look at all that it tells for what it must not.
#[track_caller]
fn finish(machine: Machine) {
    let both = |password: &str| STANDARD.encode(format!("{USER}:{password}"));
    let secrets = [PASSWORD, WRONG_PASSWORD, TOKEN, &both(PASSWORD), &both(WRONG_PASSWORD)];
    let mut told = vec![
        ("log", machine.log()),
        ("events", machine.cli(&["events"])),
        ("ps", machine.cli(&["ps"])),
        ("/pods", machine.get("/pods").1),
        ("image list", machine.cli(&["image", "list"])),
        ("/healthz", machine.healthz().unwrap_or_default()),
    ];
    for pod in machine.pods() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        told.push(("describe", machine.cli(&["describe", name])));
    }
    for secret in secrets {
        for (what, text) in &told {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{what} tells the secret {secret}: {}", line.unwrap_or_default());
        }
    }
    machine.finish();
}

/// Busybox and one small layer of its own: `/label` says which it is.
fn app(label: &str) -> Image {
    Image::new(vec![oci::busybox(Packing::Gzip), labelled(label, Packing::Gzip)])
}

fn labelled(label: &str, packing: Packing) -> Arc<Packed> {
    let mut layer = Layer::default();
    layer.file("label", &Attributes::mode(0o644), label.as_bytes());
    Packed::new(&layer.finish(), packing)
}

/// So many bytes that nothing compresses, and their digest in `/sums`, in a file for each layer.
fn random_layer(dice: &mut Dice, name: &str, bytes: usize) -> Arc<Packed> {
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        content.extend(dice.below(u64::MAX).to_le_bytes());
    }
    content.truncate(bytes);
    let mut layer = Layer::default();
    let attributes = Attributes::mode(0o644);
    layer.dir("data", &Attributes::mode(0o755));
    layer.dir("sums", &Attributes::mode(0o755));
    // In pieces, so that an unpacking that ends early leaves files out.
    let mut sums = String::new();
    for (at, piece) in content.chunks(bytes.div_ceil(4)).enumerate() {
        let path = format!("data/{name}-{at}");
        layer.file(&path, &attributes, piece);
        let _ = writeln!(sums, "{}  {path}", sha256(piece));
    }
    layer.file(&format!("sums/{name}"), &attributes, sums.as_bytes());
    Packed::new(&layer.finish(), Packing::Gzip)
}

/// Succeeds where so many layers of [`random_layer`] are whole.
fn verifying(layers: usize) -> Value {
    let script = format!("cd / && test $(ls sums | wc -l) = {layers} && cat sums/* | sha256sum -c -s");
    json!({"command": ["/bin/sh", "-c", script]})
}

/// Runs until it is ended.
fn sleeping() -> Value {
    json!({"command": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]})
}

/// A pod with one container of this image; `fields` are the container's, or with the key `spec` the pod's.
fn pod(machine: &Machine, name: &str, image: &str, fields: &Value) {
    let mut container = json!({"name": "main", "image": image});
    let mut spec = json!({"terminationGracePeriodSeconds": 1});
    for (key, value) in fields.as_object().into_iter().flatten() {
        match key.as_str() {
            "spec" => value.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone()),
            _ => container[key] = value.clone(),
        }
    }
    spec["containers"] = json!([container]);
    let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    machine.drop_manifest(&format!("{name}.yaml"), &text.to_string());
}

/// Fields one after the other.
fn with(mut one: Value, other: Value) -> Value {
    for (key, value) in other.as_object().into_iter().flatten() {
        one[key] = value.clone();
    }
    one
}

/// Docker's configuration with a password for one registry.
fn docker_config(host: &str, password: &str) -> Value {
    json!({"auths": {host: {"auth": STANDARD.encode(format!("{USER}:{password}"))}}})
}

/// A Secret in the manifest directory.
fn secret(machine: &Machine, name: &str, config: &Value) {
    let data = STANDARD.encode(config.to_string());
    let text = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": data},
    });
    machine.drop_manifest(&format!("{name}.json"), &text.to_string());
}

/// What `kubelet image pull` says when it fails.
#[track_caller]
fn refused_pull(machine: &Machine, reference: &str) -> String {
    let output = machine.try_cli(&["image", "pull", reference]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{reference} was to be refused; told: {told}");
    told
}

/// The container once it waits for this reason, with the message.
#[track_caller]
fn await_waiting(machine: &Machine, pod: &str, reason: &str) -> String {
    let status = machine.await_container(pod, "main", |status| status["state"]["waiting"]["reason"] == reason);
    status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

/// What the label of the running container's image says.
#[track_caller]
fn label(machine: &Machine, pod: &str) -> String {
    machine.await_running(pod, "main");
    await_some("the label", || {
        let output = machine.try_cli(&["exec", pod, "--", "cat", "/label"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(told) } else { Err(format!("{output:?}")) }
    })
}
