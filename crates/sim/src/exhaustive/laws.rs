//! What must hold in every state of a small world.

use super::branch::Branch;
use crate::truth::Truth;
use lifecycle::{ContainerKind, ContainerState, Effect, PodReport, Stage};

/// Rules 1, 2, 8: what a report says of the one before and of the truth.
pub(super) fn of_step(before: &PodReport, after: &PodReport, truth: &Truth) -> Result<(), String> {
    if after.stage < before.stage {
        return Err(format!("back from {:?} to {:?}", before.stage, after.stage));
    }
    if before.phase.is_terminal() && after.phase != before.phase {
        return Err(format!("from {:?} to {:?}", before.phase, after.phase));
    }
    if before.kill_at_ms.is_some_and(|before_ms| after.kill_at_ms.is_some_and(|after_ms| after_ms > before_ms)) {
        return Err("the grace grew".to_owned());
    }
    for (was, is) in before.containers.iter().zip(&after.containers) {
        if is.restart_count < was.restart_count {
            return Err(format!("{} was restarted {} and then {} times", is.name, was.restart_count, is.restart_count));
        }
        if let ContainerState::Terminated(ended) = &is.state {
            let really = truth.codes.get(&ended.container_id);
            if really.is_some_and(|code| *code != ended.exit_code) || really.is_none() && ended.exit_code == 0 {
                return Err(format!("{} ended with {really:?}, not {}", ended.container_id, ended.exit_code));
            }
        }
    }
    Ok(())
}

/// Rules 3 and 4: what may be asked for now.
pub(super) fn of_effect(branch: &Branch, pod: usize, effect: &Effect) -> Result<(), String> {
    let mine = &branch.pods[pod];
    let stage = mine.machine.as_ref().map_or(Stage::Finished, |machine| machine.stage());
    let begins = crate::facts::begins(effect);
    if begins && (stage != Stage::Syncing || mine.deleted) {
        return Err(format!("{effect:?} while {stage:?}"));
    }
    let doubled = mine.flights.iter().find(|flight| flight.effect == *effect && !flight.given_up);
    if let Some(flight) = doubled {
        return Err(format!("{:?} is asked for twice", flight.effect));
    }
    if let Effect::StartContainer { container, sandbox_id, .. } = effect {
        let starts =
            |other: &Effect| matches!(other, Effect::StartContainer { container: name, .. } if name == container);
        if mine.flights.iter().any(|flight| starts(&flight.effect)) {
            return Err(format!("{container} is started while it is being started"));
        }
        return of_start(branch, pod, (container, sandbox_id));
    }
    Ok(())
}

/// Two of one name never run, in one pod or in two; init containers and sidecars come first.
fn of_start(branch: &Branch, pod: usize, (name, sandbox_id): (&str, &str)) -> Result<(), String> {
    let plan = &branch.pods[pod].plan;
    let here = || branch.truth.containers.iter().filter(|known| known.key.uid == plan.uid);
    if let Some(other) = branch.truth.containers.iter().find(|known| known.alive() && known.key.uid != plan.uid) {
        return Err(format!("{} runs beside {}", plan.uid, other.key.uid));
    }
    let inside = || here().filter(|known| known.seen.sandbox_id == sandbox_id);
    let index = plan.containers.iter().position(|of| of.name == name).unwrap_or(0);
    let initialized = plan
        .containers
        .iter()
        .any(|of| of.kind == ContainerKind::Regular && here().any(|known| known.seen.name == of.name));
    for former in plan.containers[..index].iter().filter(|of| of.kind != ContainerKind::Regular && !initialized) {
        let passed = inside().filter(|known| known.seen.name == former.name).any(|known| match former.kind {
            ContainerKind::Init => known.exit_code() == Some(0),
            _ => true,
        });
        if !passed {
            return Err(format!("{name} begins before {} is done", former.name));
        }
    }
    Ok(())
}

pub(super) fn of_removal(branch: &Branch, id: &str) -> Result<(), String> {
    match branch.truth.runs(id) {
        Some(true) => Err(format!("{id} is removed while it runs")),
        _ => Ok(()),
    }
}

/// Rule 12.
pub(super) fn of_end(branch: &Branch, pod: usize) -> Result<(), String> {
    let uid = &branch.pods[pod].plan.uid;
    if !branch.truth.is_clear_of(uid) {
        return Err(format!("{uid} is said to be gone, and something of it is left"));
    }
    let open = branch.pods[pod].flights.iter().find(|flight| flight.effect != Effect::Inspect);
    open.map_or(Ok(()), |flight| Err(format!("{uid} is said to be gone, and {:?} is under way", flight.effect)))
}

pub(super) fn of_state(branch: &Branch) -> Result<(), String> {
    let containers = &branch.truth.containers;
    for (index, one) in containers.iter().enumerate().filter(|(_, one)| one.alive()) {
        let other = containers[index + 1..]
            .iter()
            .find(|other| other.alive() && other.key.uid == one.key.uid && other.seen.name == one.seen.name);
        if let Some(other) = other {
            return Err(format!("{} and {} run at once", one.seen.id, other.seen.id));
        }
    }
    Ok(())
}

/// Nothing is under way, and what is wanted runs.
pub(super) fn is_at_rest(branch: &Branch, ending: bool) -> bool {
    let flying = branch.pods.iter().any(|mine| !mine.flights.is_empty());
    !flying && if ending { of_deleted(branch).is_ok() } else { of_rest(branch).is_ok() }
}

fn of_deleted(branch: &Branch) -> Result<(), String> {
    let left = branch.pods.iter().find(|mine| mine.deleted && mine.machine.is_some());
    left.map_or(Ok(()), |mine| Err(format!("{} is still there", mine.plan.uid)))
}

pub(super) fn of_rest(branch: &Branch) -> Result<(), String> {
    of_deleted(branch)?;
    let first = branch.pods.iter().find(|mine| mine.machine.is_some());
    let Some(mine) = first else { return Ok(()) };
    let Some(machine) = &mine.machine else { return Ok(()) };
    let report = machine.report();
    if report.phase.is_terminal() {
        return match branch.truth.containers.iter().find(|known| known.alive() && known.key.uid == mine.plan.uid) {
            Some(known) => Err(format!("the pod has ended and {} runs", known.seen.id)),
            None => Ok(()),
        };
    }
    for of in mine.plan.containers.iter().filter(|of| of.kind != ContainerKind::Init) {
        let said = report.containers.iter().find(|said| said.name == of.name);
        let over = said.is_some_and(|said| matches!(said.state, ContainerState::Terminated(_)));
        let running = branch
            .truth
            .containers
            .iter()
            .any(|known| known.alive() && known.key.uid == mine.plan.uid && known.seen.name == of.name);
        if !running && !over {
            return Err(format!("no rest: {} does not run: {:?}", of.name, said.map(|said| &said.state)));
        }
        if running && !said.is_some_and(|said| said.ready) {
            return Err(format!("no rest: {} runs and is not ready", of.name));
        }
    }
    Ok(())
}
