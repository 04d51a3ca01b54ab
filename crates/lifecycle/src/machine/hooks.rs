//! The hook that follows a container's start: until it has ended, the container counts as being started.

use super::core::Core;
use super::ledger::{Flight, Subject};
use super::record::{PreStop, Sequel};
use super::stopping::{Order, Stop};
use super::telling::{self, Why, tell};
use crate::{Action, Effect, FailureClass, ObservedState, Outcome};

pub(crate) fn run_due(core: &mut Core, actions: &mut Vec<Action>) {
    for index in 0..core.lives.len() {
        let (plan, life) = (&core.plan.containers[index], &core.lives[index]);
        let due = core.record.newest(&plan.name).is_some_and(|newest| {
            let runs = matches!(newest.seen.state, ObservedState::Running { .. }) && !newest.gone;
            runs && newest.kill_at_ms.is_none() && life.is_of(&newest.seen.id) && !life.hooked
        });
        let subject = Subject::PostStart(life.container_id.clone());
        // Only what was acknowledged has been started.
        if !due || core.ledger.starts(&plan.name) || core.ledger.busy(&subject) || !core.passes(core.gate(&life.hook)) {
            continue;
        }
        let effect = Effect::PostStart {
            container: core.plan.containers[index].name.clone(),
            container_id: core.lives[index].container_id.clone(),
        };
        core.emit(effect, subject, actions);
    }
}

/// The hook after a start ended.
pub(crate) fn post_start_ended(core: &mut Core, flight: &Flight, outcome: Outcome, actions: &mut Vec<Action>) {
    let Effect::PostStart { container, container_id } = &flight.effect else { return };
    let now_ms = core.now.mono_ms;
    let Some(life) = core.lives.iter_mut().find(|life| life.is_of(container_id)) else { return };
    match outcome {
        Outcome::Ok(_) => life.hooked = true,
        _ if flight.cancelled => {}
        // The container is being looked for; the hook of one that runs is tried again.
        Outcome::Unknown => life.hook.unknown(now_ms),
        Outcome::Failed(failure) if failure.class != FailureClass::Retry => life.hook.unknown(now_ms),
        Outcome::Failed(failure) => {
            life.hook_failure = Some(failure.message);
            let Some(index) = core.record.containers.iter().position(|known| known.seen.id == *container_id) else {
                return;
            };
            tell(telling::post_start_failed(container), actions);
            if core.record.containers[index].alive() {
                core.record.containers[index].sequel = Sequel::AsFailure;
                let kill_at_ms = now_ms.saturating_add(core.plan.grace_ms);
                core.stop_container(index, Stop { kill_at_ms, why: Why::Hook, order: Order::Alone }, actions);
            }
        }
    }
}

/// The hook before a stop ended: however it did, the stop follows.
pub(crate) fn pre_stop_ended(core: &mut Core, flight: &Flight, outcome: Outcome, actions: &mut Vec<Action>) {
    let Effect::PreStop { container, container_id, .. } = &flight.effect else { return };
    if let Some(known) = core.record.container(container_id) {
        known.pre_stop = PreStop::Over;
    }
    match outcome {
        Outcome::Failed(failure) if failure.class == FailureClass::Retry && !flight.cancelled => {
            tell(telling::pre_stop_failed(container), actions);
        }
        _ => {}
    }
}

/// Gives up hooks and probes of containers that have ended meanwhile.
pub(crate) fn give_up_on_the_dead(core: &mut Core, actions: &mut Vec<Action>) {
    let record = &core.record;
    let dead = |id: &str| !record.containers.iter().any(|known| known.seen.id == id && known.alive());
    let given_up = core.ledger.cancel(|flight| match &flight.effect {
        Effect::PostStart { container_id, .. }
        | Effect::PreStop { container_id, .. }
        | Effect::Probe { container_id, .. } => dead(container_id),
        _ => false,
    });
    actions.extend(given_up.into_iter().map(Action::Cancel));
}
