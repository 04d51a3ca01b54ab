//! The end of a pod: everything of it leaves the runtime, observed and not assumed.

use super::core::Core;
use super::ledger::Subject;
use super::retry::Retry;
use super::stopping::{Order, Stop};
use super::telling::{self, Why, tell};
use crate::backoff::RETRY;
use crate::{Action, Effect, Millis};

/// How long after the grace what still runs is called unkillable.
const PATIENCE_MS: Millis = 10_000;

/// Containers and sandboxes are going.
#[derive(Debug, Clone)]
pub(crate) struct Terminating {
    /// When every container is to be killed at the latest. Only ever earlier.
    pub(crate) kill_at_ms: Millis,
    /// People know that something could not be killed.
    pub(crate) exceeded: bool,
}

impl Terminating {
    pub(crate) fn new(kill_at_ms: Millis) -> Terminating {
        Terminating { kill_at_ms, exceeded: false }
    }

    /// True when nothing is left in the runtime.
    pub(crate) fn step(&mut self, core: &mut Core, actions: &mut Vec<Action>) -> bool {
        let is_clear = clear(core, self.kill_at_ms, actions);
        if !self.exceeded && core.record.any_alive() {
            let patience_ms = self.kill_at_ms.saturating_add(PATIENCE_MS);
            if core.now.mono_ms < patience_ms {
                core.wake(patience_ms);
            } else {
                self.exceeded = true;
                tell(telling::grace_exceeded(), actions);
            }
        }
        is_clear
    }
}

/// Volumes, control group and directories are going.
#[derive(Debug, Clone)]
pub(crate) struct Terminated {
    /// For what appears even now.
    pub(crate) kill_at_ms: Millis,
    pub(crate) tear_down: Retry,
    pub(crate) torn_down: bool,
}

impl Terminated {
    pub(crate) fn new(kill_at_ms: Millis) -> Terminated {
        Terminated { kill_at_ms, tear_down: Retry::new(RETRY), torn_down: false }
    }

    /// True when the pod is finished.
    pub(crate) fn step(&mut self, core: &mut Core, actions: &mut Vec<Action>) -> bool {
        if !clear(core, self.kill_at_ms, actions) {
            // Something came late; what it left must be torn down too.
            self.torn_down = false;
            return false;
        }
        if self.torn_down {
            return true;
        }
        let gate = core.gate(&self.tear_down);
        if !core.ledger.busy(&Subject::Pod) && core.passes(gate) {
            core.emit(Effect::TearDown, Subject::Pod, actions);
        }
        false
    }
}

/// Takes the next steps towards an empty runtime. True when an answer, asked for after the last change, showed it empty
/// and nothing is in flight that could fill it again.
pub(crate) fn clear(core: &mut Core, kill_at_ms: Millis, actions: &mut Vec<Action>) -> bool {
    if !core.observed() {
        core.look_after(0);
        return false;
    }
    for index in 0..core.record.containers.len() {
        if core.record.containers[index].alive() {
            core.stop_container(index, Stop { kill_at_ms, why: Why::Unwanted, order: Order::LastFirst }, actions);
        }
    }
    if core.record.any_alive() {
        return false;
    }
    for index in 0..core.record.containers.len() {
        if !core.record.containers[index].gone {
            core.remove_container(index, actions);
        }
    }
    for index in 0..core.record.sandboxes.len() {
        clear_sandbox(core, index, actions);
    }
    // What was given up may still create something until it is acknowledged; a teardown of ours cannot.
    let quiet = core.ledger.iter().all(|flight| matches!(flight.effect, Effect::Inspect | Effect::TearDown));
    if !core.record.is_clear() || !quiet {
        return false;
    }
    match core.changed_ms {
        Some(changed_ms) if !core.heard_since(changed_ms) => {
            core.look_after(changed_ms);
            false
        }
        _ => true,
    }
}

fn clear_sandbox(core: &mut Core, index: usize, actions: &mut Vec<Action>) {
    let known = &core.record.sandboxes[index];
    if known.gone {
        return;
    }
    if !known.stopped {
        if core.is_idle(&known.seen.id) {
            core.stop_sandbox(index, actions);
        }
        return;
    }
    // Removing a sandbox removes the records of its containers; each of them goes by its own effect first.
    if !core.record.containers.iter().any(|container| !container.gone && container.seen.sandbox_id == known.seen.id) {
        core.remove_sandbox(index, actions);
    }
}
