//! Layers that several stacks have.

use super::pulls::{assert_idle, bring, commit, fill, ours, plan, pull};
use super::*;
use crate::digest::Digest;
use crate::store::record::{self, LayerRecord};
use crate::store::{Claim, LayerPlan};
use std::task::{Context, Poll, Waker};

fn base(name: &str) -> Vec<u8> {
    Tar::new().dir(".", 0o755).file(name, name.as_bytes()).build()
}

/// The directories of an image, topmost first.
fn dirs(image: &Image) -> Vec<&str> {
    image.layers.iter().map(String::as_str).collect()
}

#[test]
fn a_layer_that_never_looked_below_is_there_once() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let (one, two) = ([base("one"), layer("x")], [base("two"), layer("x")]);
    pull(&store, &one, "one").unwrap();
    let (brought, image) = pull(&store, &two, "two").unwrap();
    assert_eq!(brought, 1, "the upper one is there");
    let check = |store: &Arc<Store>| {
        assert_eq!(dirs(&image)[0], dirs(&store.resolve("reg.example/one").unwrap().unwrap())[0]);
        assert_eq!((store.usage().bytes, store.usage().inodes), (3 * 4_096, 3));
        assert_eq!(store.resolve("reg.example/two").unwrap().unwrap(), image);
        assert_eq!(image.size_bytes, 2 * 4_096);
    };
    check(&store);
    drop(store);
    fixture.reboot();
    let store = fixture.open();
    check(&store);

    assert_eq!(store.remove("reg.example/one", UNUSED).unwrap().freed_bytes, 4_096, "its own one");
    assert_whole(&store, &image, "x");
    drop(store);
    fixture.reboot();
    let store = fixture.open();
    assert_whole(&store, &image, "x");
    assert_eq!(store.remove("reg.example/two", UNUSED).unwrap().freed_bytes, 2 * 4_096);
    assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0);
    assert_idle(&store);
}

#[test]
fn a_layer_is_shared_only_if_it_would_be_the_same() {
    if !is_root() {
        return;
    }
    let root = |mode| Tar::new().dir(".", mode).file("zero", b"").build();
    let timed = Tar::new().mtime(1).dir(".", 0o755).build();
    let owned = Tar::new().owner(1, 2).dir(".", 0o755).build();
    let attributed = Tar::new().pax("SCHILY.xattr.user.a", b"1").dir(".", 0o755).build();
    let (x, own_root) = (layer("x"), Tar::new().dir(".", 0o711).file("x", b"x").build());
    let hides = Tar::new().whiteout(".wh.zero").build();
    let enters = Tar::new().file("d/x", b"x").build();
    for (case, first, second, upper, is_shared) in [
        ("equal roots", root(0o755), layer("other"), &x, true),
        ("other modes", root(0o755), root(0o700), &x, false),
        ("other times", root(0o755), timed, &x, false),
        ("other owners", root(0o755), owned, &x, false),
        ("other attributes", root(0o755), attributed, &x, false),
        ("a root of its own", root(0o755), root(0o700), &own_root, true),
        ("a deletion", root(0o755), layer("zero"), &hides, false),
        ("a directory that may be below", root(0o755), layer("other"), &enters, false),
    ] {
        let fixture = Fixture::new();
        let store = fixture.open();
        pull(&store, &[first, upper.clone()], "one").unwrap();
        let second = [second, upper.clone()];
        let (brought, image) = pull(&store, &second, "two").unwrap();
        assert_eq!(brought, if is_shared { 1 } else { 2 }, "{case}");
        let [above, below] = dirs(&image)[..] else { panic!("{case}: two layers") };
        if !std::ptr::eq(upper, &own_root) {
            let facts = |dir: &str| {
                let m = fs::metadata(store.layers_dir().join(dir)).unwrap();
                (m.mode(), m.uid(), m.gid(), m.mtime())
            };
            assert_eq!(facts(above), facts(below), "{case}: its root is as the one below");
        }
        assert_idle(&store);
    }
}

#[test]
fn a_layer_that_comes_twice_is_mounted_once() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = [base("zero"), layer("x"), layer("one"), layer("x")];
    let (brought, image) = pull(&store, &layers, "a").unwrap();
    assert_eq!((brought, image.layers.len(), image.size_bytes), (3, 3, 3 * 4_096));
    assert_whole(&store, &image, "x");
    drop(store);
    let store = fixture.open();
    assert_eq!(store.resolve("reg.example/a").unwrap().unwrap(), image);
    assert_eq!(store.remove("reg.example/a", UNUSED).unwrap().freed_bytes, 3 * 4_096);
    assert_idle(&store);
}

#[test]
fn what_another_stack_is_being_brought_is_waited_for() {
    if !is_root() {
        return;
    }
    let (one, two) = ([base("one"), layer("x")], [base("two"), layer("x")]);
    for case in ["first, second", "second, first", "second, first is dropped", "first fails", "first breaks off"] {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (first, second) = (plan(&store, &one), plan(&store, &two));
        let (below, above) = (ours(&first, 0), ours(&first, 1));
        let brought = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bring(&second, &two).unwrap());
            match case {
                "first breaks off" => drop((above, below)),
                "first fails" => {
                    fill(above, &one[1]).unwrap();
                    drop(below);
                    // Nobody brings what is below it any more, so its root cannot be known.
                    first.fail();
                    return waiting.join().unwrap();
                }
                _ => {
                    fill(above, &one[1]).unwrap();
                    fill(below, &one[0]).unwrap();
                }
            }
            let brought = waiting.join().unwrap();
            match case {
                "first, second" => drop(commit(first, &one, "one").unwrap()),
                "second, first" => return 10 + usize::from(first.is_present(1)),
                _ => drop(first),
            }
            brought
        });
        let alone = matches!(case, "first fails" | "first breaks off");
        assert_eq!(
            brought,
            if alone {
                2
            } else if case == "second, first" {
                11
            } else {
                1
            },
            "{case}"
        );
        let image = commit(second, &two, "two").unwrap();
        assert_whole(&store, &image, "x");
        assert_eq!(fs::read(store.layers_dir().join(&image.layers[1]).join("two")).unwrap(), b"two");
        let images = store.list().len();
        for image in store.list() {
            store.remove(&image.id, UNUSED).unwrap();
        }
        drop(store.slots.lock().take_expired(std::time::Instant::now() + std::time::Duration::from_secs(601)));
        assert_idle(&store);
        assert_eq!(images, if case == "first, second" { 2 } else { 1 }, "{case}");
        assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0, "{case}");
    }
}

#[test]
fn a_shared_layer_outlives_the_image_it_came_with() {
    if !is_root() {
        return;
    }
    let (one, two) = ([base("one"), layer("x")], [base("two"), layer("x")]);
    for is_committed in [true, false] {
        let fixture = Fixture::new();
        let store = fixture.open();
        pull(&store, &one, "one").unwrap();
        let (second, third) = (plan(&store, &two), plan(&store, &two));
        assert_eq!(bring(&second, &two).unwrap(), 1);
        drop(second);
        assert_eq!(store.remove("reg.example/one", UNUSED).unwrap().freed_bytes, 4_096, "the third plan has the other");
        if is_committed {
            assert_whole(&store, &commit(third, &two, "two").unwrap(), "x");
            store.remove("reg.example/two", UNUSED).unwrap();
        } else {
            drop(third);
        }
        assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&store.dirs.layer_records).unwrap().count(), 0);
        assert_eq!(store.usage(), Default::default());
        assert_idle(&store);
        let (_, image) = pull(&store, &one, "one").unwrap();
        assert_eq!(dirs(&image), ["2", "1"], "no number is lost");
    }
}

#[test]
fn stores_from_before_layers_were_shared_open() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let (one, two) = ([base("one"), layer("x")], [base("two"), layer("x")]);
    let (_, image) = pull(&store, &one, "one").unwrap();
    drop(store);
    for dir in ["layer-records", "refs"] {
        for entry in fs::read_dir(fixture.root().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
            let fields = json.as_object_mut().unwrap();
            for field in ["anywhere", "own_root", "pulled"] {
                fields.remove(field);
            }
            fs::write(&path, record::encode(&json)).unwrap();
        }
    }
    let store = fixture.open();
    assert_eq!(store.resolve("reg.example/one").unwrap().unwrap(), image);
    assert!(!store.is_pulled("reg.example/one:latest"));
    assert_eq!(pull(&store, &two, "two").unwrap().0, 2, "nobody knows whether it could be shared");
}

#[test]
fn s_m02_one_directory_is_never_two_layers() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    pull(&store, &[layer("one")], "one").unwrap();
    drop(store);
    let id = Digest::of(b"another layer");
    let stray = LayerRecord {
        chain_id: id.clone(),
        diff_id: id.clone(),
        dir: 1,
        size_bytes: 0,
        inodes: 0,
        opaque_root: false,
        anywhere: true,
        own_root: true,
    };
    fs::write(fixture.root().join("layer-records").join(id.hex()), record::encode(&stray)).unwrap();
    let store = fixture.open();
    assert!(store.state().layers.len() == 1, "one of both is not believed");
    let again = plan(&store, &[layer("one")]);
    assert!(matches!(again.claim_blocking(0), Claim::Present) || store.list().is_empty());
}

/// What is left of a pull that failed, a pull with the same layers in another order, and the first one's next try.
#[test]
fn two_who_could_share_with_each_other_do_not_wait_for_each_other() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let one = vec![layer("q"), layer("y")];
    let two = vec![base("x"), layer("y"), layer("q")];
    let failing = plan(&store, &one);
    let (below, above) = (ours(&failing, 0), ours(&failing, 1));
    fill(above, &one[1]).unwrap();
    drop(below);
    failing.fail();
    let (second, again) = (plan(&store, &two), plan(&store, &one));
    let (done, ends) = std::sync::mpsc::channel();
    // Threads that wait for ever must not keep the test from failing.
    for (plan, layers, name) in [(second, two, "two"), (again, one, "one")] {
        let done = done.clone();
        std::thread::spawn(move || {
            bring(&plan, &layers).unwrap();
            done.send(commit(plan, &layers, name).unwrap()).unwrap();
        });
    }
    for _ in 0..2 {
        ends.recv_timeout(std::time::Duration::from_secs(60)).expect("both come to their end");
    }
    assert_eq!(store.list().len(), 2);
    assert_idle(&store);
}

/// The first time that somebody asks, without waiting.
fn ask(plan: &LayerPlan, at: usize) -> Option<Claim> {
    match std::pin::pin!(plan.claim(at)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(claim) => Some(claim),
        Poll::Pending => None,
    }
}

/// The root of a layer cannot be set, as when there are no descriptors, at the moment when the last one below it comes.
#[test]
fn a_failure_with_one_root_holds_nobody_up_for_ever() {
    if !is_root() {
        return;
    }
    let (one, two) = ([base("one"), layer("x")], [base("two"), layer("y"), layer("x")]);
    for (case, of_twin) in [("the layer below", false), ("the twin", true)] {
        for lasts in [true, false] {
            let fixture = Fixture::new();
            let store = fixture.open();
            let (first, second) = (plan(&store, &one), plan(&store, &two));
            let (failing, layers) = if of_twin { (&first, &one[..]) } else { (&second, &two[..]) };
            let (away, ingest) = (fixture.dir.path().join("away"), &store.dirs.ingest);
            fill(ours(failing, 1), &layers[1]).unwrap();
            let name = fs::read_dir(ingest).unwrap().next().unwrap().unwrap().file_name();
            fs::rename(ingest.join(&name), &away).unwrap();
            fill(ours(failing, 0), &layers[0]).unwrap();
            let other = if of_twin { &second } else { &first };
            assert_eq!(bring(other, if of_twin { &two[..2] } else { &one }).unwrap(), 2);
            if !lasts {
                fs::rename(&away, ingest.join(&name)).unwrap();
            }
            match ask(&second, 2) {
                Some(Claim::Ours(slot)) if lasts => {
                    fs::rename(&away, ingest.join(&name)).unwrap();
                    fill(slot, &two[2]).unwrap();
                }
                Some(Claim::Present) if !lasts => {}
                Some(_) => panic!("{case}, {lasts}"),
                None => panic!("{case}, {lasts}: it waits"),
            }
            commit(first, &one, "one").unwrap();
            assert_whole(&store, &commit(second, &two, "two").unwrap(), "x");
            assert_idle(&store);
        }
    }
}
