//! What the kubelet asks for, and how news of the runtime reach it: pushed, asked for, or by listings.

use super::{Happening, Store, World};
use crate::facts::Fact;
use crate::kubelet::Mutant;
use crate::truth::Change;
use agent::core::{Job, Message, Request, RuntimeEvent, RuntimePod, digest_of};
use cri::keys::PodKey;
use lifecycle::{
    Effect, EffectId, Event, Memory, ObservedContainer, ObservedPod, ObservedState, Severity, Stage, UNSTAMPED,
};

/// Between listings, as the agent has them.
const LIST_CALM_MS: u64 = 60_000;
const LIST_BUSY_MS: u64 = 10_000;
const LIST_LOOK_MS: u64 = 5_000;
/// Until something to be remembered is on disk.
const STORE_MS: u64 = 15;

impl World {
    pub(super) fn dispatch(&mut self, requests: Vec<Request>) {
        let performs = requests.iter().filter(|request| matches!(request, Request::Perform { .. })).count();
        if performs > 0 && self.rng.chance(self.options.kill_before_issue) {
            self.note(format_args!("the kubelet dies before it asks for {performs} effects"));
            return self.kill();
        }
        let epoch = self.known.epoch;
        for request in requests {
            match request {
                Request::Perform { uid, generation, id, job } => self.perform((uid, generation, id), job),
                Request::Inspect(uid) => {
                    let after_ms = self.rng.between(1, 5);
                    let stamp_ms = self.known.now_ms;
                    self.at(after_ms, Happening::Inspect { epoch, uid, stamp_ms });
                }
                Request::FindLeftovers => {
                    let uids = self.known.truth.volumes.iter().cloned().collect();
                    let message = Box::new(Message::Leftovers(uids));
                    self.at(3, Happening::Listed { epoch, message });
                }
                Request::SaveFinished { uid, status } => self.store_later(Store::Finished(uid, status)),
                Request::ForgetFinished(uid) => self.store_later(Store::ForgetFinished(uid)),
                Request::SaveMemory { uid, memory } => self.store_later(Store::Memory(uid, memory)),
                Request::SavePod(pod) => self.store_later(Store::Pod(pod)),
                Request::ForgetMemory(uid) => self.store_later(Store::ForgetMemory(uid)),
            }
        }
        if performs > 0 && self.rng.chance(self.options.kill_after_issue) {
            self.note(format_args!("the kubelet dies after it asked for {performs} effects"));
            self.kill();
        }
    }

    fn perform(&mut self, (uid, generation, id): (String, u64, EffectId), mut job: Box<Job>) {
        if self.mutant == Some(Mutant::StopsAtOnce)
            && let Effect::StopContainer { grace_ms, .. } = &mut job.effect
        {
            *grace_ms = 0;
        }
        let machine = (uid, generation);
        self.issue((machine.0.clone(), generation, id), job.clone());
        if self.mutant.is_some() {
            self.abuse(&machine, id, job);
        }
    }

    /// What a broken kubelet asks for besides.
    fn abuse(&mut self, (uid, generation): &(String, u64), id: EffectId, job: Box<Job>) {
        let issue = |world: &mut World, offset: u64, job: Box<Job>| {
            world.issue((uid.clone(), *generation, EffectId(id.0 + offset)), job);
        };
        let ending = self.kubelet.as_ref().and_then(|kubelet| kubelet.reports.get(uid));
        let ending = ending.is_some_and(|(_, report)| report.stage >= Stage::Terminating);
        match (self.mutant, &job.effect) {
            (Some(Mutant::DoublesStarts), Effect::StartContainer { .. }) => issue(self, 1_000_000, job),
            (Some(Mutant::SkipsInit), Effect::StartContainer { container, .. }) if container.starts_with('i') => {
                let mut job = job;
                if let Effect::StartContainer { container, .. } = &mut job.effect {
                    "c0".clone_into(container);
                }
                issue(self, 2_000_000, job);
            }
            (Some(Mutant::StartsWhileEnding), Effect::StopContainer { .. }) if ending => {
                if let Some((_, _, job)) = self.last_start.remove(uid) {
                    issue(self, 3_000_000, job);
                }
            }
            (_, Effect::StartContainer { .. }) => {
                self.last_start.insert(uid.clone(), (*generation, id, job));
            }
            _ => {}
        }
    }

    fn store_later(&mut self, store: Store) {
        // One after the other: what is stored later is newer.
        self.at(STORE_MS, Happening::Store { epoch: self.known.epoch, store });
    }

    pub(super) fn store(&mut self, store: Store) {
        match store {
            Store::Finished(uid, status) => _ = self.finished.insert(uid, *status),
            Store::ForgetFinished(uid) => _ = self.finished.remove(&uid),
            Store::Memory(uid, memory) => {
                // It lies beside the pod's directories, which SetUp makes and TearDown removes.
                self.note(format_args!("  {uid} remembered: {}", brief(&memory)));
                if let Some(stored) = self.stored.get_mut(&uid) {
                    stored.memory = Some(*memory);
                    self.known.forgotten.remove(&uid);
                }
            }
            Store::Pod(pod) => {
                if let Some(stored) = pod.metadata.uid.as_ref().and_then(|uid| self.stored.get_mut(uid)) {
                    stored.pod = Some(pod);
                }
            }
            Store::ForgetMemory(uid) => {
                if let Some(stored) = self.stored.get_mut(&uid) {
                    stored.memory = None;
                }
            }
        }
    }

    /// What is to be remembered is on disk before the record goes that it was learned from.
    pub(super) fn flush_memory(&mut self, uid: &str) {
        let epoch = self.known.epoch;
        let due = self.queue.iter().filter(|(_, happening)| {
            matches!(happening, Happening::Store { epoch: of, store: Store::Memory(named, _) } if *of == epoch && named == uid)
        });
        for key in due.map(|(key, _)| *key).collect::<Vec<_>>() {
            if let Some(Happening::Store { store, .. }) = self.queue.remove(&key) {
                self.store(store);
            }
        }
    }

    /// The truth has changed: checkers see it, waiting stops end, events go out.
    pub(super) fn changed(&mut self) {
        let changes = std::mem::take(&mut self.known.truth.changes);
        for change in &changes {
            match change {
                Change::Started(container) => {
                    self.note(format_args!("  {} {} runs", container.key.uid, container.seen.id));
                    self.tell(&Fact::Started(container));
                }
                Change::Exited(container) => {
                    let code = container.exit_code().unwrap_or(-1);
                    self.note(format_args!("  {} {} exits {code}", container.key.uid, container.seen.id));
                    self.tell(&Fact::Exited(container));
                }
                Change::Removed(container) => {
                    self.note(format_args!("  {} {} removed", container.key.uid, container.seen.id));
                }
                Change::Sandbox(_) => {}
            }
        }
        for change in changes {
            self.push_event(&change);
        }
        self.answer_stops();
    }

    /// A mutant starts what has just crashed.
    fn hurry(&mut self, uid: &str, pod: &ObservedPod) {
        if self.mutant != Some(Mutant::ForgetsBackOff) || self.kubelet.is_none() {
            return;
        }
        let Some((generation, id, mut job)) = self.last_start.get(uid).cloned() else { return };
        let Effect::StartContainer { container, attempt, .. } = &mut job.effect else { return };
        let crashed = |seen: &ObservedContainer| {
            seen.name == *container && seen.attempt == *attempt && matches!(seen.state, ObservedState::Exited { .. })
        };
        if !pod.containers.iter().any(crashed) {
            return;
        }
        *attempt += 1;
        let id = EffectId(id.0 + 3_000_000);
        self.last_start.insert(uid.to_owned(), (generation, id, job.clone()));
        self.issue((uid.to_owned(), generation, id), job);
    }

    /// An event carries the sandbox it is about, as it is at the moment, with all that is in it.
    fn push_event(&mut self, change: &Change) {
        if !self.listens || self.runtime_down || self.rng.chance(self.options.event_lost) {
            return;
        }
        let uid = &change.key().uid;
        let Some((key, mut pod, grace_ms)) = self.known.truth.observe(uid) else { return };
        if let Change::Started(container) | Change::Exited(container) | Change::Removed(container) = change {
            let home = &container.seen.sandbox_id;
            pod.sandboxes.retain(|sandbox| sandbox.id == *home);
            pod.containers.retain(|seen| seen.sandbox_id == *home);
        }
        if pod.sandboxes.is_empty() {
            return;
        }
        let pod = self.shown(pod);
        let deletion = matches!(change, Change::Removed(_));
        let event = RuntimeEvent { pod: RuntimePod { key, observed: pod, grace_ms }, deletion };
        let times = if self.rng.chance(self.options.event_doubled) { 2 } else { 1 };
        for _ in 0..times {
            let late = self.rng.chance(self.options.event_late);
            let after_ms = if late { self.rng.between(100, 20_000) } else { self.rng.between(1, 6) };
            let message = Box::new(Message::Event(Box::new(event.clone())));
            self.at(after_ms, Happening::Event { epoch: self.known.epoch, message });
        }
    }

    /// An effect that has begun says so.
    pub(super) fn tell_of_beginning(&mut self, uid: &str, generation: u64, effect: &Effect) {
        let Effect::EnsureImage { container } = effect else { return };
        let event = Event {
            severity: Severity::Normal,
            reason: pod::reasons::PULLING,
            message: format!("Pulling the image of {container}"),
            container: Some(container.clone()),
        };
        let message = Box::new(Message::Told { uid: uid.to_owned(), generation, event });
        self.at(0, Happening::Told { epoch: self.known.epoch, message });
    }

    /// What is told is for people: nothing may follow.
    pub(super) fn told(&mut self, message: Message) {
        let now = self.now();
        let Some(kubelet) = &mut self.kubelet else { return };
        let requests = kubelet.take(now, message);
        if !requests.is_empty() {
            self.breaks("rule 6", &format!("what an effect told had effects: {requests:?}"));
        }
        self.after(None, requests);
    }

    /// What a broken kubelet makes of an answer.
    fn shown(&self, mut pod: ObservedPod) -> ObservedPod {
        if self.mutant == Some(Mutant::SaysZero) {
            for container in &mut pod.containers {
                if let ObservedState::Exited { exit_code, .. } = &mut container.state {
                    *exit_code = 0;
                }
            }
        }
        pod
    }

    pub(super) fn event(&mut self, message: Message) {
        if !self.kubelet.as_ref().is_some_and(|kubelet| kubelet.heard_runtime) {
            // Who listens before the first answer hears of it after that answer.
            let (epoch, message) = (self.known.epoch, Box::new(message));
            return self.at(5, Happening::Event { epoch, message });
        }
        let Message::Event(event) = &message else { return };
        let uid = event.pod.key.uid.clone();
        let fact = Fact::Saw { uid: &uid, stamp_ms: UNSTAMPED, pod: &event.pod.observed };
        super::judge((&mut self.checkers, &mut self.marks), &fact, &self.known, &mut self.broken);
        self.note(format_args!("{uid} event"));
        let pod = event.pod.observed.clone();
        self.deliver(message, Some(&uid));
        self.hurry(&uid, &pod);
    }

    /// The runtime gathers an answer outside of any effect.
    pub(super) fn gather(&mut self, uid: String, stamp_ms: u64) {
        if self.runtime_down {
            return;
        }
        let pod = self.known.truth.observe(&uid).map(|(key, pod, grace_ms)| (key, self.shown(pod), grace_ms));
        let after_ms = self.rng.between(1, 5);
        self.at(after_ms, Happening::Inspected { epoch: self.known.epoch, uid, stamp_ms, pod });
    }

    pub(super) fn inspected(&mut self, uid: &str, stamp_ms: u64, pod: Option<(PodKey, ObservedPod, Option<u64>)>) {
        let empty = ObservedPod::default();
        let seen = pod.as_ref().map_or(&empty, |(_, pod, _)| pod);
        let fact = Fact::Saw { uid, stamp_ms, pod: seen };
        super::judge((&mut self.checkers, &mut self.marks), &fact, &self.known, &mut self.broken);
        let pod = pod.map(|(key, observed, grace_ms)| RuntimePod { key, observed, grace_ms });
        self.note(format_args!("{uid} inspected"));
        self.deliver(Message::Inspected { uid: uid.to_owned(), stamp: stamp_ms, pod }, Some(uid));
    }

    /// Everything the runtime has, as an inspection of each pod would tell.
    pub(super) fn everything(&self) -> Vec<RuntimePod> {
        let pods = self.known.truth.uids().into_iter().filter_map(|uid| self.known.truth.observe(&uid));
        pods.map(|(key, pod, grace_ms)| RuntimePod { key, observed: self.shown(pod), grace_ms }).collect()
    }

    pub(super) fn list(&mut self) {
        let epoch = self.known.epoch;
        self.at(LIST_LOOK_MS, Happening::List(epoch));
        let Some(kubelet) = &self.kubelet else { return };
        let interval_ms = if kubelet.agent.is_busy() { LIST_BUSY_MS } else { LIST_CALM_MS };
        if self.runtime_down || !kubelet.heard_runtime || self.known.now_ms < self.listed_ms + interval_ms {
            return;
        }
        self.list_now();
    }

    pub(super) fn list_now(&mut self) {
        self.listed_ms = self.known.now_ms;
        let pods = self.everything().into_iter().map(|pod| (pod.key.uid, digest_of(&pod.observed))).collect();
        let message = Box::new(Message::Listed { pods });
        let (epoch, after_ms) = (self.known.epoch, self.rng.between(1, 5));
        self.at(after_ms, Happening::Listed { epoch, message });
    }
}

fn brief(memory: &Memory) -> String {
    let mark = |is: bool, sign: &'static str| if is { sign } else { "" };
    let container = |of: &lifecycle::ContainerMemory| {
        let marks = [mark(of.started, "s"), mark(of.ready, "r"), mark(of.hooked, "h")].concat();
        let last = of.last.as_ref().map(|last| last.exit_code);
        format!("{}#{} {}{{{marks}}}{last:?}", of.name, of.attempt, of.container_id)
    };
    let containers: Vec<String> = memory.containers.iter().map(container).collect();
    format!(
        "{:?} {:?} [{}]",
        memory.ending.as_ref().map(|ending| ending.phase),
        memory.kill_at_ns,
        containers.join(" ")
    )
}
