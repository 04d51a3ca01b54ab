use std::fs;

use cri::calls::{Calls, SLOW_AFTER, Watched};
use cri::{Runtime, keys};

use super::*;
use crate::AgentConfig;
use crate::testing::TempDir;
use crate::testing::fake::Fake;

/// A running container of pod `a`, its log directory there.
struct Bed {
    dir: TempDir,
    fake: Arc<Fake>,
    world: Arc<World>,
    logs: PathBuf,
}

impl Bed {
    async fn new() -> Self {
        Self::with(|fake| fake).await
    }

    async fn with(wrap: impl FnOnce(Arc<dyn Runtime>) -> Arc<dyn Runtime>) -> Self {
        let dir = TempDir::new();
        let root = dir.path().join("logs");
        let fake = Arc::new(Fake::new(&[]).leaving_logs_in(root.clone()));
        let config = AgentConfig {
            root_dir: dir.path().join("root"),
            log_dir: root.clone(),
            log_max_bytes: 100,
            log_max_files: 3,
            ..AgentConfig::default()
        };
        let world = Arc::new(World::new(wrap(fake.clone()), config, None));
        let key = PodKey { namespace: "default".into(), name: "a".into(), uid: "u".into() };
        let logs = log_directory(&root, &key).join("c");
        fs::create_dir_all(&logs).unwrap();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            labels: keys::container_labels(&key, "c"),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest { config: Some(config), ..Default::default() };
        let container_id = world.runtime.create_container(request).await.unwrap().container_id;
        world.runtime.start_container(v1::StartContainerRequest { container_id }).await.unwrap();
        Self { dir, fake, world, logs }
    }

    fn write(&self, name: &str, bytes: usize) {
        fs::write(self.logs.join(name), vec![b'x'; bytes]).unwrap();
    }

    /// Names and sizes, but for stamps of now, which are told as `now`.
    fn files(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(&self.logs).unwrap().map(|entry| entry.unwrap());
        let name = |name: String| match name.strip_prefix("0.log.2").is_some_and(|rest| !rest.starts_with("001")) {
            true => {
                assert!(is_rotated(&name, "0.log"), "{name}");
                "now".to_owned()
            }
            false => name,
        };
        let mut files: Vec<_> = entries
            .map(|entry| (name(entry.file_name().into_string().unwrap()), entry.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    }

    async fn round(&self) -> BTreeSet<String> {
        round(&self.world, BTreeSet::new()).await
    }

    fn reopened(&self) -> usize {
        self.fake.calls().iter().filter(|call| *call == "reopen a/c").count()
    }
}

fn files<const N: usize>(files: [(&str, u64); N]) -> Vec<(String, u64)> {
    files.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec()
}

#[tokio::test]
async fn a_log_that_has_grown_is_renamed_and_reopened_and_the_oldest_go() {
    let bed = Bed::new().await;
    bed.write("0.log", 100);
    bed.round().await;
    assert_eq!((bed.files(), bed.reopened()), (files([("0.log", 100)]), 0), "not more than is allowed");
    for (name, bytes) in [
        ("0.log", 101),
        ("0.log.20010101-000000.gz", 1),
        ("0.log.20010102-000000", 2),
        ("0.log.txt", 3),
        ("1.log.20010101-000000", 4),
    ] {
        bed.write(name, bytes);
    }
    assert_eq!(bed.round().await, BTreeSet::new());
    let expected =
        [("0.log", 0), ("0.log.20010102-000000", 2), ("0.log.txt", 3), ("1.log.20010101-000000", 4), ("now", 101)];
    assert_eq!((bed.files(), bed.reopened()), (files(expected), 1));
    bed.round().await;
    assert_eq!(bed.reopened(), 1, "nothing has grown since");
}

#[tokio::test]
async fn a_log_that_is_not_reopened_keeps_its_name() {
    let bed = Bed::new().await;
    bed.write("0.log", 101);
    bed.write("0.log.20010101-000000", 1);
    bed.fake.refuse_reopening(Some(cri::Error::unavailable("away")));
    assert_eq!(bed.round().await.len(), 1);
    assert_eq!((bed.files(), bed.reopened()), (files([("0.log", 101), ("0.log.20010101-000000", 1)]), 1));
    bed.fake.refuse_reopening(None);
    assert_eq!(bed.round().await, BTreeSet::new());
    assert_eq!(bed.files(), files([("0.log", 0), ("0.log.20010101-000000", 1), ("now", 101)]));
}

#[tokio::test(start_paused = true)]
async fn f_a01_a_log_whose_reopening_hangs_is_told_with_its_pods_name() {
    let mut calls = Arc::<Calls>::default();
    let bed = Bed::with(|fake| {
        let watched = Watched::new(fake);
        calls = watched.calls();
        Arc::new(watched)
    });
    let bed = bed.await;
    bed.write("0.log", 101);
    bed.fake.hold("a");
    let looking = async {
        while bed.reopened() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(SLOW_AFTER).await;
        calls.troubles()
    };
    let (told, failing) = tokio::join!(looking, bed.round());
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["reopen_container_log of pod default/a has not been answered for 5 s"]);
    assert_eq!(failing.len(), 1);
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_is_finished() {
    let bed = Bed::new().await;
    bed.write("0.log.20010101-000000", 101);
    bed.round().await;
    assert_eq!((bed.files(), bed.reopened()), (files([("0.log", 0), ("0.log.20010101-000000", 101)]), 1));
}

#[tokio::test]
async fn what_does_not_run_is_left_alone() {
    let bed = Bed::new().await;
    bed.write("0.log", 101);
    bed.fake.exit("a", 0);
    bed.round().await;
    assert_eq!((bed.files(), bed.reopened()), (files([("0.log", 101)]), 0));
}

#[tokio::test]
async fn s_f01_links_that_a_pod_left_are_not_followed() {
    let bed = Bed::new().await;
    let elsewhere = bed.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("0.log"), vec![b'x'; 101]).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("0.log"), bed.logs.join("0.log")).unwrap();
    bed.round().await;
    assert!(bed.logs.join("0.log").is_symlink());
    fs::remove_dir_all(&bed.logs).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &bed.logs).unwrap();
    bed.round().await;
    assert_eq!((fs::read_dir(&elsewhere).unwrap().count(), bed.reopened()), (1, 0));
}

#[tokio::test]
async fn a_runtime_that_rotates_by_itself_is_not_asked() {
    let world = World::new(Arc::new(Fake::new(&[])), AgentConfig { log_max_bytes: 1, ..AgentConfig::default() }, None);
    rotate_logs(Arc::new(world), CancellationToken::new()).await;
}

#[tokio::test]
async fn the_task_goes_on_until_it_is_stopped() {
    let (bed, stop) = (Bed::new().await, CancellationToken::new());
    bed.write("0.log", 101);
    let work = tokio::spawn(rotate_logs(bed.world.clone(), stop.clone()));
    while bed.reopened() == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    work.await.unwrap();
    assert_eq!(bed.files(), files([("0.log", 0), ("now", 101)]));
}
