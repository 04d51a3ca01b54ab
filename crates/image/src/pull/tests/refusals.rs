//! Images that lie about themselves, each beside one that does not.

use super::world::{World, blob, digest_of, layer_type, until};
use super::{content, layer};
use crate::digest::Digest;
use crate::testing::{CONFIG, Header, INDEX, LAYER, Layout, MANIFEST, Tar, config, gzip, is_root};
use std::io::Write;

/// Serves one layer, which may be anything, under a configuration that is honest about `plain`.
fn one_layer(world: &World, name: &str, blob: &[u8], plain: &[u8]) -> Digest {
    let mut layout = Layout::default();
    let blob = layout.blob(&layer_type(), blob, "");
    let config = layout.blob(CONFIG, config(&[Digest::of(plain)]).as_bytes(), "");
    let manifest = digest_of(&layout.manifest(&config, &[blob], ""));
    world.serve(layout);
    world.tag(name, &manifest);
    manifest
}

/// Serves a document by name as it is.
fn document(world: &World, name: &str, media_type: &str, bytes: &[u8]) {
    let digest = Digest::of(bytes);
    world.put(digest.as_str(), Some(media_type), bytes);
    world.tag(name, &digest);
}

async fn refused_saying(world: &World, name: &str, words: &str) {
    let message = world.refused(name).await;
    assert!(message.contains(words), "{name}: {message:?} does not say {words:?}");
}

#[tokio::test]
async fn s_b09_bombs_and_damaged_streams_name_their_blob() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let plain = layer("a");
    let good = gzip(&plain);
    let mut wrong_sum = good.clone();
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let window = |log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let huge = Header { path: "huge", typeflag: b'0', mode: 0o644, ..Header::default() };
    let huge = Tar::new().claim(huge, 100 << 30).raw(&[0; 8192]).build();
    for (case, blob) in [
        ("cut", good[..good.len() - 9].to_vec()),
        ("checksum", wrong_sum),
        ("junk", [&good[..], b"junk"].concat()),
        ("window", window(30)),
        ("skippable", b"\x50\x2a\x4d\x18\xff\xff\xff\xffabcd".to_vec()),
        ("size", gzip(&huge)),
    ] {
        let name = format!("{case}:1");
        one_layer(&world, &name, &blob, &plain);
        refused_saying(&world, &name, Digest::of(&blob).as_str()).await;
    }
    for (case, blob) in [("gzip", good.clone()), ("zstd", window(27)), ("plain", plain.clone())] {
        let name = format!("{case}:1");
        one_layer(&world, &name, &blob, &plain);
        let image = world.pull(&name).await.unwrap();
        assert_eq!(content(&world.store, &image.id, "etc/a").unwrap(), b"a", "{case}");
    }
}

#[tokio::test]
async fn s_b10_content_must_be_what_its_digest_and_size_say() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let (plain, other) = (layer("a"), layer("b"));
    // Other bytes under a layer's digest, of the same length and not.
    for (case, bytes) in [("bytes", gzip(&other)), ("longer", [gzip(&plain), vec![0]].concat()), ("shorter", vec![1])] {
        let name = format!("layer-{case}:1");
        one_layer(&world, &name, &gzip(&plain), &plain);
        world.put(&blob(&plain), None, &bytes);
        world.refused(&name).await;
    }
    // What unpacks to something else than the configuration says.
    one_layer(&world, "diff-id:1", &gzip(&plain), &other);
    refused_saying(&world, "diff-id:1", "uncompressed").await;
    // Another configuration, another manifest.
    let manifest = one_layer(&world, "config:1", &gzip(&plain), &plain);
    let honest = config(&[Digest::of(&plain)]);
    world.put(Digest::of(honest.as_bytes()).as_str(), None, honest.replace("A=b", "A=c").as_bytes());
    refused_saying(&world, "config:1", "configuration sha256:").await;
    one_layer(&world, "config:1", &gzip(&plain), &plain);
    let lie = format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\"}}");
    world.put(manifest.as_str(), Some(MANIFEST), lie.as_bytes());
    refused_saying(&world, &format!("config@{manifest}"), "sha256:").await;
    // Descriptors.
    let good = format!("\"size\":{}", gzip(&plain).len());
    for (case, bad) in
        [("less", "\"size\":-1"), ("none", "\"size\":0"), ("more", "\"size\":9999"), ("float", "\"size\":1.5")]
    {
        let mut layout = Layout::default();
        let blob = layout.blob(&layer_type(), &gzip(&plain), "").replace(&good, bad);
        let config = layout.blob(CONFIG, honest.as_bytes(), "");
        let manifest = digest_of(&layout.manifest(&config, &[blob], ""));
        world.serve(layout);
        world.tag(&format!("size-{case}:1"), &manifest);
        world.refused(&format!("size-{case}:1")).await;
    }
    for bad in ["sha512:00", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../../../etc/passwd"] {
        let config = format!("{{\"mediaType\":\"{CONFIG}\",\"digest\":\"{bad}\",\"size\":2}}");
        let manifest = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{config}]}}");
        document(&world, "digest:1", MANIFEST, manifest.as_bytes());
        refused_saying(&world, "digest:1", "invalid digest").await;
    }
    one_layer(&world, "good:1", &gzip(&plain), &plain);
    world.pull("good:1").await.unwrap();
}

#[tokio::test]
async fn s_b11_ambiguous_documents_are_refused() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let plain = layer("a");
    let good = one_layer(&world, "good:1", &gzip(&plain), &plain);
    let descriptor = |media_type: &str, bytes: &[u8]| {
        format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"{}\",\"size\":{}}}", Digest::of(bytes), bytes.len())
    };
    let honest = config(&[Digest::of(&plain)]);
    let (config, layer) = (descriptor(CONFIG, honest.as_bytes()), descriptor(&layer_type(), &gzip(&plain)));
    let manifest = |more: &str| format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layer}]{more}}}");
    let index = |entries: &str| format!("{{\"schemaVersion\":2,\"manifests\":[{entries}]}}");
    for (case, media_type, bytes) in [
        ("both", MANIFEST, manifest(",\"manifests\":[]")),
        ("type", MANIFEST, manifest(&format!(",\"mediaType\":\"{INDEX}\""))),
        ("served", INDEX, manifest("")),
        ("html", "text/html", manifest("")),
        ("twice", MANIFEST, manifest(&format!(",\"layers\":[{layer}]"))),
        ("capital", MANIFEST, manifest(",\"Layers\":[]")),
        (
            "schema",
            "application/vnd.docker.distribution.manifest.v1+json",
            "{\"schemaVersion\":1,\"fsLayers\":[]}".into(),
        ),
        ("neither", MANIFEST, "{\"schemaVersion\":2}".into()),
        ("not-json", MANIFEST, "<html>".into()),
        ("referred", INDEX, index(&descriptor(INDEX, b"x").replace(&Digest::of(b"x").to_string(), good.as_str()))),
    ] {
        let name = format!("{case}:1");
        document(&world, &name, media_type, bytes.as_bytes());
        world.refused(&name).await;
    }
    // Indexes within indexes.
    let mut bytes = manifest("").into_bytes();
    let mut media_type = MANIFEST;
    for depth in 1..=6 {
        let name = format!("deep:{depth}");
        document(&world, &name, media_type, &bytes);
        if depth <= 4 {
            world.pull(&name).await.unwrap();
            world.store.remove(&world.reference(&name).to_string(), &|_| false).unwrap();
        } else {
            refused_saying(&world, &name, "4 deep").await;
        }
        (bytes, media_type) = (index(&descriptor(media_type, &bytes)).into_bytes(), INDEX);
    }
    // Many that say nothing of what they are for are not all looked at.
    let other = honest.replace("linux", "plan9");
    world.put(Digest::of(other.as_bytes()).as_str(), None, other.as_bytes());
    let entries: Vec<String> = (0..100)
        .map(|number| {
            let config = descriptor(CONFIG, other.as_bytes());
            let manifest =
                format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{layer}]}}{}", " ".repeat(number));
            world.put(Digest::of(manifest.as_bytes()).as_str(), Some(MANIFEST), manifest.as_bytes());
            descriptor(MANIFEST, manifest.as_bytes())
        })
        .collect();
    document(&world, "many:1", INDEX, index(&entries.join(",")).as_bytes());
    refused_saying(&world, "many:1", "more than 32").await;
    document(&world, "few:1", INDEX, index(&entries[..3].join(",")).as_bytes());
    refused_saying(&world, "few:1", "plan9").await;
    // A server that knows nothing of types, and a manifest that does not tell its own.
    document(&world, "untyped:1", "application/octet-stream", manifest("").as_bytes());
    world.pull("untyped:1").await.unwrap();
}

#[tokio::test]
async fn s_b12_documents_are_limited() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let plain = layer("a");
    let honest = config(&[Digest::of(&plain)]);
    let parts = |config_size: usize| {
        let config = Digest::of(honest.as_bytes());
        let config = format!("{{\"mediaType\":\"{CONFIG}\",\"digest\":\"{config}\",\"size\":{config_size}}}");
        let (digest, size) = (blob(&plain), gzip(&plain).len());
        (config, format!("{{\"mediaType\":\"{LAYER}+gzip\",\"digest\":\"{digest}\",\"size\":{size}}}"))
    };
    let manifest = |config_size: usize, layers: usize| {
        let (config, layer) = parts(config_size);
        format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[{}]}}", vec![layer; layers].join(","))
    };
    one_layer(&world, "good:1", &gzip(&plain), &plain);
    let padded = |bytes: usize| format!("{}{}", manifest(honest.len(), 1), " ".repeat(bytes - 600));
    let deep = format!("{{\"schemaVersion\":2,\"layers\":{}", "[".repeat(1_000_000));
    for (case, bytes) in [
        ("manifest", padded(5 << 20)),
        ("config", manifest(9 << 20, 1)),
        ("huge-config", manifest(usize::MAX >> 1, 1)),
        ("layers", manifest(honest.len(), 501)),
        ("none", manifest(honest.len(), 0)),
        ("counts", manifest(honest.len(), 2)),
        ("nulls", "{\"schemaVersion\":2,\"config\":null,\"layers\":null}".into()),
        ("deep", deep),
    ] {
        let name = format!("{case}:1");
        document(&world, &name, MANIFEST, bytes.as_bytes());
        world.refused(&name).await;
    }
    let entry = format!("{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{}\",\"size\":{}}}", Digest::of(b""), 5 << 20);
    document(&world, "entry:1", INDEX, format!("{{\"schemaVersion\":2,\"manifests\":[{entry}]}}").as_bytes());
    refused_saying(&world, "entry:1", "the limit is 4194304").await;
    document(&world, "padded:1", MANIFEST, padded(3 << 20).as_bytes());
    world.pull("padded:1").await.unwrap();
}

#[tokio::test]
async fn s_b13_as_many_layers_as_overlayfs_takes() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    for count in [1, 127, 128, 129, 300, 500] {
        let layers: Vec<Vec<u8>> = (0..count).map(|at| layer(&format!("{count}-{at}"))).collect();
        world.image(&format!("layers:{count}"), &layers);
        let image = world.pull(&format!("layers:{count}")).await.unwrap();
        assert_eq!(image.layers.len(), count);
        // mount(2) takes one page for these, the two directories of a container and some words.
        let options = image.layers.join(":").len();
        assert!(options < 3_600, "{count} layers need {options} bytes");
        let last = format!("etc/{count}-{}", count - 1);
        assert!(
            content(&world.store, &image.id, &last).is_some() && content(&world.store, &image.id, "etc/x").is_none()
        );
        world.store.remove(&image.id, &|_| false).unwrap();
    }
}

#[tokio::test]
async fn s_b14_a_layer_that_fails_in_mid_stream_ends_the_pull_at_once() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    // Bad from its second member on, with more to come that never does; and others that never come at all.
    let mut bad = Tar::new().file("a", b"x").raw(&[b'?'; 2048]).build();
    bad.extend((0..100_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()));
    let layers = [layer("first"), bad, layer("last")];
    world.image("bad:1", &layers);
    // Other images that share the layers.
    for number in 0..20 {
        world.image(&format!("also-bad:{number}"), &[&layers[..], &[layer(&format!("own-{number}"))]].concat());
    }
    let bad = blob(&layers[1]);
    world.hold(&blob(&layers[0]), 5);
    world.hold(&bad, 200_000);
    world.hold(&blob(&layers[2]), 5);
    refused_saying(&world, "bad:1", &bad).await;
    until("the others are given up", || world.open() == 0).await;
    let many = (0..80).map(|_| "bad:1".to_owned()).chain((0..20).map(|number| format!("also-bad:{number}")));
    let pulls: Vec<_> = many.map(|name| world.spawn(&name, None)).collect();
    for pull in pulls {
        let message = pull.await.unwrap().unwrap_err().to_string();
        assert!(message.contains(&bad), "{message}");
    }
    assert!(world.puller.under_way().is_empty());
    until("nothing is on its way", || world.open() == 0).await;
    world.image("good:1", &[layer("first"), layer("good")]);
    world.pull("good:1").await.unwrap();
}

#[tokio::test]
async fn s_b25_what_is_no_image_for_this_machine_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let plain = layer("a");
    let honest = config(&[Digest::of(&plain)]);
    let image = |config_type: &str, config: &str, layer_type: &str| {
        let mut layout = Layout::default();
        let blob = layout.blob(layer_type, &gzip(&plain), "");
        let config = layout.blob(config_type, config.as_bytes(), "");
        let manifest = digest_of(&layout.manifest(&config, &[blob], ""));
        world.serve(layout);
        manifest
    };
    let gz = layer_type();
    for (case, digest, words) in [
        ("artifact", image("application/vnd.oci.empty.v1+json", "{}", &gz), "application/vnd.oci.empty.v1+json"),
        ("wasm", image("application/vnd.wasm.config.v0+json", "{}", "application/wasm"), "vnd.wasm.config"),
        ("wasm-layer", image(CONFIG, &honest, "application/wasm"), "application/wasm"),
        ("encrypted", image(CONFIG, &honest, &format!("{gz}+encrypted")), "encrypted"),
        ("arch", image(CONFIG, &honest.replace("\"os\":\"linux\"", "\"os\":\"windows\""), &gz), "windows"),
        ("no-os", image(CONFIG, &honest.replace("\"os\":\"linux\",", ""), &gz), "no image for linux"),
        ("rootfs", image(CONFIG, &honest.replace("\"layers\"", "\"none\""), &gz), "rootfs"),
        ("xz", image(CONFIG, &honest, &format!("{LAYER}+xz")), "unsupported layer type"),
    ] {
        let name = format!("{case}:1");
        world.tag(&name, &digest);
        refused_saying(&world, &name, words).await;
    }
    world.tag("good:1", &image(CONFIG, &honest, &gz));
    world.pull("good:1").await.unwrap();
}
