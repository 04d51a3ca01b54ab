//! What a kubelet leaves to the one that comes after it.

use super::core::Core;
use super::record::{Container, Sequel};
use super::{Stage, State, order, status};
use crate::{ContainerMemory, Memory, Now, ObservedContainer, ObservedState, PodMachine, PodPlan};

impl PodMachine {
    /// A pod that a kubelet before this one took care of. It does nothing until [`crate::Input::Admit`] or
    /// [`crate::Input::Delete`]; what the runtime shows outweighs what was remembered.
    pub fn resume(plan: PodPlan, memory: &Memory, now: Now) -> PodMachine {
        let mut machine = PodMachine::new(plan, now);
        machine.core.recall(memory);
        machine.settled.clone_from(&memory.ending);
        machine.admitted = memory.admitted;
        machine.kill_at = memory.kill_at_ns.map(|wall_ns| {
            let grace_ms = memory.remaining_grace_ms(machine.core.plan.grace_ms, now.wall_ns);
            (now.mono_ms.saturating_add(grace_ms), wall_ns)
        });
        machine
    }

    /// Writes down when the containers are to be dead, in the time that outlives a boot; once, lest it wander with the clocks.
    pub(super) fn note_kill_at(&mut self) {
        let kill_at_ms = match &self.state {
            State::Waiting => return,
            State::Syncing(syncing) => syncing.kill_at_ms,
            State::Terminating(terminating) => Some(terminating.kill_at_ms),
            State::Terminated(terminated) => Some(terminated.kill_at_ms),
            State::Finished => None,
        };
        if kill_at_ms == self.kill_at.map(|(at_ms, _)| at_ms) {
            return;
        }
        let now = self.core.now;
        self.kill_at = kill_at_ms.map(|at_ms| {
            let left_ms = i64::try_from(at_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(now.mono_ms);
            (at_ms, now.wall_ns.saturating_add(left_ms.saturating_mul(1_000_000)))
        });
    }

    /// What is to outlive this kubelet. Level-triggered: compare with the last one and store when it differs.
    pub fn memory(&self) -> Memory {
        let core = &self.core;
        let mut containers: Vec<ContainerMemory> =
            (0..core.plan.containers.len()).map(|index| of(core, index)).collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Memory {
            admitted: self.admitted,
            start_ns: if self.stage() == Stage::Waiting && !self.admitted { 0 } else { core.start_ns },
            ending: self.settled.clone(),
            kill_at_ns: self.kill_at.map(|(_, wall_ns)| wall_ns),
            containers,
        }
    }
}

fn of(core: &Core, index: usize) -> ContainerMemory {
    let (plan, life) = (&core.plan.containers[index], &core.lives[index]);
    let former = life.memory.as_ref();
    let Some(newest) = core.record.newest(&plan.name) else {
        return former.cloned().unwrap_or_else(|| ContainerMemory { name: plan.name.clone(), ..Default::default() });
    };
    let id = &newest.seen.id;
    let last = status::terminated(newest).or_else(|| core.record.previous(&plan.name).and_then(status::terminated));
    // A container that goes in a restart of all of them must not be taken for one that ended.
    let starts_over = order::restart_source(core).is_some() || newest.gone && newest.sequel == Sequel::AtOnce;
    ContainerMemory {
        name: plan.name.clone(),
        attempt: newest.seen.attempt.max(former.map_or(0, |former| former.attempt)),
        hash: newest.seen.hash.clone(),
        container_id: if starts_over || !has_run(newest) { String::new() } else { id.clone() },
        started: life.started(id),
        ready: life.ready(id),
        hooked: life.is_of(id) && life.hooked,
        last: last.or_else(|| former.and_then(|former| former.last.clone())),
    }
}

fn has_run(known: &Container) -> bool {
    !matches!(known.seen.state, ObservedState::Created)
}

/// The container that a memory speaks of, as one that the runtime may or may not still have. Its end is known only if it was
/// written down; if it is not found any more, it ended in a way that nobody knows.
pub(crate) fn recollection(memory: &ContainerMemory) -> Option<ObservedContainer> {
    if memory.container_id.is_empty() {
        return None;
    }
    let state = match memory.last.as_ref().filter(|last| last.container_id == memory.container_id) {
        None => ObservedState::Running { started_at_ns: 0 },
        Some(last) => ObservedState::Exited {
            started_at_ns: last.started_at_ns,
            finished_at_ns: last.finished_at_ns,
            exit_code: last.exit_code,
            reason: last.reason.clone(),
            message: last.message.clone(),
        },
    };
    Some(ObservedContainer {
        id: memory.container_id.clone(),
        sandbox_id: String::new(),
        name: memory.name.clone(),
        attempt: memory.attempt,
        hash: memory.hash.clone(),
        state,
        image: String::new(),
        image_ref: String::new(),
        created_at_ns: 0,
    })
}
