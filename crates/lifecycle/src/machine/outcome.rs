//! What the end of an effect teaches.

use super::core::Core;
use super::ledger::Flight;
use super::telling::{self, tell};
use super::{PodMachine, Stage, State, hooks, probing};
use crate::{
    Action, Done, Effect, EffectId, Failure, FailureClass, ObservedContainer, ObservedSandbox, ObservedState, Outcome,
};

impl PodMachine {
    /// Rule 6: an outcome nobody waits for changes nothing; one that comes late changes the record and nothing else.
    /// True if there may be something new to say.
    pub(super) fn complete(&mut self, id: EffectId, outcome: Outcome, actions: &mut Vec<Action>) -> bool {
        let Some(flight) = self.core.ledger.close(id) else { return false };
        // An answer that does not fit its question tells nothing.
        let outcome = if fits(&flight.effect, &outcome) { outcome } else { Outcome::Unknown };
        match &flight.effect {
            Effect::Inspect => self.inspected(&flight, outcome),
            Effect::SetUp => self.was_set_up(outcome),
            Effect::EnsureImage { container } => self.image_ensured(container, &flight, outcome),
            Effect::TearDown => self.was_torn_down(outcome),
            Effect::Probe { .. } => return probing::answered(&mut self.core, &flight, &outcome, actions),
            Effect::PostStart { .. } => hooks::post_start_ended(&mut self.core, &flight, outcome, actions),
            Effect::PreStop { .. } => hooks::pre_stop_ended(&mut self.core, &flight, outcome, actions),
            effect => {
                // Whatever became of it: only an answer asked for from now on can show the result.
                self.core.changed_ms = Some(self.core.now.mono_ms);
                match effect {
                    Effect::RunSandbox { attempt } => self.sandbox_run(*attempt, outcome),
                    Effect::StartContainer { .. } => self.container_started(&flight, outcome),
                    _ => ended(&mut self.core, &flight, outcome, actions),
                }
            }
        }
        true
    }

    fn inspected(&mut self, flight: &Flight, outcome: Outcome) {
        let now_ms = self.core.now.mono_ms;
        let answered = self.core.record.stamp_ms.is_some_and(|stamp_ms| stamp_ms >= flight.issued_ms);
        match outcome {
            Outcome::Ok(_) if answered => self.core.look.succeeded(),
            Outcome::Failed(failure) => self.core.look.failed(now_ms, failure),
            // It ended without an answer: ask again, but not in a circle.
            Outcome::Ok(_) | Outcome::Unknown => self.core.look.paced(now_ms),
        }
    }

    fn was_set_up(&mut self, outcome: Outcome) {
        let now_ms = self.core.now.mono_ms;
        let State::Syncing(syncing) = &mut self.state else { return };
        syncing.is_set_up = matches!(outcome, Outcome::Ok(_));
        syncing.set_up.settle(now_ms, outcome);
    }

    fn was_torn_down(&mut self, outcome: Outcome) {
        let now_ms = self.core.now.mono_ms;
        let State::Terminated(terminated) = &mut self.state else { return };
        terminated.torn_down = matches!(outcome, Outcome::Ok(_));
        terminated.tear_down.settle(now_ms, outcome);
        if !terminated.torn_down {
            // What is in its way may have come to life since the runtime was last asked.
            terminated.tear_down.doubt(now_ms);
        }
    }

    fn image_ensured(&mut self, container: &str, flight: &Flight, outcome: Outcome) {
        let Some(index) = self.core.plan.containers.iter().position(|plan| plan.name == container) else { return };
        let State::Syncing(syncing) = &mut self.state else { return };
        if self.core.plan.containers[index].hash != flight.hash {
            return; // the image of a plan that is not followed any more
        }
        syncing.image_ensured(&self.core, index, outcome);
    }

    fn sandbox_run(&mut self, attempt: u32, outcome: Outcome) {
        let now = self.core.now;
        let done = match outcome {
            Outcome::Ok(Done::Sandbox { id, ips }) => {
                let seen = ObservedSandbox { id, attempt, ready: true, ips, created_at_ns: now.wall_ns };
                self.core.record.learn_sandbox(seen, now);
                None
            }
            outcome => Some(outcome),
        };
        let State::Syncing(syncing) = &mut self.state else { return };
        match done {
            None => syncing.sandbox.paced(now.mono_ms),
            Some(Outcome::Failed(failure)) => {
                syncing.sandbox.failed(now.mono_ms, failure);
                syncing.sandbox.doubt(now.mono_ms); // half of one may be left
            }
            Some(_) => syncing.sandbox.unknown(now.mono_ms),
        }
    }

    fn container_started(&mut self, flight: &Flight, outcome: Outcome) {
        let now = self.core.now;
        let Effect::StartContainer { container, attempt, sandbox_id, image_ref } = &flight.effect else { return };
        let index = self.core.plan.containers.iter().position(|plan| plan.name == *container);
        if let Outcome::Ok(Done::Container { id }) = &outcome {
            let seen = ObservedContainer {
                id: id.clone(),
                sandbox_id: sandbox_id.clone(),
                name: container.clone(),
                attempt: *attempt,
                hash: flight.hash.clone(),
                state: ObservedState::Running { started_at_ns: now.wall_ns },
                image: index.map_or_else(String::new, |index| self.core.plan.containers[index].image.clone()),
                image_ref: image_ref.clone(),
                created_at_ns: now.wall_ns,
            };
            self.core.record.learn_container(seen, now);
        } else {
            self.core.unsure_ms = Some(now.mono_ms);
        }
        let (State::Syncing(syncing), Some(index)) = (&mut self.state, index) else { return };
        let plan = &self.core.plan.containers[index];
        let slot = &mut syncing.slots[index];
        match outcome {
            // Under a plan that is not followed any more; yet something may have come of it.
            Outcome::Ok(_) if plan.hash != flight.hash => {}
            _ if plan.hash != flight.hash => slot.start_unknown(now.mono_ms),
            Outcome::Ok(_) => slot.started(plan.pull_policy),
            Outcome::Failed(failure) => slot.start_failed(*attempt, now.mono_ms, failure),
            Outcome::Unknown => slot.start_unknown(now.mono_ms),
        }
    }
}

/// A stop or a removal ended.
fn ended(core: &mut Core, flight: &Flight, outcome: Outcome, actions: &mut Vec<Action>) {
    let stops = matches!(&flight.effect, Effect::StopContainer { .. } | Effect::StopSandbox { .. });
    if let (true, false, Outcome::Failed(failure)) = (stops, core.stage == Stage::Syncing, &outcome)
        && failure.class == FailureClass::Retry
        && !flight.cancelled
    {
        tell(telling::kill_failed(&failure.message), actions);
    }
    let (record, now) = (&mut core.record, core.now);
    let gone = matches!(&outcome, Outcome::Failed(Failure { class: FailureClass::Gone, .. }));
    match &flight.effect {
        Effect::StopContainer { container_id, .. } if gone => record.container_gone(container_id, now),
        Effect::StopContainer { .. } if flight.cancelled && !matches!(outcome, Outcome::Ok(_)) => {}
        Effect::StopContainer { container_id, .. } => {
            let Some(known) = record.container(container_id) else { return };
            match outcome {
                Outcome::Ok(_) if known.alive() => known.retry.unconfirmed(now.mono_ms),
                outcome => known.retry.settle(now.mono_ms, outcome),
            }
        }
        Effect::RemoveContainer { container_id } => {
            if gone || matches!(outcome, Outcome::Ok(_)) {
                record.container_gone(container_id, now);
            } else if let Some(known) = record.container(container_id) {
                known.retry.settle(now.mono_ms, outcome);
            }
        }
        Effect::StopSandbox { sandbox_id } if !gone => {
            let Some(known) = record.sandbox(sandbox_id) else { return };
            known.stopped |= matches!(outcome, Outcome::Ok(_));
            known.retry.settle(now.mono_ms, outcome);
        }
        Effect::StopSandbox { sandbox_id } | Effect::RemoveSandbox { sandbox_id } => {
            if gone || matches!(outcome, Outcome::Ok(_)) {
                record.sandbox_gone(sandbox_id, now);
            } else if let Some(known) = record.sandbox(sandbox_id) {
                known.retry.settle(now.mono_ms, outcome);
            }
        }
        _ => {}
    }
}

fn fits(effect: &Effect, outcome: &Outcome) -> bool {
    let Outcome::Ok(done) = outcome else { return true };
    match effect {
        Effect::RunSandbox { .. } => matches!(done, Done::Sandbox { .. }),
        Effect::EnsureImage { .. } => matches!(done, Done::Image { .. }),
        Effect::StartContainer { .. } => matches!(done, Done::Container { .. }),
        Effect::Probe { .. } => matches!(done, Done::Probe { .. }),
        _ => matches!(done, Done::Nothing),
    }
}
