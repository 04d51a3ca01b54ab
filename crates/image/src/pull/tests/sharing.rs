//! Many who ask at once, and those who stop asking.

use super::layer;
use super::world::{NEVER, World, blob, cause, reopen, until};
use crate::login::Login;
use crate::pull::{PullConfig, PullError};
use crate::testing::{Tar, is_root};
use std::collections::BTreeSet;
use std::fs;

#[tokio::test]
async fn f_g06_a_hundred_who_ask_for_one_image_share_one_pull() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("a"), layer("b"), layer("c")];
    world.image("app:1", &layers);
    world.hold(&blob(&layers[1]), 7);
    let pulls: Vec<_> = (0..100).map(|_| world.spawn("app:1", None)).collect();
    until("it is under way", || world.open() > 0).await;
    assert_eq!(world.puller.under_way().len(), 1);
    world.go_on();
    let mut ids = BTreeSet::new();
    for pull in pulls {
        ids.insert(pull.await.unwrap().unwrap().id.clone());
    }
    assert_eq!(ids.len(), 1);
    let asked = world.asked();
    assert_eq!(asked.len(), 5, "the manifest, the configuration, three layers: {asked:?}");
}

#[tokio::test]
async fn twenty_images_with_shared_layers_fetch_each_of_them_once() {
    if !is_root() {
        return;
    }
    // One at a time is where those who wait for each other would be seen.
    for layers_at_once_in_all in [1, 8] {
        let config = PullConfig { layers_at_once: 3, layers_at_once_in_all };
        let world = World::with(config, NEVER).await;
        let shared: Vec<Vec<u8>> = (0..10).map(|at| layer(&format!("shared-{at}"))).collect();
        for number in 0..20 {
            // Some share all, some only the lowest few.
            let mut layers = shared[..10 - number % 4].to_vec();
            layers.push(layer(&format!("own-{number}")));
            world.image(&format!("app:{number}"), &layers);
        }
        let pulls: Vec<_> = (0..20)
            .flat_map(|number| (0..5).map(move |_| number))
            .map(|n| world.spawn(&format!("app:{n}"), None))
            .collect();
        for pull in pulls {
            pull.await.unwrap().unwrap();
        }
        let asked = world.asked();
        let unique: BTreeSet<&String> = asked.iter().collect();
        assert_eq!(unique.len(), asked.len(), "{asked:?}");
        assert_eq!(asked.len(), 20 + 20 + 30, "manifests, configurations, layers");
        assert!(world.most_open() <= layers_at_once_in_all + 20, "configurations have no turns");
        let directories = fs::read_dir(world.store.layers_dir()).unwrap().count();
        assert_eq!(directories, 30);
    }
}

#[tokio::test]
async fn no_more_layers_than_allowed_are_fetched_at_once() {
    if !is_root() {
        return;
    }
    let config = PullConfig { layers_at_once: 2, layers_at_once_in_all: 3 };
    let world = World::with(config, NEVER).await;
    let mut pulls = Vec::new();
    for number in 0..4 {
        let layers: Vec<Vec<u8>> = (0..4).map(|at| layer(&format!("{number}-{at}"))).collect();
        world.image(&format!("app:{number}"), &layers);
        layers.iter().for_each(|layer| world.hold(&blob(layer), 3));
        pulls.push(world.spawn(&format!("app:{number}"), None));
    }
    until("all turns are taken", || world.open() == 3 && world.puller.under_way().iter().all(|p| !p.layers.is_empty()))
        .await;
    assert_eq!(world.open(), 3);
    world.go_on();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_login_is_another_pull() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    world.image("app:1", &[layer("a")]);
    world.hold(&blob(&layer("a")), 3);
    let login = |name: &str| Some(Login::Basic { username: name.into(), password: "x".into() });
    let pulls = [None, login("one"), login("two"), login("one")].map(|login| world.spawn("app:1", login));
    until("all are under way", || world.puller.under_way().len() == 3).await;
    until("the layer is on its way", || world.open() > 0).await;
    world.go_on();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    let asked = world.asked();
    assert_eq!(asked.iter().filter(|asked| asked.contains(&blob(&layer("a")))).count(), 1, "{asked:?}");
}

#[tokio::test]
async fn a_pull_for_which_nobody_waits_is_given_up_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("a"), Tar::new().file("big", &[9; 500_000]).build(), layer("c")];
    world.image("app:1", &layers);
    let before = world.files();
    world.hold(&blob(&layers[1]), 100);
    let (one, two) = (world.spawn("app:1", None), world.spawn("app:1", None));
    until("two layers are there", || {
        world
            .puller
            .under_way()
            .iter()
            .any(|told| told.layers.iter().filter(|l| l.done_bytes == l.total_bytes).count() == 2)
    })
    .await;
    one.abort();
    assert!(one.await.unwrap_err().is_cancelled());
    assert_eq!((world.open(), world.puller.under_way().len()), (1, 1), "the other still waits");
    two.abort();
    assert!(two.await.unwrap_err().is_cancelled());
    assert!(world.puller.under_way().is_empty());
    until("the registry is left alone", || world.open() == 0).await;
    until("nothing is left", || world.files() == before).await;
    world.go_on();
    world.pull("app:1").await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_layer_of_a_pull_that_is_given_up_brings_it() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let shared = layer("shared");
    world.image("first:1", &[shared.clone(), layer("a")]);
    world.image("second:1", &[shared.clone(), layer("b")]);
    world.hold(&blob(&shared), 3);
    let first = world.spawn("first:1", None);
    until("the first one fetches it", || world.open() >= 1).await;
    let second = world.spawn("second:1", None);
    until("the second one waits for it", || {
        world.puller.under_way().iter().any(|told| told.reference.contains("second") && told.total_bytes.is_some())
    })
    .await;
    first.abort();
    until("the second one fetches it", || {
        world.puller.under_way().len() == 1 && world.puller.under_way()[0].layers[0].done_bytes == 3
    })
    .await;
    world.go_on();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_next_try_finds_the_layers_that_came() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("a"), layer("b"), layer("c")];
    world.image("app:1", &layers);
    world.lose(&blob(&layers[2]));
    // The others are sure to be complete only if they are not fetched beside it.
    let config = PullConfig { layers_at_once: 1, layers_at_once_in_all: 1 };
    let registry = crate::registry::Registry::new(crate::registry::RegistryConfig::default());
    let puller = crate::pull::Puller::new(world.store.clone(), registry, config);
    let reference = world.reference("app:1");
    match &*cause(puller.pull(&reference, None).await.unwrap_err()) {
        PullError::Registry { source } => assert!(source.is_refusal(), "{source}"),
        other => panic!("{other:?}"),
    }
    assert!(world.store.list().is_empty());
    world.asked();
    world.image("app:1", &layers);
    puller.pull(&reference, None).await.unwrap();
    let asked: Vec<String> = world.asked().into_iter().filter(|asked| asked.contains("blobs/")).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked.contains(&format!("GET blobs/{}", blob(&layers[2]))), "and the configuration: {asked:?}");
}

#[tokio::test]
async fn a_crash_leaves_what_the_next_start_removes() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    let layers = [layer("a"), Tar::new().file("big", &[9; 500_000]).build()];
    world.image("whole:1", &layers[..1]);
    world.pull("whole:1").await.unwrap();
    let before = world.files();
    world.image("app:1", &layers);
    world.hold(&blob(&layers[1]), 100);
    let pull = world.spawn("app:1", None);
    until("it is half there", || world.puller.under_way().iter().any(|told| told.done_bytes >= 100)).await;
    // As a copy of the disk at this moment would be found.
    let copy = tempfile::tempdir().unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(world.store.root()).arg(copy.path().join("store")).status();
    assert!(copied.unwrap().success());
    let found = reopen(copy.path()).await;
    assert_eq!(found.list().len(), 1);
    assert!(found.resolve(&world.reference("app:1").to_string()).unwrap().is_none());
    assert_eq!(crate::testing::listing(found.root()), before);
    world.go_on();
    pull.await.unwrap().unwrap();
    let World { dir, store, puller, .. } = world;
    drop((store, puller));
    assert_eq!(reopen(dir.path()).await.list().len(), 2);
}
