//! What holds beyond the thirteen rules: no probe on the dead, hooks once, counts that only rise, stops that leave time,
//! readiness that outlives the kubelet.

use super::Checker;
use super::rule_02::MIN_STOP_MS;
use crate::facts::{Fact, Flight, Known, Seen, begins};
use crate::marks::{Mark, Marks};
use lifecycle::{ContainerState, Done, Effect, ObservedState, Outcome, ProbeKind, Stage};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Own {
    /// Containers that the present kubelet knows to be dead.
    dead: BTreeMap<String, String>,
    machines: BTreeSet<String>,
    /// Containers it has heard of; an event alone that shows a stranger is doubted.
    heard_of: BTreeSet<String>,
    hooked: BTreeSet<(String, &'static str)>,
    /// Pods that cannot run here: nothing of them is ever begun.
    rejected: BTreeSet<String>,
    /// When each container was last stopped.
    stopped: BTreeMap<String, u64>,
    counts: BTreeMap<(String, u64, String), u32>,
    /// Ready containers with a readiness probe, by UID and container id, as the last kubelet knew them.
    ready: BTreeMap<(String, String), bool>,
    /// The same at the present kubelet's start; taken out once checked.
    ready_before: BTreeMap<(String, String), bool>,
}

impl Checker for Own {
    fn name(&self) -> &'static str {
        "own"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletDied => {
                self.dead.clear();
                self.heard_of.clear();
                self.machines.clear();
                self.hooked.clear();
                self.stopped.clear();
                self.counts.clear();
                self.ready_before = std::mem::take(&mut self.ready);
            }
            // What the last one did not get to store, this one cannot know.
            Fact::KubeletStarted => self.ready_before.retain(|(uid, _), _| !known.forgotten.contains(uid)),
            // What an earlier machine of the pod knew, a later one has not heard.
            Fact::Ended { uid, .. } => {
                self.dead.retain(|_, of| of != uid);
                self.machines.remove(*uid);
            }
            Fact::Heard { outcome: Outcome::Ok(Done::Container { id }), .. } => _ = self.heard_of.insert(id.clone()),
            Fact::Saw { uid, stamp_ms, pod } if self.machines.contains(*uid) => {
                if *stamp_ms > 0 {
                    self.heard_of.extend(pod.containers.iter().map(|seen| seen.id.clone()));
                }
                let ended = pod.containers.iter().filter(|seen| matches!(seen.state, ObservedState::Exited { .. }));
                let ended = ended.filter(|seen| self.heard_of.contains(&seen.id));
                self.dead.extend(ended.map(|seen| (seen.id.clone(), (*uid).to_owned())));
            }
            Fact::Issued(flight) => {
                if let Effect::StopContainer { container_id, .. } = flight.effect()
                    && self.stopped.insert(container_id.clone(), known.now_ms) == Some(known.now_ms)
                {
                    return Err(format!("{container_id} is stopped twice at one moment"));
                }
                return self.issued(flight, marks);
            }
            Fact::Heard { flight, outcome: Outcome::Ok(Done::Probe { healthy, .. }) } => {
                if let Effect::Probe { container_id, kind, .. } = flight.effect() {
                    self.ready_before.remove(&(flight.uid.clone(), container_id.clone()));
                    if *kind != ProbeKind::Readiness && !healthy {
                        marks.hit(Mark::ProbeFailedContainer);
                    }
                }
            }
            Fact::Machine(seen) => {
                self.machines.insert(seen.uid.to_owned());
                return self.machine(seen, marks);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Own {
    fn issued(&mut self, flight: &Flight, marks: &mut Marks) -> Result<(), String> {
        match flight.effect() {
            effect if begins(effect) && self.rejected.contains(&flight.uid) => {
                Err(format!("{} was rejected and asks for {effect:?}", flight.uid))
            }
            Effect::Probe { container_id, .. } if self.dead.contains_key(container_id) => {
                Err(format!("{container_id} is dead and is probed"))
            }
            Effect::PostStart { container_id, .. } | Effect::PreStop { container_id, .. } => {
                let (hook, mark) = match flight.effect() {
                    Effect::PostStart { .. } => ("postStart", Mark::HookRan),
                    _ => ("preStop", Mark::PreStopRan),
                };
                marks.hit(mark);
                if !self.hooked.insert((container_id.clone(), hook)) {
                    return Err(format!("{hook} of {container_id} runs twice"));
                }
                Ok(())
            }
            Effect::StopContainer { container_id, grace_ms } if *grace_ms < MIN_STOP_MS => {
                Err(format!("{container_id} gets {grace_ms} ms to stop"))
            }
            _ => Ok(()),
        }
    }

    fn machine(&mut self, seen: &Seen<'_>, marks: &mut Marks) -> Result<(), String> {
        if seen.report.reason == "NodeAffinity" && self.rejected.insert(seen.uid.to_owned()) {
            marks.hit(Mark::Rejected);
        }
        if seen.report.reason == "DeadlineExceeded" {
            marks.hit(Mark::DeadlineReached);
        }
        for said in &seen.report.containers {
            let container = (seen.uid.to_owned(), seen.generation, said.name.clone());
            let former = self.counts.insert(container, said.restart_count).unwrap_or(0);
            if said.restart_count < former {
                return Err(format!(
                    "{}: {} restarted {former} times and then {}",
                    seen.uid, said.name, said.restart_count
                ));
            }
        }
        if seen.report.stage == Stage::Syncing && seen.report.observed {
            self.readiness(seen, marks)?;
        }
        Ok(())
    }

    /// A restart of the kubelet alone makes no container ready or unready.
    fn readiness(&mut self, seen: &Seen<'_>, marks: &mut Marks) -> Result<(), String> {
        for said in &seen.report.containers {
            let plan = seen.machine.plan().containers.iter().find(|of| of.name == said.name);
            let running = matches!(said.state, ContainerState::Running { .. });
            if !running || plan.is_none_or(|of| of.readiness.is_none()) {
                continue;
            }
            let container = (seen.uid.to_owned(), said.container_id.clone());
            if let Some(before) = self.ready_before.remove(&container)
                && before
            {
                // Who is being stopped, because all start over or the pod has failed for good, is not ready any more.
                let all = seen.report.conditions.all_containers_restarting.as_ref();
                let stops = seen.report.phase.is_terminal() || all.is_some_and(|condition| condition.status);
                if !said.ready && !stops {
                    return Err(format!("{} was ready before the kubelet's restart", said.container_id));
                }
                marks.hit(Mark::ReadinessKept);
            }
            self.ready.insert(container, said.ready);
        }
        Ok(())
    }
}
