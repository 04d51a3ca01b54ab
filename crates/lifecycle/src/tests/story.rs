//! A pod that lives in simulated time: containers behave as told, effects take ten milliseconds, and what happened is
//! written down in order. The kubelet may be restarted and the machine rebooted on the way.
//!
//! How a container behaves: `exit 0 in 1000` (`first exit …`: only its first attempt, and the rest goes on for ever unless
//! told), `term 0 in 500` (what it does on its stop signal), `deaf` (nothing), `post 2000`, `post 2000 fails`, `pre 2000`,
//! `pre hangs`, `startup 3000` (from when on it answers well), `startup never`, `sick 5000` (from when on its liveness
//! fails; `first sick …`), `ready 2000`.

use super::plans::plan;
use super::script::{done_of, failure, now};
use crate::*;
use std::collections::BTreeMap;

const EFFECT_MS: u64 = 10;

#[derive(Debug, Clone, Default)]
struct Behaviour {
    exit: Option<(i32, u64)>,
    first_exit: Option<(i32, u64)>,
    term: Option<(i32, u64)>,
    deaf: bool,
    /// Duration (none: it hangs) and whether it works.
    post: Option<(Option<u64>, bool)>,
    pre: Option<(Option<u64>, bool)>,
    startup_ms: Option<u64>,
    sick_ms: Option<u64>,
    first_sick_ms: Option<u64>,
    ready_ms: u64,
}

/// What is to happen to the pod from outside.
#[derive(Debug, Clone)]
pub(super) enum Turn {
    Delete(u64),
    /// The kubelet dies and comes back after so long.
    RestartKubelet(u64),
    /// Everything that runs is gone, and the kubelet with it, for so long.
    Reboot(u64),
    /// The hash of a container changes.
    Update(&'static str),
    /// The runtime loses the records of what has ended under this name.
    Prune(&'static str),
}

#[derive(Debug, Clone)]
enum Happening {
    Done(EffectId, Effect),
    Exit(String, i32),
    Turn(Turn),
    KubeletUp,
}

pub(super) struct Story {
    pub(super) machine: PodMachine,
    plan: PodPlan,
    memory: Memory,
    up: bool,
    deleted: Option<u64>,
    behaviours: BTreeMap<String, Behaviour>,
    pod: ObservedPod,
    started_ms: BTreeMap<String, u64>,
    kill_ms: BTreeMap<String, u64>,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    now_ms: u64,
    begun: bool,
    pub(super) log: Vec<(u64, String)>,
    pub(super) events: Vec<Event>,
}

impl Story {
    pub(super) fn new(text: &str, behaviours: &[(&str, &str)]) -> Story {
        let plan = plan(text);
        let machine = PodMachine::new(plan.clone(), now(0));
        let behaviours = behaviours.iter().map(|(name, text)| ((*name).to_owned(), behaviour(text))).collect();
        Story {
            machine,
            plan,
            memory: Memory::default(),
            up: true,
            deleted: None,
            behaviours,
            pod: ObservedPod::default(),
            started_ms: BTreeMap::new(),
            kill_ms: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            begun: false,
            log: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(super) fn at(mut self, at_ms: u64, turn: Turn) -> Story {
        self.later(at_ms, Happening::Turn(turn));
        self
    }

    /// Lives until this time.
    pub(super) fn until(mut self, end_ms: u64) -> Story {
        if !std::mem::replace(&mut self.begun, true) {
            self.tell(Input::Admit);
        }
        for _ in 0..20_000 {
            let deadline = self.machine.next_deadline().filter(|_| self.up);
            let next = self.queue.keys().next().copied();
            let at_ms = [deadline, next.map(|(at_ms, _)| at_ms)].into_iter().flatten().min();
            let Some(at_ms) = at_ms.filter(|&at_ms| at_ms <= end_ms) else {
                self.now_ms = end_ms.max(self.now_ms);
                return self;
            };
            self.now_ms = self.now_ms.max(at_ms);
            match next.filter(|(next_ms, _)| *next_ms <= self.now_ms) {
                Some(key) => {
                    let happening = self.queue.remove(&key).expect("it was there");
                    self.happen(happening);
                }
                None => self.tell(Input::Tick),
            }
        }
        panic!("no rest: {:?}", self.log);
    }

    fn later(&mut self, at_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at_ms, self.sequence), happening);
    }

    fn note(&mut self, text: String) {
        self.log.push((self.now_ms, text));
    }

    fn tell(&mut self, input: Input) {
        if !self.up {
            return;
        }
        let mut actions = Vec::new();
        let (revision, before) = (self.machine.revision(), (self.machine.report(), self.memory.clone()));
        self.machine.handle(now(self.now_ms), input, &mut actions);
        self.memory = self.machine.memory();
        if revision == self.machine.revision() {
            assert_eq!((self.machine.report(), &self.memory), (before.0, &before.1), "a change went unnoticed");
        }
        for action in actions {
            match action {
                Action::Do { id, effect } => self.issue(id, effect),
                Action::Tell(event) => self.events.push(event),
                Action::Cancel(id) => self.cancel(id),
            }
        }
    }

    fn behaviour(&self, name: &str) -> Behaviour {
        self.behaviours.get(name).cloned().unwrap_or_default()
    }

    fn issue(&mut self, id: EffectId, effect: Effect) {
        let mut takes_ms = Some(EFFECT_MS);
        match &effect {
            Effect::PostStart { container, container_id } => {
                self.note(format!("post {container_id}"));
                takes_ms = self.behaviour(container).post.map_or(takes_ms, |(ms, _)| ms);
            }
            Effect::PreStop { container, container_id, grace_ms } => {
                self.note(format!("pre {container_id}"));
                let hook_ms = self.behaviour(container).pre.map_or(takes_ms, |(ms, _)| ms);
                takes_ms = Some(hook_ms.map_or(*grace_ms, |ms| ms.min(*grace_ms)));
            }
            Effect::StopContainer { container_id, grace_ms } => {
                self.stop(container_id.clone(), *grace_ms);
                takes_ms = None;
            }
            _ => {}
        }
        if let Some(takes_ms) = takes_ms {
            self.later(self.now_ms + takes_ms, Happening::Done(id, effect));
        } else {
            self.later(u64::MAX, Happening::Done(id, effect));
            self.finish_stops();
        }
    }

    fn cancel(&mut self, id: EffectId) {
        let found = self.queue.iter().find(|(_, happening)| matches!(happening, Happening::Done(of, _) if *of == id));
        if let Some(key) = found.map(|(key, _)| *key) {
            self.queue.remove(&key);
            self.tell(Input::Completed { id, outcome: failure(FailureClass::Cancelled, "Cancelled") });
        }
    }

    fn stop(&mut self, id: String, grace_ms: u64) {
        assert!(grace_ms >= 2_000, "{id} gets {grace_ms} ms");
        let Some(found) = self.pod.containers.iter().find(|found| found.id == id && is_running(found)) else { return };
        let behaviour = self.behaviour(&found.name);
        let kill_ms = self.now_ms + grace_ms;
        let first = !self.kill_ms.contains_key(&id);
        if first {
            self.note(format!("term {id}"));
        }
        let earlier_ms = self.kill_ms.get(&id).copied().unwrap_or(u64::MAX);
        if kill_ms < earlier_ms {
            self.kill_ms.insert(id.clone(), kill_ms);
            self.later(kill_ms, Happening::Exit(id.clone(), 137));
        }
        let (code, in_ms) = behaviour.term.unwrap_or((143, 100));
        if first && !behaviour.deaf {
            self.later(self.now_ms + in_ms, Happening::Exit(id, code));
        }
    }

    /// Answers the stops of what has ended.
    fn finish_stops(&mut self) {
        let ended: Vec<(u64, u64)> = self
            .queue
            .iter()
            .filter(|(_, happening)| match happening {
                Happening::Done(_, Effect::StopContainer { container_id, .. }) => !self.runs(container_id),
                _ => false,
            })
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            if let Some(happening) = self.queue.remove(&key) {
                self.later(self.now_ms + 1, happening);
            }
        }
    }

    pub(super) fn runs(&self, id: &str) -> bool {
        self.pod.containers.iter().any(|found| found.id == id && is_running(found))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Done(id, effect) => self.done(id, effect),
            Happening::Exit(id, code) => {
                self.exit(&id, code);
                self.finish_stops();
                self.event();
            }
            Happening::Turn(turn) => self.turn(turn),
            Happening::KubeletUp => {
                self.up = true;
                self.machine = PodMachine::resume(self.plan.clone(), &self.memory, now(self.now_ms));
                match self.deleted {
                    Some(grace_ms) => {
                        let grace_ms = self.memory.remaining_grace_ms(grace_ms, now(self.now_ms).wall_ns);
                        self.tell(Input::Delete { grace_ms });
                    }
                    None => self.tell(Input::Admit),
                }
            }
        }
    }

    fn event(&mut self) {
        self.tell(Input::Observed { stamp: UNSTAMPED, pod: self.pod.clone() });
    }

    fn exit(&mut self, id: &str, exit_code: i32) {
        let finished_at_ns = now(self.now_ms).wall_ns;
        let Some(found) = self.pod.containers.iter_mut().find(|found| found.id == id) else { return };
        if let ObservedState::Running { started_at_ns } = found.state {
            let (reason, message) = ("Error".to_owned(), String::new());
            found.state = ObservedState::Exited { started_at_ns, finished_at_ns, exit_code, reason, message };
            self.note(format!("exit {id} {exit_code}"));
        }
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Delete(grace_ms) => {
                self.note("delete".to_owned());
                self.deleted = Some(grace_ms);
                self.tell(Input::Delete { grace_ms });
            }
            Turn::RestartKubelet(down_ms) => {
                self.note("kubelet down".to_owned());
                self.kubelet_down(down_ms);
            }
            Turn::Reboot(down_ms) => {
                self.note("reboot".to_owned());
                self.kubelet_down(down_ms);
                self.queue.retain(|_, happening| !matches!(happening, Happening::Exit(..)));
                self.pod = ObservedPod::default();
            }
            Turn::Update(name) => {
                self.note(format!("update {name}"));
                let found = self.plan.containers.iter_mut().find(|plan| plan.name == name).expect("a container");
                found.hash.push('\'');
                self.tell(Input::Desired(self.plan.clone()));
            }
            Turn::Prune(name) => self.pod.containers.retain(|found| found.name != name || is_running(found)),
        }
    }

    fn kubelet_down(&mut self, down_ms: u64) {
        self.up = false;
        self.queue.retain(|_, happening| !matches!(happening, Happening::Done(..)));
        self.later(self.now_ms + down_ms, Happening::KubeletUp);
    }

    fn done(&mut self, id: EffectId, effect: Effect) {
        let mut outcome = Outcome::Ok(done_of(&effect));
        match &effect {
            Effect::Inspect => {
                self.tell(Input::Observed { stamp: self.now_ms, pod: self.pod.clone() });
            }
            Effect::RunSandbox { attempt } => self.pod.sandboxes.push(ObservedSandbox {
                id: format!("s{attempt}"),
                attempt: *attempt,
                ready: true,
                ips: vec![format!("10.0.0.{attempt}")],
                created_at_ns: now(self.now_ms).wall_ns,
            }),
            Effect::StartContainer { container, attempt, sandbox_id, .. } => {
                self.start((container, *attempt), sandbox_id);
            }
            Effect::PostStart { container, container_id } => {
                let works = self.behaviour(container).post.is_none_or(|(_, works)| works);
                self.note(format!("posted {container_id}"));
                outcome = if works { outcome } else { failure(FailureClass::Retry, "FailedPostStartHook") };
            }
            Effect::PreStop { container, container_id, .. } => {
                let works = self.behaviour(container).pre.is_none_or(|(_, works)| works);
                self.note(format!("pred {container_id}"));
                outcome = if works { outcome } else { failure(FailureClass::Retry, "FailedPreStopHook") };
            }
            Effect::Probe { container, container_id, kind } => outcome = self.probe(container, container_id, *kind),
            Effect::RemoveContainer { container_id } => {
                assert!(!self.runs(container_id), "{container_id} is removed while it runs");
                self.pod.containers.retain(|found| found.id != *container_id);
            }
            Effect::StopSandbox { sandbox_id } => {
                assert!(!self.pod.containers.iter().any(|c| c.sandbox_id == *sandbox_id && is_running(c)));
                self.pod.sandboxes.iter_mut().filter(|found| found.id == *sandbox_id).for_each(|s| s.ready = false);
            }
            Effect::RemoveSandbox { sandbox_id } => self.pod.sandboxes.retain(|found| found.id != *sandbox_id),
            Effect::SetUp | Effect::EnsureImage { .. } | Effect::TearDown | Effect::StopContainer { .. } => {}
        }
        self.tell(Input::Completed { id, outcome });
    }

    fn start(&mut self, (name, attempt): (&str, u32), sandbox_id: &str) {
        let id = format!("{name}#{attempt}");
        assert!(!self.pod.containers.iter().any(|c| c.name == name && is_running(c)), "two {name} at once");
        let plan = self.plan.containers.iter().find(|plan| plan.name == name).expect("a container");
        self.pod.containers.push(ObservedContainer {
            id: id.clone(),
            sandbox_id: sandbox_id.to_owned(),
            name: name.to_owned(),
            attempt,
            hash: plan.hash.clone(),
            state: ObservedState::Running { started_at_ns: now(self.now_ms).wall_ns },
            image: plan.image.clone(),
            image_ref: format!("ref-{name}"),
            created_at_ns: now(self.now_ms).wall_ns,
        });
        self.note(format!("start {id}"));
        self.started_ms.insert(id.clone(), self.now_ms);
        let behaviour = self.behaviour(name);
        let exit = behaviour.first_exit.filter(|_| attempt == 0).or(behaviour.exit);
        if let Some((code, in_ms)) = exit {
            self.later(self.now_ms.saturating_add(in_ms), Happening::Exit(id, code));
        }
    }

    fn probe(&mut self, container: &str, id: &str, kind: ProbeKind) -> Outcome {
        assert!(self.runs(id), "{id} is probed and does not run");
        let (behaviour, age_ms) = (self.behaviour(container), self.now_ms - self.started_ms[id]);
        let sick_ms = behaviour.first_sick_ms.filter(|_| id.ends_with("#0")).or(behaviour.sick_ms);
        let healthy = match kind {
            ProbeKind::Startup => age_ms >= behaviour.startup_ms.unwrap_or(0),
            ProbeKind::Liveness => sick_ms.is_none_or(|sick_ms| age_ms < sick_ms),
            ProbeKind::Readiness => age_ms >= behaviour.ready_ms,
        };
        self.note(format!("{} {id} {kind:?}", if healthy { "well" } else { "ill" }));
        Outcome::Ok(Done::Probe { healthy, output: "it said so".to_owned() })
    }
}

/// What a story can be asked.
impl Story {
    /// These happened, in this order, whatever else did.
    pub(super) fn order(&self, wanted: &str) -> &Story {
        let mut log = self.log.iter();
        for line in wanted.split(',').map(str::trim) {
            assert!(log.any(|(_, found)| found == line), "no {line} in its place: {:#?}", self.log);
        }
        self
    }

    pub(super) fn never(&self, beginning: &str) -> &Story {
        assert!(self.count(beginning) == 0, "{beginning}: {:#?}", self.log);
        self
    }

    /// How often something happened that begins so.
    pub(super) fn count(&self, beginning: &str) -> usize {
        self.log.iter().filter(|(_, found)| found.starts_with(beginning)).count()
    }

    /// When it first happened.
    pub(super) fn when(&self, line: &str) -> u64 {
        let found = self.log.iter().find(|(_, found)| found == line);
        found.unwrap_or_else(|| panic!("no {line}: {:#?}", self.log)).0
    }

    pub(super) fn phase(&self, wanted: Phase) -> &Story {
        assert_eq!(self.machine.report().phase, wanted, "{:#?}", self.log);
        self
    }

    pub(super) fn container(&self, name: &str) -> ContainerReport {
        self.machine.report().containers.into_iter().find(|found| found.name == name).expect("a container")
    }

    /// The reason for which it waits, `Running`, or the code it ended with.
    pub(super) fn is(&self, name: &str, wanted: &str) -> &Story {
        let found = match self.container(name).state {
            ContainerState::Running { .. } => "Running".to_owned(),
            ContainerState::Waiting { reason, .. } => reason.as_str().to_owned(),
            ContainerState::Terminated(ended) => ended.exit_code.to_string(),
        };
        assert_eq!(found, wanted, "{name}: {:#?}", self.log);
        self
    }

    /// People were told so.
    pub(super) fn told(&self, reason: &str, message: &str) -> &Story {
        let told = self.events.iter().any(|event| event.reason == reason && event.message == message);
        assert!(told, "{reason} {message}: {:#?}", self.events);
        self
    }
}

fn is_running(container: &ObservedContainer) -> bool {
    matches!(container.state, ObservedState::Running { .. })
}

fn behaviour(text: &str) -> Behaviour {
    let mut found = Behaviour::default();
    for phrase in text.split(',').map(str::trim).filter(|phrase| !phrase.is_empty()) {
        let words: Vec<&str> = phrase.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or(u64::MAX);
        let code = |word: &str| word.parse::<i32>().expect("an exit code");
        match words[..] {
            ["exit", with, "in", ms] => found.exit = Some((code(with), number(ms))),
            ["first", "exit", with, "in", ms] => found.first_exit = Some((code(with), number(ms))),
            ["term", with, "in", ms] => found.term = Some((code(with), number(ms))),
            ["deaf"] => found.deaf = true,
            ["post", "hangs"] => found.post = Some((None, true)),
            ["post", ms] => found.post = Some((Some(number(ms)), true)),
            ["post", ms, "fails"] => found.post = Some((Some(number(ms)), false)),
            ["pre", "hangs"] => found.pre = Some((None, true)),
            ["pre", ms] => found.pre = Some((Some(number(ms)), true)),
            ["pre", ms, "fails"] => found.pre = Some((Some(number(ms)), false)),
            ["startup", ms] => found.startup_ms = Some(number(ms)),
            ["sick", ms] => found.sick_ms = Some(number(ms)),
            ["first", "sick", ms] => found.first_sick_ms = Some(number(ms)),
            ["ready", ms] => found.ready_ms = number(ms),
            _ => panic!("nothing behaves so: {phrase}"),
        }
    }
    found
}
