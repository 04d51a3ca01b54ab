//! What upstream's node tests expect after a restart of the kubelet or of the machine, and of restarts of all containers;
//! each test is named after the behaviour.

use super::script::now;
use super::story::{Story, Turn};
use crate::*;

const DONE: &str = "exit 0 in 1000";

#[test]
fn should_restart_the_containers_in_right_order_after_the_node_reboot() {
    for (plan, order) in [
        ("Always i:init j:init a b", "reboot, start i#1, exit i#1 0, start j#1, exit j#1 0, start a#1, start b#1"),
        ("Always i:init s:sidecar a", "reboot, start i#1, exit i#1 0, start s#1, start a#1"),
        (
            "OnFailure i:init s:sidecar j:init a",
            "reboot, start i#1, exit i#1 0, start s#1, start j#1, exit j#1 0, start a#1",
        ),
    ] {
        let story = Story::new(plan, &[("i", DONE), ("j", DONE)]).at(20_000, Turn::Reboot(5_000)).until(60_000);
        story.order(order).phase(Phase::Running);
        assert_eq!(story.count("start i#1"), 1);
        assert_eq!(story.container("a").restart_count, 1);
        assert_eq!(story.container("a").last.expect("a last state").exit_code, 137, "nobody knows how it ended");
    }
}

#[test]
fn a_pod_that_is_never_restarted_has_failed_after_the_node_reboot() {
    let story = Story::new("Never a", &[]).at(20_000, Turn::Reboot(5_000)).until(60_000);
    assert_eq!(story.count("start"), 1);
    story.phase(Phase::Failed).is("a", "137");
}

#[test]
fn what_had_succeeded_is_not_run_again_after_the_node_reboot() {
    let story = Story::new("OnFailure a b", &[("a", DONE)]).at(20_000, Turn::Reboot(5_000)).until(60_000);
    assert_eq!((story.count("start a"), story.count("start b")), (1, 2));
    story.is("a", "0").is("b", "Running");
}

#[test]
fn should_not_restart_any_completed_init_container_after_the_kubelet_restart() {
    for (policy, behaviour) in [("Always", ""), ("Never", ""), ("Always", "exit 0 in 8000")] {
        let story = Story::new(&format!("{policy} i:init j:init a"), &[("i", DONE), ("j", DONE), ("a", behaviour)])
            .at(6_000, Turn::RestartKubelet(1_000))
            .until(60_000);
        assert_eq!((story.count("start i"), story.count("start j")), (1, 1));
        assert_eq!((story.container("i").last, story.container("j").restart_count), (None, 0));
    }
    let waiting = Story::new("Always i:init j:init a", &[("i", DONE), ("j", "exit 0 in 9000")])
        .at(6_000, Turn::RestartKubelet(1_000))
        .until(60_000);
    assert_eq!((waiting.count("start i"), waiting.count("start j"), waiting.count("start a")), (1, 1, 1));
}

#[test]
fn should_not_restart_any_completed_init_container_even_after_the_completed_init_container_statuses_have_been_removed_and_the_kubelet_restarted()
 {
    let story = Story::new("Always i:init j:init a", &[("i", DONE), ("j", DONE)])
        .at(6_000, Turn::Prune("i"))
        .at(6_001, Turn::Prune("j"))
        .at(6_002, Turn::RestartKubelet(1_000))
        .until(60_000);
    assert_eq!((story.count("start i"), story.count("start j"), story.count("start a")), (1, 1, 1));
    story.phase(Phase::Running);
    let waiting = Story::new("Always i:init j:init a", &[("i", DONE), ("j", "exit 0 in 9000")])
        .at(6_000, Turn::Prune("i"))
        .at(6_002, Turn::RestartKubelet(1_000))
        .until(60_000);
    assert_eq!((waiting.count("start i"), waiting.count("start j"), waiting.count("start a")), (1, 1, 1));
}

#[test]
fn should_handle_an_update_during_the_node_reboot() {
    let story = Story::new("Always i:init a", &[("i", DONE)])
        .at(20_000, Turn::Reboot(5_000))
        .at(21_000, Turn::Update("a"))
        .until(60_000);
    story.order("reboot, update a, start i#1, exit i#1 0, start a#1").phase(Phase::Running);
    assert_eq!(story.count("start a"), 2);
}

#[test]
fn should_handle_an_update_during_the_kubelet_restart() {
    let story = Story::new("Always i:init a", &[("i", DONE)])
        .at(20_000, Turn::RestartKubelet(5_000))
        .at(21_000, Turn::Update("a"))
        .until(60_000);
    story.order("kubelet down, update a, term a#0, exit a#0 143, start a#1").phase(Phase::Running);
    assert_eq!(story.count("start i"), 1);
}

#[test]
fn should_be_ready_after_init_container_is_removed_and_kubelet_restarts() {
    let story = Story::new("Always i:init a:ready", &[("i", DONE)])
        .at(20_000, Turn::Prune("i"))
        .at(20_001, Turn::RestartKubelet(1_000))
        .until(21_100);
    assert!(story.machine.report().ready() && story.machine.report().conditions.initialized.status);
}

#[test]
fn should_restart_regular_containers_when_sidecar_with_startup_probe_is_running_after_kubelet_restart() {
    let story = Story::new("Always s:sidecar,startup a", &[("a", "first exit 1 in 20500, exit 0 in 500000")])
        .at(20_000, Turn::RestartKubelet(2_000))
        .until(30_000);
    story.order("start a#0, kubelet down, exit a#0 1, start a#1").is("s", "Running").is("a", "Running");
    assert_eq!(story.count("start s"), 1);
}

/// Across a restart of the kubelet nothing of a pod's status changes.
fn does_not_affect_pod_status(plan: &str) {
    let mut story = Story::new(plan, &[]).at(30_005, Turn::RestartKubelet(1_000)).until(30_000);
    let before = story.machine.report();
    assert!(before.ready(), "{:?}", story.log);
    for end_ms in [31_005, 31_015, 31_050, 33_000, 40_000, 60_000] {
        story = story.until(end_ms);
        let after = story.machine.report();
        if after.observed {
            assert_eq!(
                (&after.containers, &after.conditions),
                (&before.containers, &before.conditions),
                "{plan} at {end_ms}"
            );
            assert_eq!((after.phase, after.start_time_ns), (before.phase, before.start_time_ns));
        }
    }
    assert_eq!(story.count("term"), 0);
}

macro_rules! status_is_not_affected {
    ($($name:ident: $plan:literal,)*) => {
        $(#[test]
        fn $name() {
            does_not_affect_pod_status($plan);
        })*
    };
}

status_is_not_affected! {
    should_not_affect_pod_status_when_pod_has_no_probe: "Always a",
    should_not_affect_pod_status_when_pod_has_startup_probe: "Always a:startup",
    should_not_affect_pod_status_when_pod_has_readiness_probe: "Always a:ready",
    should_not_affect_pod_status_when_pod_has_startup_probe_and_readiness_probe: "Always a:startup,ready",
    should_not_affect_pod_status_when_pod_has_multiple_containers: "Always a b",
    should_not_affect_pod_status_when_pod_has_multiple_containers_with_startup_probes: "Always a:startup b:startup",
    should_not_affect_pod_status_when_pod_has_multiple_containers_with_readiness_probes: "Always a:ready b:ready",
    should_not_affect_pod_status_when_pod_has_multiple_containers_with_startup_and_readiness_probes:
        "Always a:startup,ready b:startup,ready",
    should_not_affect_pod_status_when_restartable_init_container_has_no_probe: "Always s:sidecar a",
    should_not_affect_pod_status_when_restartable_init_container_has_startup_probe: "Always s:sidecar,startup a",
    should_not_affect_pod_status_when_restartable_init_container_has_readiness_probe: "Always s:sidecar,ready a",
    should_not_affect_pod_status_when_restartable_init_container_has_startup_probe_and_readiness_probe:
        "Always s:sidecar,startup,ready a",
    f_b08_hooks_are_not_run_again: "Always s:sidecar,post a:post,live,ready",
}

#[test]
fn should_restart_all_containers_on_regular_container_exit() {
    let story = Story::new(
        "Never i:init s:sidecar a:all=42 b",
        &[("i", DONE), ("a", "first exit 42 in 3000, exit 0 in 500000"), ("b", "term 0 in 500")],
    )
    .until(30_000);
    story.order("exit a#0 42, term b#0, exit b#0 0, start i#1, exit i#1 0, start s#1, start a#1, start b#1");
    story.phase(Phase::Running);
    for name in ["i", "s", "a", "b"] {
        assert_eq!((story.container(name).restart_count, story.count(&format!("start {name}"))), (1, 2));
    }
    assert_eq!(story.container("a").last.expect("a last state").exit_code, 42);
    assert_eq!(story.machine.report().conditions.all_containers_restarting.map(|c| c.status), Some(false));
    assert_eq!(story.machine.report().ips, ["10.0.0.0"], "the sandbox stays");
}

#[test]
fn while_all_containers_are_being_restarted_the_status_says_so() {
    let story = Story::new("Never a:all=42 b", &[("a", "first exit 42 in 3000"), ("b", "term 0 in 5000")]).until(6_000);
    story.is("a", "RestartingAllContainers").is("b", "Running").phase(Phase::Running);
    assert_eq!(story.machine.report().conditions.all_containers_restarting.map(|c| c.status), Some(true));
    story.until(20_000).order("exit b#0 0, start a#1, start b#1");
}

#[test]
fn a_restart_of_all_containers_outlives_restarts_of_the_kubelet() {
    for at_ms in (3_000..4_200).step_by(7) {
        let story = Story::new(
            "Never i:init a:all=42 b",
            &[("i", "exit 0 in 100"), ("a", "first exit 42 in 3000, exit 0 in 500000"), ("b", "term 0 in 500")],
        )
        .at(at_ms, Turn::RestartKubelet(50))
        .until(30_000);
        story.order("exit a#0 42, start i#1, start a#1, start b#1").phase(Phase::Running);
        assert_eq!(story.count("start"), 6, "at {at_ms}: {:?}", story.log);
    }
}

#[test]
fn restarts_of_all_containers_come_at_the_pace_of_crashes() {
    let story = Story::new("Never a:all=42 b", &[("a", "exit 42 in 100")]).until(60_000);
    assert!((3..6).contains(&story.count("start a")), "{:?}", story.log);
}

#[test]
fn an_init_container_and_a_sidecar_can_restart_all() {
    let story =
        Story::new("Never i:init j:init,all=42 a", &[("i", DONE), ("j", "first exit 42 in 500, exit 0 in 500")])
            .until(30_000);
    story
        .order("exit i#0 0, exit j#0 42, start i#1, exit i#1 0, start j#1, exit j#1 0, start a#0")
        .phase(Phase::Running);
    let story =
        Story::new("Always s:sidecar,all=42 a", &[("s", "first exit 42 in 3000, exit 0 in 500000")]).until(30_000);
    story.order("start a#0, exit s#0 42, term a#0, start s#1, start a#1").phase(Phase::Running);
}

#[test]
fn f_b12_restart_counts_go_on_though_the_runtime_forgot() {
    let story = Story::new("Always a", &[("a", "exit 1 in 100")]).at(40_000, Turn::Reboot(100)).until(45_000);
    let count = story.container("a").restart_count;
    assert_eq!(count as usize + 1, story.count("start a"));
}

#[test]
fn a_finished_pod_stays_finished_whatever_the_runtime_has_left_of_it() {
    for policy in ["OnFailure", "Never"] {
        let story = Story::new(&format!("{policy} a"), &[("a", DONE)]).at(20_000, Turn::Reboot(1_000)).until(60_000);
        story.phase(Phase::Succeeded).is("a", "0");
        assert_eq!(story.count("start"), 1);
    }
    let story = Story::new("Always a deadline=5000", &[]).at(20_000, Turn::RestartKubelet(1_000)).until(60_000);
    assert_eq!((story.machine.report().reason.as_str(), story.count("start")), ("DeadlineExceeded", 1));
}

#[test]
fn the_rest_of_a_grace_is_what_a_former_kubelet_left() {
    let memory = |kill_at_ns| Memory { kill_at_ns, ..Memory::default() };
    let wall_ns = now(10_000).wall_ns;
    for (left_ms, grace_ms, rest_ms) in [(5_000, 30_000, 5_000), (-5_000, 30_000, 0), (90_000, 30_000, 30_000)] {
        let memory = memory(Some(wall_ns + left_ms * 1_000_000));
        assert_eq!(memory.remaining_grace_ms(grace_ms, wall_ns), rest_ms);
    }
    assert_eq!(memory(None).remaining_grace_ms(30_000, wall_ns), 30_000);
    assert_eq!(memory(Some(i64::MIN)).remaining_grace_ms(1, i64::MAX), 0);
}

#[test]
fn sidecars_of_a_pod_whose_work_is_done_keep_their_grace_over_a_restart_of_the_kubelet() {
    let story = Story::new("Never@10000 s:sidecar a", &[("s", "deaf"), ("a", DONE)])
        .at(6_000, Turn::RestartKubelet(1_000))
        .until(60_000);
    let killed_ms = story.when("exit s#0 137") - story.when("exit a#0 0");
    assert!((10_000..10_100).contains(&killed_ms), "{:?}", story.log);
    story.phase(Phase::Succeeded);
}
