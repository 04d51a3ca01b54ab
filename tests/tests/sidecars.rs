//! Sidecars (init containers of restart policy `Always`): their order among init containers, their restarts, and what
//! they do to the pod's end.

use e2e::story::{condition, ended, is, once_started, probe, restarts, status, waits_for};
use e2e::{Machine, Options, Part, Play, Story, Term};
use serde_json::{Value, json};

fn machine() -> Machine {
    Machine::start(Options::default())
}

/// Three init containers, a sidecar between each two of them, and a regular container; run to the end.
fn serially() -> Story {
    let machine = machine();
    let play = Play::new("a", "Never")
        .init(Part::brief("init-1", 0))
        .init(Part::forever("sidecar-1").sidecar())
        .init(Part::gated("init-2", 0))
        .init(Part::forever("sidecar-2").sidecar())
        .init(Part::gated("init-3", 0))
        .main(Part::gated("main", 0));
    machine.play(&play);
    // A sidecar counts as started when it runs: only what waits for a gate surely overlaps with it.
    for (sidecar, init) in [("sidecar-1", "init-2"), ("sidecar-2", "init-3")] {
        machine.await_told("a", &format!("{sidecar} Started"), 1);
        machine.await_told("a", &format!("{init} Started"), 1);
        machine.open("a", &format!("{init}.end"));
    }
    machine.await_told("a", "main Started", 1);
    machine.open("a", "main.end");
    let pod = machine.await_phase("a", "Succeeded");
    for sidecar in ["sidecar-1", "sidecar-2"] {
        assert_eq!((restarts(&pod, sidecar), ended(&pod, sidecar).0), (0, 0), "{}", pod["status"]);
    }
    let story = machine.story("a");
    machine.finish();
    story
}

#[test]
fn should_finish_and_produce_log() {
    let story = serially();
    for container in ["init-1", "sidecar-1", "init-2", "sidecar-2", "init-3", "main"] {
        story.starts(container, 1);
    }
}

#[test]
fn should_run_the_first_init_container_to_completion_before_starting_first_restartable_init_container() {
    serially().one_after_another(&["init-1", "sidecar-1"]);
}

#[test]
fn should_run_first_init_container_and_first_restartable_init_container_together() {
    serially().together("sidecar-1", "init-2");
}

#[test]
fn should_run_second_init_container_to_completion_before_starting_second_restartable_init_container() {
    serially().one_after_another(&["init-2", "sidecar-2"]);
}

#[test]
fn should_start_second_restartable_init_container_before_third_init_container() {
    serially().in_order(&["sidecar-2 Starting", "init-3 Exiting"]);
}

#[test]
fn should_run_both_restartable_init_containers_and_third_init_container_together() {
    let story = serially();
    story.together("sidecar-1", "sidecar-2");
    story.together("sidecar-1", "init-3");
    story.together("sidecar-2", "init-3");
}

#[test]
fn should_run_third_init_container_to_completion_before_starting_regular_container() {
    serially().one_after_another(&["init-3", "main"]);
}

#[test]
fn should_run_both_restartable_init_containers_and_a_regular_container_together() {
    let story = serially();
    story.together("sidecar-1", "main");
    story.together("sidecar-2", "main");
}

/// A sidecar that runs on beside a regular container that ends, once for each policy under which such a pod ends.
fn beside_a_sidecar(machine: &Machine) -> Vec<(Value, Story)> {
    let policies = ["Never", "OnFailure"];
    for policy in policies {
        let name = policy.to_lowercase();
        machine.play(&Play::new(&name, policy).init(Part::forever("sidecar").sidecar()).main(Part::gated("main", 0)));
    }
    let end = |policy: &str| {
        let name = policy.to_lowercase();
        for container in ["sidecar", "main"] {
            machine.await_told(&name, &format!("{container} Started"), 1);
        }
        machine.open(&name, "main.end");
        let pod = machine.await_phase(&name, "Succeeded");
        (pod, machine.story(&name))
    };
    policies.into_iter().map(end).collect()
}

#[test]
fn should_complete_a_pod_successfully_and_produce_log() {
    let machine = machine();
    for (pod, story) in beside_a_sidecar(&machine) {
        story.in_order(&["main Exiting", "sidecar Terminating", "sidecar Exiting"]);
        assert_eq!(condition(&pod, "Ready")["reason"], "PodCompleted");
        assert_eq!(condition(&pod, "Initialized")["status"], "True");
    }
    machine.finish();
}

#[test]
fn should_not_restart_a_restartable_init_container() {
    let machine = machine();
    for (pod, story) in beside_a_sidecar(&machine) {
        story.starts("sidecar", 1);
        assert_eq!(restarts(&pod, "sidecar"), 0);
    }
    machine.play(&Play::new("always", "Always").init(Part::forever("sidecar").sidecar()).main(Part::gated("main", 0)));
    machine.await_told("always", "main Started", 1);
    machine.open("always", "main.end");
    machine.await_told("always", "main Started", 2).starts("sidecar", 1);
    machine.finish();
}

#[test]
fn should_run_a_regular_container_to_completion() {
    let machine = machine();
    for (pod, story) in beside_a_sidecar(&machine) {
        story.in_order(&["main Started", "main Exiting"]);
        story.starts("main", 1);
        assert_eq!(ended(&pod, "main"), (0, "Completed".into()));
    }
    machine.finish();
}

#[test]
fn should_keep_running_a_pod_continuously_and_produce_log() {
    let machine = machine();
    for code in [0, 1] {
        let name = format!("code-{code}");
        machine
            .play(&Play::new(&name, "Always").init(Part::forever("sidecar").sidecar()).main(Part::gated("main", code)));
        machine.await_told(&name, "main Started", 1);
        machine.open(&name, "main.end");
        machine.await_told(&name, "main Started", 2);
        let pod = machine.await_ready(&name);
        assert_eq!((restarts(&pod, "main"), restarts(&pod, "sidecar")), (1, 0));
        assert_eq!(pod["status"]["phase"], "Running");
    }
    machine.finish();
}

/// For every policy: a pod whose sidecar has no image, once that is known.
fn bad_image(machine: &Machine) -> Vec<(String, Value)> {
    let policies = ["Never", "OnFailure", "Always"];
    for policy in policies {
        let sidecar = Part::forever("sidecar").sidecar().field("image", json!("registry.invalid/absent"));
        machine.play(&Play::new(&policy.to_lowercase(), policy).init(sidecar).main(Part::brief("main", 0)));
    }
    let known = |policy: &str| {
        let name = policy.to_lowercase();
        let pod = machine.await_pod(&name, |pod| waits_for(pod, "sidecar") == "ImagePullBackOff");
        (name, pod)
    };
    policies.into_iter().map(known).collect()
}

#[test]
fn should_mark_a_pod_as_failed_and_produce_log_when_a_sidecar_has_a_bad_image() {
    let machine = machine();
    for (_, pod) in bad_image(&machine) {
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(condition(&pod, "Initialized")["status"], "False");
        assert_eq!(condition(&pod, "Initialized")["reason"], "ContainersNotInitialized");
    }
    machine.finish();
}

#[test]
fn should_not_start_a_restartable_init_container() {
    let machine = machine();
    for (name, _) in bad_image(&machine) {
        machine.story(&name).starts("sidecar", 0);
    }
    machine.finish();
}

#[test]
fn should_not_start_a_regular_container() {
    let machine = machine();
    for (name, pod) in bad_image(&machine) {
        machine.story(&name).starts("main", 0);
        assert_eq!(waits_for(&pod, "main"), "PodInitializing");
    }
    machine.finish();
}

/// The policy of the pod and the code with which the sidecar exits.
const RESTARTS: [(&str, i32); 6] =
    [("Never", 0), ("Never", 1), ("OnFailure", 0), ("OnFailure", 1), ("Always", 0), ("Always", 1)];

fn restarting(policy: &str, code: i32) -> Play {
    let name = format!("{}-{code}", policy.to_lowercase());
    Play::new(&name, policy)
        .init(Part::gated("sidecar", code).sidecar())
        .init(Part::gated("init", 0))
        .main(Part::gated("main", 0))
}

#[test]
fn should_restart_a_restartable_init_container_before_the_regular_container_started() {
    let machine = machine();
    let plays = RESTARTS.map(|(policy, code)| restarting(policy, code));
    plays.iter().for_each(|play| machine.play(play));
    for play in &plays {
        machine.await_told(&play.name, "init Started", 1);
        machine.await_told(&play.name, "sidecar Started", 1);
        machine.open(&play.name, "sidecar.end");
        machine.await_told(&play.name, "sidecar Started", 2).starts("main", 0);
        machine.open(&play.name, "init.end");
        let story = machine.await_told(&play.name, "main Started", 1);
        assert!(story.last("sidecar Starting") < story.first("main Starting"), "{story:?}");
        story.starts("init", 1);
    }
    machine.finish();
}

#[test]
fn should_restart_a_restartable_init_container_after_the_regular_container_started() {
    let machine = machine();
    let plays = RESTARTS.map(|(policy, code)| restarting(policy, code));
    plays.iter().for_each(|play| machine.play(play));
    for (play, (policy, code)) in plays.iter().zip(RESTARTS) {
        machine.open(&play.name, "init.end");
        machine.await_told(&play.name, "main Started", 1);
        machine.await_told(&play.name, "sidecar Started", 1);
        machine.open(&play.name, "sidecar.end");
        let story = machine.await_told(&play.name, "sidecar Started", 2);
        assert!(story.first("main Started") < story.last("sidecar Starting"), "{story:?}");
        let pod = machine.await_pod(&play.name, |pod| restarts(pod, "sidecar") == 1);
        assert_eq!(status(&pod, "sidecar")["lastState"]["terminated"]["exitCode"], code);
        assert_eq!(pod["status"]["phase"], "Running");
        machine.open(&play.name, "main.end");
        if policy != "Always" {
            // A sidecar that crashed does not make the pod fail.
            machine.await_phase(&play.name, "Succeeded");
        }
    }
    machine.finish();
}

/// An init container that fails before a sidecar may start, for each policy.
fn failing_before(machine: &Machine, policy: &str) -> String {
    let name = policy.to_lowercase();
    let play = Play::new(&name, policy)
        .init(Part::brief("init", 1))
        .init(Part::forever("sidecar").sidecar())
        .main(Part::forever("main"));
    machine.play(&play);
    name
}

/// An init container that fails beside a running sidecar, for each policy.
fn failing_after(machine: &Machine, policy: &str) -> String {
    let name = policy.to_lowercase();
    let play = Play::new(&name, policy)
        .init(Part::forever("sidecar").sidecar())
        .init(Part::gated("init", 1))
        .main(Part::forever("main"));
    machine.play(&play);
    machine.await_told(&name, "sidecar Started", 1);
    machine.await_told(&name, "init Started", 1);
    machine.open(&name, "init.end");
    name
}

#[test]
fn should_mark_a_pod_as_failed_and_produce_log_when_an_init_container_before_a_sidecar_fails() {
    let machine = machine();
    let name = failing_before(&machine, "Never");
    let pod = machine.await_phase(&name, "Failed");
    assert_eq!(waits_for(&pod, "sidecar"), "PodInitializing");
    machine.finish();
}

#[test]
fn should_mark_a_pod_as_failed_and_produce_log_when_an_init_container_after_a_sidecar_fails() {
    let machine = machine();
    let name = failing_after(&machine, "Never");
    let pod = machine.await_phase(&name, "Failed");
    // The sidecar is not left behind.
    let pod = if is(&pod, "sidecar", "terminated") {
        pod
    } else {
        machine.await_pod(&name, |pod| is(pod, "sidecar", "terminated"))
    };
    assert_eq!(ended(&pod, "sidecar"), (0, "Completed".into()));
    machine.story(&name).in_order(&["init Exiting", "sidecar Terminating"]);
    machine.story(&name).starts("main", 0);
    machine.finish();
}

#[test]
fn should_mark_an_init_container_as_failed() {
    let machine = machine();
    let name = failing_before(&machine, "Never");
    let pod = machine.await_phase(&name, "Failed");
    assert_eq!(ended(&pod, "init"), (1, "Error".into()));
    machine.end_play(&name);
    machine.await_no_pods();
    let name = failing_after(&machine, "Never");
    let pod = machine.await_phase(&name, "Failed");
    assert_eq!(ended(&pod, "init"), (1, "Error".into()));
    machine.finish();
}

#[test]
fn should_not_start_restartable_init_container() {
    let machine = machine();
    let never = failing_before(&machine, "Never");
    machine.await_phase(&never, "Failed");
    machine.story(&never).starts("sidecar", 0);
    for policy in ["OnFailure", "Always"] {
        let name = failing_before(&machine, policy);
        machine.await_told(&name, "init Exiting", 2).starts("sidecar", 0);
    }
    machine.finish();
}

#[test]
fn should_be_running_restartable_init_container_and_a_failed_init_container_in_parallel() {
    let machine = machine();
    for policy in ["Never", "OnFailure", "Always"] {
        let name = failing_after(&machine, policy);
        machine.await_told(&name, "init Exiting", 1).together("sidecar", "init");
    }
    machine.finish();
}

/// Both kinds of pods under both policies that restart an init container, until it has been restarted.
fn failing_again(machine: &Machine) -> Vec<(String, Value)> {
    let mut pods = Vec::new();
    for policy in ["OnFailure", "Always"] {
        for failing in [failing_before, failing_after] {
            let name = failing(machine, policy);
            let pod = machine.await_pod(&name, |pod| {
                assert_eq!(pod["status"]["phase"], "Pending", "{}", pod["status"]);
                restarts(pod, "init") >= 1
            });
            pods.push((name.clone(), pod));
            machine.end_play(&name);
            machine.await_no_pods();
            machine.forget_story(&name);
        }
    }
    pods
}

#[test]
fn should_continuously_run_pod_keeping_it_pending() {
    let machine = machine();
    for (_, pod) in failing_again(&machine) {
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(condition(&pod, "Initialized")["status"], "False");
        assert_eq!(waits_for(&pod, "main"), "PodInitializing");
    }
    machine.finish();
}

#[test]
fn should_have_init_container_restart_count_greater_than_0() {
    let machine = machine();
    for (_, pod) in failing_again(&machine) {
        assert!(restarts(&pod, "init") > 0);
        assert_eq!(status(&pod, "init")["lastState"]["terminated"]["exitCode"], 1, "{}", pod["status"]);
    }
    machine.finish();
}

#[test]
fn should_continuously_run_pod_keeping_it_pending_and_produce_log() {
    let machine = machine();
    let name = failing_after(&machine, "OnFailure");
    machine.await_told(&name, "init Started", 2);
    machine.open(&name, "init.end");
    // The second crash waits for its back-off, and the sidecar runs on.
    let pod = machine.await_pod(&name, |pod| waits_for(pod, "init") == "CrashLoopBackOff");
    assert_eq!(pod["status"]["phase"], "Pending");
    assert!(is(&pod, "sidecar", "running"), "{}", pod["status"]);
    machine.story(&name).starts("sidecar", 1);
    machine.finish();
}

#[test]
fn should_start_a_regular_container() {
    let machine = machine();
    for policy in ["Never", "OnFailure", "Always"] {
        let name = policy.to_lowercase();
        let play = Play::new(&name, policy)
            .init(Part::gated("sidecar", 1).sidecar())
            .init(Part::brief("init", 0))
            .main(Part::forever("main"));
        machine.play(&play);
        machine.await_told(&name, "sidecar Started", 1);
        machine.open(&name, "sidecar.end");
        machine.await_told(&name, "main Started", 1);
        machine.await_told(&name, "sidecar Started", 2).starts("main", 1);
    }
    machine.finish();
}

#[test]
fn should_launch_restartable_init_containers_serially_considering_the_startup_probe() {
    let machine = machine();
    let sidecar = |name: &str| Part::forever(name).held().sidecar().field("startupProbe", once_started());
    machine.play(
        &Play::new("a", "Never").init(sidecar("sidecar-1")).init(sidecar("sidecar-2")).main(Part::gated("main", 0)),
    );
    machine.await_told("a", "sidecar-1 Starting", 1);
    let pod = machine.await_pod("a", |pod| is(pod, "sidecar-1", "running"));
    assert_eq!(status(&pod, "sidecar-1")["started"], false, "it runs and has not started");
    machine.open("a", "sidecar-1.start");
    machine.await_told("a", "sidecar-2 Starting", 1).in_order(&["sidecar-1 Started", "sidecar-2 Starting"]);
    machine.open("a", "sidecar-2.start");
    machine.await_told("a", "main Starting", 1).in_order(&["sidecar-2 Started", "main Starting"]);
    machine.open("a", "main.end");
    machine.await_phase("a", "Succeeded");
    machine.finish();
}

#[test]
fn should_continue_probing_and_allow_regular_container_to_start_after_the_restartable_init_container_recovers() {
    let machine = machine();
    // The first run ends with an error while its startup probe says no; then it says yes of the second, which stays.
    let mut healthy = probe(json!({"exec": {"command": ["test", "-e", "/story/healthy"]}}));
    healthy["failureThreshold"] = json!(100);
    let sidecar = Part::gated("sidecar", 1).sidecar().field("startupProbe", healthy);
    machine
        .play(&Play::new("a", "Never").init(sidecar).main(Part::forever("main").field("startupProbe", once_started())));
    machine.await_told("a", "sidecar Started", 1);
    machine.open("a", "sidecar.end");
    machine.await_told("a", "sidecar Started", 2).starts("main", 0);
    machine.open("a", "healthy");
    let story = machine.await_told("a", "main Started", 1);
    assert!(story.last("sidecar Started") < story.first("main Starting"), "{story:?}");
    let pod = machine.await_ready("a");
    assert_eq!((restarts(&pod, "sidecar"), restarts(&pod, "main")), (1, 0));
    machine.finish();
}

#[test]
fn should_terminate_a_sidecar_that_ignores_its_signal_within_the_pods_grace() {
    let machine = machine();
    let sidecar = Part::forever("sidecar").sidecar().on_term(Term::Ignore);
    machine.play(&Play::new("a", "Never").grace(1).init(sidecar).main(Part::brief("main", 0)));
    let pod = machine.await_phase("a", "Succeeded");
    assert_eq!(ended(&pod, "main").0, 0);
    let pod = machine.await_pod("a", |pod| is(pod, "sidecar", "terminated"));
    assert_eq!(ended(&pod, "sidecar"), (137, "Error".into()));
    machine.finish();
}
