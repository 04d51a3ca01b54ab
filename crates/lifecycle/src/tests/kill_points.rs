//! A whole life (start, crash or loss of the sandbox, restart, removal) with a fault at every effect and the kubelet killed at every effect:
//! a new machine, knowing only what it observes and perhaps what the one before wrote down, must bring it to the same end,
//! and nothing may run twice.

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

/// What the next kubelet finds written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Written {
    #[default]
    Nothing,
    Latest,
    /// What was true one input before.
    Stale,
}

/// Whose life it is, and what befalls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Cast {
    #[default]
    Plain,
    /// Init containers, sidecars, hooks and probes.
    Rich,
    /// The exit of one container restarts all.
    RestartAll,
}

impl Cast {
    fn plan(self) -> &'static str {
        match self {
            Cast::Plain => "Always a b",
            Cast::Rich => "Always i:init s:sidecar,startup,post,pre j:init a:post,pre,live,ready b:pre",
            Cast::RestartAll => "Never i:init s:sidecar,ready a:all=42,post b:pre",
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Plot {
    cast: Cast,
    written: Written,
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
    /// As of now, and as of the input before.
    memories: [Memory; 2],
    queue: VecDeque<(EffectId, Effect)>,
    /// When the runtime is asked next, whatever was heard.
    relist_ms: Millis,
    late: Vec<Effect>,
    /// Effects carried out so far.
    steps: usize,
    crashed: bool,
    deleted: bool,
}

impl Run {
    fn new(plot: Plot) -> Run {
        let world = World { now_ms: 1_000, ..World::default() };
        let machine = PodMachine::new(plan(plot.cast.plan()), now(1_000));
        let mut run = Run {
            plot,
            world,
            machine,
            memories: [Memory::default(), Memory::default()],
            queue: VecDeque::new(),
            relist_ms: 15_000,
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
        let memory = self.machine.memory();
        self.memories[1] = std::mem::replace(&mut self.memories[0], memory);
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
        let fault = match self.plot.fault.filter(|(at, _)| *at == step) {
            // A hook that fails is no fault of the machinery: it costs the container its life.
            Some((_, Fault::Failed)) if matches!(effect, Effect::PostStart { .. }) => Some(Fault::UnknownAndNot),
            fault => fault.map(|(_, fault)| fault),
        };
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
        let (plan, now) = (plan(self.plot.cast.plan()), now(self.world.now_ms));
        self.machine = match self.plot.written {
            Written::Nothing => PodMachine::new(plan, now),
            Written::Latest => PodMachine::resume(plan, &self.memories[0], now),
            Written::Stale => PodMachine::resume(plan, &self.memories[1], now),
        };
        self.tell(Input::Admit);
        if self.deleted {
            self.tell(Input::Delete { grace_ms: GRACE_MS });
        }
    }

    /// The next turn of the story, when everything is quiet. False: wait on.
    fn turn(&mut self) -> bool {
        let working = self.world.pod.containers.iter().map(|found| found.id.clone());
        let working = working.filter(|id| matches!(&id[..1], "i" | "j")).find(|id| self.world.runs(id));
        if let Some(id) = working {
            self.world.exit(&id, 0);
            self.event();
            return true;
        }
        let report = self.machine.report();
        if !report.observed || !report.ready() {
            return false;
        }
        if !self.crashed && self.world.runs("a#0") {
            self.crashed = true;
            if self.plot.sandbox_lost {
                self.world.lose_sandbox();
            } else {
                self.world.exit("a#0", if self.plot.cast == Cast::RestartAll { 42 } else { 1 });
            }
            self.event();
            return true;
        }
        let b = if self.renewed() { "b#1" } else { "b#0" };
        if self.crashed && !self.deleted && self.world.runs("a#1") && self.world.runs(b) {
            let a = report.containers.iter().find(|found| found.name == "a").expect("a container");
            let codes: &[i32] = match (self.plot.sandbox_lost, self.plot.cast) {
                (true, _) => &[137],
                (false, Cast::RestartAll) => &[42],
                (false, _) => &[1],
            };
            if let Some(last) = &a.last {
                assert!(codes.contains(&last.exit_code), "{:?}", self.plot);
            } else {
                // Only what went in a restart of all may leave no trace, if nothing was written down of it.
                assert_eq!(self.plot.cast, Cast::RestartAll, "the exit is remembered");
            }
            assert_eq!(a.restart_count, 1);
            self.deleted = true;
            self.tell(Input::Delete { grace_ms: GRACE_MS });
            return true;
        }
        false
    }

    fn event(&mut self) {
        if !self.plot.events_lost {
            self.tell(Input::Observed { stamp: UNSTAMPED, pod: self.world.pod.clone() });
        }
    }

    /// Every container runs twice.
    fn renewed(&self) -> bool {
        self.plot.sandbox_lost || self.plot.cast == Cast::RestartAll
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
                    // Whoever missed an event is told by the next relist, however often probes are due.
                    Some(at_ms) if at_ms < self.relist_ms => {
                        self.world.now_ms = self.world.now_ms.max(at_ms - 1);
                        self.tell(Input::Tick);
                    }
                    _ => {
                        self.world.now_ms = self.world.now_ms.max(self.relist_ms);
                        self.relist_ms = self.world.now_ms + 15_000;
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
        let mut wanted: Vec<(&str, u32, u32)> = Vec::new();
        let plan = plan(self.plot.cast.plan());
        for container in &plan.containers {
            wanted.push((&container.name, 0, 1));
            if self.renewed() || container.name == "a" {
                wanted.push((&container.name, 1, 1));
            }
        }
        wanted.sort_unstable();
        assert_eq!(starts, wanted, "{:?}", self.plot);
        self.steps
    }
}

/// Longer than any life here lasts.
const GRACE_MS: u64 = 3_600_000;
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

/// A life of each cast in each setting, and with everything that may be written down.
fn rich_settings() -> impl Iterator<Item = Plot> {
    let casts = [
        (Cast::Rich, Written::Nothing),
        (Cast::Rich, Written::Latest),
        (Cast::Rich, Written::Stale),
        (Cast::RestartAll, Written::Latest),
    ];
    casts.into_iter().flat_map(|(cast, written)| settings().map(move |plot| Plot { cast, written, ..plot })).filter(
        |plot| {
            // A pod that is never restarted does not outlive its sandbox.
            let lives_on = !(plot.sandbox_lost && plot.cast == Cast::RestartAll);
            lives_on && plot.newest_first == (plot.written == Written::Stale)
        },
    )
}

#[test]
fn f_b03_every_fault_at_every_effect_of_init_containers_sidecars_hooks_and_probes() {
    for plot in rich_settings().filter(|plot| plot.written == Written::Latest) {
        let steps = Run::new(plot).live();
        for (at, fault) in (0..steps).flat_map(|at| FAULTS.map(|fault| (at, fault))) {
            Run::new(Plot { fault: Some((at, fault)), ..plot }).live();
        }
    }
}

#[test]
fn f_b03_the_kubelet_killed_at_every_effect_of_init_containers_sidecars_hooks_and_probes() {
    for (index, plot) in rich_settings().enumerate() {
        let steps = Run::new(plot).live();
        for (at, kill) in (0..steps).flat_map(|at| KILLS.map(|kill| (at, kill))) {
            let killed = Plot { kill: Some((at, kill)), ..plot };
            let steps = Run::new(killed).live();
            // All pairs would take minutes: every ninety-seventh, another one in each life.
            for at in (0..steps).skip((at + index) % 97).step_by(97) {
                Run::new(Plot { fault: Some((at, FAULTS[at % 3])), ..killed }).live();
            }
        }
    }
}
