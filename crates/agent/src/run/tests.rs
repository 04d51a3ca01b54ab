mod lives;

use std::fs;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::testing::fake::Fake;
use crate::testing::fake::images::image;
use crate::testing::{TempDir, is_root, manifest};
use crate::{DnsConfig, PruneError, Pruned, RunState};

struct Bed {
    dir: TempDir,
    fake: Arc<Fake>,
    agent: AgentHandle,
}

fn config(dir: &Path) -> AgentConfig {
    AgentConfig {
        node_name: "n".into(),
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        root_dir: dir.join("root"),
        log_dir: dir.join("logs"),
        cgroup_root: format!("/agent-test-{}", std::process::id()),
        sources: vec![SourceConfig::Path { path: dir.join("manifests"), check_every: Duration::from_secs(3_600) }],
        dns: DnsConfig::default(),
        node_memory_bytes: 1 << 30,
        node_cpu_millis: 2_000,
        ..AgentConfig::default()
    }
}

impl Bed {
    fn new() -> Self {
        Self::on(TempDir::new(), Arc::new(Fake::new(&["busybox:1"])))
    }

    fn on(dir: TempDir, fake: Arc<Fake>) -> Self {
        fs::create_dir_all(dir.path().join("manifests")).unwrap();
        let agent = run(config(dir.path()), fake.clone(), None).unwrap();
        Self { dir, fake, agent }
    }

    /// The same machine with a new kubelet; with another runtime it was rebooted.
    async fn restart(self, fake: Option<Arc<Fake>>) -> Self {
        self.agent.shutdown().await;
        Self::on(self.dir, fake.unwrap_or(self.fake))
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join("manifests").join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join("manifests").join(file)).unwrap();
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "not within 20 s: {what}; calls: {:?}", self.fake.calls());
    }

    async fn until_running(&self, expected: &[&str]) {
        self.until(&format!("running {expected:?}"), async |bed| bed.fake.running() == expected).await;
    }

    async fn pod(&self, name: &str) -> Option<Pod> {
        self.agent.pods().await.items.into_iter().find(|pod| pod::name(pod) == name)
    }

    async fn phase(&self, name: &str) -> String {
        self.pod(name).await.and_then(|pod| pod.status?.phase).unwrap_or_default()
    }

    fn entries(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(dir)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test]
async fn a_pod_starts_restarts_and_goes() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", "  volumes:\n  - name: v\n    emptyDir: {}\n"));
    bed.until_running(&["a-n/c/0"]).await;
    bed.until("phase", async |bed| bed.phase("a-n").await == "Running").await;
    let status = bed.pod("a-n").await.unwrap().status.unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.2"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.container_id.as_deref().unwrap().starts_with("fake://"), "{container:?}");
    let configs = bed.fake.configs();
    assert_eq!(configs[0].mounts[0].container_path, "/etc/hosts");
    assert!(fs::read_to_string(&configs[0].mounts[0].host_path).unwrap().contains("10.1.0.2\ta-n"));
    let view = bed.agent.pod("default", "a").await.unwrap();
    assert_eq!(view.containers[0].state, RunState::Running);
    assert!(view.containers[0].log_path.as_ref().unwrap().ends_with("c/0.log"));

    bed.fake.exit("a-n", 3);
    bed.until_running(&["a-n/c/1"]).await;
    bed.until("restart count", async |bed| {
        let status = bed.pod("a-n").await.unwrap().status.unwrap();
        let container = &status.container_statuses.unwrap()[0];
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        container.restart_count == 1 && last.is_some_and(|last| last.exit_code == 3)
    })
    .await;

    bed.remove("a.yaml");
    bed.until("nothing left", async |bed| bed.agent.pods().await.items.is_empty()).await;
    assert!(bed.fake.is_empty());
    assert_eq!((bed.entries("root/pods"), bed.entries("logs")), (vec![], vec![]));
}

#[tokio::test]
async fn rule_9_two_pods_of_one_name_never_run_at_once() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.fake.hold("a-n");
    bed.write("a.yaml", &manifest("a", "  hostname: other\n"));
    bed.until("the old one is stopped", async |bed| bed.fake.calls().contains(&"stop a-n/c".to_owned())).await;
    let both = bed.agent.pods().await.items;
    assert_eq!(both.len(), 2, "the new one waits");
    assert_eq!(bed.fake.calls().iter().filter(|call| *call == "run a-n").count(), 1);
    bed.fake.release("a-n");
    bed.until("the new one runs alone", async |bed| {
        bed.agent.pods().await.items.len() == 1 && bed.fake.running() == ["a-n/c/0"]
    })
    .await;
    let calls = bed.fake.calls();
    let removed = calls.iter().position(|call| call == "remove-sandbox a-n").unwrap();
    let run = calls.iter().rposition(|call| call == "run a-n").unwrap();
    assert!(removed < run, "{calls:?}");
}

#[tokio::test]
async fn rule_13_a_bad_file_keeps_its_pod_and_says_so() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.write("a.yaml", "kind: Pod\nmetadata: [");
    bed.until("the error", async |bed| bed.agent.manifests().await.iter().any(|m| m.error.is_some())).await;
    let manifests = bed.agent.manifests().await;
    assert!(manifests[0].keeps_last_good && manifests[0].pods == 1, "{manifests:?}");
    let pod = bed.pod("a-n").await.unwrap();
    assert!(pod.metadata.annotations.unwrap().contains_key(crate::status::CONFIG_ERROR));
    let conditions = pod.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "ManifestValid" && c.status == "False"));
    assert_eq!(bed.fake.running(), ["a-n/c/0"]);
}

#[tokio::test]
async fn f_a01_a_call_that_hangs_delays_no_other_pod() {
    let bed = Bed::new();
    bed.fake.hold("a-n");
    bed.write("a.yaml", &manifest("a", ""));
    bed.until("it hangs", async |bed| bed.fake.calls().contains(&"run a-n".to_owned())).await;
    bed.write("b.yaml", &manifest("b", ""));
    bed.until_running(&["b-n/c/0"]).await;
    bed.fake.exit("b-n", 1);
    bed.until_running(&["b-n/c/1"]).await;
    bed.remove("b.yaml");
    bed.until("b is gone", async |bed| bed.pod("b-n").await.is_none()).await;
    assert_eq!(bed.phase("a-n").await, "Pending");
}

#[tokio::test]
async fn f_a01_many_calls_that_hang_delay_no_other_pod() {
    let bed = Bed::new();
    let hanging: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
    for name in &hanging {
        bed.fake.hold(&format!("{name}-n"));
        bed.write(&format!("{name}.yaml"), &manifest(name, ""));
    }
    bed.until("all hang", async |bed| {
        let calls = bed.fake.calls();
        hanging.iter().all(|name| calls.contains(&format!("run {name}-n")))
    })
    .await;
    bed.write("b.yaml", &manifest("b", ""));
    bed.until_running(&["b-n/c/0"]).await;
}

#[tokio::test]
async fn f_a01_a_pod_that_hangs_at_the_start_is_left_alone_and_delays_no_other() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.write("b.yaml", &manifest("b", ""));
    bed.until_running(&["a-n/c/0", "b-n/c/0"]).await;
    bed.fake.hold("a-n");
    let bed = bed.restart(None).await;
    bed.write("c.yaml", &manifest("c", ""));
    bed.until("b is known and c runs", async |bed| {
        bed.phase("b-n").await == "Running" && bed.phase("c-n").await == "Running"
    })
    .await;
    bed.fake.release("a-n");
    bed.until("a is known", async |bed| bed.phase("a-n").await == "Running").await;
    let runs = bed.fake.calls().iter().filter(|call| call.starts_with("run ")).count();
    assert_eq!(runs, 3, "each once: {:?}", bed.fake.calls());
}

#[tokio::test]
async fn f_b08_a_restarted_kubelet_leaves_containers_alone() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    let calls = bed.fake.calls();
    let bed = bed.restart(None).await;
    bed.until("it is known again", async |bed| bed.phase("a-n").await == "Running").await;
    assert_eq!(bed.fake.calls(), calls, "nothing was asked for");
    bed.fake.exit("a-n", 0);
    bed.until_running(&["a-n/c/1"]).await;
}

#[tokio::test]
async fn a_runtime_without_events_is_listed_instead() {
    let bed = Bed::on(TempDir::new(), Arc::new(Fake::new(&["busybox:1"]).without_events()));
    bed.write("a.yaml", &manifest("a", ""));
    bed.until("phase", async |bed| bed.phase("a-n").await == "Running").await;
    bed.fake.exit("a-n", 1);
    bed.until_running(&["a-n/c/1"]).await;
}

#[tokio::test]
async fn f_a01_a_listing_that_hangs_keeps_no_end_from_being_known() {
    let bed = Bed::on(TempDir::new(), Arc::new(Fake::new(&["busybox:1"]).without_events()));
    bed.write("a.yaml", &manifest("a", ""));
    bed.until("phase", async |bed| bed.phase("a-n").await == "Running").await;
    bed.fake.lose_listings(2);
    bed.until("both hang", async |bed| bed.fake.listings_to_lose() == 0).await;
    bed.fake.exit("a-n", 1);
    bed.until_running(&["a-n/c/1"]).await;
}

#[tokio::test]
async fn what_nobody_wants_is_ended() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.write("b.yaml", &manifest("b", ""));
    bed.until("both run", async |bed| bed.fake.running().len() == 2).await;
    bed.agent.shutdown().await;
    bed.remove("a.yaml");
    fs::create_dir_all(bed.dir.path().join("root/pods/left-over/volumes/x/y")).unwrap();
    fs::create_dir_all(bed.dir.path().join("logs/ns_name_left-over/c")).unwrap();
    let bed = bed.restart(None).await;
    bed.until_running(&["b-n/c/0"]).await;
    bed.until("its directories go", async |bed| bed.entries("root/pods").len() == 1 && bed.entries("logs").len() == 1)
        .await;
    assert!(bed.pod("b-n").await.is_some());
}

#[tokio::test]
async fn f_b10_a_finished_pod_does_not_run_again_after_a_reboot() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", "  restartPolicy: Never\n"));
    bed.until_running(&["a-n/c/0"]).await;
    bed.fake.exit("a-n", 0);
    bed.until("its end", async |bed| bed.phase("a-n").await == "Succeeded").await;
    let rebooted = Arc::new(Fake::new(&["busybox:1"]));
    let bed = bed.restart(Some(rebooted)).await;
    bed.write("b.yaml", &manifest("b", ""));
    bed.until_running(&["b-n/c/0"]).await;
    assert_eq!(bed.phase("a-n").await, "Succeeded");
    assert!(bed.fake.calls().iter().all(|call| !call.contains("a-n")), "{:?}", bed.fake.calls());
    assert_eq!(bed.agent.pod("default", "a-n").await.unwrap().containers[0].state, RunState::Exited { exit_code: 0 });
    bed.remove("a.yaml");
    bed.until("its record goes", async |bed| bed.pod("a-n").await.is_none() && bed.entries("root/finished").is_empty())
        .await;
    bed.write("a.yaml", &manifest("a", "  restartPolicy: Never\n"));
    bed.until("wanted anew it runs", async |bed| bed.fake.running().contains(&"a-n/c/0".to_owned())).await;
}

#[tokio::test]
async fn a_missing_image_is_waited_for() {
    let bed = Bed::on(TempDir::new(), Arc::new(Fake::new(&[])));
    bed.write("a.yaml", &manifest("a", ""));
    let waiting = async |bed: &Bed| {
        let view = bed.agent.pod("default", "a").await.ok()?;
        match &view.containers.first()?.state {
            RunState::Waiting { reason, .. } => Some(reason.clone()),
            _ => None,
        }
    };
    bed.until("the reason", async |bed| {
        waiting(bed).await.is_some_and(|reason| reason == "ErrImagePull" || reason == "ImagePullBackOff")
    })
    .await;
    bed.fake.add_image("busybox:1");
    bed.agent.images_changed().await;
    bed.until_running(&["a-n/c/0"]).await;
}

#[tokio::test]
async fn f_f01_images_that_nobody_wants_go_on_demand() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.fake.images.add(image("sha256:2", &["registry.example/unused:1"]));
    let pruned = bed.agent.prune_images().await.unwrap();
    let removed: Vec<&str> = pruned.removed.iter().map(|image| image.id.as_str()).collect();
    assert_eq!((removed, pruned.freed_bytes), (vec!["sha256:2"], 0), "this runtime does not say where images lie");
    assert_eq!(bed.agent.prune_images().await.unwrap(), Pruned::default());
    bed.agent.shutdown().await;
    assert_eq!(bed.agent.prune_images().await, Err(PruneError::Closed));
}

#[tokio::test]
async fn fifty_pods_at_once_all_run_and_all_go() {
    let bed = Bed::new();
    for number in 0..50 {
        bed.write(&format!("p{number}.yaml"), &manifest(&format!("p{number}"), ""));
    }
    bed.until("all run", async |bed| bed.fake.running().len() == 50).await;
    for number in 0..50 {
        bed.remove(&format!("p{number}.yaml"));
    }
    bed.until("all are gone", async |bed| bed.agent.pods().await.items.is_empty()).await;
    assert!(bed.fake.is_empty());
}

#[tokio::test]
async fn a_pods_things_are_made_and_gone() {
    if !is_root("a_pods_things_are_made_and_gone") {
        return;
    }
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("manifests")).unwrap();
    let fake = Arc::new(Fake::new(&["busybox:1"]));
    let layout = cgroup::Layout::detect().unwrap();
    let config = config(dir.path());
    let top = layout.group(&config.cgroup_root);
    let agent = run(config.clone(), fake.clone(), Some(layout.clone())).unwrap();
    let bed = Bed { dir, fake, agent };
    let volumes =
        "  volumes:\n  - name: disk\n    emptyDir: {}\n  - name: mem\n    emptyDir: {medium: Memory, sizeLimit: 1Mi}\n";
    bed.write("a.yaml", &manifest("a", volumes));
    bed.until_running(&["a-n/c/0"]).await;
    let uid = bed.agent.pod("default", "a").await.unwrap().uid;
    let empty_dirs = bed.dir.path().join(format!("root/pods/{uid}/volumes/kubernetes.io~empty-dir"));
    for volume in ["disk", "mem"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(empty_dirs.join(volume)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777, "{volume}");
    }
    fs::write(empty_dirs.join("mem/full"), vec![0; 2 << 20]).unwrap_err();
    let group = layout.group(&format!("{}/kubepods/besteffort/pod{uid}", config.cgroup_root));
    assert!(group.exists());
    bed.remove("a.yaml");
    bed.until("nothing left", async |bed| bed.agent.pods().await.items.is_empty()).await;
    assert!(!group.exists());
    assert!(bed.entries("root/pods").is_empty());
    bed.agent.shutdown().await;
    assert!(top.children().is_empty(), "{:?}", top.children());
    top.remove().unwrap();
}
