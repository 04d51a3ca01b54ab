//! Giving machines their inputs, and passing on what they want done.

use lifecycle::{Action, Effect, EffectId, Event, Input, Millis, Now, ObservedPod, PullPolicy, Stage};
use pod::qos::{self, Qos};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::entry::{Flight, Life};
use super::{Agent, Job, Outbox, Performed, Request};
use crate::events::Subject;

impl Agent {
    pub(super) fn complete(
        &mut self,
        now: Now,
        uid: &str,
        (id, performed): (EffectId, Performed),
        outbox: &mut Outbox,
    ) {
        for event in performed.events {
            self.tell(now, uid, event);
        }
        if let Some((stamp, observed)) = performed.observed {
            self.observe(now, uid, (stamp, observed), outbox);
        }
        let mut outdated = false;
        if let Some(entry) = self.entries.get_mut(uid) {
            let flight = entry.in_flight.remove(&id);
            outdated = flight.is_some_and(|flight| flight.secrets_revision != self.secrets_revision);
            entry.note_done(&performed.outcome);
        }
        self.feed(now, uid, Input::Completed { id, outcome: performed.outcome }, outbox);
        if outdated {
            // It may have been a pull that failed without a secret that is there by now.
            self.feed(now, uid, Input::ImagesChanged, outbox);
        }
    }

    pub(super) fn observe(&mut self, now: Now, uid: &str, (stamp, pod): (Millis, ObservedPod), outbox: &mut Outbox) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.note_observed(stamp, &pod);
        }
        self.feed(now, uid, Input::Observed { stamp, pod }, outbox);
    }

    /// Gives a machine an input and passes on what it wants done.
    pub(super) fn feed(&mut self, now: Now, uid: &str, input: Input, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let mut actions = Vec::new();
        let Life::Machine(machine) = &mut entry.life else { return };
        machine.handle(now, input, &mut actions);
        let mut work = Outbox::new();
        for action in actions {
            match action {
                Action::Do { id, effect } => {
                    if matches!(effect, Effect::EnsureImage { .. }) {
                        self.tell_missing_secrets(now, uid);
                    }
                    work.extend(self.job(uid, id, effect));
                }
                Action::Tell(event) => self.tell(now, uid, event),
                Action::Cancel(id) => {
                    if let Some(flight) = self.entries.get(uid).and_then(|entry| entry.in_flight.get(&id)) {
                        flight.cancel.cancel();
                    }
                }
            }
        }
        // What is to be remembered comes first: whoever removes a container takes away what tells of it.
        self.settle(now, uid, outbox);
        outbox.extend(work);
    }

    pub(super) fn tell(&mut self, now: Now, uid: &str, event: Event) {
        let Some(entry) = self.entries.get(uid) else { return };
        let field_path = event.container.as_deref().map_or_else(String::new, |name| entry.field_path(name));
        self.events.tell(now.wall_ns, Subject::Pod { key: &entry.key, field_path: &field_path }, event);
    }

    fn job(&mut self, uid: &str, id: EffectId, effect: Effect) -> Option<Request> {
        let burstable_millis = match &effect {
            Effect::SetUp => self.burstable_millis(),
            _ => 0,
        };
        let pull_secrets = match &effect {
            Effect::EnsureImage { .. } => self.pull_secrets(uid).0,
            _ => Vec::new(),
        };
        let secrets_revision = self.secrets_revision;
        let entry = self.entries.get_mut(uid)?;
        let Life::Machine(machine) = &entry.life else { return None };
        if let Effect::RunSandbox { attempt } = &effect {
            entry.sandbox_attempt = *attempt;
            // Nothing of a pod is made before its directories are.
            entry.set_up = true;
        }
        let pull_policy = match &effect {
            Effect::EnsureImage { container } => machine.plan().containers.iter().find(|c| c.name == *container),
            _ => None,
        };
        let cancel = CancellationToken::new();
        let is_probe = matches!(effect, Effect::Probe { .. });
        entry.in_flight.insert(id, Flight { cancel: cancel.clone(), is_probe, secrets_revision });
        let job = Job {
            key: entry.key.clone(),
            pod: entry.pod.clone(),
            ips: if machine.plan().host_network { self.node.host_ips.clone() } else { entry.ips.clone() },
            sandbox_attempt: entry.sandbox_attempt,
            pull_policy: pull_policy.map_or(PullPolicy::IfNotPresent, |container| container.pull_policy),
            pull_secrets,
            burstable_millis,
            cancel,
            effect,
        };
        Some(Request::Perform { uid: uid.to_owned(), generation: entry.generation, id, job: Box::new(job) })
    }

    fn burstable_millis(&self) -> i64 {
        let pods = self.entries.values().filter_map(|entry| entry.pod.as_deref());
        let burstable = pods.filter(|pod| qos::class(pod) == Qos::Burstable);
        burstable.map(pod::resources::cpu_request_millis).fold(0, i64::saturating_add)
    }

    /// After every input: the deadline, what is to be remembered, and the end of the machine.
    fn settle(&mut self, now: Now, uid: &str, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Life::Machine(machine) = &entry.life else { return };
        let deadline = machine.next_deadline();
        if entry.deadline != deadline {
            if let Some(old) = entry.deadline {
                self.timers.remove(&(old, uid.to_owned()));
            }
            entry.deadline = deadline;
            self.timers.extend(deadline.map(|at| (at, uid.to_owned())));
        }
        if machine.is_finished() {
            return self.end(uid, outbox);
        }
        let revision = machine.revision();
        if entry.revision != Some(revision) {
            entry.revision = Some(revision);
            self.publish(now, uid, outbox);
        }
    }

    /// What is to be seen and remembered of a machine may have changed.
    fn publish(&mut self, now: Now, uid: &str, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Life::Machine(machine) = &entry.life else { return };
        if entry.set_up && entry.pod.is_some() {
            let memory = machine.memory();
            if memory != entry.saved {
                entry.saved = memory.clone();
                outbox.push(Request::SaveMemory { uid: uid.to_owned(), memory: Box::new(memory) });
            }
        }
        let report = machine.report();
        let stage = machine.stage();
        entry.since.note(&report.conditions, now.wall_ns);
        if entry.problem != report.problem {
            if let Some(problem) = &report.problem {
                warn!(pod = %entry.full_name, reason = %problem.reason, "{}", problem.message);
            }
            entry.problem = report.problem.clone();
        }
        entry.terminal = report.phase.is_terminal();
        // What was refused is asked again after a restart: there may be room then.
        let ended = entry.terminal && stage == Stage::Syncing && !entry.recorded && !entry.rejected;
        if ended && let Some(status) = entry.status(&self.node) {
            entry.recorded = true;
            self.finished.insert(uid.to_owned(), status.clone());
            outbox.push(Request::SaveFinished { uid: uid.to_owned(), status: Box::new(status) });
        }
    }

    fn end(&mut self, uid: &str, outbox: &mut Outbox) {
        let Some(entry) = self.entries.remove(uid) else { return };
        if let Some(deadline) = entry.deadline {
            self.timers.remove(&(deadline, uid.to_owned()));
        }
        info!(pod = %entry.full_name, uid, "pod is gone");
        if self.finished.remove(uid).is_some() {
            outbox.push(Request::ForgetFinished(uid.to_owned()));
        }
        if entry.set_up {
            outbox.push(Request::ForgetMemory(uid.to_owned()));
        }
        self.freed = true;
    }
}
