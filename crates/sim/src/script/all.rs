//! The scripts. Each ends in a look at the pod or with its end, so that nothing is under way when it is over.

use super::Hook::{Fails, Succeeds, Waits};
use super::Kind::{Init, Regular, Sidecar};
use super::Moment::{PostStart, PreStop};
use super::Probe::{Liveness, Readiness, Startup};
use super::Step::{
    Await, EndHook, Exit, Fail, Gone, KillKubelet, LoseSandbox, RemoveManifest, See, StartKubelet, Succeed,
};
use super::{Role, Script, Step};
use serde_json::{Value, json};

fn main() -> Role {
    Role::new(Regular, "main")
}

fn steps(script: Script, steps: &[Step]) -> Script {
    steps.iter().fold(script, |script, step| script.step(*step))
}

fn rule(action: &str, code: i32) -> Value {
    json!([{ "action": action, "exitCodes": { "operator": "In", "values": [code] } }])
}

/// Every script by its name.
pub fn all() -> Vec<(&'static str, Script)> {
    macro_rules! named {
        ($($script:ident),* $(,)?) => { vec![$((stringify!($script), $script())),*] };
    }
    named![
        a_container_that_fails_starts_again_at_once_and_then_later,
        a_pod_that_is_never_restarted_ends_as_its_containers_do,
        init_containers_run_one_after_the_other,
        a_failed_init_container_ends_the_pod,
        sidecars_start_in_order_and_stop_the_other_way_round,
        sidecars_end_after_the_main_containers_are_done,
        a_container_that_ignores_the_stop_signal_is_killed,
        hooks_surround_a_container,
        a_failed_post_start_hook_takes_its_container_along,
        a_pre_stop_hook_that_does_not_end_is_cut_off,
        readiness_turns,
        liveness_restarts_a_container,
        a_startup_probe_holds_back_what_comes_after,
        a_rule_restarts_a_container,
        a_rule_restarts_all_containers,
        a_container_ends_while_no_kubelet_runs,
        a_kubelet_killed_amid_init_goes_on,
        a_kubelet_killed_amid_a_hook_runs_it_again,
        a_kubelet_killed_amid_termination_ends_it,
        a_manifest_goes_while_no_kubelet_runs,
        a_lost_sandbox_comes_back,
        a_deadline_ends_the_pod,
        a_pod_that_cannot_run_here_is_rejected,
        a_sidecar_that_fails_starts_again_beside_the_others,
        a_lost_sandbox_ends_a_pod_that_is_never_restarted,
        a_kubelet_killed_amid_a_restart_of_all_goes_on,
        a_kubelet_killed_amid_a_pre_stop_hook_ends_the_pod,
        a_pod_that_has_ended_stays_so_for_the_next_kubelet,
        a_manifest_goes_amid_init,
        containers_share_their_processes,
    ]
}

pub fn a_container_that_fails_starts_again_at_once_and_then_later() -> Script {
    let script = Script::new("Always").role(main());
    let first = [Await("main started", 1), Exit("main", 3), Await("main started", 2), See];
    steps(steps(script, &first), &[Exit("main", 0), See])
}

pub fn a_pod_that_is_never_restarted_ends_as_its_containers_do() -> Script {
    let script = Script::new("Never").role(main()).role(Role::new(Regular, "other"));
    let first = [Await("main started", 1), Await("other started", 1), See, Exit("main", 0), See];
    steps(steps(script, &first), &[Exit("other", 7), See, RemoveManifest, Gone])
}

pub fn init_containers_run_one_after_the_other() -> Script {
    let script =
        Script::new("OnFailure").role(Role::new(Init, "one")).role(Role::new(Init, "two").brief(0)).role(main());
    let script = script.order("one ended 1", "one started#2").order("one ended 0", "two started");
    let script = script.order("two ended 0", "main started");
    let first = [Await("one started", 1), See, Exit("one", 1), Await("one started", 2), See, Exit("one", 0)];
    steps(steps(script, &first), &[Await("main started", 1), See, Exit("main", 0), See])
}

pub fn a_failed_init_container_ends_the_pod() -> Script {
    let script = Script::new("Never").role(Role::new(Init, "one").brief(2)).role(Role::new(Init, "two")).role(main());
    steps(script, &[Await("one ended", 1), See])
}

pub fn sidecars_start_in_order_and_stop_the_other_way_round() -> Script {
    let script = Script::new("Always").role(Role::new(Sidecar, "one").unwell(Startup));
    let script = script.role(Role::new(Sidecar, "two").well(Startup)).role(main());
    let script = script.order("one started", "two started").order("two started", "main started");
    let script = script.order("main ended 143", "two stopping").order("two ended 143", "one stopping");
    let first = [Await("one started", 1), See, Succeed("one", Startup), Await("main started", 1), See];
    steps(steps(script, &first), &[RemoveManifest, Gone])
}

pub fn sidecars_end_after_the_main_containers_are_done() -> Script {
    let script =
        Script::new("Never").role(Role::new(Sidecar, "one")).role(Role::new(Sidecar, "two").hook(PreStop, Waits));
    let script = script.role(main()).order("main ended 5", "two stopping").order("two ended 143", "one stopping");
    let first = [Await("one started", 1), Await("two started", 1), Await("main started", 1), See, Exit("main", 5)];
    steps(steps(script, &first), &[Await("two preStop", 1), See, EndHook("two", PreStop), Await("one ended", 1), See])
}

pub fn a_container_that_ignores_the_stop_signal_is_killed() -> Script {
    let script = Script::new("Never").grace_s(2).role(main().ignores_term()).role(Role::new(Regular, "other"));
    steps(script, &[Await("main started", 1), Await("other started", 1), See, RemoveManifest, Gone])
}

pub fn hooks_surround_a_container() -> Script {
    let script = Script::new("Never").role(main().hook(PostStart, Waits).hook(PreStop, Waits));
    let script = script.role(Role::new(Regular, "other"));
    let script = script.order("main postStart", "other started").order("main preStop", "main stopping");
    let first = [Await("main started", 1), Await("main postStart", 1), See, EndHook("main", PostStart)];
    let script = steps(script, &first);
    let script = steps(script, &[Await("other started", 1), See, RemoveManifest, Await("main preStop", 1)]);
    steps(script, &[Await("other ended", 1), EndHook("main", PreStop), Gone])
}

pub fn a_failed_post_start_hook_takes_its_container_along() -> Script {
    let script = Script::new("Never").role(main().hook(PostStart, Fails).hook(PreStop, Succeeds));
    let script = script.order("main postStart", "main preStop").order("main preStop", "main stopping");
    steps(script, &[Await("main ended", 1), See])
}

pub fn a_pre_stop_hook_that_does_not_end_is_cut_off() -> Script {
    let script =
        Script::new("Always").grace_s(2).role(main().hook(PreStop, Waits)).order("main preStop", "main stopping");
    steps(script, &[Await("main started", 1), See, RemoveManifest, Gone])
}

pub fn readiness_turns() -> Script {
    let script = Script::new("Always").role(main().unwell(Readiness)).role(Role::new(Regular, "other"));
    let first = [Await("main started", 1), Await("other started", 1), See, Succeed("main", Readiness), See];
    steps(steps(script, &first), &[Fail("main", Readiness), See])
}

pub fn liveness_restarts_a_container() -> Script {
    let script = Script::new("Always").role(main().well(Liveness).hook(PreStop, Waits));
    let script = script.order("main preStop", "main stopping").order("main ended 143", "main started#2");
    let first = [Await("main started", 1), See, Fail("main", Liveness), Await("main preStop", 1)];
    let then = [Succeed("main", Liveness), EndHook("main", PreStop), Await("main started", 2), See];
    steps(steps(script, &first), &then)
}

pub fn a_startup_probe_holds_back_what_comes_after() -> Script {
    let main = main().unwell(Startup).unwell(Liveness).well(Readiness);
    let script = Script::new("Always").role(main).role(Role::new(Regular, "other").unwell(Readiness));
    // While the other one is probed thrice, liveness would have killed this one, and readiness made it ready.
    let first = [Await("main started", 1), Await("other started", 1), See, Succeed("other", Readiness), See];
    let then = [Fail("other", Readiness), See, Succeed("main", Liveness), Succeed("main", Startup), See];
    steps(steps(script, &first), &then)
}

pub fn a_rule_restarts_a_container() -> Script {
    let main = main().field("restartPolicy", json!("Never")).field("restartPolicyRules", rule("Restart", 42));
    let script = Script::new("Never").role(main);
    let first = [Await("main started", 1), Exit("main", 42), Await("main started", 2), See];
    steps(steps(script, &first), &[Exit("main", 41), See])
}

pub fn a_rule_restarts_all_containers() -> Script {
    let main = main().field("restartPolicy", json!("Never"));
    let main = main.field("restartPolicyRules", rule("RestartAllContainers", 43));
    let script = Script::new("Never").role(Role::new(Init, "init").brief(0)).role(Role::new(Sidecar, "sidecar"));
    let script = script.role(main).role(Role::new(Regular, "other"));
    let script = script.order("main ended 43", "other stopping").order("other ended 143", "init started#2");
    let script = script.order("sidecar ended 143", "init started#2").order("init ended 0#2", "main started#2");
    let first = [Await("sidecar started", 1), Await("main started", 1), Await("other started", 1), See];
    let then =
        [Exit("main", 43), Await("main started", 2), Await("other started", 2), Await("sidecar started", 2), See];
    steps(steps(script, &first), &then)
}

pub fn a_container_ends_while_no_kubelet_runs() -> Script {
    let script = Script::new("OnFailure").role(main()).role(Role::new(Regular, "other"));
    let first = [Await("main started", 1), Await("other started", 1), See, KillKubelet, Exit("main", 9)];
    let then =
        [Exit("other", 0), Await("main ended", 1), Await("other ended", 1), StartKubelet, Await("main started", 2)];
    steps(steps(script, &first), &then).step(See)
}

pub fn a_kubelet_killed_amid_init_goes_on() -> Script {
    let script = Script::new("Always").role(Role::new(Init, "one")).role(Role::new(Init, "two")).role(main());
    let script = script.order("one ended 0", "two started").order("two ended 0", "main started");
    let first = [Await("one started", 1), KillKubelet, Exit("one", 0), Await("one ended", 1), StartKubelet];
    let then = [Await("two started", 1), KillKubelet, StartKubelet, See, Exit("two", 0), Await("main started", 1), See];
    steps(steps(script, &first), &then)
}

pub fn a_kubelet_killed_amid_a_hook_runs_it_again() -> Script {
    let script = Script::new("Always").role(main().hook(PostStart, Waits));
    let first = [Await("main started", 1), Await("main postStart", 1), See, KillKubelet, StartKubelet];
    steps(steps(script, &first), &[Await("main postStart", 2), See, EndHook("main", PostStart), See])
}

pub fn a_kubelet_killed_amid_termination_ends_it() -> Script {
    let script = Script::new("Always").role(Role::new(Sidecar, "sidecar")).role(main().ignores_term());
    let script = script.order("main stopping", "main ended 0").order("main ended 0", "sidecar stopping");
    let first = [Await("sidecar started", 1), Await("main started", 1), See, RemoveManifest, Await("main stopping", 1)];
    steps(steps(script, &first), &[KillKubelet, StartKubelet, Exit("main", 0), Gone])
}

pub fn a_manifest_goes_while_no_kubelet_runs() -> Script {
    let script = Script::new("Always").role(Role::new(Sidecar, "sidecar")).role(main());
    let script = script.order("main ended 143", "sidecar stopping");
    let first = [Await("sidecar started", 1), Await("main started", 1), See, KillKubelet, RemoveManifest, StartKubelet];
    steps(steps(script, &first), &[Await("sidecar ended", 1), Gone])
}

pub fn a_lost_sandbox_comes_back() -> Script {
    let script = Script::new("Always").role(Role::new(Init, "init").brief(0)).role(main());
    let script = script.order("main ended 137", "init started#2").order("init ended 0#2", "main started#2");
    steps(script, &[Await("main started", 1), See, LoseSandbox, Await("main started", 2), See])
}

pub fn a_deadline_ends_the_pod() -> Script {
    let script = Script::new("Always").field("activeDeadlineSeconds", json!(8)).role(main());
    steps(script, &[Await("main started", 1), Await("main ended", 1), See])
}

pub fn a_pod_that_cannot_run_here_is_rejected() -> Script {
    let script = Script::new("Always").field("nodeSelector", json!({ "disk": "none" })).role(main());
    steps(script, &[See, RemoveManifest, Gone])
}

pub fn a_sidecar_that_fails_starts_again_beside_the_others() -> Script {
    let script = Script::new("Never").role(Role::new(Sidecar, "sidecar").well(Readiness)).role(main());
    let first = [Await("sidecar started", 1), Await("main started", 1), See, Exit("sidecar", 4)];
    steps(steps(script, &first), &[Await("sidecar started", 2), See, Exit("main", 0), See])
}

pub fn a_lost_sandbox_ends_a_pod_that_is_never_restarted() -> Script {
    let script = Script::new("Never").role(main()).role(Role::new(Regular, "other"));
    let first = [Await("main started", 1), Await("other started", 1), Exit("other", 0), See];
    steps(steps(script, &first), &[LoseSandbox, Await("main ended", 1), See])
}

pub fn a_kubelet_killed_amid_a_restart_of_all_goes_on() -> Script {
    let main = main().field("restartPolicy", json!("Never"));
    let main = main.field("restartPolicyRules", rule("RestartAllContainers", 43));
    let script = Script::new("Never").role(Role::new(Init, "init").brief(0)).role(main);
    let script = script.role(Role::new(Regular, "other").ignores_term());
    let script = script.order("main ended 43", "other stopping").order("other ended 6", "init started#2");
    let first =
        [Await("main started", 1), Await("other started", 1), See, Exit("main", 43), Await("other stopping", 1)];
    let then = [KillKubelet, Exit("other", 6), Await("other ended", 1), StartKubelet];
    let last = [Await("main started", 2), Await("other started", 2), See, RemoveManifest, Await("other stopping", 2)];
    steps(steps(steps(steps(script, &first), &then), &last), &[Exit("other", 0), Gone])
}

pub fn a_kubelet_killed_amid_a_pre_stop_hook_ends_the_pod() -> Script {
    let script = Script::new("Always").role(main().hook(PreStop, Waits)).order("main preStop", "main stopping");
    let first = [Await("main started", 1), See, RemoveManifest, Await("main preStop", 1), KillKubelet, StartKubelet];
    steps(steps(script, &first), &[Await("main preStop", 2), EndHook("main", PreStop), Gone])
}

pub fn a_pod_that_has_ended_stays_so_for_the_next_kubelet() -> Script {
    let script = Script::new("OnFailure").role(Role::new(Init, "init").brief(0)).role(main());
    steps(script, &[Await("main started", 1), Exit("main", 0), See, KillKubelet, StartKubelet, See])
}

pub fn a_manifest_goes_amid_init() -> Script {
    let script = Script::new("Always").role(Role::new(Sidecar, "sidecar")).role(Role::new(Init, "init")).role(main());
    let script = script.order("init ended 143", "sidecar stopping");
    steps(script, &[Await("sidecar started", 1), Await("init started", 1), See, RemoveManifest, Gone])
}

pub fn containers_share_their_processes() -> Script {
    let script = Script::new("OnFailure").field("shareProcessNamespace", json!(true)).role(main());
    let script = script.role(Role::new(Regular, "other").well(Liveness).hook(PostStart, Succeeds).hook(PreStop, Waits));
    let script = script.order("other preStop", "other stopping");
    let first = [Await("main started", 1), Await("other started", 1), See, Exit("main", 12), Await("main started", 2)];
    let then = [See, Fail("other", Liveness), Await("other preStop", 1), Succeed("other", Liveness)];
    let last = [EndHook("other", PreStop), Await("other started", 2), See, RemoveManifest, Gone];
    steps(steps(steps(script, &first), &then), &last)
}
