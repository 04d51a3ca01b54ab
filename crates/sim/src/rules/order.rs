//! The order in which containers begin and end: init containers one after the other, sidecars last and in reverse.

use super::Checker;
use crate::facts::{Fact, Flight, Known};
use crate::marks::{Mark, Marks};

use crate::truth::Container;
use lifecycle::{ContainerKind, Done, Effect, ObservedState, Outcome, PodPlan, Stage};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a container's newest run in one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ran,
    Ended(i32),
}

#[derive(Default)]
pub(super) struct Order {
    /// By sandbox and container.
    runs: BTreeMap<(String, String), Fate>,
    /// Sandboxes in which a regular container was begun.
    initialized: BTreeMap<String, bool>,
    ending: BTreeMap<String, Option<u64>>,
    /// When the first grace is over that a container of the pod was given.
    over_ms: BTreeMap<String, u64>,
    /// Containers that the present kubelet has stopped.
    stopped: BTreeSet<String>,
    /// Containers that it has heard of: what it cannot know of it cannot wait for.
    heard_of: BTreeSet<String>,
}

impl Checker for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => {
                self.ending.clear();
                self.stopped.clear();
                self.over_ms.clear();
                self.heard_of.clear();
            }
            Fact::Started(started) => {
                let again = known.truth.containers.iter().find(|other| {
                    other.alive()
                        && other.seen.id != started.seen.id
                        && other.key.uid == started.key.uid
                        && other.seen.name == started.seen.name
                });
                // A call that a dead kubelet left hanging in the runtime is held back by its attempt's name alone; who
                // has lost count of the attempts cannot help that.
                let counted = !known.damaged.contains(&started.key.uid);
                if let Some(other) = again.filter(|_| counted) {
                    return Err(format!("{} and {} run at once", started.seen.id, other.seen.id));
                }
                let result = self.began(started, known, marks);
                let run = (started.seen.sandbox_id.clone(), started.seen.name.clone());
                self.runs.insert(run, Fate::Ran);
                return result;
            }
            // An event alone that shows a stranger is doubted until an answer shows it too.
            Fact::Saw { pod, stamp_ms: 1.., .. } => {
                self.heard_of.extend(pod.containers.iter().map(|seen| seen.id.clone()));
            }
            Fact::Heard { outcome: Outcome::Ok(Done::Container { id }), .. } => _ = self.heard_of.insert(id.clone()),
            Fact::Exited(exited) => {
                let started = !matches!(exited.seen.state, ObservedState::Exited { started_at_ns: 0, .. });
                if let Some(code) = exited.exit_code().filter(|_| started) {
                    let run = (exited.seen.sandbox_id.clone(), exited.seen.name.clone());
                    self.runs.insert(run, Fate::Ended(code));
                }
            }
            Fact::Machine(seen) => {
                if seen.report.stage >= Stage::Terminating {
                    self.ending.insert(seen.uid.to_owned(), seen.report.kill_at_ms);
                } else {
                    self.ending.remove(seen.uid);
                }
                let all = seen.report.conditions.all_containers_restarting.as_ref();
                if all.is_some_and(|condition| condition.status) {
                    self.initialized.retain(|sandbox, _| !home_of(known, seen.uid).any(|home| home == sandbox));
                    marks.hit(Mark::RestartedAll);
                }
            }
            Fact::Ended { uid, .. } => {
                self.ending.remove(*uid);
                self.over_ms.remove(*uid);
            }
            Fact::Issued(flight) => {
                // A stop begins with its hook.
                if let Effect::PreStop { container_id, .. } = flight.effect()
                    && !self.ending.contains_key(&flight.uid)
                {
                    self.stopped.insert(container_id.clone());
                }
                let Effect::StopContainer { container_id, grace_ms } = flight.effect() else { return Ok(()) };
                let over_ms = self.over_ms.get(&flight.uid).copied().unwrap_or(u64::MAX);
                self.over_ms.insert(flight.uid.clone(), over_ms.min(known.now_ms + grace_ms));
                // One that was being stopped for its own sake has had its turn.
                let first = self.stopped.insert(container_id.clone());
                if let Some(Some(kill_at_ms)) = self.ending.get(&flight.uid)
                    && known.now_ms < over_ms.min(*kill_at_ms)
                    && first
                {
                    return self.in_reverse((flight, container_id), known, marks);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn home_of<'a>(known: &'a Known, uid: &'a str) -> impl Iterator<Item = &'a String> {
    known.truth.sandboxes.iter().filter(move |home| home.key.uid == uid).map(|home| &home.seen.id)
}

impl Order {
    fn began(&mut self, started: &Container, known: &Known, marks: &mut Marks) -> Result<(), String> {
        let plans = known.plans(&started.key.uid);
        let (Some(plan), sandbox) = (plans.first(), &started.seen.sandbox_id) else { return Ok(()) };
        let Some(index) = plan.containers.iter().position(|of| of.name == started.seen.name) else { return Ok(()) };
        let kind = plan.containers[index].kind;
        if self.initialized.contains_key(sandbox) {
            return match kind {
                ContainerKind::Init => self.ran_before(started, plan),
                ContainerKind::Sidecar | ContainerKind::Regular => Ok(()),
            };
        }
        for former in plan.containers[..index].iter().filter(|of| of.kind != ContainerKind::Regular) {
            let fate = self.runs.get(&(sandbox.clone(), former.name.clone()));
            let passed = match former.kind {
                ContainerKind::Init => fate == Some(&Fate::Ended(0)),
                _ => fate.is_some(),
            };
            if !passed {
                let name = &started.seen.name;
                return Err(format!("{}: {name} begins and {} is {fate:?}", started.key.uid, former.name));
            }
            marks.hit(Mark::InitContainersOrdered);
        }
        if kind == ContainerKind::Regular {
            self.initialized.insert(sandbox.clone(), true);
        }
        Ok(())
    }

    /// After the regular containers began no init container runs again, but where all of the pod starts over.
    fn ran_before(&mut self, started: &Container, plan: &PodPlan) -> Result<(), String> {
        let rules = plan.containers.iter().flat_map(|of| &of.rules);
        if rules.into_iter().any(|rule| rule.action == lifecycle::RestartAction::RestartAllContainers) {
            self.initialized.remove(&started.seen.sandbox_id);
            return Ok(());
        }
        Err(format!("{}: {} runs after the pod was initialized", started.key.uid, started.seen.name))
    }

    /// While there is grace, a sidecar is stopped only when all regular containers and all later sidecars are dead.
    fn in_reverse(&self, (flight, id): (&Flight, &str), known: &Known, marks: &mut Marks) -> Result<(), String> {
        let Some(stopped) = known.truth.container(id) else { return Ok(()) };
        // Of an orphan nobody knows what its containers are.
        let Some(plan) = flight.job.pod.as_deref().map(agent::core::plan_of) else { return Ok(()) };
        let Some(index) = plan.containers.iter().position(|of| of.name == stopped.seen.name) else { return Ok(()) };
        if plan.containers[index].kind != ContainerKind::Sidecar {
            return Ok(());
        }
        for later in &plan.containers[index + 1..] {
            let runs = known
                .truth
                .containers
                .iter()
                .find(|other| other.alive() && other.key.uid == stopped.key.uid && other.seen.name == later.name);
            if let Some(other) = runs {
                return Err(format!("sidecar {id} is stopped while {} runs", other.seen.id));
            }
        }
        marks.hit(Mark::SidecarsInReverse);
        Ok(())
    }
}
