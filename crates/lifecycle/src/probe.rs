//! The probes of one container attempt: which one is due, and what an answer means. It counts in a row as many results
//! as the thresholds ask for, and holds back liveness and readiness until the container has started.
//!
//! Nothing here allocates but the text of an event; a probe that is not due costs a comparison.

use pod::reasons::{PROBE_WARNING, UNHEALTHY};

use crate::{
    ContainerMemory, ContainerPlan, Done, Event, FailureClass, Millis, Outcome, ProbeKind, ProbePlan, Severity,
};

/// Bytes of an event's text: what the API allows.
const MAX_TEXT_BYTES: usize = 1024;

/// All probes of one container attempt, from its start (or the end of its `postStart` hook) to its exit.
#[derive(Debug, Clone, PartialEq)]
pub struct Prober {
    started_ms: Millis,
    /// The startup probe has passed, or there is none.
    started: bool,
    /// What the readiness probe said last.
    ready: bool,
    /// The container is being stopped: only readiness is asked any more.
    held: bool,
    startup: Option<Track>,
    liveness: Option<Track>,
    readiness: Option<Track>,
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// The startup probe has passed: liveness and readiness are asked from now on.
    Started,
    Ready,
    NotReady,
    /// The container is to be stopped, within `grace_ms` if the probe has a say in it. From here on the prober is held.
    Kill {
        kind: ProbeKind,
        grace_ms: Option<u64>,
    },
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    pub turned: Option<Turned>,
    pub event: Option<Event>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq)]
struct Track {
    plan: ProbePlan,
    due_ms: Millis,
    /// Its answer is outstanding.
    asked: bool,
    last: Option<bool>,
    /// Answers in a row that were like `last`.
    run: u32,
}

impl Prober {
    /// For a container that started at `started_ms`.
    pub fn new(plan: &ContainerPlan, started_ms: Millis) -> Prober {
        let track = |plan: &Option<ProbePlan>| plan.as_ref().map(|plan| Track::new(plan, started_ms));
        Prober {
            started_ms,
            started: plan.startup.is_none(),
            ready: false,
            held: false,
            startup: track(&plan.startup),
            liveness: track(&plan.liveness),
            readiness: track(&plan.readiness),
        }
    }

    /// For a container that ran before this kubelet did. Its first probes are spread over their periods, lest all
    /// containers of the node are asked at once; what was known of it stays true until a probe says otherwise.
    pub fn resume(plan: &ContainerPlan, known: &ContainerMemory, (started_ms, now_ms): (Millis, Millis)) -> Prober {
        let mut prober = Prober::new(plan, started_ms);
        prober.started |= known.started;
        prober.ready = prober.started && known.ready;
        for kind in ALL {
            if let Some(track) = prober.track(kind) {
                let spread_ms = hash(&known.container_id, kind) % track.plan.period_ms.max(1);
                track.due_ms = track.due_ms.max(now_ms.saturating_add(spread_ms));
            }
        }
        prober
    }

    /// Follows a changed plan. A probe that is new starts with its initial result; one that goes takes its say along.
    pub fn replan(&mut self, plan: &ContainerPlan) {
        self.started |= plan.startup.is_none();
        self.ready &= self.readiness.is_some() && plan.readiness.is_some();
        for (kind, plan) in [
            (ProbeKind::Startup, &plan.startup),
            (ProbeKind::Liveness, &plan.liveness),
            (ProbeKind::Readiness, &plan.readiness),
        ] {
            let started_ms = self.started_ms;
            let slot = self.slot(kind);
            match (slot.as_mut(), plan) {
                (Some(track), Some(plan)) => track.plan.clone_from(plan),
                _ => *slot = plan.as_ref().map(|plan| Track::new(plan, started_ms)),
            }
        }
    }

    /// The container is being stopped: its startup and liveness are of no interest any more.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// As in the container's status.
    pub fn started(&self) -> bool {
        self.started
    }

    /// As in the container's status.
    pub fn ready(&self) -> bool {
        self.started && (self.readiness.is_none() || self.ready)
    }

    /// A probe to be run now; it is taken to be under way until [`Prober::answer`]. Ask until there is none.
    pub fn take_due(&mut self, now_ms: Millis) -> Option<ProbeKind> {
        let kind = ALL.into_iter().find(|kind| self.waits_until(*kind).is_some_and(|due_ms| due_ms <= now_ms))?;
        let track = self.track(kind)?;
        track.asked = true;
        // Kept in step; what was missed (the kubelet was busy, the machine slept) is not made up for.
        track.due_ms = track.due_ms.saturating_add(track.plan.period_ms);
        if track.due_ms <= now_ms {
            track.due_ms = now_ms.saturating_add(track.plan.period_ms.max(1));
        }
        Some(kind)
    }

    /// When the next probe is due, if none is answered before.
    pub fn next_ms(&self) -> Option<Millis> {
        ALL.into_iter().filter_map(|kind| self.waits_until(kind)).min()
    }

    /// Takes the outcome of a probe of `container`. One that could not be run changes nothing but is told.
    pub fn answer(&mut self, container: &str, kind: ProbeKind, outcome: &Outcome) -> Verdict {
        let wanted = self.is_wanted(kind);
        let Some(track) = self.track(kind) else { return Verdict::default() };
        track.asked = false;
        if !wanted {
            return Verdict::default();
        }
        let event = told(kind, outcome).map(|(reason, text)| Event {
            severity: Severity::Warning,
            reason,
            message: text,
            container: Some(container.to_owned()),
        });
        let Outcome::Ok(Done::Probe { healthy, .. }) = outcome else { return Verdict { turned: None, event } };
        let grace_ms = track.plan.grace_ms;
        let turned = match track.count(*healthy) {
            Some(healthy) => self.settle(kind, healthy, grace_ms),
            None => None,
        };
        Verdict { turned, event }
    }

    /// The probe's result, after as many answers as it takes.
    fn settle(&mut self, kind: ProbeKind, healthy: bool, grace_ms: Option<u64>) -> Option<Turned> {
        match (kind, healthy) {
            (ProbeKind::Startup, true) => {
                self.started = true;
                Some(Turned::Started)
            }
            (ProbeKind::Liveness, true) => None,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                self.held = true;
                Some(Turned::Kill { kind, grace_ms })
            }
            (ProbeKind::Readiness, ready) if ready == self.ready => None,
            (ProbeKind::Readiness, ready) => {
                self.ready = ready;
                Some(if ready { Turned::Ready } else { Turned::NotReady })
            }
        }
    }

    /// Its answer would matter.
    fn is_wanted(&self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Startup => !self.started && !self.held,
            ProbeKind::Liveness => self.started && !self.held,
            ProbeKind::Readiness => self.started,
        }
    }

    fn waits_until(&self, kind: ProbeKind) -> Option<Millis> {
        let track = match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        };
        let track = track.as_ref()?;
        (self.is_wanted(kind) && !track.asked).then_some(track.due_ms)
    }

    fn track(&mut self, kind: ProbeKind) -> Option<&mut Track> {
        self.slot(kind).as_mut()
    }

    fn slot(&mut self, kind: ProbeKind) -> &mut Option<Track> {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }
}

const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

impl Track {
    fn new(plan: &ProbePlan, started_ms: Millis) -> Track {
        let due_ms = started_ms.saturating_add(plan.initial_delay_ms);
        Track { plan: plan.clone(), due_ms, asked: false, last: None, run: 0 }
    }

    /// Counts an answer; the result, once enough in a row agree.
    fn count(&mut self, healthy: bool) -> Option<bool> {
        self.run = if self.last == Some(healthy) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(healthy);
        let threshold = if healthy { self.plan.success_threshold } else { self.plan.failure_threshold };
        (self.run >= threshold).then_some(healthy)
    }
}

/// Reason and text of what there is to tell of an outcome.
fn told(kind: ProbeKind, outcome: &Outcome) -> Option<(&'static str, String)> {
    let name = match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    };
    let (reason, mut text) = match outcome {
        Outcome::Ok(Done::Probe { healthy: false, output }) => (UNHEALTHY, format!("{name} probe failed: {output}")),
        Outcome::Ok(Done::Probe { healthy: true, output }) if !output.is_empty() => {
            (PROBE_WARNING, format!("{name} probe warning: {output}"))
        }
        Outcome::Failed(failure) if failure.class != FailureClass::Cancelled => {
            (UNHEALTHY, format!("{name} probe errored and resulted in unknown state: {}", failure.message))
        }
        Outcome::Unknown => {
            (UNHEALTHY, format!("{name} probe errored and resulted in unknown state: no answer came in time"))
        }
        _ => return None,
    };
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    Some((reason, text))
}

/// FNV-1a over a container's id and a probe's kind.
fn hash(container_id: &str, kind: ProbeKind) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    container_id.bytes().chain([kind as u8]).fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests;
