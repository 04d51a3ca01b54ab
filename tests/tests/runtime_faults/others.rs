//! While calls for some pods hang, others come, restart and go as if they did not.

use super::{Calls, PATIENT, faulty};
use e2e::faults::Fault;
use e2e::story::{is, status};
use e2e::{Machine, Part, Play, Runtime, await_some, await_true};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Beyond what it takes where nothing hangs. It is meant to be less than two seconds, which the test tells and a busy
/// machine need not keep; whoever waited for a call that hangs would take three times as long.
const SOON: Duration = Duration::from_secs(5);
/// The machine may be busy with something else: the best counts.
const TRIES: usize = 3;

/// What makes the kubelet make the call for the pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Comes,
    Restarts,
    Goes,
}

/// How the call tells that it is for the pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// By its name, after this.
    Name(&'static str),
    Uid,
    ContainerId,
}

/// A call that hangs for one pod, and how health tells it.
pub(super) struct Victim {
    pub(super) call: &'static str,
    pub(super) when: When,
    pub(super) by: By,
    pub(super) told: &'static str,
}

/// How long it takes another pod.
#[derive(Debug, Clone, Copy)]
struct Served {
    to_come: Duration,
    to_restart: Duration,
    to_go: Duration,
}

impl Served {
    fn by(machine: &Machine, name: &str) -> Served {
        let begun = Instant::now();
        machine.play(&gated(name));
        machine.await_told(name, "main Started", 1);
        let to_come = begun.elapsed();
        machine.await_pod(name, |pod| is(pod, "main", "running"));
        let begun = Instant::now();
        machine.open(name, "main.end");
        machine.await_told(name, "main Started", 2);
        let to_restart = begun.elapsed();
        let begun = Instant::now();
        machine.end_play(name);
        machine.await_pod_gone(name);
        Served { to_come, to_restart, to_go: begun.elapsed() }
    }

    fn best(self, other: Served) -> Served {
        Served {
            to_come: self.to_come.min(other.to_come),
            to_restart: self.to_restart.min(other.to_restart),
            to_go: self.to_go.min(other.to_go),
        }
    }

    fn is_soon(self, healthy: Served) -> bool {
        self.to_come <= healthy.to_come + SOON
            && self.to_restart <= healthy.to_restart + SOON
            && self.to_go <= healthy.to_go + SOON
    }
}

fn gated(name: &str) -> Play {
    Play::new(name, "Always").grace(2).main(Part::gated("main", 1))
}

pub(super) fn are_served_while_calls_hang(runtime: Runtime, calls: &Calls) {
    let Some(machine) = faulty(runtime, &[PATIENT]) else { return };
    let healthy = Served::by(&machine, "healthy").best(Served::by(&machine, "still-healthy"));
    println!("{runtime:?}: healthy: {healthy:?}");
    for attempt in 1..=TRIES {
        let served = while_all_hang(&machine, calls, attempt);
        println!("{runtime:?}: while calls hang: {served:?}");
        if served.is_soon(healthy) {
            return machine.finish();
        }
        assert!(attempt < TRIES, "{served:?}, and where nothing hangs {healthy:?}; log:\n{}", machine.log());
    }
}

/// Has all the calls hang at once, and sees how another pod is served and that health tells of each.
fn while_all_hang(machine: &Machine, calls: &Calls, attempt: usize) -> Served {
    let names: Vec<String> = (0..calls.victims.len()).map(|number| format!("victim-{attempt}-{number}")).collect();
    let victims: Vec<(&Victim, &String)> = calls.victims.iter().zip(&names).collect();
    for (victim, name) in &victims {
        if victim.when != When::Comes {
            machine.play(&gated(name));
        }
    }
    for (victim, name) in &victims {
        if victim.when != When::Comes {
            machine.await_told(name, "main Started", 1);
            machine.await_pod(name, |pod| is(pod, "main", "running"));
        }
    }
    for (victim, name) in &victims {
        let before = hung(machine, victim.call);
        inject(machine, victim, name);
        match victim.when {
            When::Comes => machine.play(&gated(name)),
            When::Restarts => machine.open(name, "main.end"),
            When::Goes => machine.end_play(name),
        }
        await_true(&format!("{} hangs", victim.call), || hung(machine, victim.call) > before);
    }
    let served = std::thread::scope(|scope| {
        let told = scope.spawn(|| all_are_told(machine, &victims));
        let served = Served::by(machine, &format!("other-{attempt}"));
        told.join().expect("health tells of each");
        served
    });
    machine.faults().heal();
    for (victim, name) in &victims {
        match victim.when {
            When::Comes => _ = machine.await_told(name, "main Started", 1),
            When::Restarts => _ = machine.await_told(name, "main Started", 2),
            When::Goes => machine.await_pod_gone(name),
        }
    }
    for (victim, name) in &victims {
        if victim.when != When::Goes {
            machine.story(name).starts("main", if victim.when == When::Comes { 1 } else { 2 });
            machine.end_play(name);
        }
    }
    names.iter().for_each(|name| machine.await_pod_gone(name));
    await_true("all is well again", || machine.healthz().is_ok_and(|health| health == "ok"));
    served
}

fn inject(machine: &Machine, victim: &Victim, name: &str) {
    let pod = machine.pod(name).unwrap_or_default();
    let text = match victim.by {
        By::Name(before) => format!("{before}{name}"),
        By::Uid => pod["metadata"]["uid"].as_str().expect("a UID").to_owned(),
        By::ContainerId => {
            let status = status(&pod, "main");
            let id = status["containerID"].as_str().and_then(|id| id.split_once("://")).expect("an id").1;
            id.to_owned()
        }
    };
    machine.faults().inject(victim.call, &text, (Fault::Hang, u32::MAX));
}

fn hung(machine: &Machine, call: &str) -> u32 {
    machine.faults().delivered().get(&(call.to_owned(), Fault::Hang.name())).copied().unwrap_or(0)
}

fn all_are_told(machine: &Machine, victims: &[(&Victim, &String)]) {
    let told = |(victim, name): &(&Victim, &String)| format!("{} of pod default/{name}-node-1", victim.told);
    let mut missing: BTreeSet<String> = victims.iter().map(told).collect();
    await_some("health names each call and its pod", || {
        let health = machine.healthz()?;
        missing.retain(|told| !health.contains(told));
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} not in {health}")) }
    });
}
