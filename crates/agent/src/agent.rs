//! The loop's state: every pod's machine, and what is wanted. It does nothing that waits; what is to be done goes into
//! [`Outbox`], and comes back as a [`Message`].

mod entry;
mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{Action, Effect, EffectId, Input, Millis, Now, ObservedPod, PodMachine, PullPolicy, Stage, UNSTAMPED};
use pod::qos::{self, Qos};
use tracing::{info, warn};

use crate::effects::{Job, Performed};
use crate::handle::ManifestStatus;
use crate::observe::{self, Digest, RuntimePod};
use crate::plan;
use crate::sources::SourceReport;
use crate::sources::mux::{Mux, Wanted};
use crate::status::{NodeFacts, Snapshot, live_status};
use entry::{Entry, Life};

/// What comes back to the loop.
#[derive(Debug)]
pub(crate) enum Message {
    Report(SourceReport),
    /// The runtime answered for the first time.
    Started {
        stamp: Millis,
        pods: Vec<RuntimePod>,
        finished: BTreeMap<String, PodStatus>,
    },
    /// Whether the runtime has events to listen to.
    Events {
        had: bool,
    },
    Event(Box<cri::v1::ContainerEventResponse>),
    Completed {
        uid: String,
        generation: u64,
        id: EffectId,
        performed: Performed,
    },
    /// A cheap listing of everything.
    Listed {
        pods: BTreeMap<String, Digest>,
    },
    /// An answer to [`Request::Inspect`]; none where the runtime knows nothing of the pod.
    Inspected {
        uid: String,
        stamp: Millis,
        pod: Option<RuntimePod>,
    },
    /// Pods that left directories or control groups.
    Leftovers(Vec<String>),
    ImagesChanged,
}

/// What the loop wants done by others.
#[derive(Debug)]
pub(crate) enum Request {
    Perform {
        uid: String,
        generation: u64,
        id: EffectId,
        job: Box<Job>,
    },
    /// Ask the runtime for a pod, outside of any machine's effects.
    Inspect(String),
    /// Look for what pods of earlier lives left behind.
    FindLeftovers,
    SaveFinished {
        uid: String,
        status: Box<PodStatus>,
    },
    ForgetFinished(String),
}

pub(crate) type Outbox = Vec<Request>;

/// The state.
pub(crate) struct Agent {
    node: Arc<NodeFacts>,
    mux: Mux,
    wanted: BTreeMap<String, Wanted>,
    entries: BTreeMap<String, Entry>,
    /// Deadlines of the entries.
    timers: BTreeSet<(Millis, String)>,
    /// What the runtime had at the start and no source has asked for yet. Nothing is done to it before all have spoken.
    unclaimed: BTreeMap<String, Unclaimed>,
    finished: BTreeMap<String, PodStatus>,
    started: bool,
    events: bool,
    cleaned: bool,
    /// A machine ended: its name is free, and its UID, should it be wanted again.
    freed: bool,
    next_generation: u64,
}

#[derive(Debug)]
struct Unclaimed {
    pod: RuntimePod,
    stamp: Millis,
    /// Something happened to it since.
    stale: bool,
}

impl Agent {
    pub(crate) fn new(node: Arc<NodeFacts>, sources: usize) -> Self {
        Self {
            node,
            mux: Mux::new(sources),
            wanted: BTreeMap::new(),
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            unclaimed: BTreeMap::new(),
            finished: BTreeMap::new(),
            started: false,
            events: true,
            cleaned: false,
            freed: false,
            next_generation: 0,
        }
    }

    /// Takes one message and notes what is to be done about it.
    pub(crate) fn take(&mut self, now: Now, message: Message, outbox: &mut Outbox) {
        self.apply(now, message, outbox);
        self.follow_up(now, outbox);
    }

    /// Gives what ended machines left free to those who wait for it. A loop and no recursion: a thousand may end at once.
    fn follow_up(&mut self, now: Now, outbox: &mut Outbox) {
        while std::mem::take(&mut self.freed) {
            self.reconcile(now, outbox);
        }
    }

    fn apply(&mut self, now: Now, message: Message, outbox: &mut Outbox) {
        match message {
            Message::Report(report) => self.take_report(now, report, outbox),
            Message::Started { stamp, pods, finished } => {
                self.started = true;
                self.finished = finished;
                let pods = pods.into_iter().map(|pod| (pod.key.uid.clone(), Unclaimed { pod, stamp, stale: false }));
                self.unclaimed = pods.collect();
                self.reconcile(now, outbox);
            }
            Message::Events { had } => self.events = had,
            Message::Event(event) => self.take_event(now, *event, outbox),
            Message::Completed { uid, generation, id, performed } => {
                if self.entries.get(&uid).is_some_and(|entry| entry.generation == generation) {
                    self.complete(now, &uid, (id, performed), outbox);
                }
            }
            Message::Listed { pods } => self.compare(&pods, outbox),
            Message::Inspected { uid, stamp, pod } => self.take_inspected(now, &uid, (stamp, pod), outbox),
            Message::Leftovers(uids) => self.adopt_leftovers(now, uids, outbox),
            Message::ImagesChanged => {
                for uid in self.live() {
                    self.feed(now, &uid, Input::ImagesChanged, outbox);
                }
            }
        }
    }

    /// Lets every machine whose deadline has come look at the clock.
    pub(crate) fn tick(&mut self, now: Now, outbox: &mut Outbox) {
        let due: Vec<String> =
            self.timers.iter().take_while(|(at, _)| *at <= now.mono_ms).map(|(_, uid)| uid.clone()).collect();
        for uid in due {
            self.feed(now, &uid, Input::Tick, outbox);
        }
        self.follow_up(now, outbox);
    }

    /// When [`Agent::tick`] is due.
    pub(crate) fn next_deadline(&self) -> Option<Millis> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Something is under way, so that a lost event would be missed soon.
    pub(crate) fn is_busy(&self) -> bool {
        !self.started || self.entries.values().any(Entry::is_busy)
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    pub(crate) fn has_events(&self) -> bool {
        self.events
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unclaimed.is_empty()
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        let waiting = self.wanted.iter().filter(|(uid, _)| !self.entries.contains_key(*uid)).map(|(_, wanted)| {
            // Not begun: the runtime has not answered yet, or an earlier machine of the same UID is still ending.
            let stored = wanted.pod.status.clone().unwrap_or_default();
            entry::snapshot_of_waiting(&wanted.pod, stored, wanted.manifest_error.clone())
        });
        let live = self
            .entries
            .iter()
            .map(|(uid, entry)| entry.snapshot(self.wanted.get(uid).and_then(|wanted| wanted.manifest_error.clone())));
        live.chain(waiting).collect()
    }

    pub(crate) fn manifests(&self) -> Vec<ManifestStatus> {
        self.mux.manifests()
    }

    fn take_report(&mut self, now: Now, report: SourceReport, outbox: &mut Outbox) {
        let (entries, unclaimed) = (&self.entries, &self.unclaimed);
        let conflicts = self.mux.update(report, &|uid| entries.contains_key(uid) || unclaimed.contains_key(uid));
        for conflict in conflicts {
            tracing::error!("manifest refused: {conflict}");
        }
        self.wanted = self.mux.wanted();
        self.reconcile(now, outbox);
    }

    /// Brings the entries in line with what is wanted.
    fn reconcile(&mut self, now: Now, outbox: &mut Outbox) {
        if !self.started {
            return;
        }
        let unwanted: Vec<String> = self
            .entries
            .iter()
            .filter(|(uid, e)| !e.deleted && !self.wanted.contains_key(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in unwanted {
            self.delete(now, &uid, outbox);
        }
        let wanted: Vec<Arc<Pod>> = self.wanted.values().map(|wanted| wanted.pod.clone()).collect();
        for pod in wanted {
            match self.entries.get_mut(pod::uid(&pod)) {
                None => self.begin(now, pod, outbox),
                Some(entry) => {
                    if let Some(plan) = entry.update(&pod) {
                        self.feed(now, pod::uid(&pod), Input::Desired(plan), outbox);
                    }
                }
            }
        }
        if self.mux.all_reported() {
            self.take_orphans(now, outbox);
        }
        self.admit(now, outbox);
    }

    fn begin(&mut self, now: Now, pod: Arc<Pod>, outbox: &mut Outbox) {
        let uid = pod::uid(&pod).to_owned();
        let known = self.unclaimed.remove(&uid);
        if known.is_none()
            && let Some(status) = self.finished.get(&uid).cloned()
        {
            info!(pod = %pod::full_name(&pod), %uid, "the pod has run to its end already");
            let entry = Entry::new(self.generation(), Some(pod.clone()), Life::Done(Box::new(status)), now);
            self.entries.insert(uid, entry);
            return;
        }
        info!(pod = %pod::full_name(&pod), %uid, "pod added");
        let machine = PodMachine::new(plan::plan_of(&pod), now);
        let entry = Entry::new(self.generation(), Some(pod), Life::Machine(Box::new(machine)), now);
        self.entries.insert(uid.clone(), entry);
        self.tell_known(now, &uid, known, outbox);
    }

    /// A machine's first observation: what the runtime had of its pod, or that it has nothing.
    fn tell_known(&mut self, now: Now, uid: &str, known: Option<Unclaimed>, outbox: &mut Outbox) {
        let (stamp, observed, stale) = match known {
            Some(known) => (known.stamp, known.pod.observed, known.stale),
            None => (now.mono_ms, ObservedPod::default(), false),
        };
        self.observe(now, uid, (stamp, observed), outbox);
        if stale {
            outbox.push(Request::Inspect(uid.to_owned()));
        }
    }

    fn delete(&mut self, now: Now, uid: &str, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.deleted = true;
        if matches!(entry.life, Life::Done(_)) {
            let machine = PodMachine::orphan(uid.to_owned(), entry.full_name.clone(), 0, now);
            entry.life = Life::Machine(Box::new(machine));
            self.observe(now, uid, (now.mono_ms, ObservedPod::default()), outbox);
            return;
        }
        info!(pod = %entry.full_name, %uid, "pod is not wanted any more");
        let grace_ms = entry.pod.as_deref().map_or(0, plan::grace_ms);
        self.feed(now, uid, Input::Delete { grace_ms }, outbox);
    }

    /// Lets begin whoever is alone with its full name (rule 9).
    fn admit(&mut self, now: Now, outbox: &mut Outbox) {
        let mut taken: BTreeSet<String> = self.unclaimed.values().map(|u| entry::full_name_of(&u.pod.key)).collect();
        taken.extend(self.entries.values().filter(|e| e.holds_name()).map(|e| e.full_name.clone()));
        let mut free = Vec::new();
        for (uid, entry) in &mut self.entries {
            if entry.waits() && taken.insert(entry.full_name.clone()) {
                entry.admitted = true;
                free.push(uid.clone());
            }
        }
        for uid in free {
            self.feed(now, &uid, Input::Admit, outbox);
        }
    }

    fn take_event(&mut self, now: Now, event: cri::v1::ContainerEventResponse, outbox: &mut Outbox) {
        let gone = observe::is_deletion(&event);
        let Some(pod) = observe::from_event(event) else { return };
        let uid = pod.key.uid.clone();
        if let Some(unclaimed) = self.unclaimed.get_mut(&uid) {
            unclaimed.stale = true;
        } else if self.entries.contains_key(&uid) {
            self.observe(now, &uid, (UNSTAMPED, pod.observed), outbox);
            // What is missing cannot be shown by an event. Who is ending its containers hears of it anyway.
            if gone && self.entries.get(&uid).is_some_and(|entry| !entry.deleted) {
                outbox.push(Request::Inspect(uid));
            }
        } else if self.started {
            outbox.push(Request::Inspect(uid));
        }
    }

    fn take_inspected(&mut self, now: Now, uid: &str, (stamp, pod): (Millis, Option<RuntimePod>), outbox: &mut Outbox) {
        if self.entries.contains_key(uid) {
            let observed = pod.map(|pod| pod.observed).unwrap_or_default();
            return self.observe(now, uid, (stamp, observed), outbox);
        }
        let Some(pod) = pod else { return };
        self.unclaimed.insert(uid.to_owned(), Unclaimed { pod, stamp, stale: false });
        self.reconcile(now, outbox);
    }

    /// Asks for each pod of which the listing shows something else than what its machine was told.
    fn compare(&self, pods: &BTreeMap<String, Digest>, outbox: &mut Outbox) {
        for (uid, entry) in &self.entries {
            let listed = pods.get(uid);
            if matches!(entry.life, Life::Machine(_)) && entry.digest != *listed.unwrap_or(&Digest::new()) {
                outbox.push(Request::Inspect(uid.clone()));
            }
        }
        let unknown = pods.keys().filter(|uid| !self.entries.contains_key(*uid) && !self.unclaimed.contains_key(*uid));
        outbox.extend(unknown.cloned().map(Request::Inspect));
    }

    fn complete(&mut self, now: Now, uid: &str, (id, performed): (EffectId, Performed), outbox: &mut Outbox) {
        if let Some((stamp, observed)) = performed.observed {
            self.observe(now, uid, (stamp, observed), outbox);
        }
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.in_flight.remove(&id);
            entry.note_done(&performed.outcome);
        }
        self.feed(now, uid, Input::Completed { id, outcome: performed.outcome }, outbox);
    }

    fn observe(&mut self, now: Now, uid: &str, (stamp, pod): (Millis, ObservedPod), outbox: &mut Outbox) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.note_observed(stamp, &pod);
        }
        self.feed(now, uid, Input::Observed { stamp, pod }, outbox);
    }

    /// Gives a machine an input and passes on what it wants done.
    fn feed(&mut self, now: Now, uid: &str, input: Input, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let mut actions = Vec::new();
        let Life::Machine(machine) = &mut entry.life else { return };
        machine.handle(now, input, &mut actions);
        for action in actions {
            match action {
                Action::Do { id, effect } => {
                    let job = self.job(uid, id, effect);
                    outbox.extend(job);
                }
                Action::Tell(_) => {}
                Action::Cancel(id) => {
                    if let Some(cancel) = self.entries.get(uid).and_then(|entry| entry.in_flight.get(&id)) {
                        cancel.cancel();
                    }
                }
            }
        }
        self.settle(now, uid, outbox);
    }

    fn job(&mut self, uid: &str, id: EffectId, effect: Effect) -> Option<Request> {
        let burstable_millis = match &effect {
            Effect::SetUp => self.burstable_millis(),
            _ => 0,
        };
        let entry = self.entries.get_mut(uid)?;
        let Life::Machine(machine) = &entry.life else { return None };
        if let Effect::RunSandbox { attempt } = &effect {
            entry.sandbox_attempt = *attempt;
        }
        let ips = match &effect {
            Effect::StartContainer { .. } => machine.report().ips,
            _ => Vec::new(),
        };
        let pull_policy = match &effect {
            Effect::EnsureImage { container } => machine.plan().containers.iter().find(|c| c.name == *container),
            _ => None,
        };
        let job = Job {
            key: entry.key.clone(),
            pod: entry.pod.clone(),
            ips,
            sandbox_attempt: entry.sandbox_attempt,
            pull_policy: pull_policy.map_or(PullPolicy::IfNotPresent, |container| container.pull_policy),
            burstable_millis,
            cancel: entry.in_flight.entry(id).or_default().clone(),
            effect,
        };
        Some(Request::Perform { uid: uid.to_owned(), generation: entry.generation, id, job: Box::new(job) })
    }

    fn burstable_millis(&self) -> i64 {
        let pods = self.entries.values().filter_map(|entry| entry.pod.as_deref());
        let burstable = pods.filter(|pod| qos::class(pod) == Qos::Burstable);
        burstable.map(pod::resources::cpu_request_millis).fold(0, i64::saturating_add)
    }

    /// After every input: the deadline, the record of a pod that ended, and the end of its machine.
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
        let report = machine.report();
        entry.since.note(&report.conditions, now.wall_ns);
        if entry.problem != report.problem {
            if let Some(problem) = &report.problem {
                warn!(pod = %entry.full_name, reason = %problem.reason, "{}", problem.message);
            }
            entry.problem = report.problem.clone();
        }
        let ended = report.phase.is_terminal() && machine.stage() == Stage::Syncing && !entry.recorded;
        if let Some(pod) = entry.pod.as_deref().filter(|_| ended) {
            entry.recorded = true;
            let status = live_status(pod, &report, &entry.since, &self.node);
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
        self.freed = true;
    }

    fn live(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }
}

#[cfg(test)]
mod tests;
