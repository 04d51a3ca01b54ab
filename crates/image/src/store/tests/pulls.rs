//! Layers that several bring at once: who brings them, who waits, and what is left when somebody gives up.

use super::*;
use crate::digest::Digest;
use crate::error::LayerError;
use crate::json::Dialect;
use crate::manifest::ConfigFile;
use crate::store::{Claim, LayerPlan, LayerSource, NewImage, Slot};
use crate::testing::config;
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(super) fn diff_ids(layers: &[Vec<u8>]) -> Vec<Digest> {
    layers.iter().map(|layer| Digest::of(layer)).collect()
}

pub(super) fn plan(store: &Arc<Store>, layers: &[Vec<u8>]) -> LayerPlan {
    store.plan(&diff_ids(layers))
}

pub(super) fn fill(slot: Slot, layer: &[u8]) -> Result<()> {
    slot.fill(LayerSource { reader: &mut &layer[..], size_bytes: layer.len() as u64, blob: None })
}

pub(super) fn ours(plan: &LayerPlan, at: usize) -> Slot {
    match plan.claim_blocking(at) {
        Claim::Ours(slot) => slot,
        Claim::Present => panic!("layer {at} is there already"),
    }
}

/// Brings what is missing; gives how many layers that were.
pub(super) fn bring(plan: &LayerPlan, layers: &[Vec<u8>]) -> Result<usize> {
    let mut brought = 0;
    for (at, layer) in layers.iter().enumerate() {
        if let Claim::Ours(slot) = plan.claim_blocking(at) {
            fill(slot, layer)?;
            brought += 1;
        }
    }
    Ok(brought)
}

pub(super) fn commit(plan: LayerPlan, layers: &[Vec<u8>], name: &str) -> Result<Arc<Image>> {
    let diff_ids = diff_ids(layers);
    let config_bytes = config(&diff_ids).into_bytes();
    let image = NewImage {
        config_bytes: &config_bytes,
        config: crate::json::parse::<ConfigFile>(&config_bytes, Dialect::Oci).unwrap().into_run_config(),
        diff_ids: &diff_ids,
        manifests: vec![b"an index", b"a manifest"],
        repositories: &BTreeSet::from([format!("reg.example/{name}")]),
        pinned_by: None,
    };
    plan.commit(image, &[format!("reg.example/{name}:latest")])
}

pub(super) fn pull(store: &Arc<Store>, layers: &[Vec<u8>], name: &str) -> Result<(usize, Arc<Image>)> {
    let plan = plan(store, layers);
    let brought = bring(&plan, layers)?;
    Ok((brought, commit(plan, layers, name)?))
}

pub(super) fn ingested(store: &Store) -> usize {
    fs::read_dir(&store.dirs.ingest).unwrap().count()
}

/// Nothing is held and nothing lies about.
pub(super) fn assert_idle(store: &Store) {
    assert!(store.slots.lock().is_empty(), "something is still held");
    assert_eq!(ingested(store), 0, "something was left");
}

fn three() -> [Vec<u8>; 3] {
    [layer("zero"), layer("one"), layer("two")]
}

/// Hides what `three()[0]` has, and so must look for it.
fn hides_zero() -> Vec<u8> {
    Tar::new().whiteout(".wh.zero").build()
}

#[test]
fn what_a_plan_brings_is_an_image_after_the_commit() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let plan = plan(&store, &layers);
    assert_eq!(bring(&plan, &layers).unwrap(), 3);
    assert!((0..3).all(|at| plan.is_present(at)));
    assert!(store.list().is_empty() && store.usage().inodes == 0, "nothing shows before the commit");
    let image = commit(plan, &layers, "a").unwrap();
    assert_idle(&store);
    let check = |store: &Arc<Store>| {
        assert_eq!(store.resolve("reg.example/a").unwrap().unwrap(), image);
        assert_whole(store, &image, "two");
        assert!(store.is_pulled("reg.example/a:latest") && !store.is_pulled("reg.example/b:latest"));
        for document in [&b"an index"[..], b"a manifest"] {
            let name = format!("reg.example/a@{}", Digest::of(document));
            assert_eq!(store.resolve(&name).unwrap().unwrap().id, image.id);
        }
        let again = plan_of(store, &layers);
        assert!((0..3).all(|at| again.is_present(at) && matches!(again.claim_blocking(at), Claim::Present)));
    };
    check(&store);
    drop(store);
    let store = fixture.open();
    check(&store);
    fixture.import(&store, "reg.example/a", &layers).unwrap();
    assert!(!store.is_pulled("reg.example/a:latest"), "an archive has given it since");
}

fn plan_of(store: &Arc<Store>, layers: &[Vec<u8>]) -> LayerPlan {
    plan(store, layers)
}

#[test]
fn a_hundred_plans_bring_each_layer_once() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = [layer("zero"), layer("one"), hides_zero(), layer("two")];
    let brought = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..100 {
            let (store, layers, brought) = (&store, &layers, &brought);
            scope.spawn(move || {
                let (count, image) = pull(store, layers, &format!("i{}", i % 7)).unwrap();
                brought.fetch_add(count, Ordering::Relaxed);
                assert_whole(store, &image, "two");
            });
        }
    });
    assert_eq!(brought.into_inner(), 4);
    assert_eq!((store.list().len(), store.list()[0].refs.len()), (1, 7));
    assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 4);
    assert_idle(&store);
}

#[test]
fn one_who_waits_takes_over() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let layers = three();
    let store = fixture.open();
    for case in ["a slot is dropped", "a layer is refused", "the plan is dropped", "the plan fails"] {
        let first = plan(&store, &layers);
        let slot = ours(&first, 0);
        let seconds = [plan(&store, &layers), plan(&store, &layers)];
        assert!(!seconds[0].is_present(0), "{case}");
        let brought: usize = std::thread::scope(|scope| {
            let waiting: Vec<_> =
                seconds.iter().map(|second| scope.spawn(|| bring(second, &layers).unwrap())).collect();
            match case {
                "a slot is dropped" => drop((slot, first)),
                "a layer is refused" => {
                    assert!(matches!(fill(slot, &layers[1]), Err(Error::Layer { .. })));
                    drop(first);
                }
                "the plan is dropped" => drop((first, slot)),
                _ => {
                    drop(slot);
                    first.fail();
                }
            }
            waiting.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(brought, 3, "{case}: each layer is brought once");
        let [second, third] = seconds;
        drop(third);
        assert_whole(&store, &commit(second, &layers, "a").unwrap(), "two");
        store.remove("reg.example/a", UNUSED).unwrap();
        assert_idle(&store);
    }
}

#[test]
fn a_task_that_waits_takes_over() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (first, second) = (plan(&store, &layers), plan(&store, &layers));
        let slot = ours(&first, 0);
        let give_up = async {
            // The other task is polled first, so it waits by now.
            drop(slot);
        };
        let (claim, ()) = tokio::join!(biased; second.claim(0), give_up);
        let Claim::Ours(slot) = claim else { panic!("nobody else brings it") };
        let filled = async { fill(slot, &layers[0]).unwrap() };
        let (claim, ()) = tokio::join!(biased; first.claim(0), filled);
        assert!(matches!(claim, Claim::Present));
    });
    drop(runtime);
    assert_eq!(ingested(&store), 0);
}

#[test]
fn what_a_failed_pull_completed_is_kept_for_its_next_try() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let first = plan(&store, &layers);
    fill(ours(&first, 0), &layers[0]).unwrap();
    fill(ours(&first, 1), &layers[1]).unwrap();
    assert!(fill(ours(&first, 2), b"not a layer").is_err());
    first.fail();
    assert_eq!(ingested(&store), 2);
    let second = plan(&store, &layers);
    assert_eq!([0, 1, 2].map(|at| second.is_present(at)), [true, true, false]);
    second.fail();
    let not_yet = store.slots.lock().take_expired(Instant::now());
    assert!(not_yet.is_empty());
    drop(store.slots.lock().take_expired(Instant::now() + Duration::from_secs(601)));
    assert_idle(&store);

    let third = plan(&store, &layers);
    fill(ours(&third, 0), &layers[0]).unwrap();
    drop(third);
    assert_idle(&store);
}

/// Gives some bytes and then fails.
struct Breaks<'a>(&'a [u8], LayerError);

impl Read for Breaks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(std::io::Error::other(std::mem::replace(&mut self.1, LayerError::Abandoned))),
            n => Ok(n),
        }
    }
}

#[test]
fn f_f02_nothing_is_kept_on_a_full_disk() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let others = [layer("of another pull"), layer("that it lacks")];
    let earlier = plan(&store, &others);
    fill(ours(&earlier, 0), &others[0]).unwrap();
    earlier.fail();
    let first = plan(&store, &layers);
    fill(ours(&first, 0), &layers[0]).unwrap();
    assert_eq!(ingested(&store), 2, "what failed for another reason is kept");
    let mut full = Breaks(&layers[1][..700], LayerError::DiskFull { what: "space" });
    let source = LayerSource { reader: &mut full, size_bytes: layers[1].len() as u64, blob: None };
    let refused = ours(&first, 1).fill(source);
    assert!(matches!(refused, Err(Error::Layer { source: LayerError::DiskFull { .. }, .. })), "{refused:?}");
    first.fail();
    assert_idle(&store);

    drop(store);
    let mut store = fixture.open();
    Arc::get_mut(&mut store).unwrap().limits.reserve_bytes = u64::MAX;
    let refused = pull(&store, &layers, "a");
    assert!(matches!(refused, Err(Error::Layer { source: LayerError::DiskFull { .. }, .. })), "{refused:?}");
    assert_idle(&store);
}

#[test]
fn s_b14_a_layer_that_is_refused_is_in_nobodys_way() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let bad = [layer("zero"), b"no tar archive at all, but with the digest that it says".repeat(100)];
    std::thread::scope(|scope| {
        for i in 0..100 {
            let (store, bad) = (&store, &bad);
            scope.spawn(move || {
                assert!(matches!(pull(store, bad, &format!("bad{i}")), Err(Error::Layer { .. })));
            });
        }
    });
    assert_idle(&store);
    assert_eq!(pull(&store, &three(), "good").unwrap().0, 3);
}

#[test]
fn a_layer_waits_for_those_below_only_if_it_must_look_at_them() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = [Tar::new().dir(".", 0o700).file("zero", b"zero").build(), layer("one"), hides_zero(), layer("two")];
    let plan = plan(&store, &layers);
    let [zero, one, two, three] = [0, 1, 2, 3].map(|at| ours(&plan, at));
    fill(three, &layers[3]).unwrap();
    fill(one, &layers[1]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|at| plan.is_present(at)), [false, true, false, true]);
    std::thread::scope(|scope| {
        let above = scope.spawn(|| fill(two, &layers[2]));
        fill(zero, &layers[0]).unwrap();
        above.join().unwrap().unwrap();
    });
    let image = commit(plan, &layers, "a").unwrap();
    assert_eq!(listing(&store.layers_dir().join(&image.layers[1])), ["zero whiteout"]);
    for (layer, at) in image.layers.iter().zip((0..4).rev()) {
        let mode = fs::metadata(store.layers_dir().join(layer)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o700, "the root of layer {at} is as the lowest one says");
    }
}

#[test]
fn a_layer_that_waits_ends_with_its_plan() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = [layer("zero"), hides_zero()];
    let first = plan(&store, &layers);
    let (lower, upper) = (ours(&first, 0), ours(&first, 1));
    let second = plan(&store, &layers);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fill(upper, &layers[1]));
        drop(first);
        let ended = waiting.join().unwrap();
        assert!(matches!(ended, Err(Error::Layer { source: LayerError::Abandoned, .. })), "{ended:?}");
    });
    // Its plan is no more, so nobody could say what it looked at: it counts as not brought.
    assert!(fill(lower, &layers[0]).is_err());
    assert_eq!(bring(&second, &layers).unwrap(), 2);
    drop(second);
    assert_idle(&store);
}

#[test]
fn f_f01_what_a_plan_holds_is_not_removed() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let layers = three();
    for case in ["it becomes an image", "it is dropped", "it fails"] {
        let store = fixture.open();
        pull(&store, &layers[..2], "old").unwrap();
        let held = plan(&store, &layers);
        let removed = store.remove("reg.example/old", UNUSED).unwrap();
        assert_eq!((removed.deleted, removed.freed_bytes), (true, 0), "{case}");
        assert!(held.is_present(0) && held.is_present(1), "{case}");
        match case {
            "it becomes an image" => {
                assert_eq!(bring(&held, &layers).unwrap(), 1);
                let image = commit(held, &layers, "new").unwrap();
                assert_whole(&store, &image, "two");
                assert_eq!(store.remove("reg.example/new", UNUSED).unwrap().freed_bytes, 3 * 4_096);
            }
            "it is dropped" => drop(held),
            // What was an image's is not kept: it was removed because its space was wanted.
            _ => held.fail(),
        }
        assert_idle(&store);
        assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0, "{case}");
        assert_eq!(fs::read_dir(&store.dirs.layer_records).unwrap().count(), 0, "{case}");
    }
}

#[test]
fn a_commit_that_fails_is_taken_back() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let refs = fixture.root().join("refs");
    let before = listing(&fixture.root());
    fs::remove_dir(&refs).unwrap();
    assert!(matches!(pull(&store, &layers, "a"), Err(Error::Io { .. })), "its last move cannot be made");
    fs::create_dir(&refs).unwrap();
    fs::set_permissions(&refs, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(store.list().is_empty());
    assert_eq!(ingested(&store), 3, "the layers are kept");
    let (brought, image) = pull(&store, &layers, "a").unwrap();
    assert_eq!(brought, 0);
    assert_whole(&store, &image, "two");
    store.remove("reg.example/a", UNUSED).unwrap();
    assert_idle(&store);
    assert_eq!(listing(&fixture.root()), before);
}

#[test]
fn a_commit_that_fails_costs_nothing_that_was_there() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = three();
    let (_, image) = pull(&store, &layers, "a").unwrap();
    let in_the_way = store.dirs.ref_record("reg.example/b:latest");
    fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(pull(&store, &layers, "b"), Err(Error::Io { .. })));
    assert_eq!(store.list(), std::slice::from_ref(&image));
    drop(store);
    let store = fixture.open();
    assert_eq!(store.resolve("reg.example/a").unwrap().unwrap().id, image.id);
    assert_whole(&store, &image, "two");
    pull(&store, &layers, "b").unwrap();
}
