//! What upstream's node tests expect of sidecars (restartable init containers) and of probes; each test is named after the
//! behaviour.

use super::story::{Story, Turn};
use crate::*;

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

/// Three init containers and two sidecars between them, as upstream's table has it.
fn mixed(policy: &str) -> Story {
    Story::new(
        &format!("{policy} i:init s:sidecar j:init t:sidecar k:init a"),
        &[("i", "exit 0 in 1000"), ("j", "exit 0 in 1000"), ("k", "exit 0 in 1000"), ("a", "exit 0 in 2000")],
    )
}

#[test]
fn should_run_the_first_init_container_to_completion_before_starting_first_restartable_init_container() {
    mixed("Never").until(20_000).order("start i#0, exit i#0 0, start s#0");
}

#[test]
fn should_run_first_init_container_and_first_restartable_init_container_together() {
    let story = Story::new("Never s:sidecar i:init a", &[("i", "exit 0 in 3000"), ("a", "")]).until(2_000);
    story.order("start s#0, start i#0").is("s", "Running").is("i", "Running").phase(Phase::Pending);
}

#[test]
fn should_run_second_init_container_to_completion_before_starting_second_restartable_init_container() {
    mixed("Never").until(20_000).order("start s#0, start j#0, exit j#0 0, start t#0");
}

#[test]
fn should_start_second_restartable_init_container_before_third_init_container() {
    mixed("Never").until(20_000).order("start t#0, start k#0");
}

#[test]
fn should_run_both_restartable_init_containers_and_third_init_container_together() {
    let story = mixed("Never").until(2_800);
    story.is("s", "Running").is("t", "Running").is("k", "Running").phase(Phase::Pending).never("start a");
}

#[test]
fn should_run_third_init_container_to_completion_before_starting_regular_container() {
    mixed("Never").until(20_000).order("exit k#0 0, start a#0");
}

#[test]
fn should_run_both_restartable_init_containers_and_a_regular_container_together() {
    let story = mixed("Never").until(4_000);
    story.is("s", "Running").is("t", "Running").is("a", "Running").phase(Phase::Running);
}

#[test]
fn should_complete_a_pod_successfully_and_produce_log() {
    for policy in ["OnFailure", "Never"] {
        let story = mixed(policy).until(20_000);
        story.order("exit a#0 0, term t#0, exit t#0 143, term s#0, exit s#0 143").phase(Phase::Succeeded);
        assert_eq!(story.count("start"), 6);
    }
}

#[test]
fn should_run_a_regular_container_to_completion() {
    for policy in ["OnFailure", "Never"] {
        for sidecar in ["", "exit 0 in 700", "exit 1 in 700"] {
            let story =
                Story::new(&format!("{policy} s:sidecar a"), &[("s", sidecar), ("a", "exit 0 in 3000")]).until(60_000);
            story.order("start s#0, start a#0, exit a#0 0").phase(Phase::Succeeded).is("a", "0");
        }
    }
}

#[test]
fn should_not_restart_a_restartable_init_container() {
    // Once the work is done, it is not started again.
    for policy in ["OnFailure", "Never"] {
        let story = Story::new(&format!("{policy} s:sidecar a"), &[("a", "exit 0 in 1000")]).until(60_000);
        assert_eq!(story.count("start s"), 1);
    }
}

#[test]
fn should_restart_when_updated_with_a_new_image() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} s:sidecar a"), &[]).at(3_000, Turn::Update("s")).until(10_000);
        story.order("start s#0, start a#0, update s, term s#0, exit s#0 143, start s#1").is("s", "Running");
        assert_eq!(story.count("start a"), 1);
    }
}

#[test]
fn should_not_start_a_restartable_init_container() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} i:init s:sidecar a"), &[("i", "exit 1 in 100")]).until(60_000);
        story.never("start s").never("start a").is("s", "PodInitializing");
    }
}

#[test]
fn should_restart_a_restartable_init_container_before_the_regular_container_started() {
    for policy in POLICIES {
        for code in [0, 1] {
            let behaviour = format!("first exit {code} in 500");
            let story = Story::new(
                &format!("{policy} s:sidecar i:init a"),
                &[("s", &behaviour), ("i", "exit 0 in 5000"), ("a", "")],
            )
            .until(20_000);
            let exit = format!("start s#0, start i#0, exit s#0 {code}, start s#1, exit i#0 0, start a#0");
            story.order(&exit).phase(Phase::Running);
        }
    }
}

#[test]
fn should_restart_a_restartable_init_container_after_the_regular_container_started() {
    for policy in POLICIES {
        for code in [0, 1] {
            let behaviour = format!("first exit {code} in 3000");
            let story = Story::new(&format!("{policy} s:sidecar a"), &[("s", &behaviour)]).until(20_000);
            story.order(&format!("start s#0, start a#0, exit s#0 {code}, start s#1")).phase(Phase::Running);
            assert_eq!(story.count("start a"), 1);
        }
    }
}

#[test]
fn should_be_running_restartable_init_container_and_a_failed_init_container_in_parallel() {
    for policy in ["Always", "OnFailure"] {
        let story = Story::new(&format!("{policy} s:sidecar i:init a"), &[("i", "exit 1 in 100")]).until(5_000);
        story.is("s", "Running").is("i", "CrashLoopBackOff").never("start a").phase(Phase::Pending);
    }
}

#[test]
fn should_keep_running_a_pod_continuously_and_produce_log() {
    let story = Story::new("Always s:sidecar a", &[("a", "exit 0 in 1000")]).until(100_000);
    assert!(story.count("start a") > 2);
    assert_eq!((story.count("start s"), story.count("term s")), (1, 0));
    story.phase(Phase::Running);
}

#[test]
fn should_start_a_regular_container() {
    for policy in POLICIES {
        Story::new(&format!("{policy} s:sidecar a"), &[("s", "exit 0 in 5000")])
            .until(3_000)
            .order("start s#0, start a#0");
    }
}

#[test]
fn should_continuously_run_pod_keeping_it_pending_and_produce_log() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} s:sidecar,startup a"), &[("s", "exit 1 in 500, startup never")])
            .until(100_000);
        assert!(story.count("start s") > 2);
        story.never("start a").phase(Phase::Pending);
    }
}

#[test]
fn should_launch_restartable_init_containers_serially_considering_the_startup_probe() {
    let story = Story::new(
        "Always s:sidecar,startupx9 t:sidecar,startupx9 a",
        &[("s", "startup 15000"), ("t", "startup 5000")],
    )
    .until(60_000);
    story.order("start s#0, ill s#0 Startup, ill s#0 Startup, well s#0 Startup, start t#0, ill t#0 Startup, well t#0 Startup, start a#0");
    assert!(story.when("start t#0") - story.when("start s#0") >= 15_000);
    assert!(story.container("s").started && story.container("t").started);
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_not_launch_next_container_if_the_restartable_init_containers_startup_probe_fails()
 {
    let story = Story::new("Always s:sidecar,startup,pre a", &[("s", "startup never, pre 1000")]).until(8_000);
    story.order("start s#0, ill s#0 Startup, pre s#0, pred s#0, term s#0, exit s#0 143, start s#1").never("start a");
    story.told("Killing", "Container s failed startup probe, will be restarted");
    story.told("Unhealthy", "Startup probe failed: it said so");
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_start_the_next_container_if_the_restartable_init_containers_liveness_probe_fails()
 {
    let story = Story::new("Always s:sidecar,live,pre a", &[("s", "first sick 5000, pre 1000")]).until(40_000);
    story.order("start s#0, start a#0, ill s#0 Liveness, pre s#0, pred s#0, term s#0, exit s#0 143, start s#1");
    assert_eq!(story.count("start a"), 1);
}

#[test]
fn should_continue_probing_and_allow_regular_container_to_start_after_the_restartable_init_container_recovers() {
    let story = Story::new("Always s:sidecar,startup a", &[("s", "first exit 1 in 200, startup 5")]).until(60_000);
    story.order("start s#0, start a#0").phase(Phase::Running);
    let story =
        Story::new("Always s:sidecar,startupx5 a", &[("s", "first exit 1 in 200, startup 12000")]).until(60_000);
    story.order("exit s#0 1, start s#1, ill s#1 Startup, well s#1 Startup, start a#0").phase(Phase::Running);
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_terminate_it_if_its_startup_probe_fails() {
    let story = Story::new("Never a:startup,pre", &[("a", "startup never, pre 1000")]).until(60_000);
    story.order("ill a#0 Startup, pre a#0, pred a#0, term a#0, exit a#0 143").phase(Phase::Failed);
    story.told("Killing", "Container a failed startup probe").never("start a#1");
}

#[test]
fn should_call_the_containers_pre_stop_hook_and_terminate_it_if_its_liveness_probe_fails() {
    let story = Story::new("Never a:livex3,pre", &[("a", "sick 5000, pre 1000")]).until(60_000);
    story.order("well a#0 Liveness, ill a#0 Liveness, ill a#0 Liveness, ill a#0 Liveness, pre a#0, pred a#0, term a#0");
    assert_eq!(story.count("ill a#0 Liveness"), 3);
    story.phase(Phase::Failed).told("Killing", "Container a failed liveness probe");
}

#[test]
fn a_probe_kills_within_its_own_grace() {
    for (plan, dead_ms) in [
        ("Always a:live", 30_000),
        ("Always a:live/5000", 5_000),
        ("Always a:live/500", 2_000),
        ("Always a:live/60000", 60_000),
        ("Always@1000 a:live/60000", 60_000),
    ] {
        let story = Story::new(plan, &[("a", "deaf, first sick 5000")]).until(75_000);
        assert_eq!(story.when("exit a#0 137") - story.when("term a#0"), dead_ms, "{plan}");
        story.order("exit a#0 137, start a#1").told("Killing", "Container a failed liveness probe, will be restarted");
    }
}

#[test]
fn should_execute_readiness_probe_while_in_pre_stop_but_not_liveness() {
    let story = Story::new("Always a:live,ready,pre", &[("a", "pre 25000, sick 20000")])
        .at(15_000, Turn::Delete(60_000))
        .until(39_000);
    story.order("well a#0 Liveness, delete, pre a#0, well a#0 Readiness, well a#0 Readiness");
    story.never("ill a#0 Liveness").never("term");
    assert!(story.container("a").ready);
    let liveness = story.log.iter().filter(|(at_ms, line)| *at_ms > 15_100 && line.ends_with("Liveness")).count();
    assert_eq!(liveness, 0);
}

#[test]
fn should_not_continue_running_liveness_probes_for_restartable_init_containers_and_restart_them_while_in_pre_stop() {
    let story = Story::new("Always s:sidecar,live,pre a:pre", &[("s", "pre 3000, sick 16000"), ("a", "pre 20000")])
        .at(15_000, Turn::Delete(60_000))
        .until(60_000);
    story.order("delete, pred a#0, term a#0, exit a#0 143, term s#0").never("ill s").never("start s#1");
    assert!(story.machine.is_finished());
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_terminated_with_non_zero_exit_code() {
    let story = Story::new("Never s:sidecar a", &[("s", "term 1 in 100"), ("a", "exit 0 in 1000")]).until(20_000);
    story.order("exit a#0 0, term s#0, exit s#0 1").phase(Phase::Succeeded);
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_terminated_with_non_zero_exit_code_by_prestop_hook()
 {
    let story = Story::new("Never s:sidecar,pre a", &[("s", "pre 500 fails, term 1 in 10"), ("a", "exit 0 in 1000")])
        .until(20_000);
    story.order("exit a#0 0, pre s#0, pred s#0, term s#0, exit s#0 1").phase(Phase::Succeeded);
    story.told("FailedPreStopHook", "PreStopHook failed");
}

#[test]
fn liveness_and_readiness_wait_for_the_startup_probe_and_a_restart_begins_anew() {
    let story = Story::new("Always a:startupx9,live,ready", &[("a", "startup 25000, first sick 50000")]).until(32_000);
    story.order("ill a#0 Startup, ill a#0 Startup, ill a#0 Startup, well a#0 Startup");
    assert!(story.container("a").started && story.container("a").ready);
    let first = story.log.iter().position(|(_, line)| line == "well a#0 Startup").expect("it started");
    assert!(!story.log[..first].iter().any(|(_, line)| line.ends_with("Liveness") || line.ends_with("Readiness")));
    let story = story.until(62_000);
    story.order("ill a#0 Liveness, term a#0, start a#1");
    assert!(!story.container("a").started && !story.container("a").ready);
}
