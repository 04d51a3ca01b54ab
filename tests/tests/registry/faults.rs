//! What networks and registries do wrong (S-B24), and what becomes of a pull.

use crate::{app, docker_config, finish, label, machine, pod, random_layer, refused_pull, sleeping, verifying};
use e2e::Machine;
use e2e::dice::Dice;
use e2e::oci::{self, Blob, Image, Packing, sha256};
use e2e::registry::{self, Access, Fault, PASSWORD, Proxy, Registry, Wire};
use serde_json::{Value, json};

/// Requests whose path holds this fail so, so many of them.
type Rule = (&'static str, Fault, u32);

/// Layers of half a megabyte, so that a connection can break in their middle.
fn large(dice: &mut Dice, layers: usize) -> Image {
    let own = (0..layers).map(|number| random_layer(dice, &number.to_string(), 512 << 10));
    Image::new([oci::busybox(Packing::Gzip)].into_iter().chain(own).collect())
}

/// The whole is there in the end, and verified: a container of the image checks its files.
#[test]
fn s_b24_a_pull_outlives_what_passes() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let other = Proxy::start(&registry);
    let close = |bytes| Fault::CloseAfter(bytes);
    let cases: [(&str, Vec<Rule>); 9] = [
        ("harmless", vec![]),
        ("closed", vec![("/blobs/", close(100_000), 6)]),
        ("closed-at-once", vec![("/blobs/", close(0), 2)]),
        ("manifest-closed", vec![("/manifests/", close(10), 1)]),
        ("range-ignored", vec![("/blobs/", Fault::IgnoreRange { then_close_after: 200_000 }, 3)]),
        ("busy", vec![("/blobs/", Fault::Status(429, "Retry-After: 0\r\n"), 2)]),
        ("down", vec![("/", Fault::Status(503, "Retry-After: 0\r\n"), 1), ("/blobs/", Fault::Status(502, ""), 1)]),
        ("elsewhere", vec![("/blobs/", Fault::RedirectTo(other.url()), u32::MAX)]),
        ("elsewhere-closed", vec![("/blobs/", Fault::RedirectTo(other.url()), u32::MAX)]),
    ];
    let machine = machine(&[]);
    for (name, rules) in cases {
        registry.put(&format!("{name}/app:1"), &large(&mut dice, 2));
        let proxy = Proxy::start(&registry);
        for (path, fault, times) in rules {
            proxy.inject(path, fault, times);
        }
        if name == "elsewhere-closed" {
            other.inject("/blobs/", close(100_000), 4);
        }
        let image = format!("{}/{name}/app:1", proxy.host());
        let mut container = verifying(2);
        container["spec"] = json!({"restartPolicy": "Never"});
        pod(&machine, name, &image, &container);
        machine.await_phase(name, "Succeeded");
        other.heal();
        if name == "closed" {
            let resumed = proxy.seen().into_iter().filter(|seen| seen.range.is_some()).count();
            assert!(resumed > 0, "what had come was not asked for again: {:#?}", proxy.seen());
        }
    }
    finish(machine);
}

/// What does not pass is told by its name, and nothing of it stays.
#[test]
fn s_b24_what_is_wrong_is_told_and_leaves_nothing() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = large(&mut dice, 1);
    registry.put("shop/app:1", &image);
    let layer = &image.layers[1].blob;
    let stalls = vec![
        ("stalled", (layer.hex(), Fault::StallAfter(1000)), "stalled"),
        ("stalled manifest", ("/manifests/", Fault::StallAfter(10)), "stalled"),
    ];
    let others = vec![
        ("corrupt", (layer.hex(), Fault::Corrupt), layer.digest.as_str()),
        ("never whole", (layer.hex(), Fault::CloseAfter(0)), "127.0.0.1"),
        ("forbidden", ("/blobs/", Fault::Status(403, "")), "refuses"),
        ("in a circle", ("/manifests/", Fault::RedirectTo(String::new())), "redirect"),
    ];
    // To whom a registry that is only slow, as all is on a busy machine, has stalled too.
    let impatient = machine(&["--image-pull-progress-deadline=1s".to_owned()]);
    are_refused(&impatient, &registry, stalls);
    finish(impatient);
    let machine = machine(&[]);
    are_refused(&machine, &registry, others);
    // The harmless twin.
    machine.cli(&["image", "pull", &format!("{}/shop/app:1", registry.host())]);
    finish(machine);
}

/// Pulls `shop/app:1` with each fault: its name, where it is met, and what is told of it.
fn are_refused(machine: &Machine, registry: &Registry, cases: Vec<(&str, (&str, Fault), &str)>) {
    for (name, (path, fault), expected) in cases {
        let proxy = Proxy::start(registry);
        proxy.inject(path, fault, u32::MAX);
        let told = refused_pull(machine, &format!("{}/shop/app:1", proxy.host()));
        assert!(told.contains(expected), "{name}: {expected} in {told}");
        assert!(!machine.cli(&["image", "list"]).contains("shop/app"), "{name}");
        proxy.heal();
    }
}

/// What answers in a registry's place, and is none: each is told by what is odd about it, and costs one try.
#[test]
fn s_b24_answers_that_no_registry_gives() {
    if !registry::is_available() {
        return;
    }
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let image = app("answers");
    registry.put("shop/app:1", &image);
    let machine = machine(&["--image-pull-progress-deadline=1s".to_owned()]);
    let raw = |head: &str, body: &str| Fault::Raw(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}"));
    let ok = |fields: &str, body: &str| raw(&format!("200 OK\r\n{fields}\r\nContent-Length: {}", body.len()), body);
    let other = format!("Docker-Content-Digest: sha256:{}", sha256(b"another"));
    let (manifest, layer) = ("/manifests/", image.layers[1].blob.hex());
    let cases = [
        ("a web page", manifest, ok("Content-Type: text/html", "<html>"), "it is a web page"),
        ("compressed", manifest, ok("Content-Encoding: gzip", "{}"), "as no registry does"),
        (
            "a part",
            manifest,
            raw("206 Part\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/9", "{}"),
            "as no registry",
        ),
        ("another digest", manifest, ok(&other, "{}"), "expected sha256:"),
        ("too long", manifest, ok("X: y", &" ".repeat(5 << 20)), "more than 4194304 bytes"),
        ("nowhere", manifest, Fault::Status(302, ""), "redirects"),
        ("a riddle", manifest, Fault::Status(401, "Www-Authenticate: Negotiate\r\n"), "refuses"),
        ("a closed door", manifest, Fault::Status(401, "Www-Authenticate: Basic realm=\"x\"\r\n"), "refuses"),
        ("busy for an hour", manifest, Fault::Status(429, "Retry-After: 3600\r\n"), "3600 s"),
        ("byte by byte", manifest, Fault::Trickle, "stalled"),
        ("no HTTP", manifest, Fault::Raw("SSH-2.0-OpenSSH_9\r\n\r\n".to_owned()), "broke off"),
        ("a head of 10 MiB", manifest, ok(&format!("X: {}", "x".repeat(10 << 20)), "{}"), "broke off"),
        ("junk in chunks", manifest, raw("200 OK\r\nTransfer-Encoding: chunked", "zz\r\n{}"), "broke off"),
        ("a web page for a layer", layer, ok("Content-Type: text/html", "<html>"), "it is a web page"),
        ("a layer too long", layer, ok("X: y", &"x".repeat(1 << 20)), "with a size of 1048576, expected"),
        ("a layer without end", layer, raw("200 OK", &"x".repeat(1 << 20)), "more than"),
    ];
    // Known by its first answer to speak HTTP without TLS: what is no HTTP is not taken for TLS then.
    let proxy = Proxy::start(&registry);
    for (name, path, fault, expected) in cases {
        proxy.inject(path, fault, u32::MAX);
        let told = refused_pull(&machine, &format!("{}/shop/app:1", proxy.host()));
        assert!(told.contains(expected) && told.contains(&proxy.host()) && told.len() < 1000, "{name}: {told}");
        assert!(!machine.cli(&["image", "list"]).contains("shop/app"), "{name}");
        proxy.heal();
    }
    // The harmless twin: whoever tells less than others is no worse, when the image comes and when it is there.
    proxy.forget();
    proxy.inject("/manifests/", Fault::Without("Docker-Content-Digest"), u32::MAX);
    for _ in 0..2 {
        machine.cli(&["image", "pull", &format!("{}/shop/app:1", proxy.host())]);
    }
    assert!(proxy.blobs().values().all(|times| *times == 1), "{:#?}", proxy.blobs());
    finish(machine);
}

/// S-B10, S-B11, S-B12, S-B14, S-B25: what a registry can say that is not so. Each has a good image as its twin, which is
/// pulled right after it.
#[test]
fn s_b10_s_b11_s_b14_images_that_are_not_what_they_say() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let machine = machine(&[]);
    let good = large(&mut dice, 1);
    let manifest: Value = serde_json::from_slice(&good.manifest.bytes).expect("JSON");
    let changed = |pointer: &str, value: Value| {
        let mut manifest = manifest.clone();
        *manifest.pointer_mut(pointer).expect("a field") = value;
        manifest.to_string()
    };
    let size = good.layers[1].blob.bytes.len();
    let config = |diff_id: &str| {
        let mut config: Value = serde_json::from_slice(&good.config.bytes).expect("JSON");
        config["rootfs"]["diff_ids"][1] = json!(diff_id);
        let image = Image::with_config(Blob::json(oci::CONFIG, &config), good.layers.clone());
        registry.put_blob("lies/app", &image.config);
        String::from_utf8(image.manifest.bytes).expect("JSON")
    };
    // A layer that is no archive, with much behind it: the digests are right.
    let junk = oci::Packed::new(&vec![b'x'; 8 << 20], Packing::Gzip);
    let junk_image = Image::new(vec![oci::busybox(Packing::Gzip), junk]);
    for blob in junk_image.blobs() {
        registry.put_blob("lies/app", blob);
    }
    let cases = [
        ("size-1", changed("/layers/1/size", json!(size - 1))),
        ("size+1", changed("/layers/1/size", json!(size + 1))),
        ("size0", changed("/layers/1/size", json!(0))),
        ("size-minus", changed("/layers/1/size", json!(-1))),
        ("digest-form", changed("/layers/1/digest", json!("sha256:../../../../etc/passwd"))),
        ("digest-short", changed("/layers/1/digest", json!("sha256:abc"))),
        ("digest-absent", changed("/layers/1/digest", json!(format!("sha256:{}", "0".repeat(64))))),
        ("digest-of-another", changed("/layers/1/digest", json!(good.layers[0].blob.digest))),
        ("diff-id", config(&format!("sha256:{}", "0".repeat(64)))),
        ("twice", format!("{{\"layers\":[],{}", &manifest.to_string()[1..])),
        ("both", format!("{{\"manifests\":[],{}", &manifest.to_string()[1..])),
        ("version", changed("/schemaVersion", json!(1))),
        ("no-json", "<html>welcome</html>".to_owned()),
        ("deep", "[".repeat(100_000)),
        ("large", format!("{{\"x\":\"{}\"}}", "y".repeat(5 << 20))),
        ("no-archive", String::from_utf8(junk_image.manifest.bytes.clone()).expect("JSON")),
    ];
    for blob in good.blobs() {
        registry.put_blob("lies/app", blob);
    }
    for (tag, text) in &cases {
        registry.put_manifest(&format!("lies/app:{tag}"), &Blob::new(oci::MANIFEST, text.clone().into_bytes()));
    }
    for (tag, _) in cases {
        let told = refused_pull(&machine, &format!("{}/lies/app:{tag}", registry.host()));
        assert!(told.contains("lies/app"), "{tag}: {told}");
        let listed = machine.cli(&["image", "list"]);
        assert!(!listed.contains("lies/"), "{tag}: {listed}");
    }
    registry.put("truth/app:1", &good);
    let mut container = verifying(1);
    container["spec"] = json!({"restartPolicy": "Never"});
    pod(&machine, "truth", &format!("{}/truth/app:1", registry.host()), &container);
    machine.await_phase("truth", "Succeeded");
    finish(machine);
}

/// S-B22: where a registry sends us for a blob, its password is not shown.
#[test]
fn s_b22_a_password_does_not_follow_to_another_host() {
    if !registry::is_available() {
        return;
    }
    let (registry, open) =
        (Registry::start(Access::Password, Wire::Plain), Registry::start(Access::Anonymous, Wire::Plain));
    let (door, elsewhere, foreign) = (Proxy::start(&registry), Proxy::start(&open), Proxy::start(&open));
    let image = app("redirected");
    registry.put("private/app:1", &image);
    open.put("private/app:1", &image);
    door.inject("/blobs/", Fault::RedirectTo(elsewhere.url()), u32::MAX);
    let machine = machine(&[]);
    let config = docker_config(&door.host(), PASSWORD);
    std::fs::write(machine.dir.join("root/config.json"), config.to_string()).expect("written");
    pod(&machine, "redirected", &format!("{}/private/app:1", door.host()), &sleeping());
    assert_eq!(label(&machine, "redirected"), "redirected");
    assert!(door.seen().iter().any(|seen| seen.authorization.is_some()), "the door asked for it");
    assert!(!elsewhere.seen().is_empty(), "the blobs came from elsewhere");
    let told: Vec<_> = elsewhere.seen().into_iter().filter(|seen| seen.authorization.is_some()).collect();
    assert!(told.is_empty(), "{told:#?}");

    // A layer that names its own places is asked of the registry alone.
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
    let digest = image.layers[1].blob.digest.clone();
    manifest["layers"][1]["urls"] = json!([format!("{}/v2/private/app/blobs/{digest}", foreign.url())]);
    registry.put_manifest("private/app:2", &Blob::json(oci::MANIFEST, &manifest));
    // The answer may be either; what counts is who is asked.
    machine.try_cli(&["image", "pull", &format!("{}/private/app:2", door.host())]);
    assert!(foreign.seen().is_empty(), "{:#?}", foreign.seen());
    finish(machine);
}
