//! When the probes of the pod's containers run, and what their answers lead to.

use super::Stage;
use super::core::Core;
use super::ledger::{Flight, Subject};
use super::record::Sequel;
use super::stopping::{Order, Stop};
use super::telling::{Why, tell};
use crate::probe::{Prober, Turned};
use crate::{Action, Effect, Millis, ObservedState, Outcome};

/// Asks every probe that is due, and sees to it that the next one will be.
pub(crate) fn ask_due(core: &mut Core, actions: &mut Vec<Action>) {
    for index in 0..core.lives.len() {
        if !is_probed(core, index) {
            continue;
        }
        let now_ms = core.now.mono_ms;
        if core.stage != Stage::Syncing {
            core.lives[index].hold();
        }
        while let Some(kind) = core.lives[index].prober.as_mut().and_then(|prober| prober.take_due(now_ms)) {
            let container_id = core.lives[index].container_id.clone();
            let subject = Subject::Probe(container_id.clone(), kind);
            let container = core.plan.containers[index].name.clone();
            core.emit(Effect::Probe { container, container_id, kind }, subject, actions);
        }
        let next_ms = core.lives[index].prober.as_ref().and_then(Prober::next_ms);
        core.probe_ms = [core.probe_ms, next_ms].into_iter().flatten().min();
    }
}

fn is_probed(core: &Core, index: usize) -> bool {
    let life = &core.lives[index];
    let Some(prober) = &life.prober else { return false };
    let due_ms: Option<Millis> = prober.next_ms();
    life.hooked
        && due_ms.is_some()
        && core.record.newest(&core.plan.containers[index].name).is_some_and(|newest| {
            matches!(newest.seen.state, ObservedState::Running { .. }) && !newest.gone && life.is_of(&newest.seen.id)
        })
}

/// A probe answered. True if something turned by it.
pub(crate) fn answered(core: &mut Core, flight: &Flight, outcome: &Outcome, actions: &mut Vec<Action>) -> bool {
    let Effect::Probe { container, container_id, kind } = &flight.effect else { return false };
    // The answer of a container that is not the newest says nothing any more.
    let Some(prober) =
        core.lives.iter_mut().find(|life| life.is_of(container_id)).and_then(|life| life.prober.as_mut())
    else {
        return false;
    };
    let verdict = prober.answer(container, *kind, outcome);
    let Some(index) = core.record.containers.iter().position(|known| known.seen.id == *container_id && known.alive())
    else {
        return false;
    };
    if let Some(event) = verdict.event {
        tell(event, actions);
    }
    if let Some(Turned::Kill { kind, grace_ms }) = verdict.turned {
        core.record.containers[index].sequel = Sequel::AsFailure;
        let kill_at_ms = core.now.mono_ms.saturating_add(grace_ms.unwrap_or(core.plan.grace_ms));
        core.stop_container(index, Stop { kill_at_ms, why: Why::Probe(kind), order: Order::Alone }, actions);
    }
    verdict.turned.is_some()
}
