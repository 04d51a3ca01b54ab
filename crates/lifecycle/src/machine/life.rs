//! What is known of the run of each container beyond what the runtime shows: its hook, its probes.

use super::core::Core;
use super::retry::Retry;
use crate::backoff::RETRY;
use crate::probe::Prober;
use crate::{ContainerMemory, ContainerPlan, Millis, Now, ObservedState};

/// One for each container of the plan, in its order.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// The container that all this is about; empty before there was one.
    pub(crate) container_id: String,
    /// Its `postStart` hook has ended well, or it has none.
    pub(crate) hooked: bool,
    /// Why its `postStart` hook failed.
    pub(crate) hook_failure: Option<String>,
    /// Of the hook whose end was never heard of.
    pub(crate) hook: Retry,
    pub(crate) prober: Option<Prober>,
    /// The attempt that this machine last asked for: what runs as such was not there before.
    pub(crate) asked_attempt: Option<u32>,
    /// What a kubelet before this one knew.
    pub(crate) memory: Option<ContainerMemory>,
}

impl Life {
    pub(crate) fn new(memory: Option<ContainerMemory>) -> Life {
        Life {
            container_id: String::new(),
            hooked: false,
            hook_failure: None,
            hook: Retry::new(RETRY),
            prober: None,
            asked_attempt: None,
            memory,
        }
    }

    /// As in the container's status, if it runs.
    pub(crate) fn started(&self, container_id: &str) -> bool {
        self.is_of(container_id) && self.hooked && self.prober.as_ref().is_some_and(Prober::started)
    }

    /// As in the container's status, if it runs.
    pub(crate) fn ready(&self, container_id: &str) -> bool {
        self.is_of(container_id) && self.hooked && self.prober.as_ref().is_some_and(Prober::ready)
    }

    pub(crate) fn is_of(&self, container_id: &str) -> bool {
        self.container_id == container_id
    }

    /// The container is being stopped: only its readiness is of interest any more.
    pub(crate) fn hold(&mut self) {
        if let Some(prober) = &mut self.prober {
            prober.hold();
        }
    }

    /// Another container runs under this name now.
    fn begin(&mut self, plan: &ContainerPlan, (id, attempt, age_ms): (&str, u32, Millis), now: Now) {
        // Whatever is newer than what was written down was started after that.
        let is_new = self.asked_attempt == Some(attempt)
            || self.memory.as_ref().is_some_and(|memory| !memory.has_run() || memory.attempt < attempt);
        let memory = self.memory.as_ref().filter(|memory| memory.container_id == id);
        let started_ms = now.mono_ms.saturating_sub(age_ms);
        self.hooked = !plan.post_start || !is_new && memory.is_none_or(|memory| memory.hooked);
        self.hook_failure = None;
        self.hook = Retry::new(RETRY);
        self.prober = Some(match memory {
            _ if is_new => Prober::new(plan, started_ms),
            Some(memory) => Prober::resume(plan, memory, (started_ms, now.mono_ms)),
            None => {
                let unknown = ContainerMemory { container_id: id.to_owned(), ..ContainerMemory::default() };
                Prober::resume(plan, &unknown, (started_ms, now.mono_ms))
            }
        });
        id.clone_into(&mut self.container_id);
    }
}

impl Core {
    /// Follows the newest containers: one that runs and was not known begins a life of its own.
    pub(crate) fn follow_runs(&mut self) {
        for (plan, life) in self.plan.containers.iter().zip(&mut self.lives) {
            let Some(newest) = self.record.newest(&plan.name) else { continue };
            let ObservedState::Running { started_at_ns } = newest.seen.state else { continue };
            if newest.gone || life.is_of(&newest.seen.id) {
                continue;
            }
            let age_ms = u64::try_from(self.now.wall_ns.saturating_sub(started_at_ns) / 1_000_000).unwrap_or(0);
            // What this machine started is as old as the news of it, whatever the wall clock says.
            let age_ms = if life.asked_attempt == Some(newest.seen.attempt) { 0 } else { age_ms };
            life.begin(plan, (&newest.seen.id, newest.seen.attempt, age_ms), self.now);
            if newest.kill_at_ms.is_some() {
                life.hold();
            }
        }
    }

    /// The number of the next attempt: the highest ever known, and one more.
    pub(crate) fn next_attempt(&self, index: usize) -> u32 {
        let known = self.record.newest(&self.plan.containers[index].name).map(|newest| newest.seen.attempt);
        let remembered =
            self.lives[index].memory.as_ref().filter(|memory| memory.has_run()).map(|memory| memory.attempt);
        known.max(remembered).map_or(0, |attempt| attempt.saturating_add(1))
    }
}
