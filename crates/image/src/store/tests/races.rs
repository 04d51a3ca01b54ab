//! Pulls, removals and attacks at the same time; the dice are thrown from a seed.

use super::pulls::{assert_idle, bring, commit, fill, ours, plan, pull};
use super::*;
use crate::store::Claim;
use crate::testing::Canary;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Layers of which images are made: some look below, some are the same everywhere, some replace what others have.
fn pool() -> Vec<Vec<u8>> {
    let whiteouts = (0..3).map(|i| Tar::new().file(&format!("d/w{i}"), b"w").whiteout(&format!("d/.wh.f{i}")).build());
    let files = (0..4).map(|i| {
        let (name, content) = (format!("d/f{i}"), format!("content {i} ").repeat(500));
        Tar::new().dir("d", 0o750).file(&name, content.as_bytes()).file(&format!("x{i}"), b"x").build()
    });
    files.chain(whiteouts).collect()
}

/// What each layer of an image has on the disk, topmost first.
fn contents(store: &Store, image: &Image) -> Vec<Vec<String>> {
    image.layers.iter().map(|layer| listing(&store.layers_dir().join(layer))).collect()
}

struct Sample {
    layers: Vec<Vec<u8>>,
    name: String,
    /// What it has to look like.
    expected: Vec<Vec<String>>,
}

/// Images of three layers of the pool, each unpacked alone and in order.
fn images(fixture: &Fixture) -> Vec<Sample> {
    let (pool, store, mut dice) = (pool(), fixture.open(), Dice(7));
    let images = (0..12).map(|i| {
        let mut pool = pool.clone();
        let layers: Vec<Vec<u8>> = (0..3).map(|_| pool.swap_remove(dice.below(pool.len()))).collect();
        let name = format!("i{i}");
        let (_, image) = pull(&store, &layers, &name).unwrap();
        let expected = contents(&store, &image);
        store.remove(&image.id, UNUSED).unwrap();
        Sample { layers, name, expected }
    });
    images.collect()
}

#[test]
fn f_f01_images_that_are_pulled_and_removed_at_once_are_never_broken() {
    if !is_root() {
        return;
    }
    let images = images(&Fixture::new());
    let fixture = Fixture::new();
    let store = fixture.open();
    let used: Mutex<Vec<String>> = Mutex::default();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pullers: Vec<_> = (0..4)
            .map(|seed| {
                let (store, images, used) = (&store, &images, &used);
                scope.spawn(move || {
                    let mut dice = Dice(seed);
                    for _ in 0..40 {
                        let Sample { layers, name, expected } = &images[dice.below(images.len())];
                        let plan = plan(store, layers);
                        let breaks_at = dice.below(8);
                        let broke = (0..layers.len()).find(|at| {
                            let Claim::Ours(slot) = plan.claim_blocking(*at) else { return false };
                            let layer = if *at == breaks_at { &layers[*at][..600] } else { &layers[*at] };
                            fill(slot, layer).is_err()
                        });
                        match broke {
                            Some(_) if dice.below(2) == 0 => drop(plan),
                            Some(_) => plan.fail(),
                            None => {
                                let id = crate::Digest::of(
                                    crate::testing::config(&super::pulls::diff_ids(layers)).as_bytes(),
                                );
                                used.lock().unwrap().push(id.to_string());
                                let image = commit(plan, layers, name).unwrap();
                                assert_eq!(&contents(store, &image), expected, "seed {seed}");
                                let mut used = used.lock().unwrap();
                                let at = used.iter().position(|id| *id == image.id).unwrap();
                                used.swap_remove(at);
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for image in store.list() {
                    let in_use = |id: &str| used.lock().unwrap().iter().any(|used| used == id);
                    match store.remove(&image.id, &in_use) {
                        Ok(_) | Err(Error::InUse { .. } | Error::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        let ended: Vec<_> = pullers.into_iter().map(|puller| puller.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(|result| result.is_ok()));
    });
    let expired = store.slots.lock().take_expired(std::time::Instant::now() + std::time::Duration::from_secs(601));
    store.remove_released(expired).unwrap();
    for image in store.list() {
        store.remove(&image.id, UNUSED).unwrap();
    }
    assert_idle(&store);
    assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0, "every layer is gone with its last image");
    for dir in store.dirs.all() {
        let m = fs::metadata(dir).unwrap();
        assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o700, 0, 0), "S-B20: {dir:?}");
    }
}

/// Turns the directories in what is being unpacked into links to the canary and back.
fn flip(store: &Store, canary: &Path) {
    let Ok(entries) = fs::read_dir(&store.dirs.ingest) else { return };
    for entry in entries.flatten() {
        let (dir, aside) = (entry.path().join("d"), entry.path().join("aside"));
        if fs::rename(&dir, &aside).is_ok() {
            let _ = std::os::unix::fs::symlink(canary, &dir);
            let _ = fs::remove_file(&dir);
            let _ = fs::rename(&aside, &dir);
        }
    }
}

#[test]
fn s_b03_what_flips_while_layers_are_unpacked_leads_nowhere() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let canary = Canary::new(fixture.dir.path());
    let store = fixture.open();
    let files = |name: &str| {
        let tar = (0..40).fold(Tar::new().dir("d", 0o755), |tar, i| tar.file(&format!("d/{i}"), b"x"));
        tar.file("d/secret", b"not yours").symlink("out", canary.path()).file(name, b"").build()
    };
    let over = Tar::new().file("d/secret", b"mine").whiteout("d/.wh.1").whiteout("out/.wh.secret").build();
    let (shared, is_over) = (files("shared"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                flip(&store, Path::new(canary.path()));
            }
        });
        let pullers: Vec<_> = (0..2)
            .map(|i| {
                let (store, layers) = (&store, [shared.clone(), files(&format!("own{i}")), over.clone()]);
                scope.spawn(move || {
                    for _ in 0..20 {
                        // A layer that was tampered with may be refused; by no way does it touch what is outside.
                        let plan = plan(store, &layers);
                        if bring(&plan, &layers).is_ok() && commit(plan, &layers, &format!("i{i}")).is_ok() {
                            let _ = store.remove(&format!("reg.example/i{i}"), UNUSED);
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = pullers.into_iter().map(|puller| puller.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(|result| result.is_ok()));
    });
    canary.assert_untouched("flipping");
}

#[test]
fn s_b21_a_pull_cut_off_at_any_point_is_whole_or_absent() {
    if !is_root() {
        return;
    }
    // Power fails while an image that shares a layer is committed: any of its moves may be missing.
    let (one, two) = ([layer("low"), layer("x")], [layer("other"), layer("x")]);
    let complete = Fixture::new();
    let store = complete.open();
    pull(&store, &one, "one").unwrap();
    let before: HashSet<PathBuf> = places(&complete.root());
    pull(&store, &two, "two").unwrap();
    drop(store);
    let parts: Vec<PathBuf> = places(&complete.root()).difference(&before).cloned().collect();
    assert_eq!(parts.len(), 6, "{parts:?}");
    for subset in 0..1u32 << parts.len() {
        let fixture = Fixture::new();
        let copied =
            before.iter().chain(parts.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0).map(|(_, p)| p));
        drop(fixture.open());
        copied.for_each(|part| copy(&complete.root().join(part), &fixture.root().join(part)));
        fs::copy(complete.root().join("boot"), fixture.root().join("boot")).unwrap();
        for case in ["at once", "after a boot"] {
            let store = fixture.open();
            for image in store.list() {
                assert_whole(&store, &image, "x");
                let low = store.layers_dir().join(&image.layers[1]);
                assert_eq!(fs::read_dir(&low).unwrap().count(), 1, "subset {subset:06b} {case}");
            }
            assert!(store.resolve("reg.example/one").unwrap().is_some(), "subset {subset:06b} {case}");
            drop(store);
            fixture.reboot();
        }
        let store = fixture.open();
        let (_, image) = pull(&store, &two, "two").unwrap();
        assert_whole(&store, &image, "x");
        assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 3, "subset {subset:06b}");
    }
}

/// Directories and records of the store, relative to its root.
fn places(root: &Path) -> HashSet<PathBuf> {
    let dirs = ["layers", "blobs/sha256", "layer-records", "images", "refs"];
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(root.join(dir)).unwrap());
    entries.map(|entry| entry.unwrap().path().strip_prefix(root).unwrap().to_owned()).collect()
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy(&from.join(&name), &to.join(&name));
    }
    let metadata = fs::metadata(from).unwrap();
    fs::set_permissions(to, metadata.permissions()).unwrap();
    fs::File::open(to).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
}

#[test]
fn s_b21_a_kubelet_killed_at_any_step_of_a_pull_leaves_whole_images() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let layers = [layer("zero"), layer("one"), layer("two")];
    pull(&store, &layers[..1], "old").unwrap();
    let killed = |step: &str, images: usize| {
        let copied = Fixture::new();
        copy(&fixture.root(), &copied.root());
        let store = copied.open();
        assert_eq!(store.list().len(), images, "{step}");
        for image in store.list() {
            assert_whole(&store, &image, if image.layers.len() == 1 { "zero" } else { "two" });
        }
        assert_idle(&store);
        let (_, image) = pull(&store, &layers, "new").unwrap();
        assert_whole(&store, &image, "two");
    };
    let plan = plan(&store, &layers);
    killed("planned", 1);
    fill(ours(&plan, 1), &layers[1]).unwrap();
    killed("one layer is there", 1);
    store.remove("reg.example/old", UNUSED).unwrap();
    killed("another image was removed", 0);
    fill(ours(&plan, 2), &layers[2]).unwrap();
    killed("all layers are there", 0);
    commit(plan, &layers, "new").unwrap();
    killed("committed", 1);
    store.remove("reg.example/new", UNUSED).unwrap();
    killed("removed", 0);
}
