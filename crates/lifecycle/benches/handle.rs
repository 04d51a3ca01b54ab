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

fn handle(criterion: &mut Criterion) {
    let mut machine = running();
    let mut actions = Vec::with_capacity(8);
    let pod = observed(ObservedState::Running { started_at_ns: 1 });
    let mut now_ms = 2_000;
    criterion.bench_function("relist of a healthy pod", |bench| {
        bench.iter(|| {
            now_ms += 1;
            machine.handle(at(now_ms), Input::Observed { stamp: now_ms, pod: pod.clone() }, &mut actions);
            black_box(actions.len())
        });
    });
    criterion.bench_function("report", |bench| bench.iter(|| black_box(machine.report())));
    let exited = ObservedState::Exited {
        started_at_ns: 1,
        finished_at_ns: 2,
        exit_code: 1,
        reason: "Error".to_owned(),
        message: String::new(),
    };
    criterion.bench_function("crash and restart", |bench| {
        bench.iter_batched(
            || (running(), observed(exited.clone()), Vec::with_capacity(8)),
            |(mut machine, pod, mut actions)| {
                machine.handle(at(2_000), Input::Observed { stamp: UNSTAMPED, pod }, &mut actions);
                assert!(matches!(actions[..], [Action::Do { effect: Effect::StartContainer { attempt: 1, .. }, .. }]));
                (machine, actions)
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, handle);
criterion_main!(benches);
