use super::{DropIn, Scan, watch};
use crate::error::Error;
use crate::store::Store;
use crate::testing::{Tar, docker_archive, gzip, is_root};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    drop_in: DropIn,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        Self { drop_in: DropIn::new(store.clone(), images), dir, store }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("images").join(file)
    }

    fn scan(&mut self) -> Scan {
        self.drop_in.scan_once().unwrap()
    }

    fn pinned(&self, name: &str) -> Option<bool> {
        self.store.resolve(name).unwrap().map(|image| image.pinned)
    }
}

fn archive(name: &str, content: &str) -> Vec<u8> {
    docker_archive(name, &[Tar::new().file("f", content.as_bytes()).build()])
}

fn imported(scan: &Scan) -> Vec<&str> {
    scan.imported.iter().map(|(file, _)| file.as_str()).collect()
}

#[test]
fn archives_are_imported_once_and_pinned() {
    if !is_root() {
        return;
    }
    let mut fixture = Fixture::new();
    fs::write(fixture.path("a.tar"), archive("a", "1")).unwrap();
    fs::write(fixture.path("b.tar.gz"), gzip(&archive("b", "2"))).unwrap();
    fs::write(fixture.path("c.tgz"), gzip(&archive("c", "3"))).unwrap();
    fs::write(fixture.path("d.tar.zst"), zstd::encode_all(&archive("d", "4")[..], 1).unwrap()).unwrap();
    for other in [".hidden.tar", "notes.txt", "e.tar.part", "tar"] {
        fs::write(fixture.path(other), archive("e", "5")).unwrap();
    }
    fs::create_dir(fixture.path("dir.tar")).unwrap();
    let scan = fixture.scan();
    assert_eq!(imported(&scan), ["a.tar", "b.tar.gz", "c.tgz", "d.tar.zst"]);
    assert!(scan.failed.is_empty() && fixture.store.list().len() == 4);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(fixture.pinned(name), Some(true), "{name}");
    }
    assert!(imported(&fixture.scan()).is_empty(), "unchanged files are not read again");

    // Nor by the next process.
    let images = fixture.path("");
    let root = fixture.store.root().to_owned();
    drop((fixture.drop_in, fixture.store));
    let store = Store::open(&root).unwrap();
    let mut drop_in = DropIn::new(store.clone(), images);
    assert!(imported(&drop_in.scan_once().unwrap()).is_empty());
    fs::write(fixture.dir.path().join("images/a.tar"), archive("a", "other")).unwrap();
    assert_eq!(imported(&drop_in.scan_once().unwrap()), ["a.tar"], "a changed file is");
    let pinned: Vec<_> = store.list().iter().map(|image| (image.refs.len(), image.pinned)).collect();
    assert_eq!(pinned.iter().filter(|p| **p == (1, true)).count(), 4);
    assert_eq!(pinned.iter().filter(|p| **p == (0, false)).count(), 1, "what it brought before is let go: {pinned:?}");
}

#[test]
fn a_removed_file_unpins_and_deletes_nothing() {
    if !is_root() {
        return;
    }
    let mut fixture = Fixture::new();
    fs::write(fixture.path("a.tar"), archive("a", "1")).unwrap();
    fs::write(fixture.path("copy.tar"), archive("a", "1")).unwrap();
    fixture.scan();
    assert!(matches!(fixture.store.remove("a", &|_| false), Err(Error::Pinned { .. })));
    fs::remove_file(fixture.path("a.tar")).unwrap();
    assert_eq!(fixture.scan().gone, ["a.tar"]);
    assert_eq!(fixture.pinned("a"), Some(true), "the copy still pins it");
    fs::remove_dir_all(fixture.path("")).unwrap();
    assert_eq!(fixture.scan().gone, ["copy.tar"]);
    assert_eq!(fixture.pinned("a"), Some(false));
    assert!(fixture.scan().gone.is_empty());
    fixture.store.remove("a", &|_| false).unwrap();
}

#[test]
fn what_is_wrong_with_a_file_is_told_once() {
    if !is_root() {
        return;
    }
    let mut fixture = Fixture::new();
    let good = archive("a", "1");
    fs::write(fixture.path("bad.tar"), &good[..good.len() / 2]).unwrap();
    fs::write(fixture.path("good.tar"), archive("b", "2")).unwrap();
    let scan = fixture.scan();
    assert_eq!((scan.failed.len(), scan.failed[0].0.as_str()), (1, "bad.tar"));
    assert_eq!(imported(&scan), ["good.tar"], "others are imported all the same");
    assert!(fixture.scan().failed.is_empty());
    fs::write(fixture.path("bad.tar"), &good[..good.len() / 3]).unwrap();
    assert_eq!(fixture.scan().failed.len(), 1, "another version is another matter");
    fs::write(fixture.path("bad.tar"), &good).unwrap();
    assert_eq!(imported(&fixture.scan()), ["bad.tar"]);
}

#[test]
fn an_image_that_was_lost_comes_back() {
    if !is_root() {
        return;
    }
    let mut fixture = Fixture::new();
    fs::write(fixture.path("a.tar"), archive("a", "1")).unwrap();
    fixture.scan();
    let inode = fs::metadata(fixture.path("a.tar")).unwrap().ino();
    let root = fixture.store.root().to_owned();
    let Fixture { dir, store, drop_in } = fixture;
    drop((store, drop_in));
    for record in ["images", "blobs/sha256"] {
        for entry in fs::read_dir(root.join(record)).unwrap() {
            fs::write(entry.unwrap().path(), b"damaged").unwrap();
        }
    }
    let store = Store::open(&root).unwrap();
    assert!(store.list().is_empty());
    let mut drop_in = DropIn::new(store.clone(), dir.path().join("images"));
    assert_eq!(imported(&drop_in.scan_once().unwrap()), ["a.tar"]);
    assert_eq!(fs::metadata(dir.path().join("images/a.tar")).unwrap().ino(), inode);
    assert!(store.resolve("a").unwrap().unwrap().pinned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_dropped_in_is_noticed() {
    if !is_root() {
        return;
    }
    let Fixture { dir, store, drop_in } = Fixture::new();
    let images = drop_in.dir.clone();
    fs::write(images.join("first.tar"), archive("first", "1")).unwrap();
    let (sender, mut changes) = mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(store.clone(), images.clone(), move || {
        let _ = sender.send(());
    }));
    changes.recv().await.unwrap();
    assert!(store.resolve("first").unwrap().is_some(), "what was there before");
    fs::write(images.join("second.tar"), archive("second", "2")).unwrap();
    changes.recv().await.unwrap();
    while store.resolve("second").unwrap().is_none() {
        // The file may have been looked at when it was half written; then its end is the next change.
        changes.recv().await.unwrap();
    }
    fs::write(dir.path().join("third"), archive("third", "3")).unwrap();
    fs::rename(dir.path().join("third"), images.join("third.tar")).unwrap();
    changes.recv().await.unwrap();
    assert!(store.resolve("third").unwrap().is_some(), "moved in");
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled());
}
