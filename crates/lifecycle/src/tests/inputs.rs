//! Single inputs that only pods with hooks, probes or sidecars hear: outcomes of probes and hooks, plans that change in place,
//! memories.

use super::plans::plan;
use super::script::{Script, now};
use super::story::{Story, Turn};
use crate::*;

/// Container `a`, started and not yet seen by anybody else.
fn started(text: &str) -> Script {
    let mut script = Script::new(text);
    script.run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0",
    );
    script
}

#[test]
fn a_simple_pod_needs_no_more_effects_than_before() {
    started("Always a").run("1006 ok start a#0 =>\n 1006 ready true\n 1006 deadline none");
}

#[test]
fn a_hook_waits_for_the_acknowledged_start_and_probes_for_the_hook() {
    started("Always a:post,ready").run(
        "1006 event s0 a#0           =>
         1007 ok start a#0           => post_start a#0
         1007 is a ContainerCreating
         1008 event s0 a#0           =>
         2000 ok post_start a#0      => probe a#0 Readiness
         2000 is a Running
         2000 ready false
         2001 ok probe a#0           =>
         2001 ready true",
    );
}

#[test]
fn rule_05_a_hook_of_which_nothing_was_heard_is_run_again_and_its_container_goes_on() {
    started("Always a:post").run(
        "1006 ok start a#0           => post_start a#0
         1007 unknown post_start a#0 =>
         1008 tick                   => inspect
         1009 see s0 a#0             =>
         1009 ok inspect             =>
         2007 tick                   => post_start a#0
         2008 ok post_start a#0      =>
         2008 is a Running",
    );
}

#[test]
fn a_probe_that_could_not_be_run_leaves_everything_as_it_was() {
    let mut script = started("Always a:live,ready");
    script.run(
        "1006 ok start a#0           => probe a#0 Liveness, probe a#0 Readiness
         1007 ok probe a#0 Liveness  =>
         1008 ok probe a#0 Readiness =>
         1008 ready true
        11006 tick                   => probe a#0 Liveness, probe a#0 Readiness
        11007 failed probe a#0 Liveness   => tell Unhealthy
        11008 unknown probe a#0 Readiness => tell Unhealthy
        11008 ready true
        11008 deadline 21006",
    );
}

#[test]
fn the_answer_of_an_older_container_is_dropped() {
    let mut script = started("Always a:live");
    script.run(
        "1006 ok start a#0           => probe a#0 Liveness
         1007 event s0 a#0=1         => start a#1 in s0, cancel probe a#0 Liveness
         1008 ok start a#1           => probe a#1 Liveness
         1009 ill probe a#0          =>
         1009 is a Running
         1010 ok probe a#1           =>",
    );
}

#[test]
fn the_end_of_a_hook_of_an_older_container_is_dropped() {
    started("Always a:post").run(
        "1006 ok start a#0           => post_start a#0
         1007 event s0 a#0=1         => start a#1 in s0, cancel post_start a#0
         1008 ok start a#1           => post_start a#1
         1009 ok post_start a#0      =>
         1009 is a ContainerCreating
         1010 ok post_start a#1      =>
         1010 is a Running",
    );
}

#[test]
fn a_probe_is_not_asked_twice_at_once() {
    started("Always a:ready").run(
        "1006 ok start a#0           => probe a#0 Readiness
        15000 tick                   =>
        99000 tick                   =>
        99001 ok probe a#0           => probe a#0 Readiness",
    );
}

#[test]
fn probes_and_hooks_are_followed_in_place() {
    let mut script = started("Always a:ready");
    script.run("1006 ok start a#0 => probe a#0 Readiness\n 1007 ok probe a#0 =>\n 1007 ready true");
    let mut actions = Vec::new();
    script.machine.handle(now(1_100), Input::Desired(plan("Always a:pre gen=7")), &mut actions);
    assert_eq!((actions.as_slice(), script.machine.next_deadline()), (&[][..], None), "nothing is restarted");
    let report = script.machine.report();
    assert_eq!((report.ready(), report.observed_generation), (true, 7));
    script.run("2000 delete 5000 => pre_stop a#0 5000");
}

#[test]
fn a_pod_in_the_machines_network_needs_no_address() {
    Script::new("Always a host").run(
        "1001 see s0? a#0            =>
         1002 admit                  => set_up
         1003 ok set_up              =>
         1003 is a Running
         1003 ready true
         1004 see s0? a#0=1          => start a#1 in s0",
    );
}

#[test]
fn a_damaged_memory_runs_no_hook_again() {
    for memory in [None, Some(Memory::default())] {
        let plan = plan("Always a:post,startup");
        let mut machine = match &memory {
            Some(memory) => PodMachine::resume(plan, memory, now(50_000)),
            None => PodMachine::new(plan, now(50_000)),
        };
        let mut actions = Vec::new();
        machine.handle(now(50_000), Input::Admit, &mut actions);
        let seen = ObservedContainer {
            id: "a#0".into(),
            sandbox_id: "s0".into(),
            name: "a".into(),
            attempt: 0,
            hash: "h-a".into(),
            state: ObservedState::Running { started_at_ns: now(1_000).wall_ns },
            image: "image-a".into(),
            image_ref: "ref-a".into(),
            created_at_ns: 1,
        };
        let sandbox = ObservedSandbox {
            id: "s0".into(),
            attempt: 0,
            ready: true,
            ips: vec!["10.0.0.9".into()],
            created_at_ns: 1,
        };
        let pod = ObservedPod { sandboxes: vec![sandbox], containers: vec![seen] };
        machine.handle(now(50_001), Input::Observed { stamp: 50_001, pod }, &mut actions);
        assert!(matches!(machine.report().containers[0].state, ContainerState::Running { .. }));
        assert!(!actions.iter().any(|action| matches!(action, Action::Do { effect: Effect::PostStart { .. }, .. })));
    }
}

#[test]
fn a_memory_survives_being_written_down() {
    let story = Story::new(
        "Never i:init s:sidecar,startup a:post,ready",
        &[("i", "exit 0 in 100"), ("s", "first exit 3 in 500")],
    )
    .at(2_000, Turn::Delete(30_000))
    .until(2_050);
    let memory = story.machine.memory();
    assert_eq!(memory.containers.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["a", "i", "s"]);
    let [a, i, s] = &memory.containers[..] else { panic!("three containers") };
    assert!(a.hooked && a.ready && a.started && a.last.is_none(), "{a:?}");
    assert_eq!(i.last.as_ref().map(|last| last.exit_code), Some(0));
    assert_eq!((s.attempt, s.last.as_ref().map(|last| last.exit_code)), (1, Some(3)));
    assert_eq!(memory.kill_at_ns, Some(now(32_000).wall_ns));
    assert!(memory.admitted && memory.ending.is_none());
    assert_eq!(PodMachine::resume(story.machine.plan().clone(), &memory, now(3_000)).memory().containers.len(), 3);
}

#[test]
fn a_memory_does_not_change_by_the_passing_of_time() {
    let mut machine = Story::new("Always a", &[("a", "deaf")]).at(2_000, Turn::Delete(30_000)).until(2_050).machine;
    let memory = machine.memory();
    // The wall clock is finer than the steady one, and may be set.
    for (mono_ms, wall_ns) in [(3_000, now(3_000).wall_ns + 999_999), (3_001, now(3_001).wall_ns + 1), (3_002, 5)] {
        machine.handle(Now { mono_ms, wall_ns }, Input::Tick, &mut Vec::new());
        assert_eq!(machine.memory(), memory);
    }
    machine.handle(now(4_000), Input::Delete { grace_ms: 5_000 }, &mut Vec::new());
    assert_eq!(machine.memory().kill_at_ns, Some(now(9_000).wall_ns));
}

#[test]
fn sidecars_that_wait_for_the_end_show_the_pod_as_running() {
    let story = Story::new("Never s:sidecar a", &[("s", "term 0 in 5000"), ("a", "exit 0 in 1000")]).until(3_000);
    story.phase(Phase::Running).is("a", "0").is("s", "Running");
    assert_eq!(story.machine.report().conditions.containers_ready.message, "containers with unready status: [a]");
    let story = story.until(30_000);
    story.phase(Phase::Succeeded);
    assert_eq!(story.machine.report().conditions.initialized.reason, "PodCompleted");
}

#[test]
fn a_lost_sandbox_is_told_and_starts_the_pod_over() {
    let mut script = Script::new("Always a");
    script.run(
        "1001 see s0! a#0=1          =>
         1002 admit                  => set_up, stop_sandbox s0
         1003 ok set_up              =>
         1004 ok stop_sandbox s0     => tell SandboxChanged, sandbox 1",
    );
}

#[test]
fn rule_06_a_late_event_brings_no_former_sandbox_back() {
    Script::up("Always a").run(
        "2000 event s0 a#0 s7 a#9    =>
         2001 tick                   => inspect
         2002 see s0 a#0             =>
         2002 ok inspect             =>
         2002 deadline none",
    );
}

#[test]
fn rule_05_a_change_of_the_plan_forgets_no_doubt() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0
         1006 unknown start a#0      =>
         1006 hash a new             => image a
         1006 ok image a             =>
         1007 tick                   => inspect
         1008 see s0 a#0             => stop a#0 30000",
    );
}

#[test]
fn a_sidecar_outlives_what_may_have_been_started() {
    Script::new("Always s:sidecar a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image s
         1003 ok set_up              => sandbox 0
         1004 ok image s             =>
         1005 ok sandbox 0           => start s#0 in s0
         1006 ok start s#0           => image a
         1007 ok image a             => start a#0 in s0
         1008 unknown start a#0      =>
         1008 delete 30000           =>
         1009 tick                   => inspect
         1010 see s0 s#0 a#0         => stop a#0 29998
         1010 ok inspect             =>
         1011 event s0 s#0 a#0=0     => stop s#0 29997",
    );
}
