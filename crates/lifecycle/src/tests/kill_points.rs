//! A whole life (start, crash or loss of the sandbox, restart, removal) with a fault at every effect and the kubelet killed at every effect:
//! a new machine, knowing only what it observes, must bring it to the same end, and nothing may run twice.

use super::plans::plan;
use super::script::{failure, now};
use super::world::{Fault, World};
use crate::*;
use std::collections::VecDeque;

/// How the kubelet dies before the effect it dies at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// What was in flight never reaches the runtime.
    Lost,
    /// What was in flight happens after the new kubelet has asked for the first time.
    Late,
    /// The effect happens; nobody hears of it.
    Unheard,
}

#[derive(Debug, Clone, Copy, Default)]
struct Plot {
    fault: Option<(usize, Fault)>,
    kill: Option<(usize, Kill)>,
    events_lost: bool,
    newest_first: bool,
    /// The accident is not a crash of `a` but the end of the sandbox with everything in it.
    sandbox_lost: bool,
}

struct Run {
    plot: Plot,
    world: World,
    machine: PodMachine,
    queue: VecDeque<(EffectId, Effect)>,
    late: Vec<Effect>,
    /// Effects carried out so far.
    steps: usize,
    crashed: bool,
    deleted: bool,
}

impl Run {
    fn new(plot: Plot) -> Run {
        let world = World { now_ms: 1_000, ..World::default() };
        let machine = PodMachine::new(plan("Always a b"), now(1_000));
        let mut run = Run {
            plot,
            world,
            machine,
            queue: VecDeque::new(),
            late: Vec::new(),
            steps: 0,
            crashed: false,
            deleted: false,
        };
        run.tell(Input::Admit);
        run
    }

    fn tell(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.world.now_ms += 1;
        self.machine.handle(now(self.world.now_ms), input, &mut actions);
        for action in actions {
            match action {
                Action::Do { id, effect } => self.queue.push_back((id, effect)),
                Action::Tell(_) => {}
                Action::Cancel(id) => {
                    if let Some(index) = self.queue.iter().position(|(queued, _)| *queued == id) {
                        self.queue.remove(index);
                        let outcome = failure(FailureClass::Cancelled, "Cancelled");
                        self.tell(Input::Completed { id, outcome });
                    }
                }
            }
        }
    }

    fn observe(&mut self) {
        let stamp = self.world.now_ms;
        self.tell(Input::Observed { stamp, pod: self.world.pod.clone() });
        for effect in std::mem::take(&mut self.late) {
            self.world.carry_out(&effect, None);
        }
    }

    fn carry_out(&mut self, id: EffectId, effect: Effect) {
        let step = self.steps;
        self.steps += 1;
        if let Some((at, kill)) = self.plot.kill
            && at == step
        {
            return self.kill(kill, effect);
        }
        let fault = self.plot.fault.filter(|(at, _)| *at == step).map(|(_, fault)| fault);
        let outcome = self.world.carry_out(&effect, fault);
        if effect == Effect::Inspect && fault != Some(Fault::Failed) && fault != Some(Fault::UnknownAndNot) {
            self.observe();
        } else if !self.plot.events_lost {
            self.tell(Input::Observed { stamp: UNSTAMPED, pod: self.world.pod.clone() });
        }
        self.tell(Input::Completed { id, outcome });
    }

    fn kill(&mut self, kill: Kill, effect: Effect) {
        let queued = std::mem::take(&mut self.queue).into_iter().map(|(_, effect)| effect);
        match kill {
            Kill::Lost => {}
            Kill::Late => self.late = std::iter::once(effect).chain(queued).collect(),
            Kill::Unheard => {
                self.world.carry_out(&effect, None);
            }
        }
        self.machine = PodMachine::new(plan("Always a b"), now(self.world.now_ms));
        self.tell(Input::Admit);
        if self.deleted {
            self.tell(Input::Delete { grace_ms: 1_000 });
        }
    }

    /// The next turn of the story, when everything is quiet. False: wait on.
    fn turn(&mut self) -> bool {
        let report = self.machine.report();
        if !report.observed || !report.ready() {
            return false;
        }
        if !self.crashed && self.world.runs("a#0") {
            self.crashed = true;
            if self.plot.sandbox_lost {
                self.world.lose_sandbox();
            } else {
                self.world.exit("a#0", 1);
            }
            if !self.plot.events_lost {
                self.tell(Input::Observed { stamp: UNSTAMPED, pod: self.world.pod.clone() });
            }
            return true;
        }
        let (b, exit_code) = if self.plot.sandbox_lost { ("b#1", 137) } else { ("b#0", 1) };
        if self.crashed && !self.deleted && self.world.runs("a#1") && self.world.runs(b) {
            let last = report.containers[0].last.as_ref().expect("the exit is remembered");
            assert_eq!((last.exit_code, report.containers[0].restart_count), (exit_code, 1));
            self.deleted = true;
            self.tell(Input::Delete { grace_ms: 1_000 });
            return true;
        }
        false
    }

    /// Lives the whole life and tells how many effects it took.
    fn live(mut self) -> usize {
        for _ in 0..1_000 {
            if self.machine.is_finished() {
                return self.finish();
            }
            let next = if self.plot.newest_first { self.queue.pop_back() } else { self.queue.pop_front() };
            if let Some((id, effect)) = next {
                self.carry_out(id, effect);
            } else if !self.turn() {
                match self.machine.next_deadline() {
                    Some(at_ms) => {
                        self.world.now_ms = self.world.now_ms.max(at_ms - 1);
                        self.tell(Input::Tick);
                    }
                    None => {
                        self.world.now_ms += 10_000;
                        self.observe();
                    }
                }
            }
        }
        panic!("no end: {:?}\n{:?}\n{:?}", self.plot, self.machine, self.world);
    }

    fn finish(self) -> usize {
        assert_eq!((&self.world.pod, self.world.volumes), (&ObservedPod::default(), false));
        assert!(self.crashed && self.deleted);
        let starts: Vec<(&str, u32, u32)> =
            self.world.starts.iter().map(|((name, attempt), count)| (name.as_str(), *attempt, *count)).collect();
        let wanted = [("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("b", 1, 1)];
        assert_eq!(starts, wanted[..if self.plot.sandbox_lost { 4 } else { 3 }], "{:?}", self.plot);
        self.steps
    }
}

const FAULTS: [Fault; 3] = [Fault::Failed, Fault::UnknownButHappened, Fault::UnknownAndNot];
const KILLS: [Kill; 3] = [Kill::Lost, Kill::Late, Kill::Unheard];

fn settings() -> impl Iterator<Item = Plot> {
    (0..8).map(|bits| Plot {
        events_lost: bits & 1 != 0,
        newest_first: bits & 2 != 0,
        sandbox_lost: bits & 4 != 0,
        ..Plot::default()
    })
}

#[test]
fn a_life_without_trouble_takes_no_more_effects_than_it_needs() {
    // Two questions at the ends; setup, sandbox, 2 images, 3 starts; 2 stops, 3 removals, sandbox stop and removal; teardown.
    assert_eq!(Run::new(Plot::default()).live(), 17);
}

#[test]
fn f_b03_every_fault_at_every_effect() {
    for plot in settings() {
        let steps = Run::new(plot).live();
        for at in 0..steps {
            for fault in FAULTS {
                Run::new(Plot { fault: Some((at, fault)), ..plot }).live();
            }
        }
    }
}

#[test]
fn f_b03_the_kubelet_killed_at_every_effect_and_a_fault_at_every_other() {
    for plot in settings() {
        let steps = Run::new(plot).live();
        for (at, kill) in (0..steps).flat_map(|at| KILLS.map(|kill| (at, kill))) {
            let killed = Plot { kill: Some((at, kill)), ..plot };
            let steps = Run::new(killed).live();
            for (at, fault) in (0..steps).flat_map(|at| FAULTS.map(|fault| (at, fault))) {
                Run::new(Plot { fault: Some((at, fault)), ..killed }).live();
            }
        }
    }
}
