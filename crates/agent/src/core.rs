//! The loop without its I/O: every pod's machine, and what is wanted. It does nothing that waits and reads no clock; what
//! is to be done goes into [`Outbox`], and comes back as a [`Message`]. The daemon drives it with the world, and a
//! simulator with a model of it.

mod admitting;
mod entry;
mod feeding;
mod message;
mod orphans;
mod secrets;
mod wanting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cri::keys::PodKey;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{Input, Millis, Now, ObservedPod, PodMachine, UNSTAMPED};

use crate::events::{self, Events, Subject};
use crate::handle::ManifestStatus;
use crate::sources::mux::{Mux, Secrets, Wanted};
use crate::status::Snapshot;
use entry::{Entry, Life};

pub use crate::effects::{Job, Performed};
pub use crate::observe::{Digest, RuntimePod, digest_of};
pub use crate::plan::plan_of;
pub use crate::sources::{FileReport, Problem, SourceReport};
pub use crate::status::NodeFacts;
pub use message::{Message, Outbox, Request, RuntimeEvent, Stored};

/// The state.
pub struct Agent {
    node: Arc<NodeFacts>,
    mux: Mux,
    wanted: BTreeMap<String, Wanted>,
    secrets: Secrets,
    /// Counts how often they changed.
    secrets_revision: u64,
    entries: BTreeMap<String, Entry>,
    /// Deadlines of the entries.
    timers: BTreeSet<(Millis, String)>,
    /// What the runtime had at the start and no source has asked for yet. Nothing is done to it before all have spoken.
    unclaimed: BTreeMap<String, Unclaimed>,
    /// What the runtime has and does not tell of. Nothing is done to these, nor in their names.
    unseen: BTreeMap<String, PodKey>,
    finished: BTreeMap<String, PodStatus>,
    /// What earlier lives of the kubelet remembered of pods that have no machine yet.
    stored: BTreeMap<String, Stored>,
    events: Events,
    started: bool,
    /// The runtime has events to listen to.
    listens: bool,
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
    /// `sources` is how many will report.
    pub fn new(node: Arc<NodeFacts>, sources: usize) -> Self {
        Self {
            node,
            mux: Mux::new(sources),
            wanted: BTreeMap::new(),
            secrets: Secrets::new(),
            secrets_revision: 0,
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            unclaimed: BTreeMap::new(),
            unseen: BTreeMap::new(),
            finished: BTreeMap::new(),
            stored: BTreeMap::new(),
            events: Events::default(),
            started: false,
            listens: true,
            cleaned: false,
            freed: false,
            next_generation: 0,
        }
    }

    /// Takes one message and notes what is to be done about it.
    pub fn take(&mut self, now: Now, message: Message, outbox: &mut Outbox) {
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
            Message::Started { stamp, pods, unseen, finished, stored } => {
                self.started = true;
                self.finished = finished;
                self.stored = stored;
                let pods = pods.into_iter().map(|pod| (pod.key.uid.clone(), Unclaimed { pod, stamp, stale: false }));
                self.unclaimed = pods.collect();
                self.unseen = unseen.into_iter().map(|key| (key.uid.clone(), key)).collect();
                self.reconcile(now, outbox);
            }
            Message::Events { had } => self.listens = had,
            Message::Event(event) => self.take_event(now, *event, outbox),
            Message::Completed { uid, generation, id, performed } => {
                if self.entries.get(&uid).is_some_and(|entry| entry.generation == generation) {
                    self.complete(now, &uid, (id, performed), outbox);
                }
            }
            Message::Told { uid, generation, event } => {
                if self.entries.get(&uid).is_some_and(|entry| entry.generation == generation) {
                    self.tell(now, &uid, event);
                }
            }
            Message::NodeTold(event) => self.events.tell(now.wall_ns, Subject::Node(&self.node.node_name), event),
            Message::Listed { pods } => self.compare(&pods, outbox),
            Message::Inspected { uid, stamp, pod } => self.take_inspected(now, &uid, (stamp, pod), outbox),
            Message::Leftovers(uids) => self.adopt_leftovers(now, uids, outbox),
            Message::ImagesChanged => self.images_changed(now, outbox),
        }
    }

    /// Who waits for an image tries at once.
    fn images_changed(&mut self, now: Now, outbox: &mut Outbox) {
        let all: Vec<String> = self.entries.keys().cloned().collect();
        for uid in all {
            self.feed(now, &uid, Input::ImagesChanged, outbox);
        }
    }

    /// Lets every machine whose deadline has come look at the clock.
    pub fn tick(&mut self, now: Now, outbox: &mut Outbox) {
        let due: Vec<String> =
            self.timers.iter().take_while(|(at, _)| *at <= now.mono_ms).map(|(_, uid)| uid.clone()).collect();
        for uid in due {
            self.feed(now, &uid, Input::Tick, outbox);
        }
        self.follow_up(now, outbox);
    }

    /// When [`Agent::tick`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Something is under way, so that a lost event would be missed soon.
    pub fn is_busy(&self) -> bool {
        !self.started || !self.unseen.is_empty() || self.entries.values().any(Entry::is_busy)
    }

    /// The machine of every pod that has one, by UID, with the number that tells it from earlier ones of the same pod.
    pub fn machines(&self) -> impl Iterator<Item = (&str, u64, &PodMachine)> {
        self.entries.iter().filter_map(|(uid, entry)| match &entry.life {
            Life::Machine(machine) => Some((uid.as_str(), entry.generation, &**machine)),
            Life::Done(_) => None,
        })
    }

    pub fn manifests(&self) -> Vec<ManifestStatus> {
        self.mux.manifests()
    }

    /// Every pod with its status, as it is shown at this moment.
    pub fn pods(&self) -> Vec<Pod> {
        self.snapshots().iter().filter_map(|snapshot| snapshot.to_pod(&self.node)).collect()
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    pub(crate) fn has_events(&self) -> bool {
        self.listens
    }

    /// Whose UID it is; none of a pod that nobody wants and the runtime has told nothing of.
    pub(crate) fn key_of(&self, uid: &str) -> Option<&PodKey> {
        let entry = self.entries.get(uid).map(|entry| &entry.key).filter(|key| !key.name.is_empty());
        entry.or_else(|| self.unclaimed.get(uid).map(|known| &known.pod.key)).or_else(|| self.unseen.get(uid))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unclaimed.is_empty() && self.unseen.is_empty()
    }

    /// The images of every wanted pod, as its spec names them; none while it is not known what is wanted.
    pub fn wanted_images(&self) -> Option<BTreeSet<String>> {
        if !self.started || !self.mux.all_reported() {
            return None;
        }
        let containers = self.wanted.values().flat_map(|wanted| pod::containers_in_order(&wanted.pod));
        Some(containers.filter_map(|container| container.image.clone()).collect())
    }

    pub(crate) fn history(&self) -> Vec<events::Record> {
        self.events.all()
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

    fn take_event(&mut self, now: Now, RuntimeEvent { pod, deletion }: RuntimeEvent, outbox: &mut Outbox) {
        let uid = pod.key.uid.clone();
        if let Some(unclaimed) = self.unclaimed.get_mut(&uid) {
            unclaimed.stale = true;
        } else if self.entries.contains_key(&uid) {
            self.observe(now, &uid, (UNSTAMPED, pod.observed), outbox);
            // What is missing cannot be shown by an event. Who is ending its containers hears of it anyway.
            if deletion && self.entries.get(&uid).is_some_and(|entry| !entry.deleted) {
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
        let was_unseen = self.unseen.remove(uid).is_some();
        let Some(pod) = pod else {
            if was_unseen {
                self.reconcile(now, outbox);
            }
            return;
        };
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
        let vanished = self.unseen.keys().filter(|uid| !pods.contains_key(*uid));
        outbox.extend(vanished.cloned().map(Request::Inspect));
    }

    /// Whether it is, or has the name of, a pod of which nobody knows what it does.
    fn is_obscured(&self, pod: &Pod) -> bool {
        let same = |key: &PodKey| key.namespace == pod::namespace(pod) && key.name == pod::name(pod);
        self.unseen.contains_key(pod::uid(pod)) || self.unseen.values().any(same)
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

    fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }
}

#[cfg(test)]
mod tests;
