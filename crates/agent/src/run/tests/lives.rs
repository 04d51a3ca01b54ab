//! Whole lives through the fake runtime: what executors, files and history add to the machine's decisions.

use cri::{keys, v1};

use super::*;

/// A manifest of one pod with the containers as JSON.
fn manifest_of(name: &str, spec: &serde_json::Value) -> String {
    serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
}

fn container(name: &str) -> serde_json::Value {
    serde_json::json!({ "name": name, "image": "busybox:1", "command": ["/bin/true"] })
}

fn ok() -> Result<v1::ExecSyncResponse, cri::Error> {
    Ok(v1::ExecSyncResponse::default())
}

impl Bed {
    /// `reason fieldPath` of a pod's events, those of its machine and of its executors.
    async fn history(&self, pod: &str) -> Vec<String> {
        let events = self.agent.events(Some(("default", pod))).await;
        let text = |event: k8s_openapi::api::core::v1::Event| {
            let path = event.involved_object.field_path.unwrap_or_default();
            format!("{} {path}", event.reason.unwrap()).trim_end().to_owned()
        };
        events.into_iter().map(text).collect()
    }
}

#[tokio::test]
async fn init_containers_run_one_after_the_other_and_their_last_words_are_kept() {
    let bed = Bed::new();
    let spec =
        serde_json::json!({ "initContainers": [container("one"), container("two")], "containers": [container("c")] });
    bed.write("a.json", &manifest_of("a", &spec));
    bed.until_running(&["a-n/one/0"]).await;
    let config = bed.fake.configs().remove(0);
    let message = config.mounts.iter().find(|mount| mount.container_path == "/dev/termination-log").unwrap();
    assert!(!message.readonly && message.host_path.ends_with("containers/one/00000000"), "{message:?}");
    fs::write(&message.host_path, "all is set").unwrap();
    bed.fake.exit("a-n", 0);
    bed.until_running(&["a-n/two/0"]).await;
    let waiting = bed.agent.pod("default", "a").await.unwrap().containers[2].state.clone();
    assert!(matches!(waiting, RunState::Waiting { reason, .. } if reason == "PodInitializing"));
    bed.fake.exit("a-n", 0);
    bed.until_running(&["a-n/c/0"]).await;
    bed.until("phase", async |bed| bed.phase("a-n").await == "Running").await;
    let status = bed.pod("a-n").await.unwrap().status.unwrap();
    let one = &status.init_container_statuses.as_ref().unwrap()[0];
    let ended = one.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ended.message.as_deref(), ended.reason.as_deref()), (Some("all is set"), Some("Completed")));
    let mut expected: Vec<String> = vec!["MissingClusterDNS".into()];
    for path in ["spec.initContainers{one}", "spec.initContainers{two}", "spec.containers{c}"] {
        expected.extend(["Pulled", "Created", "Started"].map(|reason| format!("{reason} {path}")));
    }
    let mut told = bed.history("a").await;
    // The image of the first is looked for while the sandbox is made.
    told[..2].sort();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn probes_and_hooks_are_carried_out_in_the_container() {
    let bed = Bed::new();
    bed.fake.answer_commands(ok());
    let mut c = container("c");
    let exec = |command: &str| serde_json::json!({ "exec": { "command": [command] } });
    c["lifecycle"] = serde_json::json!({ "postStart": exec("after-start"), "preStop": exec("before-stop") });
    c["readinessProbe"] = exec("ready");
    bed.write("a.json", &manifest_of("a", &serde_json::json!({ "containers": [c] })));
    bed.until("it is ready", async |bed| {
        let status = bed.pod("a-n").await.and_then(|pod| pod.status);
        status.and_then(|status| status.container_statuses).is_some_and(|statuses| statuses[0].ready)
    })
    .await;
    bed.remove("a.json");
    bed.until("it is gone", async |bed| bed.pod("a-n").await.is_none()).await;
    let commands: Vec<String> = bed.fake.commands().into_iter().map(|request| request.cmd[0].clone()).collect();
    assert_eq!((commands.first().unwrap(), commands.last().unwrap()), (&"after-start".into(), &"before-stop".into()));
    assert!(commands.contains(&"ready".into()), "{commands:?}");
    assert!(bed.history("a").await.contains(&"Killing spec.containers{c}".to_owned()), "told after the pod is gone");
}

#[tokio::test]
async fn a_pod_whose_manifest_went_while_no_kubelet_ran_ends_with_its_hook() {
    let bed = Bed::new();
    bed.fake.answer_commands(ok());
    let mut c = container("c");
    c["lifecycle"] = serde_json::json!({ "preStop": { "exec": { "command": ["before-stop"] } } });
    bed.write("a.json", &manifest_of("a", &serde_json::json!({ "containers": [c] })));
    bed.until_running(&["a-n/c/0"]).await;
    bed.until("it is known to run", async |bed| bed.phase("a-n").await == "Running").await;
    bed.agent.shutdown().await;
    bed.remove("a.json");
    let bed = bed.restart(None).await;
    bed.until("nothing left", async |bed| {
        bed.fake.is_empty() && bed.entries("logs").is_empty() && bed.entries("root/pods").is_empty()
    })
    .await;
    let commands = bed.fake.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert_eq!(commands[0].cmd, ["before-stop"]);
}

#[tokio::test]
async fn restart_counts_survive_the_kubelet_and_the_machine() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.fake.exit("a-n", 3);
    bed.until_running(&["a-n/c/1"]).await;
    bed.until("it is known to run", async |bed| bed.phase("a-n").await == "Running").await;
    let rebooted = Arc::new(Fake::new(&["busybox:1"]));
    let bed = bed.restart(Some(rebooted)).await;
    bed.until_running(&["a-n/c/2"]).await;
}

#[tokio::test]
async fn s_m02_damaged_records_are_passed_over() {
    let bed = Bed::new();
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.until("it is known to run", async |bed| bed.phase("a-n").await == "Running").await;
    let uid = bed.agent.pod("default", "a").await.unwrap().uid;
    bed.agent.shutdown().await;
    let dir = bed.dir.path().join("root/pods").join(uid);
    assert!(dir.join("pod.json").exists() && dir.join("state.json").exists());
    fs::write(dir.join("pod.json"), "{").unwrap();
    fs::write(dir.join("state.json"), [0xff; 9]).unwrap();
    let bed = bed.restart(None).await;
    bed.until("it is known again", async |bed| bed.phase("a-n").await == "Running").await;
    assert_eq!(bed.fake.running(), ["a-n/c/0"]);
}

#[tokio::test]
async fn one_pod_too_many_is_refused_and_leaves_nothing() {
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("manifests")).unwrap();
    let fake = Arc::new(Fake::new(&["busybox:1"]));
    let config = AgentConfig { max_pods: 1, ..config(dir.path()) };
    let agent = run(config, fake.clone(), None).unwrap();
    let bed = Bed { dir, fake, agent };
    bed.write("a.yaml", &manifest("a", ""));
    bed.until_running(&["a-n/c/0"]).await;
    bed.write("b.yaml", &manifest("b", ""));
    bed.until("it is refused", async |bed| bed.phase("b-n").await == "Failed").await;
    let status = bed.pod("b-n").await.unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("OutOfpods"));
    assert_eq!(bed.history("b").await, ["OutOfpods"]);
    assert_eq!(bed.entries("root/pods").len(), 1);
    bed.remove("b.yaml");
    bed.until("it is gone", async |bed| bed.pod("b-n").await.is_none()).await;
    assert_eq!(bed.fake.running(), ["a-n/c/0"]);
}

#[tokio::test]
async fn a_container_carries_its_signal_and_its_namespaces() {
    let bed = Bed::new();
    let mut c = container("c");
    c["lifecycle"] = serde_json::json!({ "stopSignal": "SIGUSR1" });
    let spec = serde_json::json!({
        "os": { "name": "linux" }, "hostNetwork": true, "hostIPC": true, "shareProcessNamespace": true, "containers": [c],
    });
    bed.write("a.json", &manifest_of("a", &spec));
    bed.until_running(&["a-n/c/0"]).await;
    let config = bed.fake.configs().remove(0);
    assert_eq!(config.stop_signal, v1::Signal::Sigusr1 as i32);
    assert_eq!(config.annotations[keys::CONTAINER_TERMINATION_MESSAGE_PATH], "/dev/termination-log");
    let namespaces = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    let modes = (namespaces.network, namespaces.ipc, namespaces.pid);
    let (node, pod) = (v1::NamespaceMode::Node as i32, v1::NamespaceMode::Pod as i32);
    assert_eq!(modes, (node, node, pod));
    let hosts = config.mounts.iter().find(|mount| mount.container_path == "/etc/hosts").unwrap();
    let text = fs::read_to_string(&hosts.host_path).unwrap();
    assert!(text.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{text}");
    bed.until("phase", async |bed| bed.phase("a-n").await == "Running").await;
    assert_eq!(bed.pod("a-n").await.unwrap().status.unwrap().pod_ip.as_deref(), Some("192.0.2.1"));
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_its_reason() {
    let bed = Bed::on(TempDir::new(), Arc::new(Fake::new(&[])));
    let mut never = container("never");
    never["imagePullPolicy"] = "Never".into();
    let mut root = container("c");
    root["securityContext"] = serde_json::json!({ "runAsNonRoot": true, "runAsUser": 0 });
    bed.write("a.json", &manifest_of("a", &serde_json::json!({ "containers": [never] })));
    bed.write("b.json", &manifest_of("b", &serde_json::json!({ "containers": [container("c")] })));
    bed.until("never", async |bed| {
        let told = bed.history("a").await;
        told.contains(&"ErrImageNeverPull spec.containers{never}".to_owned())
            && told.contains(&"Failed spec.containers{never}".to_owned())
    })
    .await;
    bed.until("pulled", async |bed| {
        let told = bed.history("b").await;
        ["Pulling", "Failed"].iter().all(|reason| told.contains(&format!("{reason} spec.containers{{c}}")))
    })
    .await;
    let spec = serde_json::json!({
        "containers": [container("c")], "volumes": [{ "name": "v", "hostPath": { "path": "/nowhere/at/all", "type": "Directory" } }],
    });
    bed.write("d.json", &manifest_of("d", &spec));
    bed.until("mount", async |bed| bed.history("d").await.contains(&"FailedMount".to_owned())).await;
    let events = bed.agent.events(Some(("default", "d-n"))).await;
    let mount = events.iter().find(|event| event.reason.as_deref() == Some("FailedMount")).unwrap();
    assert!(mount.message.as_ref().unwrap().starts_with("MountVolume.SetUp failed for volume \"v\" : "), "{mount:?}");
    bed.fake.add_image("busybox:1");
    bed.write("e.json", &manifest_of("e", &serde_json::json!({ "containers": [root] })));
    bed.until("root", async |bed| bed.history("e").await.contains(&"Failed spec.containers{c}".to_owned())).await;
    assert!(bed.agent.events(None).await.len() > 6);
}
