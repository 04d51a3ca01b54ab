//! What a restart of the kubelet, or of the machine, does to pods that run: nothing, or all of it again in order.

use e2e::story::{OTHER_NAME, condition, is, once_started, probe, restarts, status};
use e2e::{Machine, Options, Part, Play, await_some};
use serde_json::{Value, json};

fn machine() -> Machine {
    Machine::start(Options::default())
}

#[derive(Clone, Copy)]
struct Probes {
    startup: bool,
    readiness: bool,
}

const NONE: Probes = Probes { startup: false, readiness: false };
const STARTUP: Probes = Probes { startup: true, readiness: false };
const READINESS: Probes = Probes { startup: false, readiness: true };
const BOTH: Probes = Probes { startup: true, readiness: true };

fn probed(part: Part, probes: Probes) -> Part {
    let healthy = |name: &str| probe(json!({"exec": {"command": ["test", "-e", format!("/story/{name}")]}}));
    let part = if probes.startup { part.field("startupProbe", patient(healthy("healthy"))) } else { part };
    if probes.readiness { part.field("readinessProbe", patient(healthy("healthy"))) } else { part }
}

fn patient(mut probe: Value) -> Value {
    probe["failureThreshold"] = json!(100);
    probe
}

/// What must not change: phase, readiness and every container's identity and counts.
fn face(pod: &Value) -> Value {
    let face = |status: &Value| {
        json!([status["name"], status["containerID"], status["started"], status["ready"], status["restartCount"]])
    };
    let statuses: Vec<Value> = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .map(face)
        .collect();
    json!({
        "phase": pod["status"]["phase"],
        "ready": condition(pod, "Ready")["status"],
        "ip": pod["status"]["podIP"],
        "startTime": pod["status"]["startTime"],
        "containers": statuses,
    })
}

/// A ready pod looks the same whenever one looks, from the new kubelet's first answer until every probe has looked again.
fn not_affected(play: Play) {
    let mut machine = machine();
    machine.play(&play);
    machine.open("a", "healthy");
    let before = face(&machine.await_ready("a"));
    for restart in 0..2 {
        machine.await_remembered("a");
        machine.kill_kubelet();
        machine.start_kubelet();
        // The first answers; then a container beside it has been started and made ready by a probe of the same period.
        let witness = Play::new(&format!("witness-{restart}"), "Always").main(probed(Part::forever("main"), BOTH));
        machine.play(&witness);
        machine.open(&witness.name, "healthy");
        // A kubelet answers before it has read its manifests: the first sight of the pod counts, and all that follow.
        machine.await_pod("a", |_| true);
        await_some("the witness is ready", || {
            let pods = machine.pods();
            let of = |name: &str| pods.iter().find(|pod| pod["metadata"]["name"] == format!("{name}-node-1"));
            let pod = of("a").unwrap_or_else(|| panic!("gone from /pods after restart {restart}: {}", machine.log()));
            assert_eq!(face(pod), before, "after restart {restart}");
            let ready = of(&witness.name).is_some_and(|pod| condition(pod, "Ready")["status"] == "True");
            if ready { Ok(()) } else { Err(format!("{pods:?}")) }
        });
    }
    machine.story("a").starts("main", 1);
    machine.finish();
}

fn one(probes: Probes) -> Play {
    Play::new("a", "Always").main(probed(Part::forever("main"), probes))
}

fn two(probes: Probes) -> Play {
    one(probes).main(probed(Part::forever("other"), probes))
}

fn sidecar(probes: Probes) -> Play {
    Play::new("a", "Always").init(probed(Part::forever("sidecar"), probes).sidecar()).main(Part::forever("main"))
}

#[test]
fn should_not_affect_pod_status_when_pod_has_no_probe() {
    not_affected(one(NONE));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_startup_probe() {
    not_affected(one(STARTUP));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_readiness_probe() {
    not_affected(one(READINESS));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_startup_probe_and_readiness_probe() {
    not_affected(one(BOTH));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_multiple_containers() {
    not_affected(two(NONE));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_multiple_containers_with_startup_probes() {
    not_affected(two(STARTUP));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_multiple_containers_with_readiness_probes() {
    not_affected(two(READINESS));
}

#[test]
fn should_not_affect_pod_status_when_pod_has_multiple_containers_with_startup_and_readiness_probes() {
    not_affected(two(BOTH));
}

#[test]
fn should_not_affect_pod_status_when_restartable_init_container_has_no_probe() {
    not_affected(sidecar(NONE));
}

#[test]
fn should_not_affect_pod_status_when_restartable_init_container_has_startup_probe() {
    not_affected(sidecar(STARTUP));
}

#[test]
fn should_not_affect_pod_status_when_restartable_init_container_has_readiness_probe() {
    not_affected(sidecar(READINESS));
}

#[test]
fn should_not_affect_pod_status_when_restartable_init_container_has_startup_probe_and_readiness_probe() {
    not_affected(sidecar(BOTH));
}

#[test]
fn should_restart_regular_containers_when_sidecar_with_startup_probe_is_running_after_kubelet_restart() {
    let mut machine = machine();
    let play = Play::new("a", "Always")
        .init(Part::forever("sidecar").sidecar().field("startupProbe", once_started()))
        .main(Part::gated("main", 1));
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    let before = machine.await_ready("a");
    machine.await_remembered("a");
    // It ends while no kubelet runs: the sidecar has started long ago, and needs no startup probe again.
    machine.kill_kubelet();
    machine.open("a", "main.end");
    machine.await_told("a", "main Exiting", 1);
    machine.start_kubelet();
    machine.await_told("a", "main Started", 2).starts("sidecar", 1);
    let after = machine.await_pod("a", |pod| restarts(pod, "main") == 1 && is(pod, "main", "running"));
    assert_eq!(status(&after, "sidecar")["containerID"], status(&before, "sidecar")["containerID"]);
    assert_eq!(status(&after, "main")["lastState"]["terminated"]["exitCode"], 1);
    machine.finish();
}

/// An init container before and one after a sidecar, and a regular container.
fn around_a_sidecar() -> Play {
    Play::new("a", "Always")
        .init(Part::brief("init-1", 0))
        .init(Part::forever("sidecar-2").sidecar().field("startupProbe", once_started()))
        .init(Part::brief("init-3", 0))
        .main(Part::forever("main"))
        .lasting()
}

#[test]
fn should_restart_the_containers_in_right_order_after_the_node_reboot() {
    let mut machine = machine();
    machine.play(&around_a_sidecar());
    machine.await_told("a", "main Started", 1);
    machine.await_told("a", "sidecar-2 Started", 1);
    machine.await_ready("a");
    machine.await_remembered("a");
    machine.reboot();
    let story = machine.await_told("a", "main Starting", 2);
    let names = ["init-1", "sidecar-2", "init-3", "main"];
    for find in [e2e::Story::first, e2e::Story::last] {
        let places: Vec<usize> =
            ["init-1 Exiting", "sidecar-2 Starting", "main Starting"].iter().map(|line| find(&story, line)).collect();
        assert!(places.is_sorted(), "{story:?}");
        assert!(find(&story, "init-1 Exiting") < find(&story, "init-3 Starting"), "{story:?}");
        assert!(find(&story, "init-3 Exiting") < find(&story, "main Starting"), "{story:?}");
    }
    let pod = machine.await_ready("a");
    for name in names {
        assert_eq!(restarts(&pod, name), 1, "{}", pod["status"]);
    }
    machine.finish();
}

#[test]
fn should_handle_an_update_during_the_node_reboot() {
    let mut machine = machine();
    machine.play(&around_a_sidecar());
    machine.await_told("a", "main Started", 1);
    machine.await_ready("a");
    machine.await_remembered("a");
    machine.kill_kubelet();
    machine.play(&around_a_sidecar().with_image_renamed("sidecar-2"));
    machine.reboot();
    machine.await_told("a", "main Started", 2);
    let pod = machine.await_ready("a");
    assert_eq!(status(&pod, "sidecar-2")["image"], OTHER_NAME);
    assert!(restarts(&pod, "sidecar-2") > 0 && restarts(&pod, "main") > 0, "{}", pod["status"]);
    machine.finish();
}

#[test]
fn should_handle_an_update_during_the_kubelet_restart() {
    let mut machine = machine();
    machine.play(&around_a_sidecar());
    machine.await_told("a", "main Started", 1);
    let before = machine.await_ready("a");
    machine.kill_kubelet();
    machine.play(&around_a_sidecar().with_image_renamed("sidecar-2"));
    machine.start_kubelet();
    machine.await_told("a", "sidecar-2 Started", 2).starts("main", 1);
    let pod = machine.await_pod("a", |pod| is(pod, "sidecar-2", "running") && restarts(pod, "sidecar-2") == 1);
    assert_eq!(status(&pod, "main")["containerID"], status(&before, "main")["containerID"]);
    for (name, starts) in [("init-1", 1), ("sidecar-2", 2), ("init-3", 1)] {
        machine.story("a").starts(name, starts);
    }
    machine.finish();
}
