//! Names, removal, and what is left after a crash or damage.

mod full;
mod pulls;
mod races;
mod twins;

use super::Store;
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::store::Image;
use crate::testing::{Tar, docker_archive, is_root, listing};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const UNUSED: &dyn Fn(&str) -> bool = &|_| false;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self) -> Arc<Store> {
        Store::open(&self.root()).unwrap()
    }

    fn import(&self, store: &Arc<Store>, name: &str, layers: &[Vec<u8>]) -> Result<String> {
        self.import_as(store, name, layers, ImportOptions::default())
    }

    fn import_as(&self, store: &Arc<Store>, name: &str, layers: &[Vec<u8>], options: ImportOptions) -> Result<String> {
        let path = self.dir.path().join("image.tar");
        fs::write(&path, docker_archive(name, layers)).unwrap();
        store.import(&path, options).map(|imported| imported[0].id.clone())
    }

    /// Makes the store believe that the machine was booted since it was last open.
    fn reboot(&self) {
        fs::write(self.root().join("boot"), "another boot").unwrap();
    }
}

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name.as_bytes()).build()
}

/// What the image's topmost layer has is as it was unpacked.
fn assert_whole(store: &Store, image: &Image, file: &str) {
    let path = store.layers_dir().join(&image.layers[0]).join(file);
    assert_eq!(fs::read_to_string(&path).unwrap(), file, "{path:?}");
}

#[test]
fn s_b20_nobody_else_can_enter_the_store() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.root()).unwrap();
    fs::set_permissions(fixture.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = fixture.open();
    for i in 0..3 {
        let id = fixture.import(
            &store,
            &format!("a:{i}"),
            &[Tar::new().dir(".", 0o755).file_mode("su", 0o4755, b"").build()],
        );
        let image = store.resolve(&id.unwrap()).unwrap().unwrap();
        let layer = fs::metadata(store.layers_dir().join(&image.layers[0])).unwrap();
        assert_eq!(layer.mode() & 0o7777, 0o755, "the image's own root is as the image says");
        store.remove(&format!("a:{i}"), UNUSED).unwrap();
    }
    for dir in store.dirs.all() {
        let m = fs::metadata(dir).unwrap();
        assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o700, 0, 0), "{dir:?}");
    }
}

#[test]
fn layers_are_laid_apart_where_the_file_system_can() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let flags = |path: &Path| rustix::fs::ioctl_getflags(crate::fs::open_dir(path).unwrap());
    let set = |fd: std::os::fd::OwnedFd| rustix::fs::ioctl_setflags(fd, rustix::fs::IFlags::TOPDIR);
    if flags(fixture.dir.path()).is_err() || set(crate::fs::open_dir(fixture.dir.path()).unwrap()).is_err() {
        println!("skipped: this file system lays directories where it likes");
        return;
    }
    assert!(flags(&store.dirs.ingest).unwrap().contains(rustix::fs::IFlags::TOPDIR));
    assert!(!flags(store.layers_dir()).unwrap().contains(rustix::fs::IFlags::TOPDIR), "layers keep their place");
}

#[test]
fn a_store_is_open_once() {
    let fixture = Fixture::new();
    let store = fixture.open();
    assert!(matches!(Store::open(&fixture.root()), Err(Error::Locked { .. })));
    drop(store);
    fixture.open();
}

#[test]
fn images_are_found_by_every_name() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let id = fixture.import(&store, "nginx", &[layer("a"), layer("b")]).unwrap();
    let other = fixture.import(&store, "reg.example/x/y:1", &[layer("c")]).unwrap();
    let hex = id.strip_prefix("sha256:").unwrap();
    let check = |store: &Arc<Store>| {
        for name in [
            "nginx",
            "nginx:latest",
            "docker.io/library/nginx",
            "docker.io/nginx:latest",
            &id,
            hex,
            &hex[..8],
            &id[..20],
        ] {
            assert_eq!(store.resolve(name).unwrap().map(|image| image.id.clone()).as_ref(), Some(&id), "{name}");
        }
        assert_eq!(store.resolve("reg.example/x/y:1").unwrap().unwrap().id, other);
        let absent = format!("nginx@sha256:{hex}");
        for name in ["nginx:1", "x/y:1", "busybox", &hex[..7], &absent, &"0".repeat(64)] {
            assert_eq!(store.resolve(name).unwrap(), None, "{name}");
        }
        for name in ["", "UPPER", "a//b", "sha256:", "nginx@sha256:short"] {
            assert!(matches!(store.resolve(name), Err(Error::Reference { .. })), "{name}");
        }
        let image = store.resolve("nginx").unwrap().unwrap();
        assert_whole(store, &image, "b");
        assert_eq!((image.layers.len(), image.size_bytes, image.pinned), (2, 2 * 4_096, false));
        assert_eq!(store.list().len(), 2);
        assert_eq!((store.usage().bytes, store.usage().inodes), (3 * 4_096, 3));
    };
    check(&store);
    drop(store);
    check(&fixture.open());
}

#[test]
fn a_name_moves_to_the_image_imported_last() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let old = fixture.import(&store, "a", &[layer("old")]).unwrap();
    let new = fixture.import(&store, "a", &[layer("new")]).unwrap();
    let check = |store: &Arc<Store>| {
        assert_eq!(store.resolve("a").unwrap().unwrap().id, new);
        assert!(store.resolve(&old).unwrap().unwrap().refs.is_empty(), "the old one is still there, without a name");
    };
    check(&store);
    drop(store);
    check(&fixture.open());
}

#[test]
fn an_ambiguous_beginning_of_an_id_is_refused() {
    let image = |digit: &str| {
        let id = crate::Digest::parse(&format!("sha256:abcdef01{}", digit.repeat(56))).unwrap();
        super::ImageRecord { id, digests: [].into(), manifests: [].into(), layers: vec![], pinned_by: [].into() }
    };
    let mut state = super::State::default();
    state.put_image(image("1"), Default::default());
    assert!(state.find("abcdef01").unwrap().is_some());
    state.put_image(image("2"), Default::default());
    assert!(matches!(state.find("abcdef01"), Err(Error::AmbiguousId { matches: 2, .. })));
    assert!(state.find("sha256:abcdef012").unwrap().is_some());
}

#[test]
fn removal_takes_what_no_other_image_has() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let empty = listing(&fixture.root());
    let first = fixture.import(&store, "a", &[layer("shared"), layer("one")]).unwrap();
    fixture.import(&store, "b", &[layer("shared"), layer("two")]).unwrap();
    fixture.import(&store, "also-a", &[layer("shared"), layer("one")]).unwrap();
    assert_eq!(store.usage().inodes, 3, "the lowest layer is there once");

    let untagged = store.remove("a", &|_| true).unwrap();
    assert_eq!((untagged.untagged, untagged.deleted), (vec!["docker.io/library/a:latest".to_owned()], false));
    assert!(matches!(store.remove("also-a", &|id| id == first), Err(Error::InUse { .. })));
    let removed = store.remove("also-a", UNUSED).unwrap();
    assert_eq!((removed.deleted, removed.freed_bytes, removed.id), (true, 4_096, first.clone()));
    assert_eq!(store.resolve(&first).unwrap(), None);
    assert!(matches!(store.remove(&first, UNUSED), Err(Error::NotFound { .. })));
    let image = store.resolve("b").unwrap().unwrap();
    assert_whole(&store, &image, "two");
    assert_eq!(fs::read(store.layers_dir().join(&image.layers[1]).join("shared")).unwrap(), b"shared");

    let removed = store.remove(&image.id, UNUSED).unwrap();
    assert_eq!((removed.freed_bytes, removed.untagged.len()), (8_192, 1));
    assert_eq!(listing(&fixture.root()), empty, "nothing is left");
    drop(store);
    assert!(fixture.open().list().is_empty());
}

#[test]
fn an_image_with_several_names_goes_as_a_whole_by_its_id() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let id = fixture.import(&store, "a", &[layer("x")]).unwrap();
    fixture.import(&store, "b", &[layer("x")]).unwrap();
    let removed = store.remove(&id[..20], UNUSED).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, true));
    assert!(store.list().is_empty());
}

#[test]
fn pinned_images_stay_until_they_are_unpinned() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.import_as(&store, "a", &[layer("x")], ImportOptions { pinned: true }).unwrap();
    fixture.import(&store, "a", &[layer("x")]).unwrap();
    assert!(store.resolve("a").unwrap().unwrap().pinned, "importing again takes no pin away");
    drop(store);
    let store = fixture.open();
    assert!(matches!(store.remove("a", UNUSED), Err(Error::Pinned { .. })));
    store.unpin("a").unwrap();
    assert!(!store.resolve("a").unwrap().unwrap().pinned);
    assert!(matches!(store.unpin("absent"), Err(Error::NotFound { .. })));
    store.remove("a", UNUSED).unwrap();
}

#[test]
fn a_removal_that_fails_gives_no_directory_away() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.import(&store, "a", &[layer("old")]).unwrap();
    let ingest = fixture.root().join("ingest");
    fs::remove_dir(&ingest).unwrap();
    assert!(matches!(store.remove("a", UNUSED), Err(Error::Io { .. })));
    fs::create_dir(&ingest).unwrap();
    fixture.import(&store, "b", &[layer("new")]).unwrap();
    let image = store.resolve("b").unwrap().unwrap();
    assert_whole(&store, &image, "new");
    assert_ne!(image.layers, ["1"], "the files of the removed image are still there");
    drop(store);
    fixture.reboot();
    drop(fixture.open());
    assert!(!fixture.root().join("layers/1").exists());
}

#[test]
fn an_opaque_root_ends_the_stack() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    let cut = Tar::new().whiteout(".wh..wh..opq").file("cut", b"cut").build();
    fixture.import(&store, "a", &[layer("low"), cut, layer("top")]).unwrap();
    let image = store.resolve("a").unwrap().unwrap();
    assert_eq!(image.layers.len(), 2, "what lies below cannot be seen");
    assert_whole(&store, &image, "top");
    drop(store);
    assert_eq!(fixture.open().resolve("a").unwrap().unwrap().layers, image.layers);
}

/// Every file of the store that is not an image's own.
fn records(root: &Path) -> Vec<PathBuf> {
    let dirs = ["blobs/sha256", "layer-records", "images", "refs", "drop-ins"];
    let mut files: Vec<PathBuf> =
        dirs.iter().flat_map(|dir| fs::read_dir(root.join(dir)).unwrap()).map(|e| e.unwrap().path()).collect();
    files.extend([root.join("boot"), root.join("lock")]);
    files.sort();
    files
}

/// The store opens, and every image that it lists is whole.
fn assert_sound(fixture: &Fixture, case: &str) -> usize {
    let store = Store::open(&fixture.root()).unwrap_or_else(|e| panic!("{case}: {e}"));
    let images = store.list();
    for image in &images {
        let file = if image.layers.len() == 1 { "two" } else { "one" };
        assert_whole(&store, image, file);
        for name in &image.refs {
            assert_eq!(store.resolve(name).unwrap().as_ref(), Some(image), "{case}");
        }
    }
    images.len()
}

#[test]
fn s_m02_damage_costs_one_object() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.import(&store, "one", &[layer("low"), layer("one")]).unwrap();
    fixture.import(&store, "two", &[layer("two")]).unwrap();
    drop(store);
    for path in records(&fixture.root()) {
        let good = fs::read(&path).unwrap();
        let name = path.display().to_string();
        let damage = |case: &str, harm: &dyn Fn(&Path)| {
            harm(&path);
            assert!(assert_sound(&fixture, &format!("{name} {case}")) >= 1, "{name} {case}: the other image is there");
            let store = fixture.open();
            // Importing again repairs whatever it was.
            fixture.import(&store, "one", &[layer("low"), layer("one")]).unwrap();
            fixture.import(&store, "two", &[layer("two")]).unwrap();
            drop(store);
            assert_eq!(assert_sound(&fixture, &format!("{name} {case}, repaired")), 2);
        };
        damage("emptied", &|path| fs::write(path, b"").unwrap());
        damage("cut", &|path| fs::write(path, &good[..good.len() / 2]).unwrap());
        damage("flipped", &|path| {
            let mut bytes = good.clone();
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 4;
            }
            fs::write(path, bytes).unwrap();
        });
        damage("mode 0", &|path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap());
        if !path.ends_with("lock") && !path.ends_with("boot") {
            damage("a directory", &|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            });
            damage("gone", &|path| fs::remove_file(path).unwrap());
        }
    }
}

#[test]
fn s_b21_an_import_cut_off_at_any_point_is_whole_or_absent() {
    if !is_root() {
        return;
    }
    // After a power failure any of an import's moves may be missing: every subset must do.
    let complete = Fixture::new();
    let store = complete.open();
    complete.import(&store, "two", &[layer("two")]).unwrap();
    drop(store);
    let mut parts = records(&complete.root());
    parts.retain(|path| !path.ends_with("boot") && !path.ends_with("lock"));
    parts.push(complete.root().join("layers/1"));
    assert_eq!(parts.len(), 5, "{parts:?}");
    for subset in 0..1u32 << parts.len() {
        let fixture = Fixture::new();
        drop(fixture.open());
        for (i, part) in parts.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0) {
            let to = fixture.root().join(part.strip_prefix(complete.root()).unwrap());
            if part.is_dir() {
                fs::create_dir(&to).unwrap();
                fs::copy(part.join("two"), to.join("two")).unwrap();
            } else {
                fs::copy(part, to).unwrap();
            }
            assert!(i < parts.len());
        }
        let images = assert_sound(&fixture, &format!("subset {subset:05b}"));
        assert!(images == 0 || subset.count_ones() >= 4, "subset {subset:05b}");
        fixture.reboot();
        let again = assert_sound(&fixture, &format!("subset {subset:05b} after a boot"));
        assert_eq!(again, images);
        let left = fs::read_dir(fixture.root().join("layers")).unwrap().count();
        assert_eq!(left, images, "subset {subset:05b}: what nobody has is gone");
        let store = fixture.open();
        fixture.import(&store, "two", &[layer("two")]).unwrap();
        drop(store);
        assert_eq!(assert_sound(&fixture, "imported again"), 1);
    }
}

#[test]
fn unfinished_work_is_removed_but_not_what_may_be_in_use() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.import(&store, "two", &[layer("two")]).unwrap();
    drop(store);
    let root = fixture.root();
    fs::create_dir_all(root.join("ingest/t0/deep/er")).unwrap();
    fs::write(root.join("ingest/t1"), b"half a record").unwrap();
    fs::create_dir_all(root.join("layers/2/x")).unwrap();
    let store = fixture.open();
    assert_eq!(fs::read_dir(root.join("ingest")).unwrap().count(), 0);
    assert!(root.join("layers/2").exists(), "a container may still use it");
    fixture.import(&store, "three", &[layer("three")]).unwrap();
    assert_eq!(store.resolve("three").unwrap().unwrap().layers, ["3"], "and its number is not given away");
    drop(store);
    fixture.reboot();
    let store = fixture.open();
    assert!(!root.join("layers/2").exists(), "nothing survives a boot");
    assert_eq!(store.list().len(), 2);
    let id = fixture.import(&store, "four", &[layer("four")]).unwrap();
    assert_eq!(store.resolve(&id).unwrap().unwrap().layers, ["2"], "the lowest free number");
}

#[test]
fn questions_are_answered_while_images_come_and_go() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.import(&store, "base", &[layer("shared")]).unwrap();
    let paths: Vec<PathBuf> = (0..4)
        .map(|i| {
            let path = fixture.dir.path().join(format!("{i}.tar"));
            fs::write(&path, docker_archive(&format!("i{i}"), &[layer("shared"), layer(&format!("l{i}"))])).unwrap();
            path
        })
        .collect();
    std::thread::scope(|scope| {
        for (i, path) in paths.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..5 {
                    store.import(path, ImportOptions::default()).unwrap();
                    let name = format!("i{i}");
                    let image = store.resolve(&name).unwrap().unwrap();
                    assert_whole(store, &image, &format!("l{i}"));
                    assert!(store.resolve("base").unwrap().is_some());
                    store.remove(&name, UNUSED).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list().len(), 1);
    assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 1);
}
