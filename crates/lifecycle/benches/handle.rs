//! What one input costs: a relist of a healthy pod, a crash with its restart, a report.

use criterion::{Criterion, criterion_group, criterion_main};
use lifecycle::*;
use std::hint::black_box;

const CONTAINERS: usize = 3;

fn at(mono_ms: Millis) -> Now {
    Now { mono_ms, wall_ns: mono_ms as i64 * 1_000_000 }
}

fn plan() -> PodPlan {
    let container = |index: usize| ContainerPlan {
        name: format!("c{index}"),
        image: "nginx".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        hash: "5f3c".to_owned(),
        kind: ContainerKind::Regular,
        restart: RestartPolicy::Always,
        rules: Vec::new(),
        post_start: false,
        pre_stop: false,
        startup: None,
        liveness: None,
        readiness: None,
    };
    PodPlan {
        uid: "0c8f9f0e-5a1c-4f5e-9a8e-7f0c1f6f0a11".to_owned(),
        full_name: "web_default".to_owned(),
        generation: 0,
        active_deadline_ms: None,
        max_restart_delay_ms: backoff::CRASH.max_ms,
        host_network: false,
        restart_policy: RestartPolicy::Always,
        grace_ms: 30_000,
        containers: (0..CONTAINERS).map(container).collect(),
    }
}

fn observed(first: ObservedState) -> ObservedPod {
    let container = |index: usize| ObservedContainer {
        id: format!("{index:032x}"),
        sandbox_id: "aa".to_owned(),
        name: format!("c{index}"),
        attempt: 0,
        hash: "5f3c".to_owned(),
        state: if index == 0 { first.clone() } else { ObservedState::Running { started_at_ns: 1 } },
        image: "nginx".to_owned(),
        image_ref: "sha256:aa".to_owned(),
        created_at_ns: 1,
    };
    let sandbox = ObservedSandbox {
        id: "aa".to_owned(),
        attempt: 0,
        ready: true,
        ips: vec!["10.0.0.2".to_owned()],
        created_at_ns: 1,
    };
    ObservedPod { sandboxes: vec![sandbox], containers: (0..CONTAINERS).map(container).collect() }
}

fn running() -> PodMachine {
    let mut machine = PodMachine::new(plan(), at(1_000));
    let mut actions = Vec::new();
    let pod = observed(ObservedState::Running { started_at_ns: 1 });
    machine.handle(at(1_001), Input::Observed { stamp: 1_001, pod }, &mut actions);
    machine.handle(at(1_002), Input::Admit, &mut actions);
    machine.handle(at(1_003), Input::Completed { id: EffectId(1), outcome: Outcome::Ok(Done::Nothing) }, &mut actions);
    machine
}

/// Three init containers that are done, two sidecars and three containers with probes, all of it running.
fn rich() -> (PodMachine, ObservedPod) {
    let kinds = [
        ContainerKind::Init,
        ContainerKind::Sidecar,
        ContainerKind::Init,
        ContainerKind::Sidecar,
        ContainerKind::Init,
        ContainerKind::Regular,
        ContainerKind::Regular,
        ContainerKind::Regular,
    ];
    let probe = || {
        let (initial_delay_ms, period_ms) = (0, 10);
        Some(ProbePlan { initial_delay_ms, period_ms, success_threshold: 1, failure_threshold: 3, grace_ms: None })
    };
    let mut plan = plan();
    let mut pod = observed(ObservedState::Running { started_at_ns: 1 });
    let (container, seen) = (plan.containers[0].clone(), pod.containers[0].clone());
    (plan.containers, pod.containers) = kinds
        .into_iter()
        .enumerate()
        .map(|(index, kind)| {
            let probed = kind != ContainerKind::Init;
            let plan = ContainerPlan {
                name: format!("c{index}"),
                kind,
                liveness: probe().filter(|_| probed),
                readiness: probe().filter(|_| probed),
                ..container.clone()
            };
            let state = if probed { seen.state.clone() } else { exited(0) };
            (plan, ObservedContainer { id: format!("{index:032x}"), name: format!("c{index}"), state, ..seen.clone() })
        })
        .unzip();
    let mut machine = PodMachine::new(plan, at(1_000));
    let mut actions = Vec::new();
    machine.handle(at(1_001), Input::Observed { stamp: 1_001, pod: pod.clone() }, &mut actions);
    machine.handle(at(1_002), Input::Admit, &mut actions);
    machine.handle(at(1_003), Input::Completed { id: EffectId(1), outcome: Outcome::Ok(Done::Nothing) }, &mut actions);
    for action in actions.clone() {
        if let Action::Do { id, effect: Effect::Probe { .. } } = action {
            let outcome = Outcome::Ok(Done::Probe { healthy: true, output: String::new() });
            machine.handle(at(1_003), Input::Completed { id, outcome }, &mut actions);
        }
    }
    (machine, pod)
}

fn exited(exit_code: i32) -> ObservedState {
    ObservedState::Exited {
        started_at_ns: 1,
        finished_at_ns: 2,
        exit_code,
        reason: "Error".to_owned(),
        message: String::new(),
    }
}

fn handle_rich(criterion: &mut Criterion) {
    let (mut machine, pod) = rich();
    let mut actions = Vec::with_capacity(64);
    let mut now_ms = 2_000;
    criterion.bench_function("3 inits, 2 sidecars, 10 probes: one round of probes, 11 inputs", |bench| {
        bench.iter(|| {
            now_ms += 10;
            actions.clear();
            machine.handle(at(now_ms), Input::Tick, &mut actions);
            assert_eq!(actions.len(), 10, "every probe is due");
            for action in std::mem::take(&mut actions) {
                let Action::Do { id, effect: Effect::Probe { .. } } = action else { continue };
                let outcome = Outcome::Ok(Done::Probe { healthy: true, output: String::new() });
                machine.handle(at(now_ms), Input::Completed { id, outcome }, &mut actions);
            }
            black_box(machine.revision())
        });
    });
    criterion.bench_function("3 inits, 2 sidecars, 10 probes: relist", |bench| {
        bench.iter(|| {
            now_ms += 1;
            actions.clear();
            machine.handle(at(now_ms), Input::Observed { stamp: now_ms, pod: pod.clone() }, &mut actions);
            black_box(actions.len())
        });
    });
    criterion
        .bench_function("3 inits, 2 sidecars, 10 probes: report", |bench| bench.iter(|| black_box(machine.report())));
    criterion
        .bench_function("3 inits, 2 sidecars, 10 probes: memory", |bench| bench.iter(|| black_box(machine.memory())));
}

fn handle(criterion: &mut Criterion) {
    let mut machine = running();
    let mut actions = Vec::with_capacity(8);
    let pod = observed(ObservedState::Running { started_at_ns: 1 });
    let mut now_ms = 2_000;
    criterion.bench_function("relist of a healthy pod", |bench| {
        bench.iter(|| {
            now_ms += 1;
            actions.clear();
            machine.handle(at(now_ms), Input::Observed { stamp: now_ms, pod: pod.clone() }, &mut actions);
            black_box(actions.len())
        });
    });
    criterion.bench_function("report", |bench| bench.iter(|| black_box(machine.report())));
    criterion.bench_function("crash and restart", |bench| {
        bench.iter_batched(
            || (running(), observed(exited(1)), Vec::with_capacity(8)),
            |(mut machine, pod, mut actions)| {
                machine.handle(at(2_000), Input::Observed { stamp: UNSTAMPED, pod }, &mut actions);
                assert!(matches!(actions[..], [Action::Do { effect: Effect::StartContainer { attempt: 1, .. }, .. }]));
                (machine, actions)
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, handle, handle_rich);
criterion_main!(benches);
