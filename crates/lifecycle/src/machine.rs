//! The machine of one pod.

use crate::{Action, Input, Millis, Now, PodPlan, PodReport};

/// Where a pod is in its life. Only ever moves to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Another pod of the same full name still lives.
    Waiting,
    Syncing,
    Terminating,
    /// Nothing of it is left in the runtime; volumes, control group and directories go.
    Terminated,
    Finished,
}

/// One pod's life.
#[derive(Debug)]
pub struct PodMachine {
    plan: PodPlan,
}

impl PodMachine {
    /// A wanted pod. It does nothing until [`Input::Admit`].
    pub fn new(plan: PodPlan, _now: Now) -> PodMachine {
        PodMachine { plan }
    }
    /// A pod that the runtime has and nobody wants: it starts out terminating, and acts on its first input.
    pub fn orphan(uid: String, full_name: String, grace_ms: u64, now: Now) -> PodMachine {
        let _ = (uid, full_name, grace_ms, now);
        unreachable!()
    }
    pub fn plan(&self) -> &PodPlan {
        &self.plan
    }
    /// Takes one input and appends what is to be done.
    pub fn handle(&mut self, _now: Now, _input: Input, _actions: &mut Vec<Action>) {}
    /// When to send [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }
    pub fn report(&self) -> PodReport {
        unreachable!()
    }
    pub fn stage(&self) -> Stage {
        Stage::Waiting
    }
    pub fn is_finished(&self) -> bool {
        self.stage() == Stage::Finished
    }
}
