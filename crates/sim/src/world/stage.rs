//! A script played in a world in which nothing goes wrong but what it says.

use super::{Happening, Keep, World};
use crate::facts::{Fact, Known};
use crate::marks::Marks;
use crate::options::Options;
use crate::pods::{self, Behaviour, Run, Version};
use crate::rng::Rng;
use crate::rules::Checker;
use crate::script::{self, Log, Moment, Probe, Role, Script, Step, Term, Trace};
use lifecycle::{Done, Effect, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};

const NAME: &str = "scripted";
const UID: &str = "scripted-u1";
/// A container that is brief runs for so long.
const BRIEF_MS: u64 = 20;
const TERM_MS: u64 = 5;
/// A hook that waits takes so long by itself.
const HELD_MS: u64 = 1_000_000_000;
/// What does not take long has settled by then, and a back-off of ten seconds has not passed.
const SETTLE_MS: u64 = 4_500;
/// Nothing that is awaited takes longer.
const PATIENCE_MS: u64 = 60_000;
/// Between two steps at most.
const PAUSE_MS: u64 = 30;

/// Plays a script; the seed decides how long everything takes that takes no time worth mentioning.
///
/// # Errors
/// What never came that the script waits for, what the script asks for that cannot be, or which rule was broken.
pub fn play(script: &Script, seed: u64) -> Result<Trace, String> {
    let mut stage = Stage::new(script, seed)?;
    for (number, step) in script.steps.iter().enumerate() {
        stage.act(step).map_err(|how| {
            let lines = stage.world.trace.lines.join("\n");
            format!("step {number}, {step:?}: {how}; log: {:#?}\n{lines}", stage.log)
        })?;
    }
    Ok(Trace::new(script, &stage.log, stage.sights))
}

struct Stage {
    world: World,
    news: Receiver<String>,
    log: Log,
    sights: Vec<Vec<String>>,
    /// Hooks and stops that stand in the log: flights, and the containers that were told.
    begun: BTreeSet<u64>,
    told: BTreeSet<String>,
}

/// Notes what becomes of containers.
struct Notes(Sender<String>);

impl Checker for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn see(&mut self, fact: &Fact<'_>, _known: &Known, _marks: &mut Marks) -> Result<(), String> {
        let line = match fact {
            Fact::Started(container) => format!("{} started", container.seen.name),
            Fact::Exited(container) if container.started_ms > 0 => {
                format!("{} ended {}", container.seen.name, container.exit_code().unwrap_or(-1))
            }
            _ => return Ok(()),
        };
        self.0.send(line).map_err(|_| "nobody reads the notes".to_owned())
    }
}

impl Stage {
    fn new(script: &Script, seed: u64) -> Result<Stage, String> {
        let (notes, news) = channel();
        let mut world = World::empty(Rng::new(seed), Options::default().healed(), Keep::Lines);
        world.checkers.push(Box::new(Notes(notes)));
        for role in &script.roles {
            let behaviour = Behaviour { runs: vec![run_of(role)] };
            world.known.truth.cast.insert((UID.to_owned(), role.name.to_owned()), behaviour);
        }
        let (manifest, version) = manifest(script)?;
        world.add(NAME, 0, (manifest, version));
        world.at(1, Happening::Boot);
        Ok(Stage { world, news, log: Log::new(), sights: Vec::new(), begun: BTreeSet::new(), told: BTreeSet::new() })
    }

    fn act(&mut self, step: &Step) -> Result<(), String> {
        let pause_ms = self.world.rng.below(PAUSE_MS);
        self.pass(pause_ms)?;
        match *step {
            Step::Await(line, times) => self.until(|stage| script::count(&stage.log, line) >= times)?,
            Step::See => {
                self.pass(SETTLE_MS)?;
                let status = self.status().ok_or("there is no such pod")?;
                self.sights.push(script::sight(&status));
            }
            Step::Exit(name, code) => self.exit(name, code)?,
            Step::Succeed(name, probe) => self.runs(name).for_each(|run| set(run, probe, true)),
            Step::Fail(name, probe) => self.runs(name).for_each(|run| set(run, probe, false)),
            Step::EndHook(name, moment) => self.end_hook(name, moment)?,
            Step::RemoveManifest => self.world.unwant(UID),
            Step::KillKubelet => {
                self.world.kill();
                self.world.queue.retain(|_, happening| !matches!(happening, Happening::Boot));
            }
            Step::StartKubelet => self.world.boot(),
            Step::LoseSandbox => {
                self.world.known.truth.lose_sandboxes(UID);
                self.world.changed();
            }
            Step::Gone => self.until(|stage| stage.status().is_none() && stage.world.known.truth.is_clear_of(UID))?,
        }
        self.watch();
        self.world.broken.clone().map_or(Ok(()), Err)
    }

    /// Lets time pass.
    fn pass(&mut self, span_ms: u64) -> Result<(), String> {
        let end_ms = self.world.known.now_ms + span_ms;
        // Something that changes nothing happens then.
        self.world.at(span_ms, Happening::DiskFree);
        self.until(|stage| stage.world.known.now_ms >= end_ms)
    }

    fn until(&mut self, wanted: impl Fn(&Stage) -> bool) -> Result<(), String> {
        let end_ms = self.world.known.now_ms + PATIENCE_MS;
        while !wanted(self) {
            if self.world.known.now_ms >= end_ms {
                return Err(format!("not within {PATIENCE_MS} ms; status: {:?}", self.status()));
            }
            self.world.step();
            self.watch();
            if let Some(how) = &self.world.broken {
                return Err(how.clone());
            }
        }
        Ok(())
    }

    /// Notes what has begun since, then what the containers did.
    fn watch(&mut self) {
        for flight in self.world.known.flights.values().filter(|flight| flight.happened) {
            let (name, what) = match flight.effect() {
                Effect::PostStart { container, .. } => (container, "postStart"),
                Effect::PreStop { container, .. } => (container, "preStop"),
                Effect::StopContainer { container_id, .. } => {
                    let known = self.world.known.truth.container(container_id).filter(|known| known.alive());
                    if let Some(known) = known
                        && self.told.insert(container_id.clone())
                    {
                        self.log.push(format!("{} stopping", known.seen.name));
                    }
                    continue;
                }
                _ => continue,
            };
            if self.begun.insert(flight.serial) {
                self.log.push(format!("{name} {what}"));
            }
        }
        self.log.extend(self.news.try_iter());
    }

    fn exit(&mut self, name: &str, code: i32) -> Result<(), String> {
        let runs = self.world.known.truth.containers.iter().find(|known| known.seen.name == name && known.alive());
        let id = runs.map(|known| known.seen.id.clone()).ok_or("it does not run")?;
        self.world.known.truth.crash(&id, code).map_err(|refusal| format!("{refusal:?}"))?;
        self.world.changed();
        Ok(())
    }

    /// What the runs of a container do: the one that is under way, and those to come.
    fn runs(&mut self, name: &str) -> impl Iterator<Item = &mut Run> {
        let truth = &mut self.world.known.truth;
        let cast = truth.cast.iter_mut().filter(move |((_, of), _)| of == name);
        let running = truth.containers.iter_mut().filter(move |known| known.seen.name == name);
        cast.flat_map(|(_, behaviour)| &mut behaviour.runs).chain(running.map(|known| &mut known.run))
    }

    fn end_hook(&mut self, name: &str, moment: Moment) -> Result<(), String> {
        let flights = self.world.known.flights.values_mut();
        let mut open = flights.filter(|flight| flight.happened && !flight.heard);
        let hook = open.find(|flight| match flight.effect() {
            Effect::PostStart { container, .. } => container == name && moment == Moment::PostStart,
            Effect::PreStop { container, .. } => container == name && moment == Moment::PreStop,
            _ => false,
        });
        let hook = hook.ok_or("no such hook is under way")?;
        hook.outcome = Some(Outcome::Ok(Done::Nothing));
        let serial = hook.serial;
        self.world.answer(serial);
        // Nobody waits where somebody was let through.
        self.runs(name).for_each(|run| match moment {
            Moment::PostStart => run.post_start = pods::Hook::Ends(1),
            Moment::PreStop => run.pre_stop = pods::Hook::Ends(1),
        });
        Ok(())
    }

    /// The pod's status as the kubelet shows it.
    fn status(&self) -> Option<Value> {
        let pods = self.world.kubelet.as_ref()?.agent.pods();
        let pod = pods.into_iter().find(|pod| pod.metadata.uid.as_deref() == Some(UID))?;
        serde_json::to_value(pod.status?).ok()
    }
}

/// The manifest as the kubelet's sources would read it.
fn manifest(script: &Script) -> Result<(Value, Version), String> {
    let manifest = script.manifest(NAME, &|_| json!(["true"]));
    let parsed = pod::manifest::parse(NAME, manifest.to_string().as_bytes());
    if let Some(error) = parsed.errors.first() {
        return Err(error.to_string());
    }
    let mut pod = parsed.pods.into_iter().next().ok_or("the manifest holds no pod")?.pod;
    pod.metadata.uid = Some(UID.to_owned());
    let manifest = serde_json::to_value(&pod).map_err(|error| error.to_string())?;
    let version = pods::version(&manifest);
    Ok((manifest, version))
}

fn run_of(role: &Role) -> Run {
    let hook = |moment| {
        let hook = role.hooks.iter().find(|(of, _)| *of == moment).map(|(_, hook)| *hook);
        match hook {
            Some(script::Hook::Fails) => pods::Hook::Fails(1),
            Some(script::Hook::Waits) => pods::Hook::Ends(HELD_MS),
            Some(script::Hook::Succeeds) | None => pods::Hook::Ends(1),
        }
    };
    let mut run = Run {
        lasts_ms: role.brief.map(|_| BRIEF_MS),
        exit_code: role.brief.unwrap_or(0),
        term_ms: (role.term == Term::Exits).then_some(TERM_MS),
        unkillable_ms: 0,
        starts_up_ms: 0,
        sick_after_ms: None,
        unready_ms: (0, 0),
        post_start: hook(Moment::PostStart),
        pre_stop: hook(Moment::PreStop),
    };
    role.probes.iter().for_each(|(probe, succeeds)| set(&mut run, *probe, *succeeds));
    run
}

fn set(run: &mut Run, probe: Probe, succeeds: bool) {
    match probe {
        Probe::Startup => run.starts_up_ms = if succeeds { 0 } else { u64::MAX },
        Probe::Liveness => run.sick_after_ms = (!succeeds).then_some(0),
        Probe::Readiness => run.unready_ms = if succeeds { (0, 0) } else { (0, u64::MAX) },
    }
}
