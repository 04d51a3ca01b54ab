//! Archives that lie about themselves, each beside one that does not.

use super::ImportOptions;
use crate::digest::Digest;
use crate::error::{ArchiveError, Error, Result};
use crate::store::Store;
use crate::testing::{
    CONFIG, Canary, INDEX, LAYER, Layout, MANIFEST, Tar, config, docker_archive, gzip, is_root, listing, named,
};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    canary: Canary,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let canary = Canary::new(dir.path());
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, canary }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Imports and gives all references that came with it.
    fn import(&self, bytes: &[u8]) -> Result<Vec<String>> {
        let imported = self.store.import(&self.write(bytes), ImportOptions::default())?;
        Ok(imported.into_iter().flat_map(|image| image.references).collect())
    }

    /// Everything in the store's directory.
    fn files(&self) -> Vec<String> {
        listing(self.store.root())
    }
}

/// The archive is refused and leaves nothing behind.
fn refuse(case: &str, bytes: &[u8]) -> Error {
    let fixture = Fixture::new();
    let before = fixture.files();
    let error = fixture.import(bytes).expect_err(case);
    assert_eq!(fixture.files(), before, "{case}: something was left");
    assert!(fixture.store.list().is_empty(), "{case}");
    fixture.canary.assert_untouched(case);
    error
}

/// The archive is refused with a message that has `words` in it.
fn refuse_saying(words: &str, bytes: &[u8]) {
    let message = refuse(words, bytes).to_string();
    assert!(message.contains(words), "{message:?} does not say {words:?}");
}

fn layer() -> Vec<u8> {
    Tar::new().dir("etc", 0o755).file("etc/a", b"x").build()
}

fn one(more: &str) -> (Layout, String) {
    let mut layout = Layout::default();
    let descriptor = layout.image(&[layer()], more);
    (layout, descriptor)
}

#[test]
fn both_forms_and_every_compression_are_imported() {
    if !is_root() {
        return;
    }
    let (layout, descriptor) = one(&named("example.org/a/b:1"));
    let layout = layout.build(&[descriptor]);
    let docker = docker_archive("busybox:1", &[layer(), Tar::new().file("b", b"y").build()]);
    for (case, archive, name) in
        [("layout", layout, "example.org/a/b:1"), ("docker", docker, "docker.io/library/busybox:1")]
    {
        for (compression, bytes) in
            [("plain", archive.clone()), ("gzip", gzip(&archive)), ("zstd", zstd::encode_all(&archive[..], 1).unwrap())]
        {
            let fixture = Fixture::new();
            assert_eq!(fixture.import(&bytes).unwrap(), [name], "{case} {compression}");
            let image = fixture.store.resolve(name).unwrap().unwrap();
            assert_eq!(
                (image.config.cmd.as_slice(), image.config.env.as_slice()),
                (&["sh".into()][..], &["A=b".into()][..])
            );
            assert_eq!(image.layers.len(), if case == "docker" { 2 } else { 1 });
            let lowest = fixture.store.layers_dir().join(image.layers.last().unwrap());
            assert_eq!(fs::read(lowest.join("etc/a")).unwrap(), b"x");
            assert_eq!(image.digests.len(), usize::from(case == "layout"), "only a layout has a manifest");
            let by_digest =
                image.digests.first().map(|digest| fixture.store.resolve(digest).unwrap().unwrap().id.clone());
            assert!(by_digest.is_none_or(|id| id == image.id));
        }
    }
}

#[test]
fn importing_again_changes_nothing() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let (layout, descriptor) = one(&named("a:1"));
    let bytes = layout.build(&[descriptor]);
    fixture.import(&bytes).unwrap();
    let stamp = |fixture: &Fixture| {
        use std::os::unix::fs::MetadataExt;
        let image = fixture.store.list()[0].clone();
        let record = fixture.store.root().join("images").join(&image.id[7..]);
        let layer = fixture.store.layers_dir().join(&image.layers[0]);
        (fs::metadata(record).unwrap().ino(), fs::metadata(layer).unwrap().ino(), image)
    };
    let before = stamp(&fixture);
    assert_eq!(fixture.import(&bytes).unwrap(), ["docker.io/library/a:1"]);
    assert_eq!(stamp(&fixture), before);
    // The same image by another name: the layers are not read again.
    assert_eq!(fixture.import(&docker_archive("b:2", &[layer()])).unwrap(), ["docker.io/library/b:2"]);
    let image = fixture.store.resolve("b:2").unwrap().unwrap();
    assert_eq!(image.refs, ["docker.io/library/a:1", "docker.io/library/b:2"]);
    assert_eq!((image.layers.clone(), image.digests.len()), (before.2.layers.clone(), 1));
}

#[test]
fn names_come_from_annotations_and_tags() {
    if !is_root() {
        return;
    }
    let annotations = |a: &str| format!(",\"annotations\":{{{a}}}");
    let containerd = annotations(
        "\"io.containerd.image.name\":\"docker.io/library/a:1\",\"org.opencontainers.image.ref.name\":\"1\"",
    );
    for (case, more, names) in [
        ("full", named("reg.example/a:1"), &["reg.example/a:1"][..]),
        ("containerd's", containerd, &["docker.io/library/a:1"]),
        ("a bare tag names nothing", named("latest"), &[]),
        ("none", String::new(), &[]),
    ] {
        let (layout, descriptor) = one(&more);
        let fixture = Fixture::new();
        assert_eq!(fixture.import(&layout.build(&[descriptor])).unwrap(), names, "{case}");
        let id = fixture.store.list()[0].id.clone();
        assert!(fixture.store.resolve(&id).unwrap().is_some(), "{case}: always by its id");
    }
    // Newer docker save: the layout has only a tag, manifest.json the name.
    let (layout, descriptor) = one(&named("latest"));
    let id = Digest::of(config(&[Digest::of(&layer())]).as_bytes());
    let tags = |id: &Digest| {
        format!("[{{\"Config\":\"blobs/sha256/{}\",\"RepoTags\":[\"a:latest\"],\"Layers\":[\"x\"]}}]", id.hex())
    };
    let both = layout.clone().file("manifest.json", tags(&id).as_bytes()).build(std::slice::from_ref(&descriptor));
    assert_eq!(Fixture::new().import(&both).unwrap(), ["docker.io/library/a:latest"]);
    // The same with two stories.
    let other = config(&[Digest::of(b"other")]);
    let mut two = layout;
    two.blob(CONFIG, other.as_bytes(), "");
    let two = two.file("manifest.json", tags(&Digest::of(other.as_bytes())).as_bytes()).build(&[descriptor]);
    refuse_saying("another image than index.json", &two);
}

#[test]
fn s_b10_digests_and_sizes_must_be_right() {
    if !is_root() {
        return;
    }
    let wrong = |from: &str, to: &str| {
        let (layout, descriptor) = one("");
        assert!(descriptor.contains(from), "{from} in {descriptor}");
        layout.build(&[descriptor.replacen(from, to, 1)])
    };
    for (from, to) in [
        ("sha256:", "sha512:"),
        ("sha256:", "SHA256:"),
        ("sha256:", "sha256:00"),
        ("sha256:", "sha256:../"),
        ("sha256:", "sha256:/../../../../../../../"),
        ("\"size\":", "\"size\":-"),
        ("\"size\":", "\"size\":1"),
        ("\"size\":", "\"size\":0.5,\"x\":"),
        ("\"size\":", "\"size\":\"1\",\"x\":"),
        ("\"size\":", "\"size\":0,\"x\":"),
    ] {
        refuse(to, &wrong(from, to));
    }
    let swapped = |at: usize| {
        let (mut layout, descriptor) = one("");
        layout.files_mut()[at].1[20] ^= 1;
        layout.build(&[descriptor])
    };
    for (case, at) in [("layer", 0), ("config", 1), ("manifest", 2)] {
        refuse(case, &swapped(at));
    }
    // The same content in other bytes: only the digest of the blob tells.
    let (mut layout, descriptor) = one("");
    let operating_system = 9;
    layout.files_mut()[0].1[operating_system] ^= 1;
    refuse_saying("the digest of the layer is", &layout.build(&[descriptor]));
    let truth = Digest::of(&layer());
    let with = |diff_id: &Digest, blob: &[u8], more: &[u8]| {
        let mut layout = Layout::default();
        let layer = layout.blob(LAYER, blob, "");
        layout.files_mut()[0].1.extend(more);
        let config = layout.blob(CONFIG, config(std::slice::from_ref(diff_id)).as_bytes(), "");
        let manifest = layout.manifest(&config, &[layer], "");
        layout.build(&[manifest])
    };
    refuse_saying("digest of the uncompressed layer", &with(&Digest::of(b"other"), &layer(), b""));
    refuse_saying("has size", &with(&truth, &layer(), b"more"));
    refuse_saying("layer sha256:", &with(&truth, b"\xfd7zXZ\0", b""));
    Fixture::new().import(&with(&truth, &layer(), b"")).unwrap();
    let junk = [&gzip(&layer())[..], b"junk"].concat();
    refuse("junk after gzip", &with(&truth, &junk, b""));
    refuse_saying(
        "\"abc.json\"",
        &Tar::new().file("abc.json", b"{}").file("manifest.json", b"[{\"Config\":\"abc.json\",\"Layers\":[]}]").build(),
    );
    let named = format!("{}.json", truth.hex());
    let manifest = format!("[{{\"Config\":\"{named}\",\"RepoTags\":null,\"Layers\":[\"l\"]}}]");
    let text = config(&[truth]);
    refuse_saying(
        "has digest",
        &Tar::new().file(&named, text.as_bytes()).file("manifest.json", manifest.as_bytes()).build(),
    );
}

#[test]
fn s_b11_ambiguous_manifests_are_refused() {
    if !is_root() {
        return;
    }
    let (layout, descriptor) = one("");
    let as_manifest = |text: &str, media_type: &str| {
        let mut layout = layout.clone();
        let descriptor = layout.blob(media_type, text.as_bytes(), "");
        layout.build(&[descriptor])
    };
    let good = String::from_utf8(layout.clone().files_mut()[2].1.clone()).unwrap();
    Fixture::new().import(&as_manifest(&good, MANIFEST)).unwrap();
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} in {good}");
        good.replacen(from, to, 1)
    };
    for (case, text, media_type) in [
        ("manifest and index", change("\"layers\"", &format!("\"manifests\":[{descriptor}],\"layers\"")), MANIFEST),
        ("called an index", good.clone(), INDEX),
        ("mediaType of an index", change(MANIFEST, INDEX), MANIFEST),
        ("another mediaType", change(MANIFEST, "text/plain"), "text/plain"),
        ("twice the same name", change("\"layers\"", "\"layers\":[],\"layers\""), MANIFEST),
        ("a name in two spellings", change("\"layers\"", "\"Layers\":[],\"layers\""), MANIFEST),
        ("only the other spelling", change("\"layers\"", "\"Layers\""), MANIFEST),
        ("schema 1", change("\"schemaVersion\":2", "\"schemaVersion\":1"), MANIFEST),
        ("no schema", change("\"schemaVersion\":2,", ""), MANIFEST),
        ("no config", change("\"config\"", "\"konfig\""), MANIFEST),
        ("null layers", change("\"layers\":[", "\"layers\":null,\"x\":["), MANIFEST),
        ("a list", format!("[{good}]"), MANIFEST),
        ("two documents", format!("{good}{good}"), MANIFEST),
        ("nothing", String::new(), MANIFEST),
    ] {
        refuse(case, &as_manifest(&text, media_type));
    }
    refuse("index.json is a manifest", &layout.clone().file("index.json", good.as_bytes()).tar());
    refuse("index.json is there twice", &layout.clone().file("index.json", b"{}").build(&[descriptor]));
    refuse("nothing to import", &layout.clone().build(&[]));
    assert!(matches!(refuse("no index", &layout.tar()), Error::Archive { source: ArchiveError::NotAnImage, .. }));
}

#[test]
fn s_b11_indexes_lead_to_this_machines_image_within_a_limit() {
    if !is_root() {
        return;
    }
    let architecture = crate::manifest::Platform::host().architecture;
    let platform =
        |os: &str, architecture: &str| format!(",\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{architecture}\"}}");
    let nested = |depth: usize| {
        let mut layout = Layout::default();
        let mut descriptor = layout.image(&[layer()], &platform("linux", &architecture));
        for level in 1..depth {
            let more = if level + 1 == depth { named("a:1") } else { String::new() };
            descriptor = layout.blob(INDEX, Layout::index(&[descriptor]).as_bytes(), &more);
        }
        layout.build(&[descriptor])
    };
    assert_eq!(Fixture::new().import(&nested(4)).unwrap(), ["docker.io/library/a:1"]);
    refuse_saying("nested more than 4 deep", &nested(5));

    // Other platforms' blobs need not be there.
    let absent = |os: &str, architecture: &str| {
        let more = platform(os, architecture);
        format!("{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{}\",\"size\":7{more}}}", Digest::of(b"absent"))
    };
    let mut layout = Layout::default();
    let mine = layout.image(&[layer()], &platform("linux", &architecture));
    let others = [absent("linux", "riscv64"), absent("unknown", "unknown"), mine, absent("windows", &architecture)];
    let index = layout.blob(INDEX, Layout::index(&others).as_bytes(), &named("multi:1"));
    assert_eq!(Fixture::new().import(&layout.build(&[index])).unwrap(), ["docker.io/library/multi:1"]);

    let none = Layout::default().build(&[absent("linux", "riscv64"), absent("plan9", "mips")]);
    refuse_saying("the archive has linux/riscv64, plan9/mips", &none);
    let (layout, first) = one(&named("a:1"));
    let mut two = layout;
    let second = two.image(&[Tar::new().file("b", b"").build()], &named("a:1"));
    refuse_saying("two images have this name", &two.build(&[first, second]));
    let missing = Layout::default().build(&[absent("linux", &architecture)]);
    refuse_saying("is missing", &missing);
}

#[test]
fn s_b12_documents_are_limited() {
    if !is_root() {
        return;
    }
    let big = |len: usize| format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(len)).into_bytes();
    let too_large = |case: &str, bytes: &[u8]| {
        let error = refuse(case, bytes);
        assert!(matches!(error, Error::Archive { source: ArchiveError::TooLarge { .. }, .. }), "{case}: {error}");
    };
    too_large("index", &Layout::default().file("index.json", &big(4 << 20)).tar());
    too_large("docker manifest", &Tar::new().file("manifest.json", &big(4 << 20)).build());
    let mut layout = Layout::default();
    let descriptor = layout.blob(MANIFEST, &big(4 << 20), "");
    too_large("manifest", &layout.build(&[descriptor]));
    let mut layout = Layout::default();
    let blob = layout.blob(LAYER, &layer(), "");
    let config = layout.blob(CONFIG, &big(8 << 20), "");
    let manifest = layout.manifest(&config, &[blob], "");
    too_large("config", &layout.build(&[manifest]));
    // A file that claims 4 GiB and has none of it.
    let claim = crate::testing::Header { path: "index.json", typeflag: b'0', mode: 0o644, ..Default::default() };
    refuse_saying("it ends within a member", &Tar::new().claim(claim, 4 << 30).build());

    for text in
        ["null", "[null]", "{\"schemaVersion\":2,\"manifests\":null}", "{\"schemaVersion\":2,\"manifests\":[null]}"]
    {
        refuse(text, &Layout::default().file("index.json", text.as_bytes()).tar());
        refuse(text, &Tar::new().file("manifest.json", text.as_bytes()).build());
    }
    let deep = format!("{{\"manifests\":{}", "[".repeat(1_000_000));
    refuse("deep", &Layout::default().file("index.json", deep.as_bytes()).tar());
    refuse("not UTF-8", &Layout::default().file("index.json", b"{\"schemaVersion\":2,\"x\":\"\xff\xfe\"}").tar());
}

#[test]
fn s_b12_s_b13_layers_are_counted() {
    if !is_root() {
        return;
    }
    let docker = |count: usize| {
        let layers: Vec<_> = (0..count).map(|i| Tar::new().file("a", format!("{i}").as_bytes()).build()).collect();
        docker_archive("a:1", &layers)
    };
    refuse_saying("no layers", &docker(0));
    refuse_saying("501 layers; the limit is 500", &docker(501));
    let fixture = Fixture::new();
    for count in [1, 127, 128, 129, 500] {
        fixture.import(&docker(count)).unwrap();
        let image = fixture.store.resolve("a:1").unwrap().unwrap();
        assert_eq!(image.layers.len(), count);
        let top = fixture.store.layers_dir().join(&image.layers[0]);
        assert_eq!(fs::read_to_string(top.join("a")).unwrap(), (count - 1).to_string(), "topmost first");
    }
    let options: usize = fixture.store.resolve("a:1").unwrap().unwrap().layers.iter().map(|name| name.len() + 1).sum();
    assert!(options < 4_096 - 200, "names of 500 layers fit into one page of mount options: {options}");
    let manifest = "[{\"Config\":\"c\",\"Layers\":[\"a\",\"b\"]}]";
    let two = Tar::new().file("c", config(&[Digest::of(b"a")]).as_bytes()).file("manifest.json", manifest.as_bytes());
    refuse_saying("2 layers, its configuration 1", &two.build());
}

#[test]
fn s_b25_what_is_not_an_image_for_this_machine_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let image = |config_type: &str, layer_type: &str, text: &str| {
        let mut layout = Layout::default();
        let layer = layout.blob(
            layer_type,
            &layer(),
            ",\"annotations\":{\"containerd.io/snapshot/stargz/toc.digest\":\"sha256:0\"}",
        );
        let config = layout.blob(config_type, text.as_bytes(), "");
        let manifest = layout.manifest(&config, &[layer], "");
        layout.build(&[manifest])
    };
    let good = config(&[Digest::of(&layer())]);
    Fixture::new().import(&image(CONFIG, LAYER, &good)).unwrap();
    refuse_saying("not a container image", &image("application/vnd.oci.empty.v1+json", LAYER, "{}"));
    refuse_saying("not a container image", &image("application/vnd.wasm.config.v0+json", LAYER, &good));
    refuse_saying("encrypted", &image(CONFIG, &format!("{LAYER}+gzip+encrypted"), &good));
    refuse_saying("unsupported layer type", &image(CONFIG, "application/wasm", &good));
    refuse_saying(
        "linux/s390x",
        &image(CONFIG, LAYER, &good.replace(&crate::manifest::Platform::host().architecture, "s390x")),
    );
    refuse_saying("windows/", &image(CONFIG, LAYER, &good.replace("linux", "windows")));
    refuse_saying("rootfs.type", &image(CONFIG, LAYER, &good.replace("\"layers\"", "\"other\"")));
    refuse_saying("missing field", &image(CONFIG, LAYER, "{}"));
    for (from, to) in [("[\"sh\"]", "\"sh\""), ("[\"A=b\"]", "[1]"), ("\"Labels\":null", "\"Labels\":{\"a\":1}")] {
        refuse(to, &image(CONFIG, LAYER, &good.replace(from, to)));
    }
    let empty = good.replace("\"config\":{", "\"config\":null,\"history\":{");
    Fixture::new().import(&image(CONFIG, LAYER, &empty)).unwrap();
}

#[test]
fn members_are_found_through_links_but_not_outside() {
    if !is_root() {
        return;
    }
    let config = config(&[Digest::of(&layer())]);
    let archive = |build: &dyn Fn(Tar) -> Tar| {
        let manifest = b"[{\"Config\":\"c.json\",\"RepoTags\":[\"a:1\"],\"Layers\":[\"b/layer.tar\"]}]";
        build(Tar::new().file("c.json", config.as_bytes()).file("manifest.json", manifest)).build()
    };
    let layer = layer();
    Fixture::new().import(&archive(&|tar| tar.file("./b/layer.tar", &layer))).unwrap();
    Fixture::new()
        .import(&archive(&|tar| tar.file("a/layer.tar", &layer).symlink("b/layer.tar", "../a/layer.tar")))
        .unwrap();
    Fixture::new().import(&archive(&|tar| tar.file("a/layer.tar", &layer).link("b/layer.tar", "a/layer.tar"))).unwrap();
    let fixture = Fixture::new();
    fs::write(fixture.canary.dir.with_file_name("outside.tar"), &layer).unwrap();
    let outside = fixture.dir.path().join("outside.tar");
    let lead_out = archive(&|tar| tar.symlink("b/layer.tar", outside.to_str().unwrap()));
    assert!(fixture.import(&lead_out).is_err());
    refuse("a circle", &archive(&|tar| tar.symlink("b/layer.tar", "x").symlink("b/x", "layer.tar")));
    let path = fixture.dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(fixture.store.import(&path, ImportOptions::default()).is_err(), "a fifo is not waited for");
    assert!(fixture.store.import(fixture.dir.path(), ImportOptions::default()).is_err(), "a directory");
}

#[test]
fn s_b14_a_broken_layer_leaves_nothing_and_blocks_nobody() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let good = docker_archive("good:1", &[layer()]);
    fixture.import(&good).unwrap();
    let before = fixture.files();
    let mut broken_layer = Tar::new().file("a", b"x").build();
    broken_layer[600] = b'y';
    broken_layer[0] = b'z';
    let broken = docker_archive("broken:1", &[layer(), broken_layer]);
    let broken_path = fixture.dir.path().join("broken.tar");
    fs::write(&broken_path, broken).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(fixture.store.import(&broken_path, ImportOptions::default()).is_err()));
        }
    });
    assert_eq!(fixture.files(), before);
    assert_eq!(fixture.import(&good).unwrap(), ["docker.io/library/good:1"]);
}
