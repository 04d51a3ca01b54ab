//! What upstream's node tests expect of init containers, regular containers and their hooks; each test is named after the
//! behaviour.

use super::story::{Story, Turn};
use crate::*;

const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];

#[test]
fn should_launch_init_container_serially_before_a_regular_container() {
    let story = Story::new(
        "Never i:init j:init k:init a",
        &[("i", "exit 0 in 1000"), ("j", "exit 0 in 1000"), ("k", "exit 0 in 1000"), ("a", "exit 0 in 1000")],
    )
    .until(10_000);
    story.order("start i#0, exit i#0 0, start j#0, exit j#0 0, start k#0, exit k#0 0, start a#0, exit a#0 0");
    story.phase(Phase::Succeeded);
    assert_eq!(story.count("start"), 4);
}

#[test]
fn should_not_launch_regular_containers_if_an_init_container_fails() {
    let story = Story::new("Never i:init j:init a", &[("i", "exit 0 in 100"), ("j", "exit 1 in 100")]).until(60_000);
    story.order("exit i#0 0, start j#0, exit j#0 1").never("start a").phase(Phase::Failed).is("j", "1");
    assert_eq!(story.count("start j"), 1);
}

#[test]
fn should_run_init_container_to_completion_before_call_to_post_start_of_regular_container() {
    let story = Story::new("Always i:init a:post", &[("i", "exit 0 in 3000")]).until(10_000);
    story.order("exit i#0 0, start a#0, post a#0, posted a#0").is("a", "Running");
}

#[test]
fn should_restart_failing_container_when_pod_restart_policy_is_always() {
    let story = Story::new("Always a", &[("a", "exit 1 in 500")]).until(60_000);
    story.order("exit a#0 1, start a#1, exit a#1 1, start a#2").phase(Phase::Running);
    assert!(story.when("start a#1") - story.when("exit a#0 1") < 100, "at once");
    assert!(story.when("start a#2") - story.when("exit a#1 1") >= 10_000, "after a while");
    story.told("BackOff", "Back-off restarting failed container a in pod pod_default(uid-1)");
}

#[test]
fn the_back_off_of_crashes_may_be_limited() {
    for (hold_ms, delays_ms) in
        [(1_000, [0, 1_000, 1_000]), (15_000, [0, 10_000, 15_000]), (300_000, [0, 10_000, 20_000])]
    {
        let story = Story::new(&format!("Always a hold={hold_ms}"), &[("a", "exit 1 in 500")]).until(60_000);
        for (attempt, delay_ms) in delays_ms.into_iter().enumerate() {
            let exited_ms = story.when(&format!("exit a#{attempt} 1"));
            let waited_ms = story.when(&format!("start a#{}", attempt + 1)) - exited_ms;
            assert!((delay_ms..delay_ms + 100).contains(&waited_ms), "{hold_ms}: {waited_ms} after attempt {attempt}");
        }
    }
}

#[test]
fn should_not_launch_second_container_before_post_start_of_the_first_container_completed() {
    let story = Story::new("Always a:post b", &[("a", "post 5000")]).until(3_000);
    story.order("start a#0, post a#0").never("start b").is("a", "ContainerCreating").phase(Phase::Pending);
    let story = story.until(10_000);
    story.order("start a#0, post a#0, posted a#0, start b#0").is("a", "Running").phase(Phase::Running);
}

#[test]
fn a_container_whose_post_start_fails_is_stopped_and_follows_the_policy() {
    let story = Story::new("Always a:post,pre b", &[("a", "post 1000 fails, pre 500")]).until(1_500);
    story.order("post a#0, posted a#0, pre a#0").is("a", "PostStartHookError");
    story.told("FailedPostStartHook", "PostStartHook failed").told("Killing", "FailedPostStartHook");
    let story = story.until(20_000);
    story.order("posted a#0, pre a#0, pred a#0, term a#0, exit a#0 143, start a#1, post a#1");
    let story = Story::new("Never a:post", &[("a", "post 1000 fails, term 0 in 10")]).until(20_000);
    assert_eq!(story.count("start"), 1);
    let story = Story::new("OnFailure a:post", &[("a", "post 1000 fails, term 0 in 10")]).until(5_000);
    story.order("exit a#0 0, start a#1");
}

#[test]
fn should_mark_a_pod_as_failed_and_produce_log() {
    for (plan, behaviours, code) in [
        ("Never i:init a", [("i", "exit 1 in 100"), ("a", "")], ("i", "1")),
        ("Never i:init a", [("i", "exit 0 in 100"), ("a", "exit 3 in 100")], ("a", "3")),
        ("Never i:init a", [("i", "exit 255 in 100"), ("a", "")], ("i", "255")),
    ] {
        Story::new(plan, &behaviours).until(60_000).phase(Phase::Failed).is(code.0, code.1);
    }
}

#[test]
fn should_finish_and_produce_log() {
    let story = Story::new("OnFailure i:init a", &[("i", "exit 0 in 100"), ("a", "exit 0 in 100")]).until(10_000);
    story.phase(Phase::Succeeded).is("i", "0").is("a", "0");
}

#[test]
fn should_not_start_an_init_container() {
    let story = Story::new("Never i:init j:init a", &[("i", "exit 1 in 100")]).until(60_000);
    story.never("start j").never("start a").phase(Phase::Failed).is("j", "PodInitializing");
}

#[test]
fn should_not_start_a_regular_container() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} i:init a"), &[("i", "exit 1 in 100")]).until(100_000);
        story.never("start a");
    }
}

#[test]
fn should_begin_initializing_the_pod() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} i:init a"), &[]).until(5_000);
        story.order("start i#0").never("start a").phase(Phase::Pending).is("i", "Running").is("a", "PodInitializing");
        let initialized = story.machine.report().conditions.initialized;
        assert_eq!((initialized.status, initialized.reason), (false, "ContainersNotInitialized"));
        assert_eq!(initialized.message, "containers with incomplete status: [i]");
    }
}

#[test]
fn should_continuously_run_pod_keeping_it_pending() {
    for policy in ["Always", "OnFailure"] {
        let story = Story::new(&format!("{policy} i:init a"), &[("i", "exit 1 in 100")]).until(200_000);
        assert!(story.count("start i") > 3, "{:?}", story.log);
        story.phase(Phase::Pending).never("start a").is("i", "CrashLoopBackOff").is("a", "PodInitializing");
    }
}

#[test]
fn should_have_init_container_restart_count_greater_than_zero() {
    for policy in ["Always", "OnFailure"] {
        let story = Story::new(&format!("{policy} i:init a"), &[("i", "exit 1 in 100")]).until(100_000);
        assert!(story.container("i").restart_count > 0);
        assert_eq!(story.container("a").restart_count, 0);
    }
}

#[test]
fn should_mark_an_init_container_as_failed() {
    let story = Story::new("Never s:sidecar i:init a", &[("i", "exit 1 in 100")]).until(60_000);
    story.is("i", "1").phase(Phase::Failed).order("exit i#0 1, term s#0, exit s#0 143");
}

#[test]
fn shouldnt_restart_init_containers_upon_regular_container_restart() {
    let story =
        Story::new("Always i:init j:init a", &[("i", "exit 0 in 10"), ("j", "exit 0 in 10"), ("a", "exit 1 in 100")])
            .until(120_000);
    assert_eq!((story.count("start i"), story.count("start j")), (1, 1));
    assert!(story.count("start a") > 3);
}

#[test]
fn should_successfully_restart_when_the_image_is_updated() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} a"), &[]).at(3_000, Turn::Update("a")).until(10_000);
        story.order("start a#0, update a, term a#0, exit a#0 143, start a#1").is("a", "Running");
        story.told("Killing", "Container a definition changed, will be restarted").phase(Phase::Running);
    }
}

#[test]
fn should_not_start_a_regular_container_whose_image_is_updated_during_initialization() {
    for policy in POLICIES {
        let story = Story::new(&format!("{policy} i:init a"), &[]).at(3_000, Turn::Update("a")).until(20_000);
        story.never("start a").never("term i");
        assert_eq!(story.count("start i"), 1);
    }
}

#[test]
fn should_update_the_image() {
    for policy in ["Always", "OnFailure"] {
        let failing = Story::new(&format!("{policy} i:init a"), &[("i", "exit 1 in 500")])
            .at(2_000, Turn::Update("i"))
            .until(3_000);
        failing.order("exit i#0 1, start i#1, exit i#1 1, update i, start i#2");
    }
    let waiting = Story::new("Never i:init a", &[("i", "exit 0 in 5000")]).at(2_000, Turn::Update("a")).until(10_000);
    waiting.order("update a, exit i#0 0, start a#0");
    assert_eq!(waiting.count("start a"), 1);
}

#[test]
fn should_not_update_the_image() {
    for policy in POLICIES {
        let done = Story::new(&format!("{policy} i:init a"), &[("i", "exit 0 in 500")])
            .at(3_000, Turn::Update("i"))
            .until(60_000);
        assert_eq!((done.count("start i"), done.count("term")), (1, 0));
    }
    let failed = Story::new("Never i:init a", &[("i", "exit 1 in 500")]).at(3_000, Turn::Update("i")).until(60_000);
    assert_eq!(failed.count("start"), 1);
    failed.phase(Phase::Failed);
}

#[test]
fn should_not_restart_init_container_when_updated_with_a_new_image_after_finishing() {
    let story = Story::new("Always i:init a", &[("i", "exit 0 in 500")]).at(5_000, Turn::Update("i")).until(60_000);
    assert_eq!((story.count("start i"), story.count("start a"), story.count("term")), (1, 1, 0));
}

#[test]
fn should_not_restart_the_init_container_if_the_image_is_updated_during_initialization() {
    let story = Story::new("Always i:init a", &[("i", "exit 0 in 9000")]).at(3_000, Turn::Update("i")).until(60_000);
    story.order("start i#0, update i, exit i#0 0, start a#0").never("term i").never("start i#1");
}

#[test]
fn should_not_restart_the_init_container_if_the_image_is_updated_during_termination() {
    let story = Story::new("Always i:init a", &[("i", "term 0 in 5000")])
        .at(3_000, Turn::Delete(30_000))
        .at(4_000, Turn::Update("i"))
        .until(60_000);
    story.order("delete, term i#0, update i, exit i#0 0").never("start i#1").never("start a");
    assert!(story.machine.is_finished());
}

#[test]
fn rules_decide_before_the_containers_policy_and_that_before_the_pods() {
    for (plan, behaviour, starts) in [
        ("Never a:again=42", "exit 42 in 100", 2),
        ("Never a:again=42", "exit 1 in 100", 1),
        ("Never a:again!42", "exit 1 in 100", 2),
        ("Never a:always", "exit 0 in 100", 2),
        ("Never a:onfailure", "exit 0 in 100", 1),
        ("Never a:onfailure", "exit 1 in 100", 2),
        ("Always a:never", "exit 1 in 100", 1),
        ("Always a:never,again=1", "exit 1 in 100", 2),
    ] {
        let story = Story::new(plan, &[("a", behaviour)]).until(5_000);
        assert_eq!(story.count("start a"), starts, "{plan}: {behaviour}");
    }
    for (plan, starts) in [("Never i:init,again=3 a", 2), ("Never i:init,onfailure a", 2), ("Always i:init,never a", 1)]
    {
        let story = Story::new(plan, &[("i", "first exit 3 in 100, exit 0 in 100")]).until(5_000);
        assert_eq!(story.count("start i"), starts, "{plan}");
        assert_eq!(story.count("start a"), starts - 1, "{plan}");
    }
}

#[test]
fn images_are_asked_for_when_their_containers_turn_has_come() {
    let mut script = super::script::Script::new("Always i:init a");
    script.run(
        "1001 see                    =>
         1002 admit                  => set_up, image i
         1003 ok image i             =>
         1004 ok set_up              => sandbox 0
         1005 ok sandbox 0           => start i#0 in s0
         1006 ok start i#0           =>
         1007 event s0 i#0=0         => image a
         1008 ok image a             => start a#0 in s0
         1009 ok start a#0           =>
         1009 phase Running
         1009 deadline none",
    );
}
