//! The machine of one pod: [`PodMachine::handle`] takes an input and says what is to be done.
//!
//! Each input is first written down and then every decision is taken anew from what is written, so that it does not
//! matter in which order news arrive, nor whether this machine or one before a restart of the kubelet caused them.

mod clearing;
mod core;
mod hooks;
mod ledger;
mod life;
mod memory;
mod order;
mod outcome;
mod probing;
mod record;
mod restart_all;
mod retry;
mod slot;
mod status;
mod stopping;
mod syncing;
mod telling;

use self::clearing::{Terminated, Terminating};
use self::core::Core;
use self::syncing::Syncing;
use self::telling::{DEADLINE_MESSAGE, tell};
use crate::{Action, Effect, Ending, Input, Millis, Now, Phase, PodPlan, PodReport, RestartPolicy};
use pod::reasons;

/// Where a pod is in its life. It only ever moves on.
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

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Syncing(Syncing),
    Terminating(Terminating),
    Terminated(Terminated),
    Finished,
}

impl State {
    fn stage(&self) -> Stage {
        match self {
            State::Waiting => Stage::Waiting,
            State::Syncing(_) => Stage::Syncing,
            State::Terminating(_) => Stage::Terminating,
            State::Terminated(_) => Stage::Terminated,
            State::Finished => Stage::Finished,
        }
    }
}

/// One pod's life.
#[derive(Debug, Clone)]
pub struct PodMachine {
    core: Core,
    state: State,
    /// How it ended, once it did; a terminal phase is never left.
    settled: Option<Ending>,
    /// It was let in, by this kubelet or by one before it.
    admitted: bool,
    /// By when the containers are to be dead, by both clocks: as this kubelet decided, or one before it.
    kill_at: Option<(Millis, i64)>,
    revision: u64,
}

impl PodMachine {
    /// A wanted pod. It does nothing until [`Input::Admit`].
    pub fn new(plan: PodPlan, now: Now) -> PodMachine {
        PodMachine {
            core: Core::new(plan, Stage::Waiting, now),
            state: State::Waiting,
            settled: None,
            admitted: false,
            kill_at: None,
            revision: 0,
        }
    }

    /// A pod that the runtime has, nobody wants, and of whose spec nothing is left: it starts out terminating, and acts on
    /// its first input.
    pub fn orphan(uid: String, full_name: String, grace_ms: u64, now: Now) -> PodMachine {
        let plan = PodPlan {
            uid,
            full_name,
            generation: 0,
            restart_policy: RestartPolicy::Never,
            grace_ms,
            active_deadline_ms: None,
            max_restart_delay_ms: crate::backoff::CRASH.max_ms,
            host_network: false,
            containers: Vec::new(),
        };
        let kill_at_ms = now.mono_ms.saturating_add(grace_ms);
        PodMachine {
            core: Core::new(plan, Stage::Terminating, now),
            state: State::Terminating(Terminating::new(kill_at_ms)),
            settled: None,
            admitted: true,
            kill_at: None,
            revision: 0,
        }
    }

    /// The plan that is followed.
    pub fn plan(&self) -> &PodPlan {
        &self.core.plan
    }

    pub fn stage(&self) -> Stage {
        self.state.stage()
    }

    pub fn is_finished(&self) -> bool {
        self.stage() == Stage::Finished
    }

    /// When to send [`Input::Tick`] at the latest, if nothing else is heard before.
    pub fn next_deadline(&self) -> Option<Millis> {
        [self.core.wake_ms, self.core.probe_ms].into_iter().flatten().min()
    }

    /// Rises whenever [`PodMachine::report`] or [`PodMachine::memory`] may say something else than before.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What there is to say of the pod.
    pub fn report(&self) -> PodReport {
        status::report(self)
    }

    /// Takes one input and appends what is to be done about it. A finished machine hears nothing any more.
    pub fn handle(&mut self, now: Now, input: Input, actions: &mut Vec<Action>) {
        if self.is_finished() {
            return;
        }
        debug_assert!(now.mono_ms >= self.core.now.mono_ms, "the monotonic clock went back");
        self.core.now = Now { mono_ms: now.mono_ms.max(self.core.now.mono_ms), wall_ns: now.wall_ns };
        let told = actions.len();
        let news = self.hear(input, actions);
        self.core.follow_runs();
        self.decide(actions);
        self.note_kill_at();
        // Questions, and probes that turn nothing, are what a pod at rest consists of.
        let is_silent = |action: &Action| {
            matches!(action, Action::Do { effect: Effect::Probe { .. } | Effect::Inspect, .. } | Action::Tell(_))
        };
        if news || !actions[told..].iter().all(is_silent) {
            self.revision += 1;
        }
    }

    /// Writes an input down. True if there may be something new to say.
    fn hear(&mut self, input: Input, actions: &mut Vec<Action>) -> bool {
        match input {
            Input::Admit => self.admit(),
            Input::Reject { reason, message } => self.reject(reason, message),
            Input::Desired(plan) => self.desire(plan, actions),
            Input::Delete { grace_ms } => self.delete(grace_ms, actions),
            Input::Observed { stamp, mut pod } => {
                self.core.doubt_strangers(stamp, &mut pod);
                let first_ns = pod.sandboxes.iter().map(|sandbox| sandbox.created_at_ns).filter(|&ns| ns > 0).min();
                if let Some(first_ns) = first_ns {
                    self.core.started_at(first_ns);
                }
                self.core.record.observe(stamp, pod, self.core.now);
            }
            Input::Completed { id, outcome } => return self.complete(id, outcome, actions),
            Input::ImagesChanged => {
                if let State::Syncing(syncing) = &mut self.state {
                    syncing.images_changed();
                }
            }
            // Before that only a probe can be due.
            Input::Tick => return self.core.wake_ms.is_some_and(|at_ms| at_ms <= self.core.now.mono_ms),
        }
        true
    }

    fn decide(&mut self, actions: &mut Vec<Action>) {
        self.core.begin();
        loop {
            let next = match &mut self.state {
                State::Waiting | State::Finished => None,
                State::Syncing(_) => {
                    self.sync(actions);
                    None
                }
                State::Terminating(terminating) => {
                    let is_clear = terminating.step(&mut self.core, actions);
                    probing::ask_due(&mut self.core, actions);
                    is_clear.then(|| State::Terminated(Terminated::new(terminating.kill_at_ms)))
                }
                State::Terminated(terminated) => terminated.step(&mut self.core, actions).then_some(State::Finished),
            };
            let Some(next) = next else { break };
            self.enter(next);
            if self.stage() == Stage::Terminated && self.settled.is_none() {
                // Whatever appears from now on, the pod's end is told once.
                self.settled = Some(ending(self.report().phase));
            }
        }
        hooks::give_up_on_the_dead(&mut self.core, actions);
        match self.state {
            State::Finished => (self.core.wake_ms, self.core.probe_ms) = (None, None),
            State::Waiting => {}
            _ => self.core.inspect(actions),
        }
        debug_assert!(self.next_deadline().is_none_or(|at_ms| at_ms > self.core.now.mono_ms), "a deadline in the past");
    }

    fn sync(&mut self, actions: &mut Vec<Action>) {
        let State::Syncing(syncing) = &mut self.state else { return };
        let deadline_ms = self.core.deadline_ms();
        if self.settled.is_none() && deadline_ms.is_some_and(|at_ms| at_ms <= self.core.now.mono_ms) {
            tell(telling::deadline_exceeded(), actions);
            self.settled = Some(Ending {
                reason: reasons::DEADLINE_EXCEEDED.to_owned(),
                message: DEADLINE_MESSAGE.to_owned(),
                ..ending(Phase::Failed)
            });
        }
        let settled = self.settled.as_ref().map(|ending| ending.phase);
        let rests = syncing.step(&mut self.core, settled, actions);
        self.settled = self.settled.take().or(rests.map(ending));
        if let (None, Some(at_ms)) = (&self.settled, deadline_ms) {
            self.core.wake(at_ms);
        }
    }

    fn admit(&mut self) {
        if matches!(self.state, State::Waiting) {
            self.admitted = true;
            let mut syncing = Syncing::new(&self.core.plan);
            syncing.kill_at_ms = self.kill_at.map(|(at_ms, _)| at_ms);
            self.enter(State::Syncing(syncing));
        }
    }

    /// What runs is never rejected: only a pod that waits can be.
    fn reject(&mut self, reason: String, message: String) {
        if matches!(self.state, State::Waiting) && !self.admitted {
            self.settled = self.settled.take().or(Some(Ending { phase: Phase::Failed, reason, message }));
            self.enter(State::Syncing(Syncing::new(&self.core.plan)));
        }
    }

    /// Rule 1: a pod's life only moves on.
    fn enter(&mut self, state: State) {
        assert!(state.stage() > self.state.stage(), "{:?} after {:?}", state.stage(), self.state.stage());
        self.core.stage = state.stage();
        self.state = state;
    }

    fn desire(&mut self, plan: PodPlan, actions: &mut Vec<Action>) {
        debug_assert_eq!(plan.uid, self.core.plan.uid, "another pod needs another machine");
        if plan.uid != self.core.plan.uid || plan == self.core.plan {
            return;
        }
        match &mut self.state {
            State::Waiting => drop(self.core.replan(plan)),
            State::Syncing(syncing) => syncing.replan(&mut self.core, plan, actions),
            // Whoever is terminating is not wanted back: the same UID gets a new machine.
            State::Terminating(_) | State::Terminated(_) | State::Finished => {}
        }
    }

    /// Rule 2: a grace period can only shrink, and becoming terminating cancels what was in flight.
    fn delete(&mut self, grace_ms: u64, actions: &mut Vec<Action>) {
        let kill_at_ms = self.core.now.mono_ms.saturating_add(grace_ms);
        match &mut self.state {
            State::Waiting | State::Syncing(_) => {
                let given_up = self.core.ledger.cancel(|flight| {
                    matches!(
                        flight.effect,
                        Effect::SetUp
                            | Effect::RunSandbox { .. }
                            | Effect::EnsureImage { .. }
                            | Effect::StartContainer { .. }
                            | Effect::PostStart { .. }
                    )
                });
                actions.extend(given_up.into_iter().map(Action::Cancel));
                // What was heard so far may be old: the end of a pod is seen, not remembered.
                self.core.changed_ms = Some(self.core.now.mono_ms);
                self.enter(State::Terminating(Terminating::new(kill_at_ms)));
            }
            State::Terminating(Terminating { kill_at_ms: earlier_ms, .. })
            | State::Terminated(Terminated { kill_at_ms: earlier_ms, .. }) => {
                *earlier_ms = kill_at_ms.min(*earlier_ms);
            }
            State::Finished => {}
        }
    }
}

fn ending(phase: Phase) -> Ending {
    Ending { phase, reason: String::new(), message: String::new() }
}
