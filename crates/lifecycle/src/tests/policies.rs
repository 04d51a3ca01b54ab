//! Restart policies, sandboxes, adoption after a restart of the kubelet, failures of single steps.

use super::script::*;
use crate::*;

/// What becomes of a container, and of a pod that has only this one.
#[test]
fn every_policy_with_every_kind_of_exit() {
    for (policy, exit, actions, state, phase) in [
        ("Always", "0", "start a#1 in s0", "0", "Running"),
        ("Always", "1", "start a#1 in s0", "1", "Running"),
        ("Always", "137", "start a#1 in s0", "137", "Running"),
        ("OnFailure", "0", "stop_sandbox s0", "0", "Succeeded"),
        ("OnFailure", "1", "start a#1 in s0", "1", "Running"),
        ("OnFailure", "255", "start a#1 in s0", "255", "Running"),
        ("Never", "0", "stop_sandbox s0", "0", "Succeeded"),
        ("Never", "1", "stop_sandbox s0", "1", "Failed"),
        ("Never", "-1", "stop_sandbox s0", "-1", "Failed"),
    ] {
        Script::up(&format!("{policy} a")).run(&format!(
            "2000 event s0 a#0={exit} => {actions}
             2000 is a {state}
             2000 phase {phase}"
        ));
    }
}

#[test]
fn a_lost_container_counts_as_a_failure() {
    for (policy, actions, phase) in [
        ("Always", "start a#1 in s0", "Running"),
        ("OnFailure", "start a#1 in s0", "Running"),
        ("Never", "stop_sandbox s0", "Failed"),
    ] {
        Script::up(&format!("{policy} a")).run(&format!("2000 see s0 => {actions}\n 2000 phase {phase}"));
    }
}

#[test]
fn a_container_of_which_the_runtime_cannot_tell_is_stopped_and_follows_the_policy() {
    Script::up("OnFailure a").run(
        "2000 see s0 a#0=?           => stop a#0 30000
         2001 ok stop a#0            =>
         2002 tick                   => inspect
         2003 see s0 a#0=137         => start a#1 in s0
         2003 ok inspect             =>",
    );
}

#[test]
fn the_pod_ends_when_its_last_container_does() {
    Script::new("OnFailure a b").run(
        "1001 see s0 a#0=0 b#4       =>
         1002 admit                  => set_up
         1002 phase Running
         1003 ok set_up              =>
         1004 event s0 b#4=0         => stop_sandbox s0
         1004 phase Succeeded
         1004 ready false
         1005 failed stop_sandbox s0 =>
         2005 tick                   => stop_sandbox s0
         2006 ok stop_sandbox s0     =>
         2006 deadline none
         9000 see s0! a#0=0 b#4=0    =>",
    );
}

#[test]
fn a_finished_pod_is_found_finished_after_a_restart() {
    Script::new("Never a b").run(
        "1001 see s0! a#0=0 b#0=3    =>
         1002 admit                  => stop_sandbox s0
         1002 phase Failed
         1002 is a 0
         1002 is b 3",
    );
}

#[test]
fn a_restarted_kubelet_adopts_and_goes_on_counting() {
    Script::new("Always a b*").run(
        "1000 admit                            => inspect
         1001 see s2 a#6=1 a#7 b#3=9           => set_up, image b
         1001 restarts a 7
         1001 is a Running
         1001 last a 1
         1002 ok set_up                        =>
         1003 ok image b                       => start b#4 in s2
         1004 ok start b#4                     =>
         1005 event s2 b#4=9                   =>
         1005 is b CrashLoopBackOff
        11005 tick                             => image b
        11006 ok image b                       => start b#5 in s2",
    );
}

#[test]
fn a_container_that_was_only_created_is_started_as_the_same_attempt() {
    Script::new("Never a").run(
        "1001 see s0 a#2=new         =>
         1002 admit                  => set_up
         1003 ok set_up              => start a#2 in s0
         1004 ok start a#2           =>
         1004 is a Running",
    );
}

#[test]
fn a_created_container_of_another_plan_is_replaced() {
    Script::new("Never a").run(
        "1001 see s0 a#2=new/old     =>
         1002 admit                  => set_up, image a
         1003 ok set_up              =>
         1003 ok image a             => start a#3 in s0
         1004 ok start a#3           => remove a#2",
    );
}

#[test]
fn a_changed_container_is_replaced_whatever_the_policy() {
    for policy in ["Always", "OnFailure", "Never"] {
        Script::up(&format!("{policy} a")).run(
            "2000 hash a new             => stop a#0 30000
             2001 event s0 a#0=0         => image a
             2001 phase Running
             2002 ok stop a#0            =>
             2003 ok image a             => start a#1 in s0
             2004 ok start a#1           =>
             2005 see s0 a#0=0 a#1/new   =>
             2005 is a Running
             2005 restarts a 1",
        );
    }
}

#[test]
fn a_change_forgets_the_crashes() {
    Script::up("Always a").run(
        "2000 event s0 a#0=1         => start a#1 in s0
         2001 ok start a#1           =>
         3000 event s0 a#1=1         =>
         3000 is a CrashLoopBackOff
         3001 hash a new             => image a
         3002 ok image a             => start a#2 in s0",
    );
}

#[test]
fn a_lost_sandbox_is_replaced_with_everything_in_it() {
    Script::up("OnFailure a").run(
        "3000 see s0! a#0            => stop a#0 30000
         3001 event s0! a#0=0        => stop_sandbox s0
         3002 ok stop a#0            =>
         3003 ok stop_sandbox s0     => sandbox 1
         3003 phase Running
         3004 ok sandbox 1           => start a#1 in s1
         3005 ok start a#1           =>
         3006 see s0! a#0=0 s1 a#1   =>
         3006 ips 10.0.0.1
         9000 event s1 a#1=1         => start a#2 in s1
         9001 ok start a#2           => remove a#0
         9002 ok remove a#0          => remove_sandbox s0
         9003 ok remove_sandbox s0   =>
         9004 see s1 a#1=1 a#2       =>",
    );
}

#[test]
fn a_sandbox_without_an_address_is_replaced() {
    Script::up("Always a").run(
        "2000 see s0? a#0            => stop a#0 30000
         2001 ok stop a#0            =>
         2002 event s0? a#0=143      => stop_sandbox s0",
    );
}

#[test]
fn a_vanished_sandbox_is_replaced() {
    Script::up("Always a").run(
        "3000 see                    => sandbox 1
         3000 is a 137
         3001 ok sandbox 1           => start a#1 in s1",
    );
}

#[test]
fn a_second_ready_sandbox_is_stopped() {
    Script::up("Always a").run(
        "2000 see s0 a#0 s1          => stop a#0 30000
         2001 event s0 a#0=1         => stop_sandbox s0
         2002 ok stop a#0            => start a#1 in s1",
    );
}

#[test]
fn a_hint_that_the_sandbox_died_is_looked_into_before_anything_is_stopped() {
    Script::up("Always a").run(
        "2000 event s0! a#0          =>
         2000 deadline 2001
         2001 tick                   => inspect
         2002 see s0 a#0             =>
         2003 ok inspect             =>
         2003 deadline none",
    );
}

#[test]
fn a_pod_that_is_never_restarted_gets_no_second_sandbox() {
    Script::up("Never a").run(
        "2000 see s0! a#0            => stop a#0 30000
         2001 event s0! a#0=137      => stop_sandbox s0
         2001 phase Running
         2002 ok stop a#0            =>
         2002 phase Failed
         2003 ok stop_sandbox s0     =>
         9999 tick                   =>",
    );
    // Nothing of it ever ran: it may.
    Script::new("Never a").run(
        "1001 see s0!                =>
         1002 admit                  => set_up, stop_sandbox s0, image a
         1003 ok set_up              =>
         1004 ok stop_sandbox s0     => sandbox 1",
    );
}

#[test]
fn sandboxes_that_die_at_once_are_not_made_in_a_hurry() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok sandbox 0           =>
         1005 see s0!                => stop_sandbox s0
         1006 ok stop_sandbox s0     =>
         1006 deadline 2004
         2004 tick                   => sandbox 1
         2005 ok sandbox 1           => remove_sandbox s0
         2006 see s0! s1!            => stop_sandbox s1
         2006 ok remove_sandbox s0   =>
         2007 ok stop_sandbox s1     =>
         2007 deadline 4005",
    );
}

#[test]
fn failures_show_their_reason_and_are_retried_with_back_off() {
    Script::new("Always a").run(
        "1001 see                                     =>
         1002 admit                                   => set_up, image a
         1003 ok image a                              =>
         1004 failed:FailedMount set_up               =>
         1004 is a FailedMount
         2004 tick                                    => set_up
         2005 ok set_up                               => sandbox 0
         2006 failed:CreatePodSandboxError sandbox 0  =>
         2006 is a CreatePodSandboxError
         2007 tick                                    => inspect
         2008 see                                     =>
         2008 ok inspect                              =>
         3006 tick                                    => sandbox 0
         3007 ok sandbox 0                            => start a#0 in s0
         3008 failed:CreateContainerError start a#0   => image a
         3008 is a CreateContainerError
         3009 ok image a                              => inspect
         3010 see s0                                  =>
         3010 ok inspect                              =>
         3010 is a CreateContainerError
         4008 tick                                    => start a#0 in s0
         4009 failed:RunContainerError start a#0      => image a
         4010 see s0 a#0=new                          =>
         4011 ok image a                              =>
         4011 deadline 6009
         6009 tick                                    => start a#1 in s0
         6010 ok start a#1                            => remove a#0
         6010 is a Running",
    );
}

#[test]
fn a_start_that_failed_and_left_an_exit_is_a_crash() {
    Script::new("OnFailure a").run(
        "1001 see                                     =>
         1002 admit                                   => set_up, image a
         1003 ok image a                              =>
         1004 ok set_up                               => sandbox 0
         1005 ok sandbox 0                            => start a#0 in s0
         1006 failed:RunContainerError start a#0      => image a
         1007 ok image a                              => inspect
         1008 see s0 a#0=128                          =>
         1008 ok inspect                              =>
         1008 restarts a 0
         1008 last a 128
         2006 tick                                    => start a#1 in s0",
    );
}

#[test]
fn the_image_is_asked_for_again_only_where_the_policy_says_so() {
    Script::up("Always a").run("2000 event s0 a#0=1 => start a#1 in s0");
    Script::up("Always a*").run("2000 event s0 a#0=1 => image a\n 2001 ok image a => start a#1 in s0");
}

#[test]
fn an_exit_that_is_told_before_its_start_returned_is_not_lost() {
    Script::new("OnFailure a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok image a             =>
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           => start a#0 in s0
         1006 event s0 a#0=4         =>
         1007 ok start a#0           => start a#1 in s0
         1008 event s0 a#0=4 a#1=0   =>
         1009 ok start a#1           => stop_sandbox s0
         1009 phase Succeeded
         1009 last a 4",
    );
}

#[test]
fn f_b08_before_the_runtime_was_heard_the_report_says_so() {
    let mut script = Script::new("Always a");
    assert!(!script.machine.report().observed);
    script.run("1001 event s0 a#0 =>");
    assert!(!script.machine.report().observed);
    script.run("1002 see s0 a#0 =>");
    let report = script.machine.report();
    assert!(report.observed && report.ready());
    assert_eq!(report.start_time_ns, 1, "the first sandbox's");
}

#[test]
fn conditions_name_what_is_not_ready() {
    let mut script = Script::new("Never a b");
    script.run("1001 see s0 a#0=1 b#0 =>\n 1002 admit => set_up");
    let conditions = script.machine.report().conditions;
    assert!(conditions.pod_ready_to_start_containers.status && conditions.initialized.status);
    assert_eq!(conditions.ready.reason, "ContainersNotReady");
    assert_eq!(conditions.ready.message, "containers with unready status: [a]");
    script.run("1003 ok set_up =>\n 1004 event s0 b#0=0 => stop_sandbox s0");
    assert_eq!(script.machine.report().conditions.containers_ready.reason, "PodFailed");
}

#[test]
fn f_g01_a_wall_clock_that_jumps_moves_no_deadline() {
    let mut script = Script::up("Always a");
    script.run("2000 event s0 a#0=1 => start a#1 in s0\n 2001 ok start a#1 =>\n 3000 event s0 a#1=1 =>");
    let mut actions = Vec::new();
    for wall_ns in [0, i64::MAX / 2, -5] {
        script.machine.handle(Now { mono_ms: 3_500, wall_ns }, Input::Tick, &mut actions);
        assert_eq!((actions.as_slice(), script.machine.next_deadline()), (&[][..], Some(13_000)));
    }
}

#[test]
fn the_report_names_what_hinders_the_pod() {
    let mut script = Script::new("Always a");
    let problem = |script: &Script| script.machine.report().problem.map(|failure| failure.reason);
    script.run("1001 see =>\n 1002 admit => set_up, image a\n 1003 failed:ErrImagePull image a =>");
    assert_eq!(problem(&script).as_deref(), Some("ErrImagePull"));
    script.run("1004 failed:FailedMount set_up =>");
    assert_eq!(problem(&script).as_deref(), Some("FailedMount"));
    script.run("2004 tick => set_up\n 2005 ok set_up => sandbox 0\n 2006 ok sandbox 0 =>");
    script.run("2007 images => image a\n 2008 ok image a => start a#0 in s0\n 2009 ok start a#0 =>");
    assert_eq!(problem(&script), None);
    script.run("3000 delete 0 => stop a#0 2000\n 3001 failed:KillContainerError stop a#0 =>");
    assert_eq!(problem(&script).as_deref(), Some("KillContainerError"));
}

#[test]
fn an_init_container_of_which_nothing_is_left_has_completed_once_a_later_one_was_begun() {
    let mut script = Script::new("Always i:init a");
    script.run("1001 see s0 a#0 =>\n 1002 admit => set_up\n 1002 is i 0\n 1002 phase Running\n 1002 ready true");
    assert!(script.machine.report().conditions.initialized.status);
}
