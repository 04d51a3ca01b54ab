//! One life of the kubelet: its real loop, and for the checkers' own test the ways to break it.

use agent::core::{Agent, Message, NodeFacts, Outbox, Request};
use lifecycle::admission::Offer;
use lifecycle::{Now, PodReport};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A defect put between the loop and the world, to see that the checkers notice. One for each rule and some more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Rule 1: a settled pod is said to run again.
    ForgetsEnd,
    /// Rule 2: what was in flight is not given up.
    DropsCancel,
    /// Rule 3: containers are started while the pod ends.
    StartsWhileEnding,
    /// Rule 4: everything is asked for twice.
    DoublesStarts,
    /// Rule 5: what remained unknown is tried again at once.
    RetriesUnknown,
    /// Rule 6: a stale completion makes it act.
    HeedsStale,
    /// Rule 7: it does not wait for late sources.
    CleansEarly,
    /// Rule 8: what ended in an unknown way is said to have succeeded.
    SaysZero,
    /// Rule 9: nobody waits for one of its name.
    ForgetsGate,
    /// Rule 10: edits of a running pod are missed.
    MissesEdits,
    /// Rule 11: crashed containers are started at once.
    ForgetsBackOff,
    /// Rule 12: it believes a pod gone without looking.
    AssumesGone,
    /// Rule 13: a file that turns bad counts as empty.
    DropsLastGood,
    /// Init containers are skipped.
    SkipsInit,
    /// Containers get no time to stop.
    StopsAtOnce,
}

impl Mutant {
    pub const ALL: &[Mutant] = &[
        Mutant::ForgetsEnd,
        Mutant::DropsCancel,
        Mutant::StartsWhileEnding,
        Mutant::DoublesStarts,
        Mutant::RetriesUnknown,
        Mutant::HeedsStale,
        Mutant::CleansEarly,
        Mutant::SaysZero,
        Mutant::ForgetsGate,
        Mutant::MissesEdits,
        Mutant::ForgetsBackOff,
        Mutant::AssumesGone,
        Mutant::DropsLastGood,
        Mutant::SkipsInit,
        Mutant::StopsAtOnce,
    ];
}

pub(crate) struct Kubelet {
    pub(crate) agent: Agent,
    /// The last report of each machine, by UID.
    pub(crate) reports: BTreeMap<String, (u64, PodReport)>,
    /// The runtime answered the first question.
    pub(crate) heard_runtime: bool,
}

impl Kubelet {
    pub(crate) fn new(sources: usize) -> Kubelet {
        let node = NodeFacts {
            node_name: "node".to_owned(),
            host_ips: vec!["192.0.2.1".to_owned()],
            log_dir: PathBuf::from("/var/log/pods"),
            offer: Offer {
                node_name: "node".to_owned(),
                cpu_millis: 4_000,
                memory_bytes: 8 << 30,
                ephemeral_bytes: 100 << 30,
                pods: 110,
                labels: BTreeMap::new(),
                os: "linux".to_owned(),
            },
            max_restart_delay_ms: 0,
            runtime_name: OnceLock::new(),
        };
        let agent = Agent::new(Arc::new(node), sources);
        Kubelet { agent, reports: BTreeMap::new(), heard_runtime: false }
    }

    pub(crate) fn take(&mut self, now: Now, message: Message) -> Vec<Request> {
        let mut outbox = Outbox::new();
        self.agent.take(now, message, &mut outbox);
        outbox
    }

    pub(crate) fn tick(&mut self, now: Now) -> Vec<Request> {
        let mut outbox = Outbox::new();
        if self.agent.next_deadline().is_some_and(|at_ms| at_ms <= now.mono_ms) {
            self.agent.tick(now, &mut outbox);
        }
        outbox
    }
}
