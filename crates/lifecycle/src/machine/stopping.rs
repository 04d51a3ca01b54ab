//! How a container is stopped: its hook, its turn, its signal, and a grace that holds for all of that together.

use super::core::Core;
use super::ledger::Subject;
use super::record::PreStop;
use super::telling::{self, Why, tell};
use crate::{Action, ContainerKind, Effect, Millis};

/// A container is given at least so long between its stop signal and its kill, however little is left of the grace.
pub(crate) const MIN_STOP_MS: Millis = 2_000;

/// Which stop, and by when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) kill_at_ms: Millis,
    pub(crate) why: Why,
    pub(crate) order: Order,
}

/// Whether a sidecar outlives those it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is stopped alone.
    Alone,
    /// The whole pod goes: sidecars last, in reverse order, as long as the grace lasts.
    LastFirst,
}

impl Core {
    /// Takes the next step of stopping a container. A stop that runs already is only ever shortened.
    pub(crate) fn stop_container(&mut self, index: usize, stop: Stop, actions: &mut Vec<Action>) {
        let begun_ms = self.record.containers[index].kill_at_ms;
        let kill_at_ms = begun_ms.map_or(stop.kill_at_ms, |begun_ms| begun_ms.min(stop.kill_at_ms));
        self.record.containers[index].kill_at_ms = Some(kill_at_ms);
        if begun_ms.is_none() {
            self.begin_stop(index, stop.why, actions);
        }
        let known = &self.record.containers[index];
        let (name, container_id) = (known.seen.name.clone(), known.seen.id.clone());
        // What is being started may not be there yet, and its start may still be taken back.
        if self.ledger.starts(&name) {
            return;
        }
        let subject = Subject::Container { name, id: Some(container_id.clone()) };
        let dead_ms = kill_at_ms.max(self.now.mono_ms.saturating_add(MIN_STOP_MS));
        if let Some(flight) = self.ledger.stop_of(&container_id) {
            let Effect::StopContainer { grace_ms, .. } = flight.effect else { return };
            if dead_ms >= flight.issued_ms.saturating_add(grace_ms) {
                return;
            }
            let id = flight.id;
            actions.extend(self.ledger.cancel(|flight| flight.id == id).into_iter().map(Action::Cancel));
        } else {
            let may = self.pre_stop_is_over(index, kill_at_ms, actions)
                && self.has_turn(index, (stop.order, kill_at_ms))
                && !self.ledger.busy(&subject)
                && self.passes(self.gate(&self.record.containers[index].retry));
            if !may {
                return;
            }
        }
        let grace_ms = dead_ms - self.now.mono_ms;
        self.emit(Effect::StopContainer { container_id, grace_ms }, subject, actions);
    }

    /// By when a container that is stopped for itself is to be dead: as was said before, or within the pod's grace.
    pub(crate) fn kill_at_ms(&self, index: usize) -> Millis {
        let begun_ms = self.record.containers[index].kill_at_ms;
        begun_ms.unwrap_or(self.now.mono_ms.saturating_add(self.plan.grace_ms))
    }

    fn begin_stop(&mut self, index: usize, why: Why, actions: &mut Vec<Action>) {
        let known = &self.record.containers[index];
        let (name, id) = (known.seen.name.clone(), known.seen.id.clone());
        tell(telling::killing(self, &name, why), actions);
        if let Some(life) = self.lives.iter_mut().find(|life| life.is_of(&id)) {
            life.hold();
        }
        let given_up = self.ledger.cancel(|flight| match &flight.effect {
            Effect::PostStart { container_id, .. } => *container_id == id,
            Effect::Probe { container_id, kind, .. } => *container_id == id && *kind != crate::ProbeKind::Readiness,
            _ => false,
        });
        actions.extend(given_up.into_iter().map(Action::Cancel));
    }

    /// Runs the hook before the stop, once, while there is time for it.
    fn pre_stop_is_over(&mut self, index: usize, kill_at_ms: Millis, actions: &mut Vec<Action>) -> bool {
        let known = &self.record.containers[index];
        let (container, container_id) = (known.seen.name.clone(), known.seen.id.clone());
        let subject = Subject::PreStop(container_id.clone());
        let has_hook = self.plan.containers.iter().any(|plan| plan.name == container && plan.pre_stop);
        let grace_ms = kill_at_ms.saturating_sub(self.now.mono_ms);
        match known.pre_stop {
            PreStop::Over => return true,
            PreStop::Asked if grace_ms == 0 => {
                let given_up = self.ledger.cancel(|flight| flight.subject == subject);
                actions.extend(given_up.into_iter().map(Action::Cancel));
            }
            PreStop::Due if has_hook && grace_ms > 0 => {
                self.emit(Effect::PreStop { container, container_id, grace_ms }, subject, actions);
                self.record.containers[index].pre_stop = PreStop::Asked;
                self.wake(kill_at_ms);
                return false;
            }
            PreStop::Asked => {
                self.wake(kill_at_ms);
                return false;
            }
            PreStop::Due => {}
        }
        self.record.containers[index].pre_stop = PreStop::Over;
        true
    }

    /// A sidecar is stopped when all that it served are dead, or no grace is left.
    fn has_turn(&mut self, index: usize, (order, kill_at_ms): (Order, Millis)) -> bool {
        let name = &self.record.containers[index].seen.name;
        let position = |name: &str| self.plan.containers.iter().position(|plan| plan.name == *name);
        let Some(own) = position(name) else { return true };
        let is_sidecar = |index: usize| self.plan.containers[index].kind == ContainerKind::Sidecar;
        if order == Order::Alone || !is_sidecar(own) || self.now.mono_ms >= kill_at_ms {
            return true;
        }
        let goes_first =
            |name: &str| position(name).is_none_or(|other| other != own && (other > own || !is_sidecar(other)));
        let alive = self.record.containers.iter().any(|known| known.alive() && goes_first(&known.seen.name));
        let coming = self.plan.containers.iter().any(|plan| goes_first(&plan.name) && self.ledger.starts(&plan.name));
        let unsure_ms = self.unsure_ms.filter(|&unsure_ms| !self.heard_since(unsure_ms));
        if let Some(unsure_ms) = unsure_ms {
            self.look_after(unsure_ms);
        }
        let waits = alive || coming || unsure_ms.is_some();
        if waits {
            self.wake(kill_at_ms);
        }
        !waits
    }
}
