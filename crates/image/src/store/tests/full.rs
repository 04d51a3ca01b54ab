//! A disk that really fills up.

use super::pulls::{assert_idle, pull};
use super::*;
use crate::error::LayerError;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;

/// A small file system in memory with the store on it.
struct Small {
    fixture: Fixture,
}

impl Small {
    fn new(options: &str) -> Self {
        let fixture = Fixture::new();
        fs::create_dir(fixture.root()).unwrap();
        let options = CString::new(options).unwrap();
        mount("image-test", fixture.root(), "tmpfs", MountFlags::empty(), Some(&*options)).unwrap();
        Self { fixture }
    }

    fn open(&self) -> Arc<Store> {
        let mut store = self.fixture.open();
        let limits = &mut Arc::get_mut(&mut store).unwrap().limits;
        (limits.reserve_bytes, limits.reserve_inodes) = (0, 0);
        store
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(self.fixture.root(), UnmountFlags::DETACH);
    }
}

#[test]
fn f_f02_a_disk_that_fills_up_costs_only_what_did_not_fit() {
    if !is_root() {
        return;
    }
    let large = |name: &str| Tar::new().file(name, &[7; 3 << 20]).build();
    let many = |name: &str| (0..300).fold(Tar::new(), |tar, i| tar.file(&format!("{name}{i}"), b"")).build();
    for (case, options, too_much) in [("space", "size=2m", large("big")), ("inodes", "nr_inodes=200", many("f"))] {
        let small = Small::new(options);
        let store = small.open();
        let (_, image) = pull(&store, &[layer("low"), layer("one")], "small").unwrap();
        let before = listing(&small.fixture.root());
        for _ in 0..3 {
            match pull(&store, &[layer("low"), layer("new"), too_much.clone()], "large") {
                Err(Error::Layer { source: LayerError::DiskFull { .. }, .. }) => {}
                other => panic!("{case}: {other:?}"),
            }
            assert_idle(&store);
            assert_eq!(listing(&small.fixture.root()), before, "{case}: something was left");
        }
        assert_whole(&store, &image, "one");
        drop(store);
        let store = small.open();
        assert_eq!(store.list(), [image], "{case}");
        pull(&store, &[layer("two")], "more").unwrap();
        store.remove("reg.example/small", UNUSED).unwrap();
        pull(&store, &[layer("three")], "again").unwrap();
        drop(store);
    }
}

/// However little room there is when the records are written, the image is there with all its parts, or it is not.
#[test]
fn f_f02_a_commit_for_which_there_is_no_room_is_no_image() {
    if !is_root() {
        return;
    }
    let layers = [layer("low"), layer("one")];
    let mut outcomes = [0, 0];
    for inodes in 14..40 {
        let small = Small::new(&format!("nr_inodes={inodes}"));
        let store = small.open();
        let is_there = pull(&store, &layers, "a").is_ok();
        assert_eq!(store.list().len(), usize::from(is_there), "{inodes}");
        assert_idle(&store);
        drop(store);
        let store = small.open();
        assert_eq!(store.list().len(), usize::from(is_there), "{inodes}");
        outcomes[usize::from(is_there)] += 1;
        if let Some(image) = store.list().first() {
            assert_whole(&store, image, "one");
            store.remove(&image.id, UNUSED).unwrap();
            assert_eq!(fs::read_dir(store.layers_dir()).unwrap().count(), 0, "{inodes}");
        }
    }
    assert!(outcomes.iter().all(|count| *count > 3), "both outcomes are seen: {outcomes:?}");
}
