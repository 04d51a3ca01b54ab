//! The rules of a pod's life, one or more tests for each: strangers, ends, waiting (7 to 13).

use super::script::*;
use crate::*;

#[test]
fn rule_07_strangers_and_old_attempts_are_terminated() {
    Script::up("Always a").run(
        "2000 see s0 a#0 x#0                 => stop x#0 30000
         2001 event s0 x#0=1                 =>
         2002 ok stop x#0                    => remove x#0
         2003 ok remove x#0                  =>
         2004 see s0 a#0 a#1                 => stop a#0 30000
         2004 restarts a 1
         2005 event s0 a#0=0                 =>
         2006 ok stop a#0                    =>
         2007 see s0 a#0=0 a#1               =>",
    );
}

#[test]
fn rule_07_an_orphan_is_terminated_and_its_remains_go() {
    Script::orphan(5_000).run(
        "1500 see s0 a#0 b#3=1       => stop a#0 4500
         1600 event s0 a#0=143       => remove b#3, stop_sandbox s0
         1601 ok stop a#0            => remove a#0
         1602 ok remove a#0          =>
         1603 ok stop_sandbox s0     =>
         1604 ok remove b#3          => remove_sandbox s0
         1605 ok remove_sandbox s0   =>
         1606 tick                   => inspect
         1607 see                    => tear_down
         1608 ok tear_down           =>
         1608 stage Finished",
    );
}

#[test]
fn rule_08_a_vanished_container_ended_in_an_unknown_way_and_never_with_success() {
    let mut script = Script::up("Never a");
    script.run(
        "2000 see s0                 => stop_sandbox s0
         2000 is a 137
         2000 phase Failed",
    );
    let ContainerState::Terminated(terminated) = &script.machine.report().containers[0].state else { panic!() };
    assert_eq!(terminated.reason, "ContainerStatusUnknown");
    Script::up("OnFailure a").run("2000 see s0 => start a#1 in s0");
}

#[test]
fn rule_08_the_exit_code_outlives_the_record() {
    Script::up("Always a").run(
        "2000 delete 1000            => stop a#0 2000
         2001 event s0 a#0=7         => stop_sandbox s0
         2002 ok stop a#0            => remove a#0
         2003 ok remove a#0          =>
         2004 see s0                 =>
         2004 is a 7",
    );
}

#[test]
fn rule_09_a_pod_waits_until_it_is_admitted() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 tick                   =>
         1003 images                 =>
         1003 stage Waiting
         1003 phase Pending
         1003 is a ContainerCreating
         1004 hash a new             =>
         1005 admit                  => set_up, image a
         1005 stage Syncing",
    );
}

#[test]
fn rule_09_a_pod_that_is_deleted_while_it_waits_leaves_nothing() {
    Script::new("Always a").run(
        "1001 see                    =>
         1002 delete 30000           =>
         1003 tick                   => inspect
         1004 see                    => tear_down
         1004 ok inspect             =>
         1005 ok tear_down           =>
         1005 stage Finished",
    );
}

#[test]
fn rule_10_updates_coalesce_to_the_latest() {
    Script::up("Always a").run(
        "2000 hash a h1              => stop a#0 30000
         2001 hash a h2              =>
         2002 hash a h3              =>
         2003 event s0 a#0=0         => image a
         2004 ok stop a#0            =>
         2005 hash a h4              => cancel image a
         2006 ok image a             => image a
         2007 ok image a             => start a#1 in s0
         2008 ok start a#1           =>
         2009 see s0 a#0=0 a#1/h4    =>
         2009 is a Running",
    );
}

#[test]
fn rule_11_the_first_crash_restarts_in_the_same_breath_and_then_it_waits() {
    let mut script = Script::up("Always a");
    script.run(
        "2000 event s0 a#0=1         => start a#1 in s0
         2000 is a 1
         2001 ok start a#1           =>
         2001 is a Running
         2001 last a 1
         3000 event s0 a#1=2         =>
         3000 is a CrashLoopBackOff
         3000 last a 2
         3000 phase Running
         3000 ready false
         3000 deadline 13000
        12999 tick                   =>
        13000 tick                   => start a#2 in s0
        13000 is a 2
        13001 ok start a#2           => remove a#0
        13002 ok remove a#0          =>
        13003 see s0 a#1=2 a#2       =>
        14000 event s0 a#2=3         =>
        14000 deadline 34000
        34000 tick                   => start a#3 in s0
        34001 ok start a#3           => remove a#1
        34002 ok remove a#1          =>
        34003 see s0 a#2=3 a#3       =>",
    );
    script.run("700000 event s0 a#3=4 => start a#4 in s0\n 700001 ok start a#4 => remove a#2");
}

#[test]
fn rule_11_the_message_is_upstreams() {
    let mut script = Script::up("Always a");
    script.run(
        "2000 event s0 a#0=1         => start a#1 in s0
         2001 ok start a#1           =>
         3000 event s0 a#1=2         =>",
    );
    let ContainerState::Waiting { message, .. } = &script.machine.report().containers[0].state else { panic!() };
    assert_eq!(message, "back-off 10s restarting failed container=a pod=pod_default(uid-1)");
}

#[test]
fn rule_11_image_back_off() {
    let mut script = Script::new("Always a");
    script.run(
        "1001 see                         =>
         1002 admit                       => set_up, image a
         1003 failed:ErrImagePull image a =>
         1003 is a ErrImagePull
         1003 deadline 6003
         6003 tick                        =>
         6003 is a ImagePullBackOff
         6003 phase Pending
         6003 deadline 11003
        11003 tick                        => image a
        11004 failed:ErrImagePull image a =>
        11004 is a ErrImagePull
        21004 tick                        =>
        21004 is a ImagePullBackOff
        21004 deadline 31004",
    );
    let ContainerState::Waiting { message, .. } = &script.machine.report().containers[0].state else { panic!() };
    assert_eq!(message, "Back-off pulling image \"image-a\": ErrImagePull: it broke");
    script.run("22000 images => image a\n 22001 ok image a =>\n 22001 is a ContainerCreating");
}

#[test]
fn rule_11_the_back_off_of_an_image_is_told_when_it_begins_and_once() {
    let mut script = Script::new("Always a");
    script.run(
        "1001 see                         =>
         1002 admit                       => set_up, image a
         1003 failed:ErrImagePull image a =>
         6003 tick                        => tell BackOff, tell Failed",
    );
    let mut actions = Vec::new();
    script.machine.handle(now(7_000), Input::Tick, &mut actions);
    assert_eq!(actions, []);
    script.run(
        "11003 tick                        => image a
         11004 failed:ErrImagePull image a =>
         21004 tick                        => tell BackOff, tell Failed
         31004 tick                        => image a
         31005 ok image a                  =>
         31005 is a ContainerCreating",
    );
}

#[test]
fn rule_11_containers_of_one_image_share_its_back_off() {
    Script::new("Always a b:of=a c").run(
        "1001 see                         =>
         1002 admit                       => set_up, image a, image c
         1003 ok image c                  =>
         1003 failed:ErrImagePull image a =>
         1003 is a ErrImagePull
         1003 is b ErrImagePull
         1003 is c ContainerCreating
         6003 tick                        => tell BackOff, tell Failed, tell BackOff, tell Failed
         6003 is b ImagePullBackOff
        11003 tick                        => image a
        11004 failed:ErrImagePull image a =>
        31003 tick                        =>
        31004 tick                        => image a
        31005 ok image a                  => image b
        31005 is b ContainerCreating
        31006 ok image b                  =>",
    );
}

#[test]
fn rule_11_who_may_pull_does_not_wait_for_who_may_not() {
    Script::new("Always a-:of=x b:of=x").run(
        "1001 see                              =>
         1002 admit                            => set_up, image a, image b
         1003 failed:ErrImageNeverPull image a =>
         1003 is a ErrImageNeverPull
         1004 ok image b                       =>
         1004 is b ContainerCreating
        11003 tick                             => image a
        11004 ok image a                       =>
        11004 is a ContainerCreating",
    );
}

#[test]
fn rule_11_whom_a_present_image_is_enough_for_does_not_wait_for_who_wants_the_newest() {
    Script::new("Always a*:of=x b:of=x").run(
        "1001 see                         =>
         1002 admit                       => set_up, image a, image b
         1003 failed:ErrImagePull image a =>
         1003 is a ErrImagePull
         1004 ok image b                  =>
         1004 is b ContainerCreating
        11003 tick                        => image a",
    );
}

#[test]
fn rule_11_an_image_that_may_not_be_pulled_is_looked_for_every_ten_seconds() {
    Script::new("Always a-").run(
        "1001 see                              =>
         1002 admit                            => set_up, image a
         1003 failed:ErrImageNeverPull image a =>
         1003 is a ErrImageNeverPull
         6003 tick                             =>
         6003 is a ErrImageNeverPull
        11003 tick                             => image a
        11003 failed:ErrImageNeverPull image a =>
        21003 tick                             => image a",
    );
}

#[test]
fn rule_12_gone_is_observed_and_never_declared() {
    Script::up("Always a").run(
        "2000 delete 1000            => stop a#0 2000
         3001 ok stop a#0            =>
         3002 tick                   => inspect
         3003 see s0 a#0             =>
         3003 ok inspect             =>
         3003 is a Running
         4001 tick                   => stop a#0 2000
         4002 failed:KillContainerError stop a#0 =>
         6002 tick                   => stop a#0 2000
         6003 event s0 a#0=137       => stop_sandbox s0
         6004 ok stop a#0            => remove a#0
         6005 ok remove a#0          =>
         6006 ok stop_sandbox s0     => remove_sandbox s0
         6007 ok remove_sandbox s0   =>
         6008 tick                   => inspect
         6009 see s0!                => remove_sandbox s0
         6009 ok inspect             =>
         6009 stage Terminating",
    );
}

#[test]
fn rule_12_teardown_is_tried_for_ever() {
    let mut script = Script::new("Always a");
    script.run(
        "1001 see                    =>
         1002 delete 0               =>
         1003 tick                   => inspect
         1004 see                    => tear_down
         1004 ok inspect             =>",
    );
    let mut at_ms = 2_000;
    for delay_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000] {
        script.run(&format!("{at_ms} failed tear_down =>\n {} tick => inspect", at_ms + 1));
        script.run(&format!("{0} see =>\n {0} ok inspect =>\n {0} deadline {1}", at_ms + 2, at_ms + delay_ms));
        assert_eq!(script.machine.report().problem.expect("a problem").reason, "Broken");
        at_ms += delay_ms;
        script.run(&format!("{at_ms} tick => tear_down"));
    }
    script.run(&format!("{at_ms} ok tear_down =>\n {at_ms} stage Finished"));
}

#[test]
fn rule_13_without_a_new_plan_the_last_good_one_is_kept_running() {
    Script::up("Always a").run(
        "9000 tick                   =>
       990000 event s0 a#0=1         => start a#1 in s0",
    );
}
