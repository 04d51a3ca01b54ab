//! One state of a small world, and every step that can be taken from it.

use super::{Scenario, laws};
use crate::pods::Cast;
use crate::truth::{Refusal, Truth};
use cri::keys::PodKey;
use lifecycle::{
    Action, Done, Effect, EffectId, Failure, FailureClass, Input, Memory, Now, ObservedContainer, ObservedState,
    Outcome, PodMachine, PodPlan, Stage, UNSTAMPED,
};

const BEGIN_MS: u64 = 1_000;
/// Steps towards rest; more and it will never come.
const REST_STEPS_MAX: usize = 600;
/// Between two looks at the runtime that nobody asked for.
const RELIST_MS: u64 = 10_000;

#[derive(Debug, Clone)]
pub(super) struct Mine {
    pub(super) plan: PodPlan,
    pub(super) machine: Option<PodMachine>,
    pub(super) flights: Vec<Flight>,
    memory: Memory,
    admitted: bool,
    pub(super) deleted: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) id: EffectId,
    pub(super) effect: Effect,
    pub(super) given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    End {
        pod: usize,
        flight: usize,
        how: How,
    },
    Crash(usize),
    Delete(usize),
    /// The kubelet dies; what it had asked for happens, or does not.
    Kill {
        sent: bool,
    },
    /// Time passes until something is due.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Well,
    Failed,
    UnknownHappened,
    UnknownNot,
    Cancelled,
}

#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) pods: Vec<Mine>,
    pub(super) truth: Truth,
    pub(super) path: Vec<String>,
    faults: u8,
    kills: u8,
    crashes: u8,
    pub(super) now_ms: u64,
}

impl Branch {
    pub(super) fn new(scenario: &Scenario, plans: Vec<PodPlan>, cast: Cast) -> Branch {
        let now_ms = BEGIN_MS;
        let mut truth = Truth::default();
        (truth.now_ms, truth.wall_ns, truth.cast) = (now_ms, now(now_ms).wall_ns, cast);
        let mut branch = Branch {
            pods: Vec::new(),
            truth,
            path: Vec::new(),
            faults: scenario.faults,
            kills: scenario.kills,
            crashes: scenario.crashes,
            now_ms,
        };
        for plan in plans {
            branch.pods.push(Mine {
                machine: Some(PodMachine::new(plan.clone(), now(now_ms))),
                plan,
                flights: Vec::new(),
                memory: Memory::default(),
                admitted: false,
                deleted: false,
            });
        }
        // The machines' first observation: nothing.
        for pod in 0..branch.pods.len() {
            let _nothing_yet = branch.observe(pod, now_ms);
        }
        let _first = branch.admit();
        branch
    }

    /// What the state is, without how it came about.
    pub(super) fn situation(&self) -> impl std::fmt::Debug + '_ {
        let Truth { now_ms, sandboxes, containers, volumes, .. } = &self.truth;
        let pods =
            self.pods.iter().map(|mine| (&mine.machine, &mine.flights, &mine.memory, mine.admitted, mine.deleted));
        let left = (self.faults, self.kills, self.crashes);
        (now_ms, sandboxes, containers, volumes, pods.collect::<Vec<_>>(), left)
    }

    pub(super) fn choices(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (pod, mine) in self.pods.iter().enumerate() {
            for (flight, of) in mine.flights.iter().enumerate() {
                let end = |how| Step::End { pod, flight, how };
                steps.push(end(How::Well));
                if of.given_up {
                    steps.push(end(How::Cancelled));
                } else if self.faults > 0 {
                    steps.extend([How::Failed, How::UnknownHappened, How::UnknownNot].map(end));
                }
            }
            if mine.admitted && !mine.deleted {
                steps.push(Step::Delete(pod));
            }
        }
        if self.crashes > 0 {
            let alive = (0..self.truth.containers.len()).filter(|&index| self.truth.containers[index].alive());
            steps.extend(alive.map(Step::Crash));
        }
        if self.kills > 0 {
            steps.extend([true, false].map(|sent| Step::Kill { sent }));
        }
        if self.pods.iter().all(|mine| mine.flights.is_empty()) && self.next_ms().is_some() {
            steps.push(Step::Wait);
        }
        steps
    }

    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        self.path.push(self.name_of(step));
        self.pass(1)?;
        match step {
            Step::End { pod, flight, how } => self.end(pod, flight, how)?,
            Step::Crash(index) => {
                self.crashes -= 1;
                let id = self.truth.containers[index].seen.id.clone();
                let _there = self.truth.crash(&id, 1);
                self.tell_events()?;
            }
            Step::Delete(pod) => self.delete(pod)?,
            Step::Kill { sent } => self.kill(sent)?,
            Step::Wait => self.wait()?,
        }
        self.admit()?;
        laws::of_state(self)
    }

    fn name_of(&self, step: Step) -> String {
        match step {
            Step::End { pod, flight, how } => format!("{how:?}: {:?}", self.pods[pod].flights[flight].effect),
            Step::Crash(index) => format!("{} crashes", self.truth.containers[index].seen.id),
            other => format!("{other:?}"),
        }
    }

    fn pass(&mut self, ms: u64) -> Result<(), String> {
        self.now_ms += ms;
        self.truth.now_ms = self.now_ms;
        self.truth.wall_ns = now(self.now_ms).wall_ns;
        self.truth.advance();
        self.tell_events()
    }

    fn next_ms(&self) -> Option<u64> {
        let machines = self.pods.iter().filter_map(|mine| mine.machine.as_ref()?.next_deadline());
        machines.chain(self.truth.next_ms()).min()
    }

    fn wait(&mut self) -> Result<(), String> {
        let next_ms = self.next_ms().unwrap_or(self.now_ms + RELIST_MS);
        self.pass(next_ms.saturating_sub(self.now_ms))?;
        for pod in 0..self.pods.len() {
            self.feed(pod, Input::Tick)?;
        }
        Ok(())
    }

    fn delete(&mut self, pod: usize) -> Result<(), String> {
        self.pods[pod].deleted = true;
        let grace_ms = self.pods[pod].plan.grace_ms;
        self.feed(pod, Input::Delete { grace_ms })
    }

    /// Who is alone with its name begins.
    fn admit(&mut self) -> Result<(), String> {
        let finished = |mine: &Mine| mine.machine.is_none();
        let Some(first) = self.pods.iter().position(|mine| !finished(mine)) else { return Ok(()) };
        if !self.pods[first].admitted && !self.pods[first].deleted {
            self.pods[first].admitted = true;
            self.feed(first, Input::Admit)?;
        }
        Ok(())
    }

    /// Every event reaches every machine at once.
    fn tell_events(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.truth.changes).is_empty() {
            return Ok(());
        }
        (0..self.pods.len()).try_for_each(|pod| self.observe(pod, UNSTAMPED))
    }

    fn observe(&mut self, pod: usize, stamp: u64) -> Result<(), String> {
        let seen = self.truth.observe(&self.pods[pod].plan.uid).map(|(_, seen, _)| seen).unwrap_or_default();
        self.feed(pod, Input::Observed { stamp, pod: seen })
    }

    fn feed(&mut self, pod: usize, input: Input) -> Result<(), String> {
        let mine = &mut self.pods[pod];
        let Some(machine) = &mut mine.machine else { return Ok(()) };
        let before = machine.report();
        let mut actions = Vec::new();
        machine.handle(now(self.now_ms), input, &mut actions);
        laws::of_step(&before, &machine.report(), &self.truth)?;
        for action in actions {
            match action {
                Action::Do { id, effect } => {
                    laws::of_effect(self, pod, &effect)?;
                    self.pods[pod].flights.push(Flight { id, effect, given_up: false });
                }
                Action::Cancel(id) => {
                    let flights = self.pods[pod].flights.iter_mut();
                    flights.filter(|flight| flight.id == id).for_each(|flight| flight.given_up = true);
                }
                Action::Tell(_) => {}
            }
        }
        let mine = &mut self.pods[pod];
        let finished = mine.machine.as_ref().is_some_and(|machine| machine.stage() == Stage::Finished);
        if finished {
            mine.machine = None;
            return laws::of_end(self, pod);
        }
        mine.memory = mine.machine.as_ref().map(PodMachine::memory).unwrap_or_default();
        Ok(())
    }

    fn end(&mut self, pod: usize, flight: usize, how: How) -> Result<(), String> {
        let Flight { id, effect, .. } = self.pods[pod].flights.remove(flight);
        if !matches!(how, How::Well | How::Cancelled) {
            self.faults -= 1;
        }
        let real = match how {
            How::Well | How::UnknownHappened => self.happen(pod, &effect)?,
            How::Failed | How::UnknownNot => failed(FailureClass::Retry),
            How::Cancelled => failed(FailureClass::Cancelled),
        };
        self.tell_events()?;
        let inspected = effect == Effect::Inspect && matches!(real, Outcome::Ok(_)) && how == How::Well;
        if inspected {
            self.observe(pod, self.now_ms)?;
        }
        let outcome = match how {
            How::UnknownHappened | How::UnknownNot => Outcome::Unknown,
            How::Well | How::Failed | How::Cancelled => real,
        };
        self.feed(pod, Input::Completed { id, outcome })
    }

    fn happen(&mut self, pod: usize, effect: &Effect) -> Result<Outcome, String> {
        let plan = self.pods[pod].plan.clone();
        let key = PodKey { namespace: "default".into(), name: "p".into(), uid: plan.uid.clone() };
        Ok(match effect {
            Effect::SetUp => {
                self.truth.volumes.insert(plan.uid);
                Outcome::Ok(Done::Nothing)
            }
            Effect::RunSandbox { attempt } => match self.truth.run_sandbox(&key, *attempt, false) {
                Ok((id, ips)) => Outcome::Ok(Done::Sandbox { id, ips }),
                Err(refusal) => refused(refusal),
            },
            Effect::EnsureImage { .. } => Outcome::Ok(Done::Image { image_ref: "sha256:1".into() }),
            Effect::StartContainer { container, attempt, sandbox_id, image_ref } => {
                let of = plan.containers.iter().find(|of| of.name == *container).ok_or("no such container")?;
                let seen = ObservedContainer {
                    id: String::new(),
                    sandbox_id: sandbox_id.clone(),
                    name: container.clone(),
                    attempt: *attempt,
                    hash: of.hash.clone(),
                    state: ObservedState::Created,
                    image: of.image.clone(),
                    image_ref: image_ref.clone(),
                    created_at_ns: 0,
                };
                let created = self.truth.create(&key, seen, plan.grace_ms);
                match created.and_then(|id| self.truth.start(&id).map(|()| id)) {
                    Ok(id) => Outcome::Ok(Done::Container { id }),
                    Err(refusal) => refused(refusal),
                }
            }
            Effect::PostStart { container_id, .. } | Effect::PreStop { container_id, .. } => {
                match self.truth.runs(container_id) {
                    Some(true) => Outcome::Ok(Done::Nothing),
                    _ => failed(FailureClass::Retry),
                }
            }
            Effect::Probe { .. } => Outcome::Ok(Done::Probe { healthy: true, output: String::new() }),
            // Answered once it is dead, which here is at once.
            Effect::StopContainer { container_id, .. } => settled(self.truth.crash(container_id, 143)),
            Effect::RemoveContainer { container_id } => {
                laws::of_removal(self, container_id)?;
                settled(self.truth.remove_container(container_id))
            }
            Effect::StopSandbox { sandbox_id } => settled(self.truth.stop_sandbox(sandbox_id)),
            Effect::RemoveSandbox { sandbox_id } => settled(self.truth.remove_sandbox(sandbox_id)),
            Effect::Inspect => Outcome::Ok(Done::Nothing),
            Effect::TearDown => {
                self.truth.volumes.remove(&plan.uid);
                Outcome::Ok(Done::Nothing)
            }
        })
    }

    /// The next kubelet knows what was stored, what is wanted, and what it observes.
    fn kill(&mut self, sent: bool) -> Result<(), String> {
        self.kills -= 1;
        for pod in 0..self.pods.len() {
            let own = |effect: &Effect| {
                matches!(effect, Effect::SetUp | Effect::TearDown | Effect::EnsureImage { .. } | Effect::Inspect)
            };
            let flights = std::mem::take(&mut self.pods[pod].flights);
            for flight in flights.iter().filter(|flight| sent && !own(&flight.effect)) {
                self.happen(pod, &flight.effect)?;
            }
        }
        self.truth.changes.clear();
        for pod in 0..self.pods.len() {
            let mine = &mut self.pods[pod];
            if mine.machine.is_none() {
                continue;
            }
            mine.machine = Some(PodMachine::resume(mine.plan.clone(), &mine.memory, now(self.now_ms)));
            let (admitted, deleted) = (mine.admitted, mine.deleted);
            self.observe(pod, self.now_ms)?;
            if deleted {
                self.delete(pod)?;
            } else if admitted {
                self.feed(pod, Input::Admit)?;
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more: everything comes to rest, and when the pods are then not wanted, nothing is left.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.settle(false)?;
        laws::of_rest(self)?;
        for pod in 0..self.pods.len() {
            if self.pods[pod].admitted && !self.pods[pod].deleted {
                self.path.push(format!("at rest: delete {pod}"));
                self.delete(pod)?;
            }
            self.settle(true)?;
            if let Some(machine) = self.pods[pod].machine.as_ref().filter(|_| self.pods[pod].deleted) {
                return Err(format!("{} is still {:?}", self.pods[pod].plan.uid, machine.stage()));
            }
        }
        Ok(())
    }

    fn settle(&mut self, ending: bool) -> Result<(), String> {
        let mut idle = 0;
        for _ in 0..REST_STEPS_MAX {
            let flying = self.pods.iter().position(|mine| !mine.flights.is_empty());
            if let Some(pod) = flying {
                idle = 0;
                self.path.push(format!("ends: {:?}", self.pods[pod].flights[0].effect));
                self.pass(1)?;
                self.end(pod, 0, How::Well)?;
            } else if laws::is_at_rest(self, ending) || idle > 3 {
                return Ok(());
            } else {
                idle += 1;
                self.path.push("waits".to_owned());
                self.pass(1)?;
                let due_ms = self.next_ms().map_or(self.now_ms + RELIST_MS, |at_ms| at_ms.min(self.now_ms + RELIST_MS));
                self.pass(due_ms.saturating_sub(self.now_ms))?;
                for pod in 0..self.pods.len() {
                    self.feed(pod, Input::Tick)?;
                    self.observe(pod, self.now_ms)?;
                }
            }
            self.admit()?;
            laws::of_state(self)?;
        }
        Err("no rest".to_owned())
    }
}

fn now(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ns: 1_700_000_000_000_000_000 + i64::try_from(mono_ms).unwrap_or(0) * 1_000_000 }
}

fn failed(class: FailureClass) -> Outcome {
    Outcome::Failed(Failure { class, reason: "Broken".into(), message: "the world is bad".into() })
}

fn refused(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::NotFound => failed(FailureClass::Gone),
        Refusal::Conflict => failed(FailureClass::Retry),
    }
}

fn settled(answer: Result<(), Refusal>) -> Outcome {
    match answer {
        Ok(()) | Err(Refusal::NotFound) => Outcome::Ok(Done::Nothing),
        Err(Refusal::Conflict) => failed(FailureClass::Retry),
    }
}
