//! Another image for a container of a pod that keeps its identity (its manifest gives a UID): what restarts and what does
//! not. Both names mean one image, so that nothing but the name tells the versions apart.

use e2e::story::{OTHER_NAME, is, looks, probe, restarts, status};
use e2e::{Machine, Options, Part, Play, Term};
use serde_json::Value;

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

fn machine() -> Machine {
    Machine::start(Options::default())
}

fn image(pod: &Value, container: &str) -> String {
    status(pod, container)["image"].as_str().unwrap_or_default().to_owned()
}

/// A new pod of the second name runs: whatever the kubelet wanted to do about manifests dropped before it, it has begun.
fn settled(machine: &Machine) {
    machine.play(&Play::new("witness", "Always").main(Part::forever("main")));
    machine.await_told("witness", "main Started", 1);
    machine.end_play("witness");
    machine.await_pod_gone("witness");
    machine.forget_story("witness");
}

/// A regular container is replaced, whatever the policy; the other one is not touched.
fn regular_is_updated(policy: &str) {
    let machine = machine();
    let play = Play::new("a", policy).main(Part::forever("first")).main(Part::forever("second")).lasting();
    machine.play(&play);
    machine.await_told("a", "first Started", 1);
    machine.await_told("a", "second Started", 1);
    let before = machine.await_ready("a");
    machine.play(&play.with_image_renamed("first"));
    machine.await_told("a", "first Started", 2).in_order(&["first Terminating", "first Exiting"]);
    let after = machine.await_pod("a", |pod| is(pod, "first", "running") && restarts(pod, "first") == 1);
    assert_eq!(image(&after, "first"), OTHER_NAME);
    assert_eq!(status(&after, "second")["containerID"], status(&before, "second")["containerID"]);
    machine.story("a").starts("second", 1);
    machine.await_events("a", |events| events.contains("Container first definition changed, will be restarted"));
    machine.finish();
}

#[test]
fn should_successfully_restart_when_the_image_is_updated_restart_policy_always() {
    regular_is_updated("Always");
}

#[test]
fn should_successfully_restart_when_the_image_is_updated_and_restart_policy_on_failure() {
    regular_is_updated("OnFailure");
}

#[test]
fn should_successfully_restart_when_the_image_is_updated_and_restart_policy_never() {
    regular_is_updated("Never");
}

/// While the init container runs a new image for a regular one starts nothing; then it starts once, from that image.
fn regular_waits(policy: &str) {
    let machine = machine();
    let play = Play::new("a", policy)
        .init(Part::gated("init", 0))
        .main(Part::forever("first"))
        .main(Part::forever("second"))
        .lasting();
    machine.play(&play);
    machine.await_told("a", "init Started", 1);
    machine.play(&play.with_image_renamed("first"));
    settled(&machine);
    let pod = machine.pod("a").expect("the pod");
    assert_eq!(pod["status"]["phase"], "Pending");
    for container in ["first", "second"] {
        machine.story("a").starts(container, 0);
        assert_eq!(restarts(&pod, container), 0);
    }
    machine.open("a", "init.end");
    machine.await_told("a", "first Started", 1);
    let pod = machine.await_ready("a");
    assert_eq!((image(&pod, "first").as_str(), restarts(&pod, "first"), restarts(&pod, "second")), (OTHER_NAME, 0, 0));
    machine.story("a").starts("init", 1);
    machine.finish();
}

#[test]
fn should_not_start_a_regular_container_restart_policy_always() {
    regular_waits("Always");
}

#[test]
fn should_not_start_a_regular_container_restart_policy_on_failure() {
    regular_waits("OnFailure");
}

#[test]
fn should_not_start_a_regular_container_restart_policy_never() {
    regular_waits("Never");
}

/// Fails until the flag `healthy` is there.
fn unhealthy() -> Value {
    probe(looks("test -e /story/healthy"))
}

/// After a probe has killed the container it runs from the image it is given then, whichever of the two probes it was.
fn updated_after_a_probe(policy: &str) {
    let machine = machine();
    for kind in ["startupProbe", "livenessProbe"] {
        let name = kind.to_lowercase();
        let play = Play::new(&name, policy).main(Part::forever("main").field(kind, unhealthy())).lasting();
        machine.play(&play);
        machine.await_told(&name, "main Started", 2);
        machine.open(&name, "healthy");
        machine.play(&play.with_image_renamed("main"));
        machine.await_pod(&name, |pod| image(pod, "main") == OTHER_NAME && restarts(pod, "main") > 1);
        machine.await_told(&name, "main Started", 3);
    }
    machine.finish();
}

#[test]
fn should_update_the_image_when_restart_policy_is_always() {
    updated_after_a_probe("Always");
}

#[test]
fn should_update_the_image_when_restart_policy_is_on_failure() {
    updated_after_a_probe("OnFailure");
}

/// The same with a sidecar; the containers beside it are not touched.
fn sidecar_updated_after_a_probe(policy: &str) {
    let machine = machine();
    for kind in ["startupProbe", "livenessProbe"] {
        let name = kind.to_lowercase();
        let play = Play::new(&name, policy)
            .init(Part::forever("sidecar-1").sidecar())
            .init(Part::forever("sidecar-2").sidecar().field(kind, unhealthy()))
            .main(Part::forever("main"))
            .lasting();
        machine.play(&play);
        if kind == "livenessProbe" {
            // Nothing holds it back, but the sidecar's second run may begin before it.
            machine.await_told(&name, "main Starting", 1);
        }
        machine.await_told(&name, "sidecar-2 Started", 2).starts("main", usize::from(kind == "livenessProbe"));
        machine.open(&name, "healthy");
        machine.play(&play.with_image_renamed("sidecar-2"));
        machine.await_pod(&name, |pod| image(pod, "sidecar-2") == OTHER_NAME && restarts(pod, "sidecar-2") > 1);
        machine.await_told(&name, "sidecar-2 Started", 3);
        machine.await_told(&name, "main Started", 1).starts("sidecar-1", 1);
        machine.story(&name).starts("main", 1);
    }
    machine.finish();
}

#[test]
fn should_update_the_image_of_a_sidecar_when_restart_policy_is_always() {
    sidecar_updated_after_a_probe("Always");
}

#[test]
fn should_update_the_image_of_a_sidecar_when_restart_policy_is_on_failure() {
    sidecar_updated_after_a_probe("OnFailure");
}

#[test]
fn should_update_the_image_when_restart_policy_is_never() {
    sidecar_updated_after_a_probe("Never");
}

/// A pod that ends does not take the image up, and starts nothing.
fn not_updated_while_ending(policy: &str) {
    let machine = machine();
    let play = Play::new("a", policy).grace(3600).main(Part::forever("main").on_term(Term::Gate(1))).lasting();
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    machine.await_ready("a");
    machine.end_play("a");
    machine.await_told("a", "main Terminating", 1);
    machine.play(&play.with_image_renamed("main"));
    settled(&machine);
    machine.story("a").starts("main", 1);
    assert_ne!(image(&machine.pod("a").expect("it still ends"), "main"), OTHER_NAME);
    machine.end_play("a");
    settled(&machine);
    machine.open("a", "main.term");
    machine.await_pod_gone("a");
    machine.story("a").starts("main", 1);
    machine.finish();
}

#[test]
fn should_not_update_the_image_when_restart_policy_is_always() {
    not_updated_while_ending("Always");
}

#[test]
fn should_not_update_the_image_when_restart_policy_is_on_failure() {
    not_updated_while_ending("OnFailure");
}

#[test]
fn should_not_update_the_image_when_restart_policy_is_never() {
    not_updated_while_ending("Never");
}

#[test]
fn should_not_restart_init_container_when_updated_with_a_new_image_after_finishing() {
    let machine = machine();
    let play = Play::new("a", "Always").init(Part::brief("init", 0)).main(Part::forever("main")).lasting();
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    machine.await_ready("a");
    machine.play(&play.with_image_renamed("init"));
    settled(&machine);
    let pod = machine.pod("a").expect("the pod");
    assert_eq!((restarts(&pod, "init"), restarts(&pod, "main")), (0, 0));
    assert_ne!(image(&pod, "init"), OTHER_NAME, "the status tells of the container that ran");
    machine.story("a").starts("init", 1);
    machine.story("a").starts("main", 1);
    machine.finish();
}

#[test]
fn should_not_restart_the_init_container_if_the_image_is_updated_during_initialization() {
    let machine = machine();
    let play = Play::new("a", "Always").init(Part::gated("init", 0)).main(Part::forever("main")).lasting();
    machine.play(&play);
    machine.await_told("a", "init Started", 1);
    machine.play(&play.with_image_renamed("init"));
    settled(&machine);
    machine.open("a", "init.end");
    machine.await_told("a", "main Started", 1).starts("init", 1);
    let pod = machine.await_ready("a");
    assert_eq!(restarts(&pod, "init"), 0);
    assert_ne!(image(&pod, "init"), OTHER_NAME);
    machine.finish();
}

#[test]
fn should_not_restart_the_init_container_if_the_image_is_updated_during_termination() {
    let machine = machine();
    let play = Play::new("a", "Never")
        .grace(3600)
        .init(Part::brief("init", 0))
        .main(Part::forever("main").on_term(Term::Gate(1)))
        .lasting();
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    machine.await_ready("a");
    machine.end_play("a");
    machine.await_told("a", "main Terminating", 1);
    machine.play(&play.with_image_renamed("init"));
    settled(&machine);
    machine.story("a").starts("init", 1);
    assert_ne!(image(&machine.pod("a").expect("it still ends"), "init"), OTHER_NAME);
    machine.end_play("a");
    settled(&machine);
    machine.open("a", "main.term");
    machine.await_pod_gone("a");
    machine.story("a").starts("init", 1);
    machine.finish();
}

/// A sidecar gets another image while an init container behind it runs: it alone restarts, and order is kept.
fn begin_initializing(policy: &str) {
    let machine = machine();
    let code = i32::from(policy == "Never");
    let play = Play::new("a", policy)
        .init(Part::brief("init-1", 0))
        .init(Part::forever("sidecar-1").sidecar())
        .init(Part::gated("init-2", code))
        .init(Part::forever("sidecar-2").sidecar())
        .main(Part::forever("main"))
        .lasting();
    machine.play(&play);
    machine.await_told("a", "init-2 Started", 1);
    machine.await_told("a", "sidecar-1 Started", 1);
    machine.play(&play.with_image_renamed("sidecar-1"));
    let story = machine.await_told("a", "sidecar-1 Started", 2);
    machine.await_pod("a", |pod| {
        is(pod, "sidecar-1", "running") && restarts(pod, "sidecar-1") == 1 && image(pod, "sidecar-1") == OTHER_NAME
    });
    story.in_order(&["init-1 Exiting", "sidecar-1 Starting", "sidecar-1 Exiting"]);
    for (container, starts) in [("init-1", 1), ("init-2", 1), ("sidecar-2", 0), ("main", 0)] {
        story.starts(container, starts);
    }
    machine.open("a", "init-2.end");
    if policy == "Never" {
        machine.await_phase("a", "Failed");
        let story = machine.await_told("a", "sidecar-1 Exiting", 2);
        assert!(story.first("init-2 Exiting") < story.last("sidecar-1 Exiting"), "{story:?}");
        story.starts("main", 0);
    } else {
        machine.await_told("a", "main Started", 1).starts("init-2", 1);
    }
    machine.finish();
}

#[test]
fn should_begin_initializing_the_pod_restart_policy_always() {
    begin_initializing("Always");
}

#[test]
fn should_begin_initializing_the_pod_restart_policy_on_failure() {
    begin_initializing("OnFailure");
}

#[test]
fn should_begin_initializing_the_pod_restart_policy_never() {
    begin_initializing("Never");
}

#[test]
fn should_restart_when_updated_with_a_new_image() {
    let machine = machine();
    for policy in POLICIES {
        let name = policy.to_lowercase();
        let play = Play::new(&name, policy)
            .init(Part::forever("sidecar-1").sidecar())
            .init(Part::forever("sidecar-2").sidecar())
            .main(Part::forever("main"))
            .lasting();
        machine.play(&play);
        for container in ["sidecar-1", "sidecar-2", "main"] {
            machine.await_told(&name, &format!("{container} Started"), 1);
        }
        machine.await_ready(&name);
        machine.play(&play.with_image_renamed("sidecar-1"));
        machine.await_told(&name, "sidecar-1 Started", 2);
        machine.await_pod(&name, |pod| is(pod, "sidecar-1", "running") && image(pod, "sidecar-1") == OTHER_NAME);
        machine.story(&name).starts("sidecar-2", 1);
        machine.story(&name).starts("main", 1);
    }
    machine.finish();
}
