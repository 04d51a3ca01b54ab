//! What every stage of a machine shares, and the only place where actions are made.

use super::Stage;
use super::ledger::{Ledger, Subject};
use super::life::Life;
use super::record::{Network, Record};
use super::retry::{Gate, Retry};
use crate::backoff::RETRY;
use crate::{Action, Effect, Memory, Millis, Now, ObservedPod, PodPlan, UNSTAMPED};

#[derive(Debug, Clone)]
pub(crate) struct Core {
    pub(crate) plan: PodPlan,
    pub(crate) stage: Stage,
    pub(crate) record: Record,
    pub(crate) ledger: Ledger,
    /// One for each container of the plan, in its order.
    pub(crate) lives: Vec<Life>,
    /// The time of the latest input.
    pub(crate) now: Now,
    /// When to look again, as this input's decisions found.
    pub(crate) wake_ms: Option<Millis>,
    /// When the next probe is due: nothing to report comes of that alone.
    pub(crate) probe_ms: Option<Millis>,
    /// An observation asked for later than this is needed.
    look_ms: Option<Millis>,
    /// Of asking.
    pub(crate) look: Retry,
    /// When a change of the runtime's objects last ended, however it ended.
    pub(crate) changed_ms: Option<Millis>,
    /// When a start last ended in a way that may have left something running.
    pub(crate) unsure_ms: Option<Millis>,
    /// When the pod was first seen, or its first sandbox made.
    pub(crate) start_ns: i64,
    /// A moment, and how old the pod was then: from there on the steady clock counts.
    age: (Millis, Millis),
}

impl Core {
    pub(crate) fn new(plan: PodPlan, stage: Stage, now: Now) -> Core {
        let network = network(&plan);
        Core {
            lives: plan.containers.iter().map(|_| Life::new(None)).collect(),
            plan,
            stage,
            record: Record::new(network),
            ledger: Ledger::default(),
            now,
            wake_ms: None,
            probe_ms: None,
            look_ms: None,
            look: Retry::new(RETRY),
            changed_ms: None,
            unsure_ms: None,
            start_ns: now.wall_ns,
            age: (now.mono_ms, 0),
        }
    }

    /// Takes over what a kubelet before this one knew.
    pub(crate) fn recall(&mut self, memory: &Memory) {
        if memory.start_ns > 0 {
            self.started_at(memory.start_ns);
        }
        for (plan, life) in self.plan.containers.iter().zip(&mut self.lives) {
            life.memory = memory.of(&plan.name).cloned();
            if let Some(seen) = life.memory.as_ref().and_then(super::memory::recollection) {
                self.record.recall(seen, self.now);
            }
        }
    }

    /// The pod began at this wall time, or earlier if that was known before.
    pub(crate) fn started_at(&mut self, wall_ns: i64) {
        if wall_ns < self.start_ns {
            self.start_ns = wall_ns;
            let age_ms = self.now.wall_ns.saturating_sub(wall_ns) / 1_000_000;
            self.age = (self.now.mono_ms, u64::try_from(age_ms).unwrap_or(0));
        }
    }

    /// When the pod has been active for too long.
    pub(crate) fn deadline_ms(&self) -> Option<Millis> {
        let (at_ms, age_ms) = self.age;
        self.plan.active_deadline_ms.map(|limit_ms| at_ms.saturating_add(limit_ms).saturating_sub(age_ms))
    }

    /// Follows another plan. A life goes on under its container's name.
    pub(crate) fn replan(&mut self, plan: PodPlan) -> PodPlan {
        let former = std::mem::replace(&mut self.plan, plan);
        self.record.network = network(&self.plan);
        let mut lives: Vec<Option<Life>> = std::mem::take(&mut self.lives).into_iter().map(Some).collect();
        for plan in &self.plan.containers {
            let index = former.containers.iter().position(|former| former.name == plan.name);
            let mut life = index.and_then(|index| lives[index].take()).unwrap_or_else(|| Life::new(None));
            if let Some(prober) = &mut life.prober {
                prober.replan(plan);
            }
            self.lives.push(life);
        }
        former
    }

    pub(crate) fn begin(&mut self) {
        self.wake_ms = None;
        self.probe_ms = None;
        // A sandbox that we are making or stopping is not ready for a while; that is no news.
        if self.stage != Stage::Syncing || self.ledger.busy(&Subject::Sandbox(None)) {
            self.record.hint_ms = None;
        }
        self.look_ms = self.record.hint_ms;
    }

    pub(crate) fn wake(&mut self, at_ms: Millis) {
        self.wake_ms = Some(self.wake_ms.map_or(at_ms, |earlier_ms| earlier_ms.min(at_ms)));
    }

    /// An event may come after the end of what it tells of, and so may an answer that was overtaken by a later question's. So
    /// a sandbox or container that it shows, that is not known and is not being made, is not believed before the runtime was
    /// asked.
    pub(crate) fn doubt_strangers(&mut self, stamp_ms: Millis, pod: &mut ObservedPod) {
        let overtaken = self.record.stamp_ms.is_some_and(|latest_ms| stamp_ms < latest_ms);
        if stamp_ms != UNSTAMPED && !overtaken {
            return;
        }
        let shown = (pod.sandboxes.len(), pod.containers.len());
        pod.sandboxes.retain(|seen| self.record.sandbox(&seen.id).is_some() || self.ledger.makes_sandbox(seen.attempt));
        pod.containers.retain(|seen| {
            self.record.container(&seen.id).is_some() || self.ledger.makes_container(&seen.name, seen.attempt)
        });
        if (pod.sandboxes.len(), pod.containers.len()) != shown {
            self.record.hint_ms = Some(self.now.mono_ms);
        }
    }

    /// Asks that the runtime be asked, unless it was later than this.
    pub(crate) fn look_after(&mut self, after_ms: Millis) {
        self.look_ms = self.look_ms.max(Some(after_ms));
    }

    pub(crate) fn observed(&self) -> bool {
        self.record.stamp_ms.is_some()
    }

    /// Whether an answer is known whose question was asked later than this.
    pub(crate) fn heard_since(&self, after_ms: Millis) -> bool {
        self.record.stamp_ms.is_some_and(|stamp_ms| stamp_ms > after_ms)
    }

    /// Passes a gate, or sees to it that it opens.
    pub(crate) fn passes(&mut self, gate: Gate) -> bool {
        match gate {
            Gate::Open => return true,
            Gate::Until(at_ms) => self.wake(at_ms),
            Gate::Look(after_ms) => self.look_after(after_ms),
        }
        false
    }

    pub(crate) fn gate(&self, retry: &Retry) -> Gate {
        retry.gate(self.now.mono_ms, self.record.stamp_ms)
    }

    /// Issues an effect. What the stage forbids or what would double another on the same subject is not issued,
    /// whatever a decision thought.
    pub(crate) fn emit(&mut self, effect: Effect, subject: Subject, actions: &mut Vec<Action>) {
        let supersedes = matches!(effect, Effect::StopContainer { .. }) && self.ledger.only_cancelled_stops(&subject);
        if let Effect::StartContainer { container, attempt, .. } = &effect
            && let Some(index) = self.plan.containers.iter().position(|plan| plan.name == *container)
        {
            self.lives[index].asked_attempt = Some(*attempt);
        }
        let free = supersedes || !self.ledger.busy(&subject);
        let allowed = allowed(self.stage, &effect) && (self.observed() || harmless(&effect));
        debug_assert!(allowed, "{effect:?} in stage {:?}", self.stage);
        debug_assert!(free, "{effect:?} while the same subject is busy");
        if !allowed || !free {
            return;
        }
        let container = match &effect {
            Effect::EnsureImage { container } | Effect::StartContainer { container, .. } => Some(container),
            _ => None,
        };
        let hash = container
            .and_then(|name| self.plan.containers.iter().find(|plan| &plan.name == name))
            .map_or("", |plan| plan.hash.as_str());
        let id = self.ledger.open(effect.clone(), subject, hash, self.now.mono_ms);
        actions.push(Action::Do { id, effect });
    }

    /// Asks the runtime if this input's decisions need it.
    pub(crate) fn inspect(&mut self, actions: &mut Vec<Action>) {
        let Some(after_ms) = self.look_ms else { return };
        if self.heard_since(after_ms) || self.ledger.busy(&Subject::Runtime) {
            return;
        }
        // A question asked in the same millisecond proves nothing: it may have been gathered just before.
        let at_ms = self.look.due_ms().max(after_ms + 1);
        if self.now.mono_ms < at_ms {
            self.wake(at_ms);
        } else {
            self.emit(Effect::Inspect, Subject::Runtime, actions);
        }
    }

    pub(crate) fn remove_container(&mut self, index: usize, actions: &mut Vec<Action>) {
        let known = &self.record.containers[index];
        debug_assert!(!known.alive(), "a container is stopped before it is removed");
        let container_id = known.seen.id.clone();
        let subject = Subject::Container { name: known.seen.name.clone(), id: Some(container_id.clone()) };
        let gate = self.gate(&known.retry);
        if !self.ledger.busy(&subject) && self.passes(gate) {
            self.emit(Effect::RemoveContainer { container_id }, subject, actions);
        }
    }

    pub(crate) fn stop_sandbox(&mut self, index: usize, actions: &mut Vec<Action>) {
        let known = &self.record.sandboxes[index];
        let sandbox_id = known.seen.id.clone();
        let subject = Subject::Sandbox(Some(sandbox_id.clone()));
        let gate = self.gate(&known.retry);
        if !self.ledger.busy(&subject) && self.passes(gate) {
            self.emit(Effect::StopSandbox { sandbox_id }, subject, actions);
        }
    }

    pub(crate) fn remove_sandbox(&mut self, index: usize, actions: &mut Vec<Action>) {
        let known = &self.record.sandboxes[index];
        debug_assert!(known.stopped, "a sandbox is stopped before it is removed");
        let sandbox_id = known.seen.id.clone();
        let subject = Subject::Sandbox(Some(sandbox_id.clone()));
        let gate = self.gate(&known.retry);
        if !self.ledger.busy(&subject) && self.passes(gate) {
            self.emit(Effect::RemoveSandbox { sandbox_id }, subject, actions);
        }
    }

    /// Whether a sandbox holds nothing alive and nothing that is being started.
    pub(crate) fn is_idle(&self, sandbox_id: &str) -> bool {
        !self.ledger.starts_in(sandbox_id)
            && !self.record.containers.iter().any(|known| known.alive() && known.seen.sandbox_id == sandbox_id)
    }
}

fn network(plan: &PodPlan) -> Network {
    if plan.host_network { Network::Host } else { Network::Own }
}

/// Rule 3: after terminating begins nothing is set up, pulled, created or started; and volumes go only when nothing of
/// the pod is left in the runtime.
fn allowed(stage: Stage, effect: &Effect) -> bool {
    match effect {
        Effect::SetUp
        | Effect::RunSandbox { .. }
        | Effect::EnsureImage { .. }
        | Effect::StartContainer { .. }
        | Effect::PostStart { .. } => stage == Stage::Syncing,
        Effect::PreStop { .. }
        | Effect::Probe { .. }
        | Effect::StopContainer { .. }
        | Effect::RemoveContainer { .. }
        | Effect::StopSandbox { .. }
        | Effect::RemoveSandbox { .. } => {
            matches!(stage, Stage::Syncing | Stage::Terminating | Stage::Terminated)
        }
        Effect::Inspect => stage != Stage::Finished,
        Effect::TearDown => stage == Stage::Terminated,
    }
}

/// What may be done before the runtime was heard once.
fn harmless(effect: &Effect) -> bool {
    matches!(effect, Effect::Inspect)
}
