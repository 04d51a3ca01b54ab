//! postStart and preStop hooks, and probes that kill.

use e2e::story::{condition, ended, is, looks, once_started, probe, restarts, status, tells, waits_for};
use e2e::{Machine, Options, Part, Play, Then};
use serde_json::{Value, json};

fn machine() -> Machine {
    Machine::start(Options::default())
}

fn failing() -> Value {
    probe(looks("exit 1"))
}

fn hooks(post_start: Option<Value>, pre_stop: Option<Value>) -> Value {
    let mut lifecycle = json!({});
    if let Some(hook) = post_start {
        lifecycle["postStart"] = hook;
    }
    if let Some(hook) = pre_stop {
        lifecycle["preStop"] = hook;
    }
    lifecycle
}

#[test]
fn should_run_init_container_to_completion_before_call_to_post_start_of_regular_container() {
    let machine = machine();
    let main = Part::gated("main", 0).field("lifecycle", hooks(Some(tells("post-start", Then::Gate(0))), None));
    machine.play(&Play::new("a", "Never").init(Part::brief("init", 0)).main(main));
    machine.await_told("a", "main Started", 1);
    machine.await_told("a", "post-start Started", 1);
    // Until the hook has ended the container has not been made, as its status goes.
    let pod = machine.await_pod("a", |pod| waits_for(pod, "main") == "PodInitializing");
    assert_eq!(condition(&pod, "Ready")["status"], "False");
    machine.open("a", "post-start.end");
    machine.await_pod("a", |pod| is(pod, "main", "running"));
    machine.open("a", "main.end");
    machine.await_phase("a", "Succeeded");
    let story = machine.story("a");
    story.in_order(&["init Started", "init Exiting", "post-start Started", "post-start Exiting"]);
    story.together("main", "post-start");
    machine.finish();
}

#[test]
fn should_not_launch_second_container_before_post_start_of_the_first_container_completed() {
    let machine = machine();
    let first = Part::gated("first", 0).field("lifecycle", hooks(Some(tells("post-start", Then::Gate(0))), None));
    machine.play(&Play::new("a", "Never").main(first).main(Part::brief("second", 0)));
    machine.await_told("a", "post-start Started", 1);
    machine.await_told("a", "first Started", 1).starts("second", 0);
    machine.open("a", "post-start.end");
    machine.await_told("a", "second Exiting", 1);
    machine.story("a").in_order(&["post-start Exiting", "second Starting"]);
    machine.open("a", "first.end");
    machine.await_phase("a", "Succeeded");
    machine.finish();
}

#[test]
fn should_kill_and_restart_a_container_whose_post_start_hook_fails() {
    let machine = machine();
    let main = Part::forever("main").field("lifecycle", hooks(Some(tells("post-start", Then::Exit(7))), None));
    machine.play(&Play::new("a", "Always").main(main));
    let story = machine.await_told("a", "main Starting", 2);
    assert!(story.first("post-start Exiting") < story.last("main Starting"), "{story:?}");
    machine.await_pod("a", |pod| restarts(pod, "main") == 1);
    machine
        .await_events("a", |events| events.contains("FailedPostStartHook") && events.contains("PostStartHook failed"));
    machine.finish();
}

/// A regular container killed by the probe `kind`: its preStop hook runs while it still does.
fn killed_by(kind: &str) {
    let machine = machine();
    let main = Part::forever("main")
        .field("lifecycle", hooks(None, Some(tells("pre-stop", Then::Exit(0)))))
        .field(kind, failing());
    machine.play(&Play::new("a", "Never").main(main));
    let pod = machine.await_pod("a", |pod| ["Succeeded", "Failed"].iter().any(|end| pod["status"]["phase"] == *end));
    let story = machine.story("a");
    story.together("main", "pre-stop");
    story.in_order(&["pre-stop Started", "pre-stop Exiting", "main Terminating", "main Exiting"]);
    story.starts("main", 1);
    assert_eq!(ended(&pod, "main"), (0, "Completed".into()));
    machine.await_events("a", |events| {
        events.contains("Unhealthy") && events.contains("probe failed") && events.contains("Killing")
    });
    machine.finish();
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_terminate_it_if_its_startup_probe_fails() {
    killed_by("startupProbe");
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_terminate_it_if_its_liveness_probe_fails() {
    killed_by("livenessProbe");
}

#[test]
fn should_execute_readiness_probe_while_in_pre_stop_but_not_liveness() {
    let machine = machine();
    let main = Part::forever("main")
        .field("lifecycle", hooks(None, Some(tells("pre-stop", Then::Gate(0)))))
        .field("livenessProbe", probe(looks("echo 'liveness Started' >> /story/told; exit 1")))
        .field("readinessProbe", probe(tells("readiness", Then::Exit(0))));
    machine.play(&Play::new("a", "Never").main(main));
    machine.await_told("a", "pre-stop Started", 1);
    // Three more looks for readiness: time enough for one that a liveness probe would take.
    let before = machine.story("a").count("readiness Exiting");
    let story = machine.await_told("a", "readiness Exiting", before + 3);
    assert_eq!(story.count("liveness Started"), 1, "{story:?}");
    machine.open("a", "pre-stop.end");
    machine.await_told("a", "main Exiting", 1);
    machine.finish();
}

#[test]
fn should_not_continue_running_liveness_probes_for_restartable_init_containers_and_restart_them_while_in_pre_stop() {
    let machine = machine();
    let sidecar = Part::forever("sidecar")
        .sidecar()
        .field("livenessProbe", probe(tells("liveness", Then::Exit(0))))
        .field("readinessProbe", probe(tells("readiness", Then::Exit(0))));
    let main = Part::forever("main").field("lifecycle", hooks(None, Some(tells("pre-stop", Then::Gate(0)))));
    machine.play(&Play::new("a", "Always").init(sidecar).main(main));
    machine.await_ready("a");
    machine.await_told("a", "main Started", 1);
    machine.await_told("a", "liveness Exiting", 1);
    machine.end_play("a");
    let begun = machine.await_told("a", "pre-stop Started", 1);
    let story = machine.await_told("a", "readiness Exiting", begun.count("readiness Exiting") + 3);
    // One may have been under way when the end began.
    assert!(story.count("liveness Started") <= begun.count("liveness Started") + 1, "{story:?}");
    story.starts("sidecar", 1);
    assert_eq!(story.count("sidecar Terminating"), 0, "its turn comes after the regular container's: {story:?}");
    machine.open("a", "pre-stop.end");
    machine.await_pod_gone("a");
    machine.story("a").in_order(&["main Exiting", "sidecar Terminating"]);
    machine.finish();
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_not_launch_next_container_if_the_restartable_init_containers_startup_probe_fails()
 {
    let machine = machine();
    let sidecar = Part::forever("sidecar")
        .sidecar()
        .field("lifecycle", hooks(None, Some(tells("pre-stop", Then::Exit(0)))))
        .field("startupProbe", failing());
    machine.play(&Play::new("a", "Always").init(sidecar).main(Part::brief("main", 0)));
    let story = machine.await_told("a", "sidecar Starting", 2);
    story.together("sidecar", "pre-stop");
    story.in_order(&["pre-stop Started", "sidecar Terminating", "sidecar Exiting"]);
    story.starts("main", 0);
    let pod = machine.await_pod("a", |pod| restarts(pod, "sidecar") >= 1);
    assert_eq!(pod["status"]["phase"], "Pending");
    machine.finish();
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_start_the_next_container_if_the_restartable_init_containers_liveness_probe_fails()
 {
    let machine = machine();
    let sidecar = Part::forever("sidecar")
        .sidecar()
        .field("lifecycle", hooks(None, Some(tells("pre-stop", Then::Exit(0)))))
        .field("livenessProbe", failing());
    machine.play(&Play::new("a", "Always").init(sidecar).main(Part::gated("main", 0)));
    machine.await_told("a", "main Started", 1);
    let story = machine.await_told("a", "sidecar Starting", 2);
    story.together("sidecar", "pre-stop");
    story.in_order(&["pre-stop Started", "sidecar Terminating", "sidecar Exiting"]);
    machine.open("a", "main.end");
    machine.await_told("a", "main Started", 2);
    machine.finish();
}

#[test]
fn a_started_container_is_ready_only_once_its_readiness_probe_says_so() {
    let machine = machine();
    let ready = probe(json!({"exec": {"command": ["test", "-e", "/story/ready"]}}));
    let main = Part::forever("main").held().field("startupProbe", once_started()).field("readinessProbe", ready);
    machine.play(&Play::new("a", "Always").main(main));
    let pod = machine.await_pod("a", |pod| is(pod, "main", "running"));
    assert_eq!((&status(&pod, "main")["started"], &status(&pod, "main")["ready"]), (&json!(false), &json!(false)));
    machine.open("a", "main.start");
    let pod = machine.await_pod("a", |pod| status(pod, "main")["started"] == true);
    assert_eq!(status(&pod, "main")["ready"], false);
    assert_eq!(condition(&pod, "ContainersReady")["reason"], "ContainersNotReady");
    assert_eq!(condition(&pod, "ContainersReady")["message"], "containers with unready status: [main]");
    machine.open("a", "ready");
    machine.await_ready("a");
    machine.close("a", "ready");
    machine.await_pod("a", |pod| status(pod, "main")["ready"] == false);
    machine.await_events("a", |events| events.contains("Readiness probe failed"));
    assert_eq!(restarts(&machine.pod("a").expect("the pod"), "main"), 0);
    machine.finish();
}

#[test]
fn probes_of_every_kind_reach_a_real_server() {
    let machine = Machine::start(Options { images: vec!["busybox", "nginx"], ..Options::default() });
    let handlers =
        [("http", json!({"httpGet": {"path": "/", "port": "web"}})), ("tcp", json!({"tcpSocket": {"port": 80}}))];
    for (name, handler) in &handlers {
        let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": "nginx", "imagePullPolicy": "IfNotPresent",
                "ports": [{"name": "web", "containerPort": 80}],
                "startupProbe": startup(handler), "livenessProbe": probe(handler.clone()), "readinessProbe": probe(handler.clone())}],
        }});
        machine.drop_manifest(&format!("{name}.yaml"), &text.to_string());
    }
    // 404 is a failure, with upstream's words.
    let wrong = probe(json!({"httpGet": {"path": "/no/such/page", "port": 80}}));
    let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrong"}, "spec": {
        "terminationGracePeriodSeconds": 2,
        "containers": [{"name": "main", "image": "nginx", "imagePullPolicy": "IfNotPresent", "readinessProbe": wrong}],
    }});
    machine.drop_manifest("wrong.yaml", &text.to_string());
    for (name, _) in &handlers {
        let pod = machine.await_ready(name);
        assert_eq!(restarts(&pod, "main"), 0, "{}", pod["status"]);
    }
    machine.await_events("wrong", |events| {
        events.contains("Readiness probe failed: HTTP probe failed with statuscode: 404")
    });
    machine.finish();
}

/// Patient: nginx may take a moment to listen.
fn startup(handler: &Value) -> Value {
    let mut startup = probe(handler.clone());
    startup["failureThreshold"] = json!(100);
    startup
}
