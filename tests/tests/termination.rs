//! How pods end: grace, hooks, the order of sidecars, and what is said of it afterwards.

use e2e::story::{ended, is, once_started, tells};
use e2e::{Machine, Options, Part, Play, Term, Then};
use serde_json::{Value, json};

const SIDECARS: [&str; 3] = ["sidecar-1", "sidecar-2", "sidecar-3"];

fn machine() -> Machine {
    Machine::start(Options::default())
}

fn pre_stop(name: &str, then: Then) -> Value {
    json!({"preStop": tells(&format!("pre-stop-{name}"), then)})
}

/// A pod of three sidecars made by `sidecar` and a regular container.
fn with_sidecars(sidecar: impl Fn(&str) -> Part, main: Part) -> Play {
    let play = Play::new("a", "Never");
    SIDECARS.iter().fold(play, |play, name| play.init(sidecar(name).sidecar())).main(main)
}

/// Plays the pod and waits until all of its containers have told that they started.
fn started(machine: &Machine, play: &Play) {
    machine.play(play);
    for name in SIDECARS.iter().chain(&["main"]) {
        machine.await_told("a", &format!("{name} Started"), 1);
    }
    machine.await_pod("a", |pod| pod["status"]["phase"] == "Running");
}

#[test]
fn should_respect_termination_grace_period_seconds() {
    let machine = machine();
    // One exits when it is told to, long before its grace is over; the other one is killed when it is.
    machine.play(&Play::new("polite", "Always").grace(3600).main(Part::forever("main").on_term(Term::Exit(3))));
    machine.play(&Play::new("deaf", "Always").grace(1).main(Part::forever("main").on_term(Term::Ignore)));
    for (pod, code) in [("polite", 3), ("deaf", 137)] {
        machine.await_told(pod, "main Started", 1);
        machine.await_pod(pod, |pod| is(pod, "main", "running"));
        let last = machine.last_of(pod);
        assert_eq!(ended(&last, "main"), (code, "Error".into()));
        assert!(last["metadata"]["deletionTimestamp"].is_string(), "{last}");
        machine.story(pod).in_order(&["main Started", "main Terminating"]);
        assert_eq!(machine.story(pod).count("main Terminating"), 1);
    }
    machine.finish();
}

#[test]
fn should_respect_termination_grace_period_seconds_with_long_running_pre_stop_hook() {
    let machine = machine();
    let main = Part::forever("main").on_term(Term::Exit(0)).field("lifecycle", pre_stop("main", Then::Never));
    machine.play(&Play::new("a", "Always").grace(1).main(main));
    machine.await_told("a", "main Started", 1);
    machine.await_pod("a", |pod| is(pod, "main", "running"));
    let last = machine.last_of("a");
    let story = machine.story("a");
    // The hook is cut off where the grace ends, and the container still has its least time to go by itself.
    story.in_order(&["pre-stop-main Started", "main Terminating", "main Exiting"]);
    assert_eq!(story.count("pre-stop-main Exiting"), 0);
    assert_eq!(ended(&last, "main"), (0, "Completed".into()));
    machine.finish();
}

#[test]
fn should_terminate_sidecars_in_reverse_order_after_all_main_containers_have_exited() {
    let machine = machine();
    let sidecar = |name: &str| Part::forever(name).on_term(Term::Gate(0));
    started(&machine, &with_sidecars(sidecar, Part::gated("main", 0)));
    machine.open("a", "main.end");
    for name in SIDECARS.iter().rev() {
        machine.await_told("a", &format!("{name} Terminating"), 1);
        machine.open("a", &format!("{name}.term"));
    }
    let pod = machine.await_phase("a", "Succeeded");
    let story = machine.story("a");
    story.in_order(&[
        "main Exiting",
        "sidecar-3 Terminating",
        "sidecar-3 Exiting",
        "sidecar-2 Terminating",
        "sidecar-2 Exiting",
        "sidecar-1 Terminating",
        "sidecar-1 Exiting",
    ]);
    story.in_order(&["sidecar-1 Starting", "sidecar-2 Starting", "sidecar-3 Starting", "main Starting"]);
    for name in SIDECARS {
        assert_eq!(ended(&pod, name), (0, "Completed".into()));
    }
    machine.finish();
}

/// A pod with an init container, two sidecars and a regular container is taken away; while it ends, its manifest comes
/// back with another image for a sidecar, which changes nothing for the pod that ends.
fn terminate_gracefully(policy: &str) {
    let machine = machine();
    let play = Play::new("a", policy)
        .grace(180)
        .init(Part::brief("init", 0))
        .init(Part::forever("sidecar-2").on_term(Term::Gate(0)).sidecar())
        .init(Part::forever("sidecar-3").on_term(Term::Gate(0)).sidecar())
        .main(Part::forever("main").on_term(Term::Gate(0)))
        .lasting();
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    machine.await_ready("a");
    let held = machine.hold("a");
    machine.end_play("a");
    machine.await_told("a", "main Terminating", 1);
    machine.open("a", "main.term");
    for name in ["sidecar-3", "sidecar-2"] {
        machine.await_told("a", &format!("{name} Terminating"), 1);
        machine.open("a", &format!("{name}.term"));
    }
    let last = held.last();
    for name in ["init", "sidecar-2", "sidecar-3", "main"] {
        assert_eq!(ended(&last, name), (0, "Completed".into()), "{last}");
    }
    let story = machine.story("a");
    story.in_order(&[
        "main Exiting",
        "sidecar-3 Terminating",
        "sidecar-3 Exiting",
        "sidecar-2 Terminating",
        "sidecar-2 Exiting",
    ]);
    for name in ["init", "sidecar-2", "sidecar-3", "main"] {
        story.starts(name, 1);
    }
    machine.finish();
}

#[test]
fn should_terminate_gracefully_when_restart_policy_is_always() {
    terminate_gracefully("Always");
}

#[test]
fn should_terminate_gracefully_when_restart_policy_is_on_failure() {
    terminate_gracefully("OnFailure");
}

#[test]
fn should_terminate_gracefully_when_restart_policy_is_never() {
    terminate_gracefully("Never");
}

#[test]
fn should_terminate_sidecars_simultaneously_if_prestop_doesnt_exit() {
    let machine = machine();
    let sidecar =
        |name: &str| Part::forever(name).on_term(Term::Ignore).field("lifecycle", pre_stop(name, Then::Never));
    started(&machine, &with_sidecars(sidecar, Part::gated("main", 0)).grace(1));
    machine.open("a", "main.end");
    let pod = machine.await_pod("a", |pod| SIDECARS.iter().all(|name| is(pod, name, "terminated")));
    let story = machine.story("a");
    for name in SIDECARS {
        assert_eq!(ended(&pod, name), (137, "Error".into()));
        assert_eq!(story.count(&format!("pre-stop-{name} Exiting")), 0);
        // Where the grace is over nobody waits for a turn: each has its signal before the first one is dead.
        story.in_order(&[&format!("pre-stop-{name} Started"), &format!("{name} Terminating")]);
    }
    machine.await_phase("a", "Succeeded");
    machine.finish();
}

#[test]
fn should_call_sidecar_container_pre_stop_hook_simultaneously() {
    let machine = machine();
    let sidecar = |name: &str| Part::forever(name).field("lifecycle", pre_stop(name, Then::Gate(0)));
    started(&machine, &with_sidecars(sidecar, Part::gated("main", 0)));
    machine.open("a", "main.end");
    // None of the hooks ends before all of them have begun.
    for name in SIDECARS {
        machine.await_told("a", &format!("pre-stop-{name} Started"), 1);
    }
    for name in SIDECARS {
        machine.open("a", &format!("pre-stop-{name}.end"));
    }
    let pod = machine.await_phase("a", "Succeeded");
    for name in SIDECARS {
        assert_eq!(ended(&pod, name), (0, "Completed".into()));
        machine.story("a").in_order(&[&format!("pre-stop-{name} Exiting"), &format!("{name} Terminating")]);
    }
    machine.story("a").in_order(&["main Exiting", "sidecar-3 Exiting", "sidecar-2 Exiting", "sidecar-1 Exiting"]);
    machine.finish();
}

#[test]
fn should_not_hang_in_termination_if_terminated_during_initialization() {
    let machine = machine();
    let sidecar = |name: &str| Part::forever(name).field("lifecycle", pre_stop(name, Then::Never)).sidecar();
    let play = SIDECARS
        .iter()
        .fold(Play::new("a", "Never").grace(3600).init(Part::forever("init")), |play, name| play.init(sidecar(name)));
    machine.play(&play.main(Part::forever("main")));
    machine.await_told("a", "init Started", 1);
    machine.await_pod("a", |pod| is(pod, "init", "running"));
    let last = machine.last_of("a");
    assert_eq!(ended(&last, "init"), (0, "Completed".into()));
    let story = machine.story("a");
    for name in SIDECARS {
        story.starts(name, 0);
        assert_eq!(story.count(&format!("pre-stop-{name} Started")), 0);
    }
    machine.finish();
}

#[test]
fn should_terminate_restartable_init_containers_gracefully_if_there_is_a_non_started_restartable_init_container() {
    let machine = machine();
    let play = Play::new("a", "Never")
        .grace(3600)
        .init(Part::brief("init", 0))
        .init(Part::forever("sidecar-2").held().sidecar().field("startupProbe", once_started()))
        .init(Part::forever("sidecar-3").sidecar())
        .main(Part::forever("main"));
    machine.play(&play);
    machine.await_told("a", "sidecar-2 Starting", 1);
    machine.await_pod("a", |pod| is(pod, "sidecar-2", "running"));
    let last = machine.last_of("a");
    assert_eq!(ended(&last, "sidecar-2"), (0, "Completed".into()));
    machine.story("a").in_order(&["sidecar-2 Terminating", "sidecar-2 Exiting"]);
    machine.story("a").starts("sidecar-3", 0);
    machine.story("a").starts("main", 0);
    machine.finish();
}

/// What a pod of three sidecars and a regular container looked like at last.
struct End {
    phase: &'static str,
    main: i64,
    sidecars: [i64; 3],
}

/// Plays the pod, takes its manifest away, and compares what was seen of it at last.
fn end_of(play: &Play, expected: &End) {
    let machine = machine();
    started(&machine, play);
    let last = machine.last_of("a");
    let reason = |code: i64| if code == 0 { "Completed" } else { "Error" };
    assert_eq!(ended(&last, "main"), (expected.main, reason(expected.main).to_owned()), "{last}");
    for (name, code) in SIDECARS.iter().zip(expected.sidecars) {
        assert_eq!(ended(&last, name), (code, reason(code).to_owned()), "{name} in {last}");
    }
    assert_eq!(last["status"]["phase"], expected.phase, "{last}");
    machine.finish();
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_terminated_with_non_zero_exit_code() {
    let code = |name: &str| i32::from(name == "sidecar-2");
    let play = with_sidecars(|name| Part::forever(name).on_term(Term::Exit(code(name))), Part::forever("main"));
    end_of(&play, &End { phase: "Succeeded", main: 0, sidecars: [0, 1, 0] });
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_terminated_with_non_zero_exit_code_by_prestop_hook()
 {
    let hook = |name: &str| pre_stop(name, Then::Exit(i32::from(name == "sidecar-2")));
    let play = with_sidecars(|name| Part::forever(name).field("lifecycle", hook(name)), Part::forever("main"));
    end_of(&play, &End { phase: "Succeeded", main: 0, sidecars: [0, 0, 0] });
}

#[test]
fn should_mark_pod_as_failed_if_regular_container_has_exceeded_its_termination_grace_period_seconds() {
    let term = |name: &str| if name == "sidecar-2" { Term::Exit(0) } else { Term::Ignore };
    let play =
        with_sidecars(|name| Part::forever(name).on_term(term(name)), Part::forever("main").on_term(Term::Ignore));
    end_of(&play.grace(1), &End { phase: "Failed", main: 137, sidecars: [137, 0, 137] });
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_restartable_init_containers_have_exceeded_its_termination_grace_period_seconds()
 {
    let term = |name: &str| if name == "sidecar-2" { Term::Ignore } else { Term::Exit(0) };
    let play = with_sidecars(|name| Part::forever(name).on_term(term(name)), Part::forever("main"));
    end_of(&play.grace(1), &End { phase: "Succeeded", main: 0, sidecars: [0, 137, 0] });
}

#[test]
fn should_mark_pod_as_failed_if_any_of_the_prestop_hook_in_regular_container_has_exceeded_its_termination_grace_period_seconds()
 {
    let term = |name: &str| if name == "sidecar-2" { Term::Ignore } else { Term::Exit(0) };
    let main = Part::forever("main").on_term(Term::Ignore).field("lifecycle", pre_stop("main", Then::Never));
    let play = with_sidecars(|name| Part::forever(name).on_term(term(name)), main);
    end_of(&play.grace(1), &End { phase: "Failed", main: 137, sidecars: [0, 137, 0] });
}

#[test]
fn should_mark_pod_as_succeeded_if_any_of_the_prestop_hook_in_restartable_init_containers_have_exceeded_its_termination_grace_period_seconds()
 {
    let sidecar = |name: &str| match name {
        "sidecar-2" => Part::forever(name).on_term(Term::Ignore).field("lifecycle", pre_stop(name, Then::Never)),
        _ => Part::forever(name).field("lifecycle", pre_stop(name, Then::Exit(0))),
    };
    end_of(
        &with_sidecars(sidecar, Part::forever("main")).grace(1),
        &End { phase: "Succeeded", main: 0, sidecars: [0, 137, 0] },
    );
}
