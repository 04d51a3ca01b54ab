use lifecycle::{Phase, Stage, Terminated, WaitingReason};

use super::*;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": "p", "namespace": "default", "uid": "u", "generation": 3 }, "spec": spec,
    }))
    .unwrap()
}

fn node() -> NodeFacts {
    let facts = NodeFacts { node_name: "n".into(), host_ips: vec!["192.0.2.1".into()], ..NodeFacts::default() };
    facts.runtime_name.get_or_init(|| "fake".into());
    facts
}

fn condition(status: bool) -> Condition {
    Condition { status, reason: "", message: String::new() }
}

fn container(name: &str, kind: ContainerKind, state: ContainerState) -> ContainerReport {
    ContainerReport {
        name: name.into(),
        kind,
        state,
        last: None,
        restart_count: 1,
        ready: false,
        started: false,
        image: "busybox".into(),
        image_ref: "sha256:1".into(),
        container_id: format!("id-{name}"),
    }
}

fn ended(message: &str) -> ContainerState {
    ContainerState::Terminated(Terminated {
        exit_code: 137,
        reason: String::new(),
        message: message.into(),
        started_at_ns: 1_000_000_000,
        finished_at_ns: 2_000_000_000,
        container_id: "id".into(),
    })
}

fn report(containers: Vec<ContainerReport>) -> PodReport {
    PodReport {
        uid: "u".into(),
        stage: Stage::Syncing,
        observed: true,
        phase: Phase::Running,
        reason: String::new(),
        message: String::new(),
        observed_generation: 3,
        start_time_ns: 1_000_000_000,
        ips: vec!["10.0.0.2".into()],
        containers,
        conditions: Conditions {
            pod_ready_to_start_containers: condition(true),
            initialized: condition(true),
            ready: condition(false),
            containers_ready: condition(false),
            pod_scheduled: condition(true),
            all_containers_restarting: None,
        },
        problem: None,
        kill_at_ms: None,
    }
}

fn snapshot(spec: serde_json::Value, report: PodReport, rejected: bool) -> Snapshot {
    Snapshot {
        key: PodKey { namespace: "default".into(), name: "p".into(), uid: "u".into() },
        pod: Some(Arc::new(pod(spec))),
        life: LifeReport::Live { report: Box::new(report), since: Transitions::new(5_000_000_000), rejected },
        manifest_error: None,
        deletion: None,
    }
}

fn two_kinds() -> serde_json::Value {
    serde_json::json!({
        "initContainers": [
            { "name": "z-init", "image": "i" }, { "name": "side", "image": "i", "restartPolicy": "Always" },
        ],
        "containers": [
            {
                "name": "web", "image": "i", "tty": true, "resources": { "requests": { "cpu": "1" } },
                "volumeMounts": [
                    { "name": "v", "mountPath": "/v" }, { "name": "w", "mountPath": "/w", "readOnly": true },
                ],
            },
            { "name": "app", "image": "i" },
        ],
    })
}

fn reports() -> Vec<ContainerReport> {
    let running = || ContainerState::Running { started_at_ns: 1 };
    let waiting = ContainerState::Waiting { reason: WaitingReason::PodInitializing, message: String::new() };
    vec![
        container("z-init", ContainerKind::Init, ended("done")),
        container("side", ContainerKind::Sidecar, running()),
        container("web", ContainerKind::Regular, running()),
        container("app", ContainerKind::Regular, waiting),
    ]
}

#[test]
fn every_kind_of_container_has_its_status() {
    let status = snapshot(two_kinds(), report(reports()), false).to_pod(&node()).unwrap().status.unwrap();
    let init = status.init_container_statuses.unwrap();
    let names = |statuses: &[ContainerStatus]| statuses.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&init), ["z-init", "side"], "in the order of the spec");
    let ended = init[0].state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ended.exit_code, ended.signal, ended.message.as_deref()), (137, None, Some("done")));
    assert_eq!(ended.reason.as_deref(), Some("Error"));
    let regular = status.container_statuses.unwrap();
    assert_eq!(names(&regular), ["app", "web"], "by name");
    assert_eq!(regular[0].state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("PodInitializing"));
    let web = &regular[1];
    let mounts = web.volume_mounts.as_ref().unwrap();
    assert_eq!((mounts[0].read_only, mounts[0].recursive_read_only.as_deref()), (None, None));
    assert_eq!((mounts[1].read_only, mounts[1].recursive_read_only.as_deref()), (Some(true), Some("Disabled")));
    assert_eq!(web.allocated_resources.as_ref().unwrap()["cpu"].0, "1");
    assert_eq!(web.container_id.as_deref(), Some("fake://id-web"));
    assert_eq!((status.observed_generation, status.qos_class.as_deref()), (Some(3), Some("Burstable")));
}

#[test]
fn conditions_stand_in_order_with_their_generation_and_time() {
    let mut report = report(reports());
    report.conditions.all_containers_restarting = Some(condition(true));
    let mut since = Transitions::new(5_000_000_000);
    since.note(&report.conditions, 7_000_000_000);
    report.conditions.ready.status = true;
    since.note(&report.conditions, 9_000_000_000);
    let mut snapshot = snapshot(two_kinds(), report.clone(), false);
    snapshot.life = LifeReport::Live { report: Box::new(report), since, rejected: false };
    let conditions = snapshot.to_pod(&node()).unwrap().status.unwrap().conditions.unwrap();
    let told: Vec<(&str, i64, Option<i64>)> = conditions
        .iter()
        .map(|c| (c.type_.as_str(), c.last_transition_time.as_ref().unwrap().0.as_second(), c.observed_generation))
        .collect();
    assert_eq!(
        told,
        [
            ("PodReadyToStartContainers", 7, Some(3)),
            ("Initialized", 7, Some(3)),
            ("Ready", 9, Some(3)),
            ("ContainersReady", 7, Some(3)),
            ("PodScheduled", 7, Some(3)),
            ("AllContainersRestarting", 7, Some(3)),
        ]
    );
}

#[test]
fn a_pod_in_the_hosts_network_has_the_nodes_address() {
    let mut spec = two_kinds();
    spec["hostNetwork"] = true.into();
    let report = PodReport { ips: vec![], ..report(reports()) };
    let status = snapshot(spec, report.clone(), false).to_pod(&node()).unwrap().status.unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.host_ip, status.pod_ip);
    let own = snapshot(two_kinds(), report, false).to_pod(&node()).unwrap().status.unwrap();
    assert_eq!((own.pod_ip, own.pod_ips), (None, None));
}

#[test]
fn a_refused_pod_has_a_verdict_and_nothing_else() {
    let refused = PodReport {
        phase: Phase::Failed,
        reason: "OutOfcpu".into(),
        message: "Pod was rejected: no room".into(),
        ..report(reports())
    };
    let status = snapshot(two_kinds(), refused, true).to_pod(&node()).unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: no room"));
    assert_eq!((status.container_statuses, status.init_container_statuses, status.conditions), (None, None, None));
}

#[test]
fn s_a07_messages_of_one_pod_share_twelve_kibibytes() {
    let long = "x".repeat(4_096);
    let many = |count: usize| {
        let containers = (0..count).map(|n| container(&format!("c{n}"), ContainerKind::Regular, ended(&long)));
        let status =
            snapshot(two_kinds(), report(containers.collect()), false).to_pod(&node()).unwrap().status.unwrap();
        let statuses = status.container_statuses.unwrap();
        let length = |s: &ContainerStatus| s.state.as_ref()?.terminated.as_ref()?.message.as_ref().map(String::len);
        statuses.iter().map(|s| length(s).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(many(2), [4_096, 4_096]);
    assert_eq!(many(6), [2_048; 6]);
}

#[test]
fn a_pod_that_ends_says_when_and_views_know_the_kinds() {
    let mut ending = snapshot(two_kinds(), report(reports()), false);
    ending.deletion = Some(Deletion { at_ns: 40_000_000_000, grace_s: 30 });
    let pod = ending.to_pod(&node()).unwrap();
    assert_eq!(pod.metadata.deletion_timestamp.unwrap().0.as_second(), 40);
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(30));
    let view = ending.to_view(&node());
    let told: Vec<(&str, ContainerKind, bool)> =
        view.containers.iter().map(|c| (c.name.as_str(), c.kind, c.tty)).collect();
    let expected = [
        ("z-init", ContainerKind::Init, false),
        ("side", ContainerKind::Sidecar, false),
        ("web", ContainerKind::Regular, true),
        ("app", ContainerKind::Regular, false),
    ];
    assert_eq!(told, expected);
    let stored = Snapshot { life: LifeReport::Stored(Box::new(pod.status.unwrap())), ..ending };
    assert_eq!(stored.to_view(&node()).containers[0].name, "z-init");
    assert_eq!(stored.to_view(&node()).containers.len(), 4);
}

#[test]
fn a_node_has_the_labels_of_every_node_whatever_is_configured() {
    let node_labels = [("disk", "ssd"), ("kubernetes.io/os", "plan9")];
    let config = AgentConfig {
        node_name: "n".into(),
        node_labels: node_labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        max_pods: 0,
        ..AgentConfig::default()
    };
    let mut facts = NodeFacts::new(&config);
    let usual = facts.plan_of(&pod(two_kinds())).max_restart_delay_ms;
    facts.max_restart_delay_ms = 1_000;
    assert_eq!((usual, facts.plan_of(&pod(two_kinds())).max_restart_delay_ms), (300_000, 1_000));
    let offer = facts.offer;
    assert_eq!((offer.pods, offer.ephemeral_bytes, offer.os.as_str()), (110, i64::MAX, "linux"));
    let label = |name: &str| offer.labels.get(name).map(String::as_str);
    assert_eq!((label("disk"), label("kubernetes.io/os")), (Some("ssd"), Some("linux")));
    assert_eq!(label("kubernetes.io/hostname"), Some("n"));
    assert_eq!(label("beta.kubernetes.io/os"), Some("linux"));
    assert!(label("kubernetes.io/arch").is_some_and(|arch| arch == "amd64" || arch == "arm64"));
}
