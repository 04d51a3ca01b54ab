//! Pulls from a registry that tells the truth, and from one that does not.

mod refusals;
mod sharing;
mod world;

use super::{LayerState, PullError};
use crate::digest::Digest;
use crate::manifest::Platform;
use crate::store::Store;
use crate::testing::{CONFIG, INDEX, Layout, Tar, config, gzip, is_root, named};
use futures_util::FutureExt as _;
use std::fs;
use std::time::Duration;
use world::{World, blob, cause, digest_of, until};

fn layer(name: &str) -> Vec<u8> {
    Tar::new().dir("etc", 0o755).file(&format!("etc/{name}"), name.as_bytes()).build()
}

/// What a container of the image would see at `path`.
fn content(store: &Store, image: &str, path: &str) -> Option<Vec<u8>> {
    let image = store.resolve(image).unwrap().unwrap();
    image.layers.iter().find_map(|layer| fs::read(store.layers_dir().join(layer).join(path)).ok())
}

#[tokio::test]
async fn what_was_pulled_is_whole_and_has_its_names() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("a"), layer("b")];
    let digest = world.image("app:1", &layers);
    let image = world.pull("app:1").await.unwrap();
    assert_eq!(image.refs, [format!("{}/app:1", world.host)]);
    assert_eq!(image.digests, [format!("{}/app@{digest}", world.host)]);
    assert_eq!((image.config.cmd.as_slice(), image.layers.len(), image.pinned), (&["sh".to_owned()][..], 2, false));
    assert_eq!(content(&world.store, &image.id, "etc/a").unwrap(), b"a");
    assert_eq!(content(&world.store, &image.id, "etc/b").unwrap(), b"b");
    assert!(world.store.is_pulled(&image.refs[0]));
    assert!(world.puller.under_way().is_empty());
    let config = Digest::parse(&image.id).unwrap();
    let mut expected = vec![
        "GET manifests/app:1".to_owned(),
        format!("GET blobs/{config}"),
        format!("GET blobs/{}", blob(&layers[0])),
        format!("GET blobs/{}", blob(&layers[1])),
    ];
    expected.sort();
    assert_eq!(world.asked(), expected);
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let digest = world.image("app:1", &[layer("a")]);
    let first = world.pull("app:1").await.unwrap();
    world.asked();
    assert_eq!(world.pull("app:1").await.unwrap(), first);
    assert_eq!(world.asked(), ["HEAD manifests/app:1"]);
    // Another name for the same.
    world.tag("app:2", &digest);
    let named = world.pull("app:2").await.unwrap();
    assert_eq!((named.id.as_str(), named.refs.len()), (first.id.as_str(), 2));
    assert_eq!(world.asked(), ["GET manifests/app:2"]);
    // By its digest alone it needs no name: what is asked is whether it is given.
    let by_digest = format!("app@{digest}");
    assert_eq!(world.pull(&by_digest).await.unwrap(), named);
    assert_eq!(world.asked(), [format!("HEAD manifests/{digest}")]);
    // The tag moves to another image, of which one layer is there.
    world.image("app:1", &[layer("a"), layer("new")]);
    let moved = world.pull("app:1").await.unwrap();
    assert_ne!(moved.id, first.id);
    assert_eq!(moved.refs, [format!("{}/app:1", world.host)]);
    let asked = world.asked();
    assert!(!asked.contains(&format!("GET blobs/{}", blob(&layer("a")))), "{asked:?}");
    assert_eq!(world.store.resolve(&first.id).unwrap().unwrap().refs, [format!("{}/app:2", world.host)]);
}

#[tokio::test]
async fn what_is_there_does_not_wait_for_what_others_change() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let digest = world.image("app:1", &[layer("a")]);
    let image = world.pull("app:1").await.unwrap();
    // As somebody does who has a large archive to write down.
    let change = world.store.change();
    for name in ["app:1".to_owned(), format!("app@{digest}")] {
        let pull = tokio::time::timeout(world::PATIENCE, world.pull(&name));
        assert_eq!(pull.await.expect("it waits").unwrap(), image, "{name}");
    }
    drop(change);
    // A name that an archive gave is taken over by who pulls it.
    let mut change = world.store.change();
    let (name, id) = (format!("{}/app:1", world.host), Digest::parse(&image.id).unwrap());
    change.put_ref(&name, &id, crate::store::Origin::Given).unwrap();
    change.commit().unwrap();
    assert!(!world.store.is_pulled(&name));
    world.pull("app:1").await.unwrap();
    assert!(world.store.is_pulled(&name));
}

#[test]
fn a_pull_that_begins_as_the_runtime_ends_is_broken_off() {
    let (tell, told) = std::sync::mpsc::channel();
    // On a thread of its own: it is told when it hangs.
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::Store::open(&dir.path().join("store")).unwrap();
        let registry = crate::registry::Registry::new(crate::registry::RegistryConfig::default());
        let puller = super::Puller::new(store, registry, super::PullConfig::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _within = handle.enter();
        let reference = crate::Reference::parse("reg.example/app:1").unwrap();
        let outcome = puller.pull(&reference, None).now_or_never();
        tell.send((outcome, puller.under_way())).unwrap();
    });
    let (outcome, under_way) = told.recv_timeout(world::PATIENCE).expect("it hangs");
    let error = cause(outcome.expect("it ends at once").unwrap_err());
    assert!(matches!(*error, PullError::BrokenOff), "{error:?}");
    assert!(under_way.is_empty());
}

#[tokio::test]
async fn an_image_can_be_pulled_by_digest_alone_and_survives() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let digest = world.image("app:1", &[layer("a")]);
    let image = world.pull(&format!("app:other@{digest}")).await.unwrap();
    assert!(image.refs.is_empty() && image.digests == [format!("{}/app@{digest}", world.host)], "{image:?}");
    let World { dir, store, puller, host, .. } = world;
    drop((store, puller));
    let store = world::reopen(dir.path()).await;
    assert_eq!(store.resolve(&format!("{host}/app@{digest}")).unwrap().unwrap(), image);
}

/// An index over images for the platforms, each with one file that says which it is.
fn index(world: &World, name: &str, platforms: &[&str]) -> Digest {
    let mut layout = Layout::default();
    let manifests: Vec<String> = platforms
        .iter()
        .map(|platform| {
            let parts: Vec<&str> = platform.split('/').collect();
            let layer = Tar::new().file("platform", platform.as_bytes()).build();
            let variant = parts.get(2).map(|v| format!(",\"variant\":\"{v}\"")).unwrap_or_default();
            let told = format!(",\"platform\":{{\"os\":\"{}\",\"architecture\":\"{}\"{variant}}}", parts[0], parts[1]);
            layout.image(&[layer], &told)
        })
        .collect();
    let document = Layout::index(&manifests);
    world.serve(layout);
    let digest = Digest::of(document.as_bytes());
    world.put(digest.as_str(), Some(INDEX), document.as_bytes());
    world.tag(name, &digest);
    digest
}

#[tokio::test]
async fn s_b25_of_an_index_what_fits_best_is_pulled() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let here = Platform::host().architecture;
    let (plain, best) = (format!("linux/{here}"), Platform::host().describe());
    let root = index(&world, "app:1", &["windows/amd64", &plain, "unknown/unknown", &best, "linux/s390x"]);
    let image = world.pull("app:1").await.unwrap();
    assert_eq!(content(&world.store, &image.id, "platform").unwrap(), best.as_bytes());
    assert_eq!(world.asked().iter().filter(|asked| asked.contains("manifests/")).count(), 2, "only what fits is asked");
    assert_eq!(image.digests.len(), 2, "the index's digest and the manifest's: {:?}", image.digests);
    assert!(image.digests.contains(&format!("{}/app@{root}", world.host)));
    // By either of them it is found, without anything being fetched.
    for digest in image.digests.clone() {
        let name = digest.rsplit('/').next().unwrap();
        assert_eq!(world.pull(name).await.unwrap().id, image.id);
    }
    assert!(world.asked().iter().all(|asked| asked.starts_with("HEAD ")), "who may have it is asked, no more");

    index(&world, "other:1", &["linux/s390x", "unknown/unknown", "windows/amd64"]);
    let message = cause(world.pull("other:1").await.unwrap_err()).to_string();
    assert_eq!(message, format!("no image for {best}; there is linux/s390x, windows/amd64"));
}

#[tokio::test]
async fn s_b25_annotations_say_nothing_of_the_content() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let mut layout = Layout::default();
    let plain = layer("a");
    let lies = ",\"annotations\":{\"containerd.io/snapshot/stargz/toc.digest\":\"sha256:00\",\
                \"io.github.containers.zstd-chunked.manifest-checksum\":\"sha256:11\"},\
                \"urls\":[\"http://192.0.2.1/layer\"]";
    let blob = layout.blob(&world::layer_type(), &gzip(&plain), lies);
    let config = layout.blob(CONFIG, config(&[Digest::of(&plain)]).as_bytes(), "");
    let manifest = layout.manifest(&config, &[blob], &named("evil.example/other:1"));
    world.serve(layout);
    world.tag("app:1", &digest_of(&manifest));
    let image = world.pull("app:1").await.unwrap();
    assert_eq!(content(&world.store, &image.id, "etc/a").unwrap(), b"a");
    assert_eq!(image.refs, [format!("{}/app:1", world.host)], "a name comes from who asks");
}

#[tokio::test]
async fn progress_is_seen_while_it_is_made() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("there"), layer("a"), Tar::new().file("big", &[7; 300_000]).build()];
    world.image("base:1", &layers[..1]);
    world.pull("base:1").await.unwrap();
    world.image("app:1", &layers);
    let sizes: Vec<u64> = layers.iter().map(|layer| gzip(layer).len() as u64).collect();
    world.hold(&blob(&layers[2]), 100);
    let pull = world.spawn("app:1", None);
    let told = || world.puller.under_way().pop();
    until("all but what is held back has come", || {
        told().is_some_and(|told| told.done_bytes == sizes[1] + 100 && told.layers[1].state == LayerState::Done)
    })
    .await;
    let told = told().unwrap();
    assert_eq!(told.reference, format!("{}/app:1", world.host));
    assert_eq!(told.total_bytes, Some(sizes[1] + sizes[2]));
    let states: Vec<LayerState> = told.layers.iter().map(|layer| layer.state).collect();
    assert_eq!(states, [LayerState::Present, LayerState::Done, LayerState::Fetching]);
    assert_eq!(told.layers[2].digest, blob(&layers[2]));
    world.go_on();
    pull.await.unwrap().unwrap();
    assert!(world.puller.under_way().is_empty());
}

#[tokio::test]
async fn f_g06_a_pull_that_stalls_ends_alone() {
    if !is_root() {
        return;
    }
    // For the one that does not stall as well.
    let world = World::with(super::PullConfig::default(), Duration::from_secs(2)).await;
    world.image("slow:1", &[layer("slow")]);
    world.image("good:1", &[layer("good")]);
    world.hold(&blob(&layer("slow")), 10);
    let (slow, good) = tokio::join!(world.pull("slow:1"), world.pull("good:1"));
    good.unwrap();
    match &*cause(slow.unwrap_err()) {
        PullError::Registry { source } => assert!(source.is_unavailable(), "{source}"),
        other => panic!("{other:?}"),
    }
    assert!(world.puller.under_way().is_empty());
    until("the registry is left alone", || world.open() == 0).await;
    world.go_on();
    world.pull("slow:1").await.unwrap();
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_by_name() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let message = world.refused("nothing:1").await;
    assert!(message.contains(&world.host) && message.contains("nothing:1"), "{message}");
    let twin = world.image("nothing:1", &[layer("a")]);
    assert_eq!(world.pull("nothing:1").await.unwrap().digests, [format!("{}/nothing@{twin}", world.host)]);
}
