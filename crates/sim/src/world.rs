//! A world: the truth, one kubelet after another, the files it is given, and everything that will happen, in order.

mod accidents;
mod calm;
mod effects;
mod events;
mod files;
mod stage;

use crate::facts::{Fact, Flight, Known, Seen};
use crate::kubelet::{Kubelet, Mutant};
use crate::marks::{Mark, Marks};
use crate::options::Options;
use crate::rng::Rng;
use crate::rules::{self, Checker};
use crate::trace::{Keep, Trace};
use agent::core::{Job, Message, Request, Stored};
use cri::keys::PodKey;
use files::File;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{EffectId, Memory, Now, ObservedPod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use stage::play;

pub(crate) const SOURCES: usize = 2;
const BEGIN_MS: u64 = 1_000_000;
const WALL_BASE_NS: i64 = 1_700_000_000_000_000_000;
/// Between two chances for an accident.
const SLOT_MS: u64 = 5_000;
/// After the healing everything must have come to rest within this.
const CALM_WITHIN_MS: u64 = 2_400_000;
/// Steps that take no time; more of them and the loop turns in a circle.
const STEPS_AT_ONCE_MAX: u64 = 2_000;

#[derive(Debug)]
pub(crate) enum Happening {
    /// An effect reaches what it changes.
    Happen(u64),
    /// Its outcome reaches the kubelet.
    Answer(u64),
    /// A completion comes once more.
    Repeat(u64),
    Cancelled(u64),
    Event {
        epoch: u64,
        message: Box<Message>,
    },
    /// An effect that is under way has something to tell.
    Told {
        epoch: u64,
        message: Box<Message>,
    },
    Inspect {
        epoch: u64,
        uid: String,
        stamp_ms: u64,
    },
    Inspected {
        epoch: u64,
        uid: String,
        stamp_ms: u64,
        pod: Option<(PodKey, ObservedPod, Option<u64>)>,
    },
    Listed {
        epoch: u64,
        message: Box<Message>,
    },
    /// Stops that nobody ends are given up on.
    GiveUp,
    /// The file of this pod is removed.
    Unwant(String),
    Store {
        epoch: u64,
        store: Store,
    },
    /// The first question to the runtime.
    First(u64),
    Begin {
        epoch: u64,
        message: Box<Message>,
    },
    Report {
        epoch: u64,
        source: usize,
    },
    List(u64),
    Accident,
    RuntimeBack,
    ImageBack(String),
    DiskFree,
    Boot,
    Heal,
    Look,
}

#[derive(Debug)]
pub(crate) enum Store {
    Finished(String, Box<PodStatus>),
    ForgetFinished(String),
    Memory(String, Box<Memory>),
    ForgetMemory(String),
    Pod(Arc<Pod>),
}

/// How a world ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub seed: u64,
    pub hash: u64,
    /// Which rule was broken, when and how.
    pub broken: Option<String>,
    pub marks: Marks,
    /// Simulated.
    pub lasted_ms: u64,
    pub notes: u64,
    pub lines: Vec<String>,
}

pub(crate) struct World {
    known: Known,
    rng: Rng,
    options: Options,
    mutant: Option<Mutant>,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    serial: u64,
    wall_ahead_ns: i64,
    kubelet: Option<Kubelet>,
    /// Since this epoch's kubelet listens to events.
    listens: bool,
    listed_ms: u64,
    files: Vec<File>,
    names: u64,
    removed: Vec<File>,
    finished: BTreeMap<String, PodStatus>,
    /// What is on disk of each pod.
    stored: BTreeMap<String, Stored>,
    /// The latest start of each pod, for mutants to abuse.
    last_start: BTreeMap<String, (u64, EffectId, Box<Job>)>,
    /// Everything must be at rest by then.
    rested: u64,
    looks: u64,
    runtime_down: bool,
    disk_full: bool,
    absent_images: BTreeSet<String>,
    checkers: Vec<Box<dyn Checker + Send>>,
    marks: Marks,
    trace: Trace,
    broken: Option<String>,
    done: bool,
    /// Steps since time last passed.
    at_once: u64,
}

/// Runs the world of a seed to its end.
pub fn run(seed: u64, mutant: Option<Mutant>, keep: Keep) -> Verdict {
    let mut world = World::new(seed, mutant, keep);
    world.live();
    Verdict {
        seed,
        hash: world.trace.hash(),
        broken: world.broken,
        marks: world.marks,
        lasted_ms: world.known.now_ms - BEGIN_MS,
        notes: world.trace.notes,
        lines: world.trace.lines,
    }
}

impl World {
    /// A world by chance, in which things go wrong for a while.
    fn new(seed: u64, mutant: Option<Mutant>, keep: Keep) -> World {
        let mut rng = Rng::new(seed);
        let options = Options::roll(&mut rng);
        let mut world = World::empty(rng, options, keep);
        world.mutant = mutant;
        world.trace.note(BEGIN_MS, format_args!("seed {seed}: {:?}", world.options));
        for _ in 0..world.rng.between(1, 3) {
            world.add_file();
        }
        world.at(1, Happening::Boot);
        world.at(SLOT_MS, Happening::Accident);
        let bad_ms = world.rng.between(30_000, 240_000);
        world.at(bad_ms, Happening::Heal);
        world
    }

    /// A world in which nothing is to happen yet.
    fn empty(rng: Rng, options: Options, keep: Keep) -> World {
        let known = Known { now_ms: BEGIN_MS, told: vec![None; SOURCES], ..Known::default() };
        let mut world = World {
            known,
            rng,
            options,
            mutant: None,
            queue: BTreeMap::new(),
            sequence: 0,
            serial: 0,
            wall_ahead_ns: 0,
            kubelet: None,
            listens: false,
            listed_ms: 0,
            files: Vec::new(),
            names: 0,
            removed: Vec::new(),
            finished: BTreeMap::new(),
            stored: BTreeMap::new(),
            last_start: BTreeMap::new(),
            rested: 0,
            looks: 0,
            runtime_down: false,
            disk_full: false,
            absent_images: BTreeSet::new(),
            checkers: rules::all(),
            marks: Marks::default(),
            trace: Trace::new(keep),
            broken: None,
            done: false,
            at_once: 0,
        };
        world.set_clock(BEGIN_MS);
        world
    }

    fn live(&mut self) {
        while self.broken.is_none() && !self.done {
            self.step();
        }
    }

    /// Lets the next thing happen.
    fn step(&mut self) {
        let queued = self.queue.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let due = self.kubelet.as_ref().and_then(|kubelet| kubelet.agent.next_deadline());
        let exits = self.known.truth.next_ms();
        let Some(next_ms) = [queued, due, exits].into_iter().flatten().min() else {
            return self.breaks("liveness", "nothing will ever happen again");
        };
        let next_ms = next_ms.max(self.known.now_ms);
        self.at_once = if next_ms == self.known.now_ms { self.at_once + 1 } else { 0 };
        if self.at_once > STEPS_AT_ONCE_MAX {
            return self.breaks("liveness", "the loop turns in a circle without time passing");
        }
        self.set_clock(next_ms);
        if exits.is_some_and(|at_ms| at_ms <= next_ms) {
            self.known.truth.advance();
            self.changed();
        } else if due.is_some_and(|at_ms| at_ms <= next_ms) {
            self.tick();
        } else if let Some((_, happening)) = self.queue.pop_first() {
            self.happen(happening);
        }
    }

    fn set_clock(&mut self, now_ms: u64) {
        self.known.now_ms = now_ms;
        self.known.truth.now_ms = now_ms;
        self.known.truth.wall_ns = self.now().wall_ns;
    }

    fn now(&self) -> Now {
        let mono_ms = self.known.now_ms;
        let since_ns = i64::try_from(mono_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Now { mono_ms, wall_ns: WALL_BASE_NS + since_ns + self.wall_ahead_ns }
    }

    /// Something will happen after a while.
    fn at(&mut self, after_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.known.now_ms + after_ms, self.sequence), happening);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.known.now_ms, what);
    }

    fn breaks(&mut self, rule: &str, how: &str) {
        if self.broken.is_none() {
            self.note(format_args!("BROKEN {rule}: {how}"));
            let at_s = (self.known.now_ms - BEGIN_MS) as f64 / 1_000.0;
            self.broken = Some(format!("{rule}: at {at_s:.3} s: {how}"));
        }
    }

    fn happen(&mut self, happening: Happening) {
        let current = self.known.epoch;
        let alive = self.kubelet.is_some();
        match happening {
            Happening::Happen(serial) => self.carry_out(serial),
            Happening::Answer(serial) => self.answer(serial),
            Happening::Repeat(serial) => self.repeat(serial),
            Happening::Cancelled(serial) => self.acknowledge(serial),
            Happening::GiveUp => self.answer_stops(),
            Happening::Unwant(uid) => self.unwant(&uid),
            Happening::Event { epoch, message } if alive && epoch == current => self.event(*message),
            Happening::Told { epoch, message } if alive && epoch == current => self.told(*message),
            Happening::Inspect { epoch, uid, stamp_ms } if alive && epoch == current => self.gather(uid, stamp_ms),
            Happening::Inspected { epoch, uid, stamp_ms, pod } if alive && epoch == current => {
                self.inspected(&uid, stamp_ms, pod);
            }
            Happening::Listed { epoch, message } if alive && epoch == current => self.deliver(*message, None),
            Happening::Store { epoch, store } if alive && epoch == current => self.store(store),
            Happening::First(epoch) if alive && epoch == current => self.ask_everything(),
            Happening::Begin { epoch, message } if alive && epoch == current => self.begin(*message),
            Happening::Report { epoch, source } if alive && epoch == current => self.report_source(source),
            Happening::List(epoch) if alive && epoch == current => self.list(),
            // Meant for a kubelet that is dead.
            Happening::Event { .. }
            | Happening::Told { .. }
            | Happening::Inspect { .. }
            | Happening::Inspected { .. }
            | Happening::Listed { .. }
            | Happening::Store { .. }
            | Happening::First(_)
            | Happening::Begin { .. }
            | Happening::Report { .. }
            | Happening::List(_) => {}
            Happening::Accident => self.accident(),
            Happening::RuntimeBack => self.runtime_back(),
            Happening::ImageBack(image) => self.image_back(&image),
            Happening::DiskFree => self.disk_full = false,
            Happening::Boot => self.boot(),
            Happening::Heal => self.heal(),
            Happening::Look => self.look(),
        }
    }

    /// Shows a fact to every checker.
    fn tell(&mut self, fact: &Fact<'_>) {
        judge((&mut self.checkers, &mut self.marks), fact, &self.known, &mut self.broken);
    }

    fn tick(&mut self) {
        let now = self.now();
        let Some(kubelet) = &mut self.kubelet else { return };
        let requests = kubelet.tick(now);
        self.after(None, requests);
    }

    /// Gives the kubelet a message about one pod, or about all.
    fn deliver(&mut self, message: Message, uid: Option<&str>) {
        let now = self.now();
        let Some(kubelet) = &mut self.kubelet else { return };
        let requests = kubelet.take(now, message);
        self.after(uid, requests);
    }

    /// What a step of the kubelet led to.
    fn after(&mut self, uid: Option<&str>, requests: Vec<Request>) {
        self.see_cancels();
        self.see_machines(uid, &requests);
        self.dispatch(requests);
    }

    fn see_machines(&mut self, uid: Option<&str>, requests: &[Request]) {
        self.see_ends();
        let Some(kubelet) = &mut self.kubelet else { return };
        let asked: BTreeSet<&str> = requests.iter().filter_map(uid_of).chain(uid).collect();
        for (uid_here, generation, machine) in kubelet.agent.machines() {
            if uid.is_some() && !asked.contains(uid_here) {
                continue;
            }
            let mut report = machine.report();
            if self.mutant == Some(Mutant::ForgetsEnd)
                && report.phase.is_terminal()
                && self.known.now_ms.is_multiple_of(2)
            {
                report.phase = lifecycle::Phase::Running;
            }
            let known = kubelet.reports.get(uid_here);
            if known.is_none_or(|(known, last)| *known != generation || *last != report) {
                self.trace.note(
                    self.known.now_ms,
                    format_args!("{uid_here}/{generation}: {:?} {:?} {}", report.stage, report.phase, brief(&report)),
                );
            }
            let seen = Seen { uid: uid_here, generation, machine, report: &report };
            let watch = (&mut self.checkers, &mut self.marks);
            judge(watch, &Fact::Machine(seen), &self.known, &mut self.broken);
            kubelet.reports.insert(uid_here.to_owned(), (generation, report));
        }
    }

    fn see_ends(&mut self) {
        let Some(kubelet) = &mut self.kubelet else { return };
        let there: BTreeMap<&str, u64> =
            kubelet.agent.machines().map(|(uid, generation, _)| (uid, generation)).collect();
        let ended: Vec<(String, u64)> = kubelet
            .reports
            .iter()
            .filter(|(uid, (generation, _))| there.get(uid.as_str()) != Some(generation))
            .map(|(uid, (generation, _))| (uid.clone(), *generation))
            .collect();
        for (uid, generation) in ended {
            kubelet.reports.remove(&uid);
            self.trace.note(self.known.now_ms, format_args!("{uid}/{generation}: ended"));
            let fact = Fact::Ended { uid: &uid, generation };
            judge((&mut self.checkers, &mut self.marks), &fact, &self.known, &mut self.broken);
        }
    }

    fn open_flights(&self) -> impl Iterator<Item = &Flight> {
        self.known.flights.values().filter(|flight| flight.epoch == self.known.epoch && !flight.heard)
    }

    fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }
}

type Watch<'a> = (&'a mut Vec<Box<dyn Checker + Send>>, &'a mut Marks);

fn judge((checkers, marks): Watch<'_>, fact: &Fact<'_>, known: &Known, broken: &mut Option<String>) {
    for checker in checkers.iter_mut() {
        if let Err(how) = checker.see(fact, known, marks)
            && broken.is_none()
        {
            let at_s = (known.now_ms - BEGIN_MS) as f64 / 1_000.0;
            *broken = Some(format!("{}: at {at_s:.3} s: {how}", checker.name()));
        }
    }
}

fn uid_of(request: &Request) -> Option<&str> {
    match request {
        Request::Perform { uid, .. } | Request::Inspect(uid) => Some(uid),
        _ => None,
    }
}

fn brief(report: &lifecycle::PodReport) -> String {
    let state = |container: &lifecycle::ContainerReport| {
        let state = match &container.state {
            lifecycle::ContainerState::Waiting { reason, .. } => reason.as_str().to_owned(),
            lifecycle::ContainerState::Running { .. } => "up".to_owned(),
            lifecycle::ContainerState::Terminated(ended) => format!("={}", ended.exit_code),
        };
        let ready = if container.ready { "+" } else { "" };
        format!("{}#{}:{state}{ready}", container.name, container.restart_count)
    };
    let containers: Vec<String> = report.containers.iter().map(state).collect();
    let problem = report.problem.as_ref().map_or("", |problem| problem.reason.as_str());
    format!("[{}] {} {problem}", containers.join(" "), report.reason)
}
