//! The rules of a pod's life, one or more tests for each: what is done, and what is believed (1 to 6).

use super::script::*;
use crate::*;

#[test]
fn nothing_is_touched_before_the_runtime_was_heard() {
    Script::new("Always a").run(
        "1000 admit                  => inspect
         1000 is a ContainerCreating
         1001 event s0 a#0           =>
         1002 failed inspect         =>
         1002 deadline 2002
         2002 tick                   => inspect
         2003 see s0 a#0             => set_up
         2004 ok inspect             =>
         2004 is a Running",
    );
}

#[test]
fn images_and_setup_go_together_and_containers_start_without_waiting_for_each_other() {
    Script::new("Always a b").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a, image b
         1003 ok image b             =>
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           => start b#0 in s0
         1006 ok image a             => start a#0 in s0
         1006 phase Pending
         1007 event s0 b#0           =>
         1008 ok start b#0           =>
         1009 ok start a#0           =>
         1009 phase Running
         1009 ready true
         1009 ips 10.0.0.0
         1009 deadline none",
    );
}

#[test]
fn a_sandbox_that_was_seen_ready_is_used_before_its_call_returned() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok image a             =>
         1004 ok set_up              => sandbox 0
         1005 event s0!              =>
         1006 event s0               =>
         1007 ok sandbox 0           => start a#0 in s0",
    );
}

#[test]
fn rule_01_stages_only_move_on_and_a_finished_machine_is_deaf() {
    Script::up("Always a").run(
        "2000 delete 1000            => stop a#0 2000
         2001 admit                  =>
         2002 hash a other           =>
         2003 event s0 a#0=143       => stop_sandbox s0
         2003 ok stop a#0            => remove a#0
         2004 ok remove a#0          =>
         2005 ok stop_sandbox s0     => remove_sandbox s0
         2006 ok remove_sandbox s0   =>
         2006 stage Terminating
         2006 deadline 2007
         2007 tick                   => inspect
         2008 see                    => tear_down
         2008 stage Terminated
         2008 phase Failed
         2009 ok inspect             =>
         2010 ok tear_down           =>
         2010 stage Finished
         2010 is a 143
         2011 admit                  =>
         2012 see s0 a#0             =>
         2013 delete 0               =>
         2013 stage Finished
         2013 deadline none",
    );
}

#[test]
fn rule_01_a_terminal_phase_is_never_left() {
    Script::up("Never a").run(
        "1060 event s0 a#0=0         => stop_sandbox s0
         1060 phase Succeeded
         1070 ok stop_sandbox s0     =>
         1080 see s0! a#0=0          =>
         1090 hash a other           =>
         1090 phase Succeeded
         2000 see                    =>
         2000 phase Succeeded
         2000 is a 0
         2100 delete 0               =>
         2100 phase Succeeded",
    );
}

#[test]
fn rule_01_a_pod_that_ends_has_not_ended_while_a_start_may_come_about() {
    Script::new("Never s:sidecar a").run(
        "1000 admit                  => inspect
         1010 see s0 s#0 a#0         => set_up
         1011 ok inspect             =>
         1012 ok set_up              =>
         1060 event s0 s#0=1 a#0     => start s#1 in s0
         1070 delete 30000           => cancel start s#1 in s0, stop a#0 30000
         1080 event s0 s#0=1 a#0=143 =>
         1080 phase Running
         1081 ok stop a#0            => remove a#0
         1090 cancelled start s#1 in s0 => remove s#0, stop_sandbox s0
         1090 phase Failed",
    );
}

#[test]
fn rule_02_a_grace_only_shrinks_and_a_shorter_one_overtakes() {
    Script::up("Always a").run(
        "2000 delete 30000           => stop a#0 30000
         3000 delete 60000           =>
         4000 delete 28000           =>
         5000 delete 9000            => cancel stop a#0 30000, stop a#0 9000
         5001 cancelled stop a#0 30000 =>
         6000 delete 500             => cancel stop a#0 9000, stop a#0 2000
         6001 cancelled stop a#0 9000 =>
         6002 delete 0               =>
         6400 event s0 a#0=137       => stop_sandbox s0
         6401 ok stop a#0 2000       => remove a#0",
    );
}

#[test]
fn rule_02_a_stop_that_began_while_syncing_keeps_its_earlier_deadline() {
    Script::up("Always a").run(
        "2000 hash a new             => stop a#0 30000
         5000 delete 60000           =>
         6000 delete 1000            => cancel stop a#0 30000, stop a#0 2000",
    );
}

#[test]
fn rule_02_terminating_cancels_what_was_in_flight_and_waits_for_it() {
    Script::new("Always a b").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a, image b
         1003 ok image a             =>
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           => start a#0 in s0
         1006 delete 0               => cancel image b, cancel start a#0 in s0
         1007 tick                   =>
         1009 cancelled image b      =>
         1009 stage Terminating
         1010 cancelled start a#0    => stop_sandbox s0
         1011 ok stop_sandbox s0     => remove_sandbox s0
         1012 ok remove_sandbox s0   =>
         1013 tick                   => inspect
         1014 see                    => tear_down",
    );
}

#[test]
fn rule_03_nothing_is_started_after_terminating_began() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 delete 0               => cancel image a, cancel sandbox 0
         1005 ok image a             =>
         1006 ok sandbox 0           => stop_sandbox s0
         1007 see s0                 =>
         1008 images                 =>
         1009 ok stop_sandbox s0     => remove_sandbox s0",
    );
}

#[test]
fn rule_03_a_container_that_appears_late_is_stopped_too() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0
         1006 delete 5000            => cancel start a#0 in s0
         1007 tick                   =>
         1008 event s0 a#0           =>
         1009 ok start a#0           => stop a#0 4997
         1010 event s0 a#0=143       => stop_sandbox s0
         1011 ok stop a#0            => remove a#0",
    );
}

#[test]
fn rule_03_what_appears_even_while_tearing_down_is_cleared_and_torn_down_again() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 delete 5000            =>
         1003 tick                   => inspect
         1004 see                    => tear_down
         1004 ok inspect             =>
         1005 see s0 a#0             => stop a#0 4997
         1006 ok tear_down           =>
         1006 stage Terminated
         1007 event s0 a#0=143       => stop_sandbox s0
         1008 ok stop a#0            => remove a#0
         1009 ok remove a#0          =>
         1010 ok stop_sandbox s0     => remove_sandbox s0
         1011 ok remove_sandbox s0   =>
         1012 tick                   => inspect
         1013 see                    => tear_down
         1013 ok inspect             =>
         1014 ok tear_down           =>
         1014 stage Finished",
    );
}

#[test]
fn rule_04_a_cancelled_effect_is_outstanding_until_acknowledged() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 hash a other           => cancel image a
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           =>
         1006 ok image a             => image a
         1007 ok image a             => start a#0 in s0",
    );
}

#[test]
fn rule_04_one_effect_at_a_time_on_one_container() {
    Script::up("Always a").run(
        "2000 hash a new             => stop a#0 30000
         2001 tick                   =>
         2002 see s0 a#0             =>
         2003 event s0 a#0=0         => image a
         2004 ok image a             =>
         2005 ok stop a#0            => start a#1 in s0
         2006 see s0 a#0=0           =>
         2007 tick                   =>",
    );
}

#[test]
fn rule_05_unknown_start_that_happened_is_adopted() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0
         1006 unknown start a#0      =>
         1006 deadline 1007
         1007 tick                   => inspect
         1008 see s0 a#0             =>
         1009 ok inspect             =>
         1009 is a Running
         9000 tick                   =>",
    );
}

#[test]
fn rule_05_unknown_start_that_did_not_happen_is_tried_again_as_the_same_attempt() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0
         1006 unknown start a#0      =>
         1007 tick                   => inspect
         1008 old 1006 s0            =>
         1009 old 1007 s0            =>
         1009 ok inspect             =>
         1009 deadline 2006
         2006 tick                   => start a#0 in s0",
    );
}

#[test]
fn rule_05_unknown_everywhere_else() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 unknown set_up         =>
         1003 unknown image a        =>
         1004 tick                   => inspect
         1005 see                    =>
         1005 ok inspect             =>
         2003 tick                   => set_up
         2004 ok set_up              => sandbox 0
         2005 unknown sandbox 0      =>
         2006 tick                   => inspect
         2007 see s0                 =>
         2007 ok inspect             =>
        11003 tick                   => image a
        12008 ok image a             => start a#0 in s0
        12009 ok start a#0           =>
        13000 delete 1000            => stop a#0 2000
        13001 unknown stop a#0       =>
        13002 tick                   => inspect
        13003 see s0 a#0             =>
        13003 ok inspect             =>
        14001 tick                   => stop a#0 2000
        14002 event s0 a#0=137       => stop_sandbox s0
        14003 ok stop a#0            => remove a#0
        14004 unknown remove a#0     =>
        14005 tick                   => inspect
        14006 see s0 a#0=137         =>
        14006 ok inspect             =>
        15004 tick                   => remove a#0",
    );
}

#[test]
fn rule_06_a_stale_answer_does_not_make_a_started_container_vanish() {
    Script::up("Always a").run(
        "2000 old 1030 s0            =>
         2000 is a Running
         2001 old 1050 s0            =>
         2001 is a Running
         2002 see s0 a#0=new         =>
         2002 is a Running
         2003 event s0 a#0=5         => start a#1 in s0
         2004 old 2001 s0 a#0        =>
         2004 is a 5
         2005 ok start a#1           =>
         2006 old 2004 s0 a#0        =>
         2006 is a Running
         2006 last a 5",
    );
}

#[test]
fn rule_06_an_outcome_that_nobody_waits_for_changes_nothing() {
    let mut script = Script::up("Always a");
    let before = script.machine.report();
    let mut actions = Vec::new();
    for outcome in [Outcome::Ok(Done::Container { id: "x".into() }), Outcome::Unknown] {
        for id in [1, 3, 99] {
            let outcome = outcome.clone();
            script.machine.handle(now(2_000), Input::Completed { id: EffectId(id), outcome }, &mut actions);
        }
    }
    assert_eq!((actions, script.machine.report()), (Vec::new(), before));
}

#[test]
fn rule_06_an_answer_that_does_not_fit_is_taken_as_unknown() {
    let mut script = Script::new("Always a");
    script.run("1001 see =>\n 1002 admit => set_up, image a\n 1003 ok set_up => sandbox 0");
    let mut actions = Vec::new();
    let outcome = Outcome::Ok(Done::Nothing);
    script.machine.handle(now(1_004), Input::Completed { id: EffectId(3), outcome }, &mut actions);
    assert_eq!((actions, script.machine.next_deadline()), (Vec::new(), Some(1_005)));
}

#[test]
fn f_b03_nothing_is_started_while_an_older_attempt_may_still_run() {
    Script::up("Always a").run(
        "2000 see s0 a#0 a#1=1       => stop a#0 30000
         2001 failed stop a#0        =>
         2002 tick                   =>
         3001 tick                   => stop a#0 28999
         3002 event s0 a#0=1         =>
         3003 ok stop a#0            => start a#2 in s0",
    );
}

#[test]
fn f_b03_no_sandbox_is_made_while_the_last_one_is_not_stopped() {
    Script::up("Always a").run(
        "9000 see s0!                => stop_sandbox s0
         9001 failed:KillPodSandboxError stop_sandbox s0 =>
         9002 tick                   =>
        10001 tick                   => stop_sandbox s0
        10002 ok stop_sandbox s0     => sandbox 1",
    );
}

#[test]
fn rule_06_a_stale_answer_does_not_bring_back_what_was_removed() {
    Script::up("Always a").run(
        "2000 event s0 a#0=1         => start a#1 in s0
         2001 ok start a#1           =>
       900000 event s0 a#1=1         => start a#2 in s0
       900001 ok start a#2           => remove a#0
       900002 ok remove a#0          =>
       900003 old 900001 s0 a#0=1 a#1=1 a#2 =>
       900004 see s0 a#0=1 a#1=1 a#2 => remove a#0",
    );
}

#[test]
fn rule_06_a_late_event_does_not_bring_back_what_was_forgotten() {
    Script::up("Always a:pre").run(
        "2000 event s0 a#0=1         => start a#1 in s0
         2001 ok start a#1           =>
       900000 event s0 a#1=1         => start a#2 in s0
       900001 ok start a#2           => remove a#0
       900002 ok remove a#0          =>
       900003 see s0 a#1=1 a#2       =>
       900004 event s0 a#0 a#1=1 a#2 =>
       900005 tick                   => inspect
       900006 see s0 a#1=1 a#2       =>
       900006 ok inspect             =>
       900006 is a Running
       900006 deadline none",
    );
}

#[test]
fn rule_05_unknown_start_of_a_plan_that_changed_meanwhile_is_looked_for() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 admit                  => set_up, image a
         1003 ok set_up              => sandbox 0
         1004 ok image a             =>
         1005 ok sandbox 0           => start a#0 in s0
         1006 hash a new             => image a
         1007 ok image a             =>
         1008 unknown start a#0      =>
         1009 tick                   => inspect
         1010 see s0 a#0             => stop a#0 30000
         1010 ok inspect             =>",
    );
}
