use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use cri::{Code, Error, Runtime, v1};
use lifecycle::Event;
use lifecycle::image_access::{Access, Verdict};
use lifecycle::image_gc::Disk;
use rustix::io::Errno;

use super::disk::{Measure, Measures};
use super::*;
use crate::testing::fake::Fake;
use crate::testing::fake::images::image;
use crate::testing::{TempDir, is_root};
use crate::{AgentConfig, ImageGcConfig, ImagesConfig};

/// A disk of a thousand bytes of which 100 are free, and 100 more with each image that is not there any more.
fn small_disk(dir: &Path) -> Result<Disk, Errno> {
    let files = std::fs::read_dir(dir).map_err(|_| Errno::NOENT)?.count() as u64;
    Ok(Disk { capacity_bytes: 1_000, available_bytes: 1_000 - 100 * files.min(10) })
}

struct Bed {
    dir: TempDir,
    fake: Arc<Fake>,
    collector: Collector,
    messages: mpsc::Receiver<Message>,
    /// What the loop says is wanted.
    wanted: Arc<Mutex<Option<BTreeSet<String>>>>,
}

impl Bed {
    fn new(gc: ImageGcConfig, measure: Measure) -> Self {
        Self::measuring(gc, Measures { now: measure, settled: measure })
    }

    fn measuring(gc: ImageGcConfig, measures: Measures) -> Self {
        let (dir, fake) = (TempDir::new(), Arc::new(Fake::default()));
        fake.images.keep_in(dir.path().to_owned());
        let images = ImagesConfig { gc, ..ImagesConfig::default() };
        let config = AgentConfig { images, root_dir: dir.path().join("root"), ..AgentConfig::default() };
        let world = Arc::new(World::new(fake.clone(), config, None));
        let (queries, mut questions) = mpsc::channel(8);
        let (told, messages) = mpsc::channel(64);
        let wanted = Arc::new(Mutex::new(Some(BTreeSet::new())));
        let answer = wanted.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                let Query::WantedImages(reply) = question else { panic!("{question:?}") };
                reply.send(answer.lock().unwrap().clone()).unwrap();
            }
        });
        let collector = Collector::new(Surroundings { world, queries, messages: told }, measures);
        Self { dir, fake, collector, messages, wanted }
    }

    /// An image with a file of content.
    fn add(&self, image: v1::Image) {
        std::fs::write(self.dir.path().join(&image.id), [0; 64 << 10]).unwrap();
        self.fake.images.add(image);
    }

    fn add_many(&self, ids: impl IntoIterator<Item = usize>) {
        for id in ids {
            self.add(image(&format!("i{id}"), &[&format!("docker.io/library/app{id}:1")]));
        }
    }

    fn want(&self, images: &[&str]) {
        *self.wanted.lock().unwrap() = Some(images.iter().map(|&image| image.to_owned()).collect());
    }

    async fn create_container(&self, image: &str) {
        let config = v1::ContainerConfig {
            image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest { config: Some(config), ..Default::default() };
        self.fake.create_container(request).await.unwrap();
    }

    fn events(&mut self) -> Vec<(&'static str, String)> {
        let mut events = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            let Message::NodeTold(Event { reason, message, container: None, .. }) = message else {
                panic!("{message:?}");
            };
            events.push((reason, message));
        }
        events
    }
}

fn at_once() -> ImageGcConfig {
    ImageGcConfig { min_age: Duration::ZERO, ..ImageGcConfig::default() }
}

#[tokio::test]
async fn f_f01_images_go_until_there_is_room_and_none_that_is_used() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.fake.images.use_for_sandboxes("registry.example/pause:3.6");
    bed.add(image("pause", &["registry.example/pause:3.6"]));
    bed.add(v1::Image { pinned: true, ..image("pinned", &[]) });
    bed.add_many(0..7);
    bed.create_container("i0").await;
    bed.create_container("docker.io/library/app1:1").await;
    bed.want(&["app2:1", "Not a name", "absent:1"]);
    assert_eq!(bed.collector.round().await, Next::Regular);
    assert_eq!(bed.fake.images.removed(), ["i3"], "90 % full: one of 10 % is enough for 80 %");
    assert_eq!(bed.collector.round().await, Next::Regular);
    assert_eq!(bed.fake.images.removed().len(), 1, "80 % is below the threshold");
    bed.add_many(7..9);
    bed.collector.round().await;
    assert_eq!(bed.fake.images.removed(), ["i3", "i4", "i5"], "those known for longest");
    assert_eq!(bed.events(), []);
}

#[tokio::test]
async fn f_f01_what_was_removed_already_costs_no_image() {
    let measures = Measures {
        now: |_| Ok(Disk { capacity_bytes: 1_000, available_bytes: 0 }),
        settled: |_| Ok(Disk { capacity_bytes: 1_000, available_bytes: 1_000 }),
    };
    let mut bed = Bed::measuring(at_once(), measures);
    bed.add_many(0..3);
    assert_eq!(bed.collector.round().await, Next::Regular);
    assert!(bed.fake.images.removed().is_empty());
}

#[tokio::test]
async fn who_may_use_an_image_is_forgotten_with_it() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.add_many(0..2);
    let records = bed.collector.surroundings.world.records.clone();
    for id in ["i0", "i2"] {
        records.grant("app:1", id, Access::Bearers(Vec::new())).unwrap();
    }
    let granted_ms = crate::clock::mono_ms();
    while crate::clock::mono_ms() == granted_ms {
        std::thread::yield_now();
    }
    bed.collector.round().await;
    assert_eq!(["i0", "i2"].map(|id| records.judge("app:1", Some(id), &[])), [Verdict::Ask, Verdict::Granted]);
}

#[tokio::test]
async fn f_f01_nothing_goes_before_it_is_known_what_is_wanted() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.add_many(0..10);
    *bed.wanted.lock().unwrap() = None;
    assert_eq!(bed.collector.round().await, Next::Soon);
    assert_eq!(bed.collector.prune().await, Err(PruneError::NotReady));
    assert!(bed.fake.images.removed().is_empty());
}

#[tokio::test]
async fn f_f01_who_comes_meanwhile_keeps_his_image() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.add_many(0..10);
    let mut view = bed.collector.view().await.unwrap();
    bed.want(&["app3:1"]);
    let mut pruned = Pruned::default();
    for id in ["i3", "i4"] {
        bed.collector.remove(&mut view, id, &mut pruned).await.unwrap();
    }
    assert_eq!(bed.fake.images.removed(), ["i4"]);
}

#[tokio::test]
async fn f_f01_what_is_new_stays_for_a_while() {
    let gc = ImageGcConfig { min_age: Duration::from_secs(3_600), ..ImageGcConfig::default() };
    let mut bed = Bed::new(gc, small_disk);
    bed.add_many(0..5);
    bed.collector.look().await.unwrap();
    bed.add_many(5..10);
    bed.collector.round().await;
    assert!(bed.fake.images.removed().is_empty(), "nobody has had the time to want them");
}

#[tokio::test]
async fn what_cannot_be_freed_is_told_the_second_time() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.add_many(0..10);
    let all: Vec<String> = (0..10).map(|id| format!("app{id}:1")).collect();
    bed.want(&all.iter().map(String::as_str).collect::<Vec<_>>());
    bed.collector.round().await;
    assert_eq!(bed.events(), [], "once may be nothing");
    bed.collector.round().await;
    let text = "Insufficient free disk space on the node's image filesystem (100.0% of 1000 B used). Failed to free \
                sufficient space by deleting unused images. Consider resizing the disk or deleting unused files.";
    let expected = ["FreeDiskSpaceFailed", "ImageGCFailed"].map(|reason| (reason, text.to_owned()));
    assert_eq!(bed.events(), expected);
    bed.want(&[]);
    bed.collector.round().await;
    bed.want(&all.iter().map(String::as_str).collect::<Vec<_>>());
    bed.add_many(0..2);
    bed.collector.round().await;
    assert_eq!(bed.events(), [], "it went well in between");
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_the_others_go() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.add_many(0..10);
    bed.fake.images.make_stubborn("i0", Error::internal("the disk is broken"));
    bed.collector.round().await;
    assert_eq!(bed.fake.images.removed(), ["i1", "i2"]);
    bed.add_many(1..3);
    bed.collector.round().await;
    let text = "wanted to free 200 bytes, but freed 200 bytes space with errors in image deletion: remove an image: the \
                disk is broken";
    assert_eq!(bed.events(), [("ImageGCFailed", text.to_owned())]);
}

#[tokio::test]
async fn a_disk_that_is_not_known_is_told() {
    let mut bed = Bed::new(at_once(), |_| Ok(Disk { capacity_bytes: 0, available_bytes: 0 }));
    bed.add_many(0..2);
    bed.collector.round().await;
    bed.collector.round().await;
    let text = format!("invalid capacity 0 on image filesystem {}", bed.dir.path().display());
    assert_eq!(bed.events(), ["InvalidDiskCapacity", "ImageGCFailed"].map(|reason| (reason, text.clone())));
    assert!(bed.fake.images.removed().is_empty());

    let mut bed = Bed::new(at_once(), |_| Err(Errno::IO));
    bed.collector.round().await;
    bed.collector.round().await;
    let events = bed.events();
    assert!(matches!(&events[..], [("ImageGCFailed", text)] if text.contains(&*bed.dir.path().to_string_lossy())));
}

#[tokio::test]
async fn a_hundred_percent_is_never() {
    let mut bed = Bed::new(ImageGcConfig { high_percent: 100, ..at_once() }, small_disk);
    bed.add_many(0..10);
    assert!(bed.collector.is_idle());
    bed.collector.round().await;
    assert!(bed.fake.images.removed().is_empty());
}

#[tokio::test]
async fn f_f01_all_that_nobody_uses_goes_when_somebody_asks() {
    let gc = ImageGcConfig { high_percent: 100, min_age: Duration::from_secs(3_600), ..ImageGcConfig::default() };
    let mut bed = Bed::new(gc, small_disk);
    bed.add_many(0..6);
    bed.add(v1::Image { pinned: true, ..image("pinned", &[]) });
    bed.create_container("i0").await;
    bed.want(&["app1:1"]);
    bed.fake.images.make_stubborn("i2", Error::failed_precondition("a container of others uses it"));
    bed.fake.images.make_stubborn("i3", Error::internal("the disk is broken"));
    let pruned = bed.collector.prune().await.unwrap();
    let names = |id: usize| vec![format!("docker.io/library/app{id}:1")];
    let removed = [4, 5].map(|id| PrunedImage { id: format!("i{id}"), names: names(id), size_bytes: 1_000 });
    assert_eq!(pruned.removed, removed);
    let error = "remove an image: the disk is broken".to_owned();
    assert_eq!(pruned.failed, [PruneFailure { id: "i3".into(), names: names(3), error }]);
    assert_eq!(pruned.freed_bytes, 200, "as the disk says, not the images");
}

#[tokio::test]
async fn a_runtime_that_does_not_answer_is_named() {
    let mut bed = Bed::new(at_once(), small_disk);
    bed.fake.images.go_blind(Error::new(Code::Unavailable, "no such socket"));
    bed.want(&["app:1"]);
    let error = bed.collector.prune().await.unwrap_err();
    assert_eq!(error.to_string(), "tell which image a name stands for: no such socket");
}

#[tokio::test]
async fn f_f01_freed_bytes_are_measured_on_a_real_disk() {
    if !is_root("f_f01_freed_bytes_are_measured_on_a_real_disk") {
        return;
    }
    let mut bed = Bed::measuring(at_once(), disk::MEASURES);
    let mounted = Mounted::tmpfs(bed.dir.path(), 1 << 20);
    bed.add_many(0..14);
    let before = (disk::MEASURES.now)(bed.dir.path()).unwrap();
    assert_eq!(before, Disk { capacity_bytes: 1 << 20, available_bytes: 2 * (64 << 10) });
    bed.want(&["app0:1"]);
    bed.collector.round().await;
    assert_eq!(bed.fake.images.removed(), ["i1", "i10"], "87.5 % full: 3/16 are free after one, 4/16 after two");
    let pruned = bed.collector.prune().await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.freed_bytes), (11, 11 * (64 << 10)));
    drop(mounted);
}

/// A mount that goes with the test.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path, size_bytes: u64) -> Self {
        let options = std::ffi::CString::new(format!("size={size_bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", at, "tmpfs", flags, &*options).unwrap();
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
