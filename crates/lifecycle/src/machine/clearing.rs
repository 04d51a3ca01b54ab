//! The end of a pod: everything of it leaves the runtime, observed and not assumed.

use super::core::Core;
use super::ledger::Subject;
use super::retry::Retry;
use crate::backoff::RETRY;
use crate::{Action, Effect, Millis};

/// Containers and sandboxes are going.
#[derive(Debug)]
pub(crate) struct Terminating {
    /// When every container is to be killed at the latest. Only ever earlier.
    pub(crate) kill_at_ms: Millis,
}

/// Volumes, control group and directories are going.
#[derive(Debug)]
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
            core.stop_container(index, kill_at_ms, actions);
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
