//! What upstream's node tests expect of the end of a pod; each test is named after the behaviour.

use super::story::{Story, Turn};
use crate::*;

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

#[test]
fn should_respect_termination_grace_period_seconds() {
    let story = Story::new("Always a", &[("a", "deaf")]).at(3_000, Turn::Delete(5_000)).until(60_000);
    assert_eq!(story.when("term a#0"), 3_000);
    assert_eq!(story.when("exit a#0 137"), 8_000);
    assert!(story.machine.is_finished());
    story.told("Killing", "Stopping container a");
}

#[test]
fn should_respect_termination_grace_period_seconds_with_long_running_pre_stop_hook() {
    let story = Story::new("Always a:pre", &[("a", "pre hangs, deaf")]).at(3_000, Turn::Delete(5_000)).until(60_000);
    assert_eq!((story.when("pre a#0"), story.when("term a#0")), (3_000, 8_000));
    assert_eq!(story.when("exit a#0 137"), 10_000, "two seconds are left to it in any case");
    let story = Story::new("Always a:pre", &[("a", "pre 3000, deaf")]).at(3_000, Turn::Delete(10_000)).until(60_000);
    assert_eq!((story.when("term a#0"), story.when("exit a#0 137")), (6_000, 13_000), "the hook is part of the grace");
}

#[test]
fn f_b02_graces_and_hooks_of_all_lengths() {
    for grace_ms in [0, 1_000, 2_000, 30_000, 120_000] {
        for hook in ["", "pre 500", "pre 200000", "pre hangs", "pre 500 fails"] {
            for restart in [false, true] {
                let plan = if hook.is_empty() { "Always a" } else { "Always a:pre" };
                let mut story = Story::new(
                    &format!("{} ", plan.replace("Always", "Always@120000")),
                    &[("a", &format!("deaf, {hook}"))],
                )
                .at(10_000, Turn::Delete(grace_ms));
                if restart {
                    story = story.at(10_000 + grace_ms / 2 + 5, Turn::RestartKubelet(100));
                }
                let story = story.until(600_000);
                let (termed_ms, killed_ms) = (story.when("term a#0"), story.when("exit a#0 137"));
                let case = format!("{grace_ms} {hook} {restart}: {:?}", story.log);
                assert_eq!(story.count("term"), 1, "{case}");
                assert!(killed_ms >= 10_000 + grace_ms && killed_ms <= 12_200 + grace_ms, "{case}");
                assert!(killed_ms - termed_ms >= 2_000, "{case}");
                assert_eq!(story.count("pre ") > 0, grace_ms > 0 && !hook.is_empty(), "{case}");
                assert!(story.machine.is_finished(), "{case}");
            }
        }
    }
}

#[test]
fn should_terminate_sidecars_in_reverse_order_after_all_main_containers_have_exited() {
    let slow = "term 0 in 1000";
    let story =
        Story::new("Always r:sidecar s:sidecar t:sidecar a b", &["r", "s", "t", "a", "b"].map(|name| (name, slow)))
            .at(5_000, Turn::Delete(60_000))
            .until(60_000);
    story.order("delete, term a#0, term b#0, exit a#0 0, exit b#0 0, term t#0, exit t#0 0, term s#0, exit s#0 0, term r#0, exit r#0 0");
    assert_eq!((story.when("term a#0"), story.when("term b#0")), (5_000, 5_000), "at once");
    assert!(story.machine.is_finished());
}

#[test]
fn should_terminate_gracefully_when_restart_policy_is_any() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} s:sidecar a"), &[("s", "term 0 in 500"), ("a", "term 0 in 500")])
            .at(5_000, Turn::Delete(30_000))
            .until(60_000);
        story.order("term a#0, exit a#0 0, term s#0, exit s#0 0").phase(Phase::Succeeded);
        assert_eq!(story.count("start"), 2);
    }
}

#[test]
fn should_terminate_sidecars_simultaneously_if_prestop_doesnt_exist() {
    let story = Story::new("Always r:sidecar s:sidecar t:sidecar a", &["r", "s", "t", "a"].map(|name| (name, "deaf")))
        .at(5_000, Turn::Delete(5_000))
        .until(60_000);
    // Nothing of the grace is left when the regular container is dead.
    let killed: Vec<u64> = ["r", "s", "t"].map(|name| story.when(&format!("exit {name}#0 137"))).into();
    assert_eq!(killed, [12_000, 12_000, 12_000], "{:?}", story.log);
}

#[test]
fn should_call_sidecar_container_pre_stop_hook_simultaneously() {
    let story = Story::new(
        "Always r:sidecar,pre s:sidecar,pre t:sidecar,pre a:pre",
        &["r", "s", "t", "a"].map(|name| (name, "pre 2000, term 0 in 1000")),
    )
    .at(5_000, Turn::Delete(60_000))
    .until(60_000);
    for name in ["r", "s", "t", "a"] {
        assert_eq!(story.when(&format!("pre {name}#0")), 5_000);
        assert_eq!(story.count(&format!("pre {name}")), 1);
    }
    story.order("pred a#0, term a#0, exit a#0 0, term t#0, exit t#0 0, term s#0, exit s#0 0, term r#0");
}

#[test]
fn should_not_hang_in_termination_if_terminated_during_initialization() {
    for plan in ["Always i:init s:sidecar a", "Always s:sidecar i:init a", "Always s:sidecar,startup i:init a"] {
        let story = Story::new(plan, &[("i", "term 143 in 500"), ("s", "startup never, term 0 in 500")])
            .at(2_000, Turn::Delete(30_000))
            .until(30_000);
        assert!(story.machine.is_finished(), "{plan}: {:?}", story.log);
        story.never("start a");
    }
}

#[test]
fn init_containers_that_run_are_ended_before_the_sidecars() {
    let story = Story::new("Always s:sidecar i:init a", &[("i", "term 143 in 500")])
        .at(2_000, Turn::Delete(30_000))
        .until(30_000);
    story.order("term i#0, exit i#0 143, term s#0, exit s#0 143").phase(Phase::Failed);
}

#[test]
fn should_terminate_restartable_init_containers_gracefully_if_there_is_a_non_started_restartable_init_container() {
    let story = Story::new(
        "Always r:sidecar s:sidecar t:sidecar,startupx99 a",
        &[("r", "term 0 in 1000"), ("s", "term 0 in 1000"), ("t", "startup never, term 0 in 1000")],
    )
    .at(5_000, Turn::Delete(30_000))
    .until(30_000);
    story.order("delete, term t#0, exit t#0 0, term s#0, exit s#0 0, term r#0, exit r#0 0").never("start a");
    assert!(story.machine.is_finished());
}

#[test]
fn should_mark_pod_as_failed_if_regular_container_has_exceeded_its_termination_grace_period_seconds() {
    let story = Story::new("Never s:sidecar a", &[("s", "term 0 in 10"), ("a", "deaf")])
        .at(5_000, Turn::Delete(5_000))
        .until(60_000);
    story.order("exit a#0 137").phase(Phase::Failed);
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_exceeded_its_termination_grace_period_seconds()
 {
    let story = Story::new("Never s:sidecar a", &[("s", "deaf"), ("a", "term 0 in 10")])
        .at(5_000, Turn::Delete(5_000))
        .until(60_000);
    story.order("exit a#0 0, exit s#0 137").phase(Phase::Succeeded);
}

#[test]
fn should_mark_pod_as_failed_if_any_of_the_prestop_hook_in_regular_container_has_exceeded_its_termination_grace_period_seconds()
 {
    let story = Story::new("Never s:sidecar a:pre", &[("a", "pre hangs, term 137 in 10"), ("s", "term 0 in 10")])
        .at(5_000, Turn::Delete(5_000))
        .until(60_000);
    story.order("pre a#0, term a#0, exit a#0 137").phase(Phase::Failed);
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_prestop_hook_in_restartable_init_containers_have_exceeded_its_termination_grace_period_seconds()
 {
    let story = Story::new("Never s:sidecar,pre a", &[("s", "pre hangs, deaf"), ("a", "term 0 in 10")])
        .at(5_000, Turn::Delete(5_000))
        .until(60_000);
    story.order("exit a#0 0, exit s#0 137").phase(Phase::Succeeded);
}

#[test]
fn sidecars_that_wait_for_their_turn_are_killed_with_the_rest_when_the_grace_is_over() {
    let story =
        Story::new("Always s:sidecar a", &[("s", "deaf"), ("a", "deaf")]).at(5_000, Turn::Delete(5_000)).until(60_000);
    assert_eq!((story.when("term a#0"), story.when("term s#0")), (5_000, 10_000));
    assert_eq!((story.when("exit a#0 137"), story.when("exit s#0 137")), (10_000, 12_000));
}

#[test]
fn a_second_delete_shortens_hooks_and_turns_alike() {
    let story = Story::new("Always s:sidecar a:pre", &[("s", "deaf"), ("a", "pre hangs, deaf")])
        .at(5_000, Turn::Delete(60_000))
        .at(8_000, Turn::Delete(1_000))
        .until(30_000);
    assert_eq!((story.when("term a#0"), story.when("term s#0")), (9_000, 9_000));
    assert_eq!((story.when("exit a#0 137"), story.when("exit s#0 137")), (11_000, 11_000));
}

#[test]
fn a_forced_delete_runs_no_hook() {
    let story = Story::new("Always a:pre", &[("a", "pre 100, deaf")]).at(5_000, Turn::Delete(0)).until(30_000);
    assert_eq!((story.when("term a#0"), story.when("exit a#0 137")), (5_000, 7_000));
    story.never("pre");
}

#[test]
fn hooks_and_probes_that_are_slow_to_be_given_up_hold_up_no_stop() {
    let mut script = super::script::Script::new("Always a:post,ready");
    script.run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok image a             =>
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           => start a#0 in s0
         1006 ok start a#0           => post_start a#0
         1006 is a ContainerCreating
         1007 delete 5000            => cancel post_start a#0, stop a#0 5000
         1008 event s0 a#0=143       => stop_sandbox s0
         1009 ok stop a#0            => remove a#0
         1010 ok remove a#0          =>
         1011 ok stop_sandbox s0     => remove_sandbox s0
         1012 ok remove_sandbox s0   =>
         1012 stage Terminating
         1013 cancelled post_start a#0 => inspect",
    );
}

#[test]
fn what_cannot_be_killed_is_told_and_tried_again_and_never_declared_gone() {
    let mut script = super::script::Script::up("Always a");
    script.run(
        "2000 delete 5000                        => tell Killing, stop a#0 5000
         7000 failed:KillContainerError stop a#0 => tell FailedKillPod
         8000 tick                               => stop a#0 2000
        10000 failed:KillContainerError stop a#0 => tell FailedKillPod
        12000 tick                               => stop a#0 2000
        16999 tick                               =>
        17000 tick                               => tell ExceededGracePeriod
        90000 tick                               =>
        90000 stage Terminating
        90001 failed:KillContainerError stop a#0 => tell FailedKillPod",
    );
    assert_eq!(script.machine.report().problem.expect("a problem").reason, "KillContainerError");
}

#[test]
fn a_container_of_a_pod_that_ran_too_long_is_stopped_gracefully_and_the_pod_has_failed() {
    let story = Story::new("Always s:sidecar a:pre deadline=20000", &[("a", "pre 1000, term 0 in 500")]).until(60_000);
    assert_eq!(story.when("pre a#0"), 20_000);
    story.order("pre a#0, pred a#0, term a#0, exit a#0 0, term s#0").never("start a#1").phase(Phase::Failed);
    let report = story.machine.report();
    assert_eq!(report.reason, "DeadlineExceeded");
    assert_eq!(report.message, "Pod was active on the node longer than the specified deadline");
    story.told("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
    assert_eq!(story.events.iter().filter(|event| event.reason == "DeadlineExceeded").count(), 1);
}

#[test]
fn a_deadline_outlives_the_kubelet_and_a_jump_of_the_wall_clock() {
    let story = Story::new("Always a deadline=20000", &[]).at(15_000, Turn::RestartKubelet(1_000)).until(60_000);
    assert_eq!(story.when("term a#0"), 20_000);
    let story = Story::new("Always a deadline=20000", &[]).at(15_000, Turn::RestartKubelet(10_000)).until(60_000);
    assert!(story.when("term a#0") < 25_200);
    story.phase(Phase::Failed);
}

#[test]
fn a_pod_that_is_rejected_fails_and_nothing_of_it_is_ever_started() {
    let mut script = super::script::Script::new("Always i:init a");
    script.run(
        "1001 see =>\n 1002 reject OutOfcpu =>\n 1003 tick =>\n 1003 phase Failed\n 1003 stage Syncing\n 1004 admit =>",
    );
    let report = script.machine.report();
    assert_eq!((report.reason.as_str(), report.message.as_str()), ("OutOfcpu", "it is so"));
    script.run(
        "1005 images  =>
         1006 delete 0 =>
         1007 tick     => inspect
         1008 see      => tear_down
         1009 ok inspect =>
         1010 ok tear_down =>
         1010 phase Failed
         1010 stage Finished",
    );
}
