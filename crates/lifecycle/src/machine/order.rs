//! What should become of each container of the plan: whose turn it is, who is done, who runs again.

use super::core::Core;
use super::record::{Container, Sequel};
use super::slot::Slot;
use crate::{ContainerKind, ContainerPlan, Millis, ObservedState, Phase, RestartAction, RestartPolicy};

/// What should become of one container of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs, or is being stopped.
    Alive,
    /// It ended for good.
    Done,
    /// Its turn has not come.
    Later,
    Start {
        attempt: u32,
        due_ms: Millis,
    },
}

/// What should become of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// One verdict for each container.
    Going(Vec<Verdict>),
    /// The container of this index ended in a way that starts all over.
    RestartAll(usize),
    /// It ended in this phase; what still runs is to be stopped.
    Over(Phase),
}

/// What a finished run leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Rests,
    Restarts,
    RestartsAll,
}

/// The first rule that names the code decides, and else the policy.
pub(crate) fn fate(plan: &ContainerPlan, sequel: Sequel, exit_code: i32) -> Fate {
    if sequel == Sequel::AtOnce {
        return Fate::Restarts;
    }
    if let Some(rule) = plan.rules.iter().find(|rule| rule.names(exit_code)) {
        return match rule.action {
            RestartAction::Restart if plan.kind == ContainerKind::Init && exit_code == 0 => Fate::Rests,
            RestartAction::Restart => Fate::Restarts,
            RestartAction::RestartAllContainers => Fate::RestartsAll,
        };
    }
    let failed = exit_code != 0 || sequel == Sequel::AsFailure;
    let restarts = match (plan.kind, plan.restart) {
        (ContainerKind::Sidecar, _) => true,
        (_, RestartPolicy::Never) => false,
        (ContainerKind::Regular, RestartPolicy::Always) => true,
        (ContainerKind::Init, _) | (_, RestartPolicy::OnFailure) => failed,
    };
    if restarts { Fate::Restarts } else { Fate::Rests }
}

/// Whether a container that is stopped because it fails will run again.
pub(crate) fn restarts_failed(plan: &ContainerPlan) -> bool {
    plan.kind == ContainerKind::Sidecar || plan.restart != RestartPolicy::Never
}

pub(crate) fn outlook(core: &Core, slots: &[Slot]) -> Outlook {
    let plans = &core.plan.containers;
    if let Some(source) = restart_source(core) {
        return Outlook::RestartAll(source);
    }
    let regular = plans.iter().take_while(|plan| plan.kind != ContainerKind::Regular).count();
    let mut verdicts: Vec<Verdict> = (0..plans.len())
        .map(|index| if index < regular { Verdict::Later } else { of_regular(core, slots, index) })
        .collect();
    if regular < plans.len() && verdicts[regular..].iter().all(|verdict| *verdict == Verdict::Done) {
        return Outlook::Over(final_phase(core, regular));
    }
    // Containers in a sandbox of the past say nothing of how far the pod has come in this one.
    let barred = barred(core);
    let here = |index: &usize| {
        let newest = core.record.newest(&plans[*index].name);
        newest.filter(|newest| !newest.gone && (barred || is_at_home(core, newest)))
    };
    let turn = if (regular..plans.len()).any(|index| here(&index).is_some()) {
        regular
    } else {
        let frontier = (0..regular).rev().find(|index| here(index).is_some());
        frontier.map_or(0, |index| if has_passed(core, index, here(&index)) { index + 1 } else { index })
    };
    for (index, verdict) in verdicts.iter_mut().enumerate() {
        if index >= regular {
            if turn < regular && matches!(verdict, Verdict::Start { .. }) {
                *verdict = Verdict::Later;
            }
            continue;
        }
        *verdict = match plans[index].kind {
            ContainerKind::Sidecar if index <= turn => of_sidecar(core, slots, index),
            ContainerKind::Init | ContainerKind::Regular if index < turn => Verdict::Done,
            ContainerKind::Init | ContainerKind::Regular if index == turn => {
                let verdict = of_init(core, slots, (index, here(&index)));
                if verdict == Verdict::Done {
                    return Outlook::Over(Phase::Failed);
                }
                verdict
            }
            _ => match core.record.newest(&plans[index].name) {
                Some(newest) if newest.alive() => Verdict::Alive,
                _ => Verdict::Later,
            },
        };
    }
    Outlook::Going(verdicts)
}

fn is_at_home(core: &Core, known: &Container) -> bool {
    core.record.home().is_some_and(|home| home.seen.id == known.seen.sandbox_id)
}

/// The container whose newest run, in this sandbox, ended in a way that restarts all of them.
pub(crate) fn restart_source(core: &Core) -> Option<usize> {
    core.plan.containers.iter().position(|plan| {
        !plan.rules.is_empty()
            && core.record.newest(&plan.name).is_some_and(|newest| {
                let known = plan.kind == ContainerKind::Init || newest.seen.hash == plan.hash;
                !newest.gone
                    && known
                    && is_at_home(core, newest)
                    && newest.exit_code().is_some_and(|code| fate(plan, newest.sequel, code) == Fate::RestartsAll)
            })
    })
}

/// Whether the one after the container at the frontier may begin.
fn has_passed(core: &Core, index: usize, newest: Option<&Container>) -> bool {
    let Some(newest) = newest else { return false };
    match core.plan.containers[index].kind {
        ContainerKind::Init | ContainerKind::Regular => newest.exit_code() == Some(0),
        ContainerKind::Sidecar => {
            newest.alive() && newest.kill_at_ms.is_none() && core.lives[index].started(&newest.seen.id)
        }
    }
}

/// `Done`: it failed for good.
fn of_init(core: &Core, slots: &[Slot], (index, here): (usize, Option<&Container>)) -> Verdict {
    let (plan, slot) = (&core.plan.containers[index], &slots[index]);
    let Some(newest) = here else {
        // One that runs outside the pod's sandbox is being stopped.
        let alive = core.record.containers.iter().any(|known| known.alive() && known.seen.name == plan.name);
        let newest = core.record.newest(&plan.name);
        let source = newest.filter(|newest| {
            newest.exit_code().is_some_and(|code| fate(plan, newest.sequel, code) == Fate::RestartsAll)
        });
        return match source {
            _ if alive => Verdict::Alive,
            Some(source) => restart(core, slot, (index, source)),
            None => at_once(core, index),
        };
    };
    match (&newest.seen.state, newest.exit_code()) {
        _ if newest.alive() => Verdict::Alive,
        (_, Some(code)) if fate(plan, newest.sequel, code) == Fate::Rests => Verdict::Done,
        (_, Some(_)) => restart(core, slot, (index, newest)),
        _ => start_created(core, slot, (index, newest)),
    }
}

fn of_sidecar(core: &Core, slots: &[Slot], index: usize) -> Verdict {
    let (plan, slot) = (&core.plan.containers[index], &slots[index]);
    match core.record.newest(&plan.name) {
        None => Verdict::Start { attempt: core.next_attempt(index), due_ms: 0 },
        Some(newest) if newest.alive() => Verdict::Alive,
        Some(newest) if newest.seen.hash != plan.hash => at_once(core, index),
        Some(newest) if newest.exit_code().is_some() => restart(core, slot, (index, newest)),
        Some(newest) => start_created(core, slot, (index, newest)),
    }
}

fn of_regular(core: &Core, slots: &[Slot], index: usize) -> Verdict {
    let (plan, slot) = (&core.plan.containers[index], &slots[index]);
    let Some(newest) = core.record.newest(&plan.name) else { return at_once(core, index) };
    match (&newest.seen.state, newest.exit_code()) {
        _ if newest.alive() => Verdict::Alive,
        (_, Some(_)) if newest.seen.hash != plan.hash => at_once(core, index),
        (_, Some(code)) if fate(plan, newest.sequel, code) == Fate::Rests => Verdict::Done,
        (_, Some(_)) => restart(core, slot, (index, newest)),
        _ => start_created(core, slot, (index, newest)),
    }
}

fn at_once(core: &Core, index: usize) -> Verdict {
    Verdict::Start { attempt: core.next_attempt(index), due_ms: 0 }
}

/// After an exit, at the pace of its crashes.
fn restart(core: &Core, slot: &Slot, (index, newest): (usize, &Container)) -> Verdict {
    let due_ms = match slot.paced_attempt {
        // We ended it; that says nothing of the workload, so it waits for nothing and counts as no crash.
        _ if newest.sequel == Sequel::AtOnce => 0,
        // A try for this attempt was paced already; its own failures set the pace from there.
        Some(paced) if paced > newest.seen.attempt => 0,
        _ => slot.crash.due_ms(newest.exited_ms),
    };
    Verdict::Start { attempt: core.next_attempt(index), due_ms }
}

/// Created, never started, and still what is wanted: the attempt goes on.
fn start_created(core: &Core, slot: &Slot, (index, newest): (usize, &Container)) -> Verdict {
    let attempt = newest.seen.attempt;
    let startable = !newest.gone && newest.seen.hash == core.plan.containers[index].hash && is_at_home(core, newest);
    debug_assert!(matches!(newest.seen.state, ObservedState::Created), "whatever ran is alive or has exited");
    match startable && slot.failed_attempt != Some(attempt) {
        true => Verdict::Start { attempt, due_ms: 0 },
        false => at_once(core, index),
    }
}

/// A pod that is never restarted gets no second sandbox once anything of it ran.
pub(crate) fn barred(core: &Core) -> bool {
    core.plan.restart_policy == RestartPolicy::Never && core.record.any_ran() && core.record.home().is_none()
}

/// By the regular containers alone: what a sidecar ended with says nothing of the work.
fn final_phase(core: &Core, regular: usize) -> Phase {
    let succeeded = core.plan.containers[regular..]
        .iter()
        .all(|plan| core.record.newest(&plan.name).and_then(|newest| newest.exit_code()) == Some(0));
    if succeeded { Phase::Succeeded } else { Phase::Failed }
}
