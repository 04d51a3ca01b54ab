//! Init containers: their order, their failures, what a restart of the pod, of the kubelet and of the machine does to them.

use e2e::story::{ended, is, once_started, restarts, status, waits_for};
use e2e::{Machine, Options, Part, Play};
use serde_json::{Value, json};

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

fn machine() -> Machine {
    Machine::start(Options::default())
}

/// Three init containers and a regular one that runs on.
fn three_inits(policy: &str) -> Play {
    let inits = ["init-1", "init-2", "init-3"];
    inits.iter().fold(Play::new("a", policy), |play, name| play.init(Part::brief(name, 0)))
}

fn absent_image(part: Part) -> Part {
    part.field("image", json!("registry.invalid/absent"))
}

#[test]
fn should_launch_init_container_serially_before_a_regular_container() {
    let machine = machine();
    machine.play(&three_inits("Never").main(Part::gated("main", 0).held().field("startupProbe", once_started())));
    machine.await_told("a", "main Starting", 1);
    machine.open("a", "main.start");
    machine.await_told("a", "main Started", 1);
    machine.open("a", "main.end");
    let pod = machine.await_phase("a", "Succeeded");
    machine.story("a").one_after_another(&["init-1", "init-2", "init-3", "main"]);
    for init in ["init-1", "init-2", "init-3"] {
        assert_eq!(ended(&pod, init), (0, "Completed".into()));
        assert_eq!(status(&pod, init)["ready"], true, "an init container that is done is ready");
    }
    machine.finish();
}

#[test]
fn should_not_launch_regular_containers_if_an_init_container_fails() {
    let machine = machine();
    machine.play(&Play::new("a", "Never").init(Part::brief("init-1", 1)).main(Part::brief("main", 0)));
    let pod = machine.await_phase("a", "Failed");
    machine.story("a").in_order(&["init-1 Started", "init-1 Exiting"]);
    machine.story("a").starts("main", 0);
    assert_eq!(ended(&pod, "init-1"), (1, "Error".into()));
    assert_eq!(waits_for(&pod, "main"), "PodInitializing");
    machine.finish();
}

/// A pod whose first init container has no image, and the pod once that is known.
fn bad_image(machine: &Machine) -> Value {
    machine.play(&Play::new("a", "Never").init(absent_image(Part::forever("init-1"))).main(Part::brief("main", 0)));
    machine.await_pod("a", |pod| waits_for(pod, "init-1") == "ImagePullBackOff")
}

#[test]
fn should_mark_a_pod_as_failed_and_produce_log_when_an_init_container_has_a_bad_image() {
    let machine = machine();
    let pod = bad_image(&machine);
    let message = status(&pod, "init-1")["state"]["waiting"]["message"].to_string();
    assert!(message.contains("registry.invalid/absent"), "{message}");
    assert_eq!(pod["status"]["phase"], "Pending");
    machine.finish();
}

#[test]
fn should_not_start_an_init_container() {
    let machine = machine();
    bad_image(&machine);
    machine.story("a").starts("init-1", 0);
    machine.finish();
}

#[test]
fn should_not_start_a_regular_container_when_an_init_container_has_a_bad_image() {
    let machine = machine();
    let pod = bad_image(&machine);
    machine.story("a").starts("main", 0);
    assert_eq!(waits_for(&pod, "main"), "PodInitializing");
    machine.finish();
}

#[test]
fn shouldnt_restart_init_containers_upon_regular_container_restart() {
    let machine = machine();
    machine.play(&three_inits("Always").main(Part::gated("main", 255)));
    machine.await_told("a", "main Started", 1);
    machine.open("a", "main.end");
    let story = machine.await_told("a", "main Started", 2);
    story.one_after_another(&["init-1", "init-2", "init-3", "main"]);
    for init in ["init-1", "init-2", "init-3"] {
        story.starts(init, 1);
    }
    let pod = machine.await_ready("a");
    assert_eq!(restarts(&pod, "main"), 1);
    assert_eq!(status(&pod, "main")["lastState"]["terminated"]["exitCode"], 255);
    machine.finish();
}

#[test]
fn should_restart_failing_container_when_pod_restart_policy_is_always() {
    let machine = machine();
    machine.play(&Play::new("a", "Always").main(Part::brief("main", 1)));
    let story = machine.await_told("a", "main Exiting", 2);
    story.in_order(&["main Starting", "main Started", "main Exiting"]);
    assert!(story.first("main Exiting") < story.last("main Starting"), "{story:?}");
    // The first crash is restarted at once, the second waits.
    let pod = machine.await_pod("a", |pod| waits_for(pod, "main") == "CrashLoopBackOff");
    assert_eq!(restarts(&pod, "main"), 1);
    assert_eq!(pod["status"]["phase"], "Running");
    machine.finish();
}

#[test]
fn should_continuously_run_pod_keeping_it_pending_while_its_init_container_fails() {
    let machine = machine();
    for policy in ["Always", "OnFailure"] {
        let name = policy.to_lowercase();
        machine.play(&Play::new(&name, policy).init(Part::brief("init-1", 1)).main(Part::forever("main")));
    }
    for name in ["always", "onfailure"] {
        let pod = machine.await_pod(name, |pod| waits_for(pod, "init-1") == "CrashLoopBackOff");
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(restarts(&pod, "init-1"), 1);
        machine.story(name).starts("main", 0);
    }
    machine.finish();
}

#[test]
fn should_restart_the_containers_in_right_order_after_the_node_reboot() {
    let mut machine = machine();
    machine.play(&three_inits("Always").main(Part::forever("main")));
    machine.await_told("a", "main Started", 1);
    let before = machine.await_ready("a");
    machine.await_remembered("a");
    machine.reboot();
    let story = machine.await_told("a", "main Started", 2);
    story.one_after_another(&["init-1", "init-2", "init-3", "main"]);
    let second: Vec<usize> =
        ["init-1", "init-2", "init-3", "main"].iter().map(|name| story.last(&format!("{name} Started"))).collect();
    assert!(second.is_sorted(), "{story:?}");
    assert!(story.first("main Started") < second[0], "{story:?}");
    let after = machine.await_ready("a");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    for container in ["init-1", "init-2", "init-3", "main"] {
        assert_eq!(restarts(&after, container), 1, "restarts are counted over a boot: {}", after["status"]);
    }
    machine.finish();
}

/// An initialized pod, or one whose third init container runs on; the kubelet restarts, perhaps after the records of
/// what has ended were taken from it.
fn kubelet_restart(initialized: bool, forget: bool) {
    let mut machine = machine();
    let play = Play::new("a", "Always").init(Part::brief("init-1", 0)).init(Part::brief("init-2", 0));
    let third = if initialized { Part::brief("init-3", 0) } else { Part::forever("init-3") };
    machine.play(&play.init(third).main(Part::forever("main")));
    let running = if initialized { "main" } else { "init-3" };
    let pod = machine.await_pod("a", |pod| is(pod, running, "running"));
    machine.await_told("a", &format!("{running} Started"), 1);
    machine.await_remembered("a");
    machine.kill_kubelet();
    if forget {
        for init in ["init-1", "init-2", "init-3"].iter().filter(|init| **init != running) {
            machine.forget_container(&status(&pod, init));
        }
    }
    machine.start_kubelet();
    let after = machine.await_pod("a", |pod| is(pod, running, "running"));
    assert_eq!(status(&after, running)["containerID"], status(&pod, running)["containerID"]);
    assert_eq!(after["status"]["phase"], if initialized { "Running" } else { "Pending" });
    for init in ["init-1", "init-2", "init-3"] {
        assert_eq!(restarts(&after, init), 0, "{}", after["status"]);
        assert_eq!(status(&after, init)["lastState"], json!({}), "{}", after["status"]);
    }
    let story = machine.story("a");
    for container in ["init-1", "init-2", "init-3", running] {
        story.starts(container, 1);
    }
    story.starts("main", usize::from(initialized));
    machine.finish();
}

#[test]
fn should_not_restart_any_completed_init_container_after_the_kubelet_restart() {
    kubelet_restart(true, false);
    kubelet_restart(false, false);
}

#[test]
fn should_not_restart_any_completed_init_container_even_after_the_completed_init_container_statuses_have_been_removed_and_the_kubelet_restarted()
 {
    kubelet_restart(true, true);
    kubelet_restart(false, true);
}

#[test]
fn should_handle_every_policy_of_a_pod_whose_init_containers_succeed() {
    let machine = machine();
    for policy in POLICIES {
        machine.play(
            &Play::new(&policy.to_lowercase(), policy).init(Part::brief("init-1", 0)).main(Part::gated("main", 0)),
        );
    }
    for policy in POLICIES {
        let name = policy.to_lowercase();
        machine.await_told(&name, "main Started", 1);
        machine.open(&name, "main.end");
    }
    for name in ["onfailure", "never"] {
        machine.await_phase(name, "Succeeded");
        machine.story(name).starts("main", 1);
    }
    machine.await_told("always", "main Started", 2).starts("init-1", 1);
    machine.finish();
}
