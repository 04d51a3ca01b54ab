use super::*;
use crate::{ContainerKind, Failure, PullPolicy, RestartPolicy};

const START_MS: Millis = 100_000;

fn probe(initial_delay_ms: u64, (success_threshold, failure_threshold): (u32, u32)) -> ProbePlan {
    ProbePlan { initial_delay_ms, period_ms: 10_000, success_threshold, failure_threshold, grace_ms: None }
}

fn plan(startup: Option<ProbePlan>, liveness: Option<ProbePlan>, readiness: Option<ProbePlan>) -> ContainerPlan {
    ContainerPlan {
        name: "c".to_owned(),
        kind: ContainerKind::Regular,
        image: "i".to_owned(),
        pull_policy: PullPolicy::Never,
        hash: "h".to_owned(),
        restart: RestartPolicy::Always,
        rules: vec![],
        post_start: false,
        pre_stop: false,
        startup,
        liveness,
        readiness,
    }
}

fn defaults() -> Option<ProbePlan> {
    Some(probe(0, (1, 3)))
}

fn said(healthy: bool, output: &str) -> Outcome {
    Outcome::Ok(Done::Probe { healthy, output: output.to_owned() })
}

fn failed(class: FailureClass) -> Outcome {
    Outcome::Failed(Failure { class, reason: String::new(), message: "no such container".to_owned() })
}

fn all_due(prober: &mut Prober, now_ms: Millis) -> Vec<ProbeKind> {
    std::iter::from_fn(|| prober.take_due(now_ms)).collect()
}

/// Answers one probe and tells what turned.
fn turn(prober: &mut Prober, kind: ProbeKind, healthy: bool) -> Option<Turned> {
    prober.answer("c", kind, &said(healthy, "")).turned
}

use ProbeKind::{Liveness, Readiness, Startup};

#[test]
fn before_any_probe_ran_the_results_are_initial() {
    // Readiness is failure, liveness success, startup unknown.
    let table = [
        (plan(None, None, None), true, true),
        (plan(None, defaults(), None), true, true),
        (plan(None, None, defaults()), true, false),
        (plan(defaults(), None, None), false, false),
        (plan(defaults(), defaults(), defaults()), false, false),
    ];
    for (plan, started, ready) in table {
        let prober = Prober::new(&plan, START_MS);
        assert_eq!((prober.started(), prober.ready()), (started, ready), "{plan:?}");
    }
}

#[test]
fn the_initial_delay_counts_from_the_containers_start() {
    let plan = plan(None, Some(probe(5_000, (1, 3))), defaults());
    let mut prober = Prober::new(&plan, START_MS);
    assert_eq!(prober.next_ms(), Some(START_MS));
    assert_eq!(all_due(&mut prober, START_MS), [Readiness]);
    assert_eq!(prober.next_ms(), Some(START_MS + 5_000));
    assert_eq!(all_due(&mut prober, START_MS + 4_999), []);
    assert_eq!(all_due(&mut prober, START_MS + 5_000), [Liveness]);
    assert_eq!(prober.next_ms(), None, "both are under way");
}

#[test]
fn until_startup_passes_nothing_else_is_asked() {
    let mut prober = Prober::new(&plan(defaults(), defaults(), defaults()), START_MS);
    assert_eq!(all_due(&mut prober, START_MS + 60_000), [Startup]);
    assert_eq!(prober.next_ms(), None);
    assert_eq!(turn(&mut prober, Startup, false), None);
    assert_eq!(prober.next_ms(), Some(START_MS + 70_000));
    assert_eq!(all_due(&mut prober, START_MS + 70_000), [Startup]);
    assert_eq!(turn(&mut prober, Startup, true), Some(Turned::Started));
    assert!(prober.started());
    assert_eq!(all_due(&mut prober, START_MS + 70_001), [Liveness, Readiness], "at once");
    assert!(!prober.ready());
    assert_eq!(turn(&mut prober, Readiness, true), Some(Turned::Ready));
    assert_eq!(turn(&mut prober, Liveness, true), None);
    assert_eq!(all_due(&mut prober, START_MS + 200_000), [Liveness, Readiness], "startup is never asked again");
}

#[test]
fn without_a_readiness_probe_a_container_is_ready_once_it_has_started() {
    let mut prober = Prober::new(&plan(defaults(), None, None), START_MS);
    assert!(!prober.ready());
    all_due(&mut prober, START_MS);
    assert_eq!(turn(&mut prober, Startup, true), Some(Turned::Started));
    assert!(prober.ready());
    assert_eq!(prober.next_ms(), None);
}

#[test]
fn it_takes_as_many_results_in_a_row_as_the_thresholds_say() {
    // Answers, and after each whether the container is ready.
    let table: [(_, &[(bool, bool)]); 4] = [
        ((1, 3), &[(true, true), (false, true), (false, true), (false, false), (true, true)]),
        ((1, 3), &[(true, true), (false, true), (false, true), (true, true), (false, true), (false, true)]),
        ((3, 1), &[(true, false), (true, false), (true, true), (false, false), (true, false), (true, false)]),
        ((2, 2), &[(true, false), (false, false), (true, false), (true, true), (false, true), (false, false)]),
    ];
    for (thresholds, answers) in table {
        let mut prober = Prober::new(&plan(None, None, Some(probe(0, thresholds))), START_MS);
        for (index, (healthy, ready)) in answers.iter().enumerate() {
            let before = prober.ready();
            assert_eq!(all_due(&mut prober, START_MS + 10_000 * index as u64), [Readiness]);
            let turned = turn(&mut prober, Readiness, *healthy);
            assert_eq!(prober.ready(), *ready, "{thresholds:?} {answers:?} at {index}");
            let expected = (before != *ready).then_some(if *ready { Turned::Ready } else { Turned::NotReady });
            assert_eq!(turned, expected);
        }
    }
}

#[test]
fn liveness_kills_at_its_threshold_and_then_rests() {
    let liveness = ProbePlan { grace_ms: Some(7_000), ..probe(0, (1, 3)) };
    let mut prober = Prober::new(&plan(None, Some(liveness), defaults()), START_MS);
    let mut now_ms = START_MS;
    for healthy in [false, false, true, false, false] {
        assert_eq!(all_due(&mut prober, now_ms), [Liveness, Readiness]);
        assert_eq!(turn(&mut prober, Liveness, healthy), None);
        turn(&mut prober, Readiness, true);
        now_ms += 10_000;
    }
    all_due(&mut prober, now_ms);
    let kill = Turned::Kill { kind: Liveness, grace_ms: Some(7_000) };
    assert_eq!(turn(&mut prober, Liveness, false), Some(kill));
    turn(&mut prober, Readiness, true);
    assert_eq!(all_due(&mut prober, now_ms + 60_000), [Readiness], "readiness goes on");
    assert!(prober.ready());
}

#[test]
fn startup_kills_at_its_threshold_and_then_rests() {
    let mut prober = Prober::new(&plan(Some(probe(0, (1, 2))), defaults(), defaults()), START_MS);
    all_due(&mut prober, START_MS);
    assert_eq!(turn(&mut prober, Startup, false), None);
    all_due(&mut prober, START_MS + 10_000);
    let kill = Turned::Kill { kind: Startup, grace_ms: None };
    assert_eq!(turn(&mut prober, Startup, false), Some(kill));
    assert!(!prober.started() && !prober.ready());
    assert_eq!(prober.next_ms(), None);
}

#[test]
fn an_error_leaves_the_result_and_the_count() {
    let mut prober = Prober::new(&plan(None, Some(probe(0, (1, 2))), None), START_MS);
    all_due(&mut prober, START_MS);
    assert_eq!(turn(&mut prober, Liveness, false), None);
    for outcome in [failed(FailureClass::Retry), failed(FailureClass::Gone), Outcome::Unknown] {
        assert_eq!(all_due(&mut prober, START_MS + 1_000_000), [Liveness]);
        let verdict = prober.answer("c", Liveness, &outcome);
        assert_eq!(verdict.turned, None);
        assert_eq!(verdict.event.unwrap().reason, pod::reasons::UNHEALTHY);
        prober.liveness.as_mut().unwrap().due_ms = START_MS;
    }
    all_due(&mut prober, START_MS + 2_000_000);
    let kill = Turned::Kill { kind: Liveness, grace_ms: None };
    assert_eq!(turn(&mut prober, Liveness, false), Some(kill));
}

#[test]
fn a_cancelled_probe_changes_and_tells_nothing() {
    let mut prober = Prober::new(&plan(None, None, defaults()), START_MS);
    all_due(&mut prober, START_MS);
    assert_eq!(prober.answer("c", Readiness, &failed(FailureClass::Cancelled)), Verdict::default());
    assert_eq!(prober.next_ms(), Some(START_MS + 10_000), "it is asked again in its turn");
}

#[test]
fn every_failure_is_told_in_the_words_of_its_probe() {
    let table = [
        (said(false, "HTTP probe failed with statuscode: 503"), Some("failed: HTTP probe failed with statuscode: 503")),
        (said(true, ""), None),
        (
            said(true, "Probe terminated redirects, Response body: x"),
            Some("warning: Probe terminated redirects, Response body: x"),
        ),
        (failed(FailureClass::Retry), Some("errored and resulted in unknown state: no such container")),
        (Outcome::Unknown, Some("errored and resulted in unknown state: no answer came in time")),
    ];
    for (kind, name) in [(Startup, "Startup"), (Liveness, "Liveness"), (Readiness, "Readiness")] {
        for (outcome, text) in &table {
            let startup = defaults().filter(|_| kind == Startup);
            let mut prober = Prober::new(&plan(startup, defaults(), defaults()), START_MS);
            all_due(&mut prober, START_MS);
            let warning = matches!(outcome, Outcome::Ok(Done::Probe { healthy: true, .. }));
            let expected = text.map(|text| Event {
                severity: Severity::Warning,
                reason: if warning { "ProbeWarning" } else { "Unhealthy" },
                message: format!("{name} probe {text}"),
                container: Some("web".to_owned()),
            });
            assert_eq!(prober.answer("web", kind, outcome).event, expected);
        }
    }
}

#[test]
fn an_events_text_is_bounded() {
    let mut prober = Prober::new(&plan(None, None, defaults()), START_MS);
    all_due(&mut prober, START_MS);
    let event = prober.answer("c", Readiness, &said(false, &"ß".repeat(10_000))).event.unwrap();
    assert!(event.message.len() <= 1024 && event.message.len() > 1020);
}

#[test]
fn a_slow_probe_is_never_asked_twice_at_once_and_is_not_made_up_for() {
    let mut prober = Prober::new(&plan(None, defaults(), None), START_MS);
    assert_eq!(all_due(&mut prober, START_MS), [Liveness]);
    // Its answer takes three periods.
    assert_eq!(all_due(&mut prober, START_MS + 30_000), []);
    turn(&mut prober, Liveness, true);
    assert_eq!(all_due(&mut prober, START_MS + 35_000), [Liveness], "what came due meanwhile, once");
    turn(&mut prober, Liveness, true);
    assert_eq!(prober.next_ms(), Some(START_MS + 45_000));
}

#[test]
fn periods_do_not_drift() {
    let mut prober = Prober::new(&plan(None, defaults(), None), START_MS);
    for round in 0..100 {
        // Each time it is noticed and answered a little late.
        let due_ms = START_MS + round * 10_000;
        assert_eq!(prober.next_ms(), Some(due_ms));
        assert_eq!(all_due(&mut prober, due_ms + 300), [Liveness]);
        turn(&mut prober, Liveness, true);
    }
}

#[test]
fn while_a_container_is_stopped_only_readiness_is_asked() {
    let mut prober = Prober::new(&plan(None, defaults(), defaults()), START_MS);
    all_due(&mut prober, START_MS);
    prober.hold();
    // The answer that was under way has no say any more.
    assert_eq!(prober.answer("c", Liveness, &said(false, "x")), Verdict::default());
    assert_eq!(turn(&mut prober, Readiness, true), Some(Turned::Ready));
    assert_eq!(all_due(&mut prober, START_MS + 60_000), [Readiness]);
    let mut starting = Prober::new(&plan(defaults(), None, defaults()), START_MS);
    starting.hold();
    assert_eq!(starting.next_ms(), None);
}

#[test]
fn after_a_restart_of_the_kubelet_what_was_known_stays_until_a_probe_says_otherwise() {
    let known = |started, ready| ContainerMemory {
        container_id: "id".to_owned(),
        started,
        ready,
        ..ContainerMemory::default()
    };
    let now_ms = START_MS + 1_000_000;
    let all = plan(defaults(), defaults(), defaults());
    let table = [
        (&all, known(true, true), (true, true)),
        (&all, known(true, false), (true, false)),
        (&all, known(false, false), (false, false)),
        (&all, known(false, true), (false, false)),
        (&plan(None, None, defaults()), known(false, false), (true, false)),
        (&plan(None, None, None), known(false, false), (true, true)),
    ];
    for (plan, known, expected) in table {
        let prober = Prober::resume(plan, &known, (START_MS, now_ms));
        assert_eq!((prober.started(), prober.ready()), expected, "{known:?}");
    }
    let mut prober = Prober::resume(&all, &known(true, true), (START_MS, now_ms));
    let due = all_due(&mut prober, now_ms + 10_000);
    assert_eq!(due, [Liveness, Readiness], "the startup probe is over");
    for _ in 0..2 {
        assert_eq!(turn(&mut prober, Readiness, false), None);
    }
    assert_eq!(turn(&mut prober, Readiness, false), Some(Turned::NotReady));
}

#[test]
fn after_a_restart_of_the_kubelet_first_probes_are_spread_over_the_period() {
    let plan = plan(None, defaults(), defaults());
    let now_ms = START_MS + 1_000_000;
    let first = |id: usize| {
        let known = ContainerMemory { container_id: format!("{id:064x}"), ..ContainerMemory::default() };
        Prober::resume(&plan, &known, (START_MS, now_ms)).next_ms().unwrap() - now_ms
    };
    let mut tenths = [0; 10];
    for id in 0..1_000 {
        assert_eq!(first(id), first(id), "it depends on the container alone");
        tenths[usize::try_from(first(id) / 1_000).unwrap()] += 1;
    }
    // The earlier of two probes: more often early than late, but everywhere.
    assert!(tenths[..9].iter().all(|count| *count > 10), "{tenths:?}");
    assert!(tenths.iter().all(|count| *count < 400), "{tenths:?}");
}

#[test]
fn a_restart_of_the_kubelet_does_not_shorten_the_initial_delay() {
    let plan = plan(None, Some(probe(60_000, (1, 3))), None);
    let known = ContainerMemory { container_id: "id".to_owned(), ..ContainerMemory::default() };
    let prober = Prober::resume(&plan, &known, (START_MS, START_MS + 1));
    assert_eq!(prober.next_ms(), Some(START_MS + 60_000));
}

#[test]
fn a_changed_plan_is_followed_in_place() {
    let mut prober = Prober::new(&plan(None, None, Some(probe(0, (1, 3)))), START_MS);
    all_due(&mut prober, START_MS);
    turn(&mut prober, Readiness, true);
    // A changed threshold counts on.
    prober.replan(&plan(None, None, Some(probe(0, (1, 1)))));
    assert!(prober.ready());
    all_due(&mut prober, START_MS + 10_000);
    assert_eq!(turn(&mut prober, Readiness, false), Some(Turned::NotReady));
    // A probe that goes takes its say along; a new one begins anew.
    prober.replan(&plan(None, defaults(), None));
    assert!(prober.ready());
    assert_eq!(all_due(&mut prober, START_MS + 20_000), [Liveness]);
    prober.replan(&plan(None, None, defaults()));
    assert!(!prober.ready());
    // Who has started does not start again; who had not has, once nobody asks.
    prober.replan(&plan(defaults(), None, None));
    assert!(prober.started());
    let mut starting = Prober::new(&plan(defaults(), None, None), START_MS);
    starting.replan(&plan(None, None, None));
    assert!(starting.started() && starting.ready());
}
