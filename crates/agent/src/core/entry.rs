//! One pod of the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::keys::PodKey;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::admission::Demand;
use lifecycle::{
    ContainerKind, Done, EffectId, Failure, Memory, Millis, Now, ObservedPod, Outcome, PodMachine, PodPlan, Stage,
    UNSTAMPED,
};
use tokio_util::sync::CancellationToken;

use crate::observe::{self, Digest};
use crate::sources::mux::ManifestError;
use crate::status::{Deletion, LifeReport, NodeFacts, Snapshot, Transitions};

/// For orphans whose containers do not say: the API's default.
pub(super) const DEFAULT_GRACE_MS: u64 = 30_000;

#[derive(Debug)]
pub(super) enum Life {
    Machine(Box<PodMachine>),
    /// It ran to its end before the last boot and has nothing in the runtime.
    Done(Box<PodStatus>),
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Tells a machine from an earlier one of the same UID, whose completions may still come.
    pub(super) generation: u64,
    pub(super) life: Life,
    pub(super) key: PodKey,
    pub(super) full_name: String,
    /// None for an orphan.
    pub(super) pod: Option<Arc<Pod>>,
    /// Nobody else of its full name may begin: it was let in, or refused for good.
    pub(super) admitted: bool,
    /// It cannot run here.
    pub(super) rejected: bool,
    /// It ran before this kubelet was started, and is not asked again whether it may.
    pub(super) has_run: bool,
    /// It has ended and takes no room any more.
    pub(super) terminal: bool,
    /// Its directories are there, and what is to be remembered of it can be stored in them.
    pub(super) set_up: bool,
    /// What was stored last.
    pub(super) saved: Memory,
    /// Of the machine, when it was looked at last.
    pub(super) revision: Option<u64>,
    /// Addresses of its newest ready sandbox.
    pub(super) ips: Vec<String>,
    /// When it is to be gone, since it is not wanted any more.
    pub(super) deletion: Option<Deletion>,
    /// Its machine was told that it is not wanted any more.
    pub(super) deleted: bool,
    pub(super) in_flight: BTreeMap<EffectId, Flight>,
    pub(super) sandbox_attempt: u32,
    /// What the machine was last told, for comparison with listings.
    pub(super) digest: Digest,
    pub(super) deadline: Option<Millis>,
    pub(super) since: Transitions,
    pub(super) problem: Option<Failure>,
    /// Its end is on disk.
    pub(super) recorded: bool,
}

/// An effect whose outcome is not known yet.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) cancel: CancellationToken,
    /// It only looks.
    pub(super) is_probe: bool,
    /// Which secrets there were when it began.
    pub(super) secrets_revision: u64,
}

impl Entry {
    pub(super) fn new(generation: u64, pod: Option<Arc<Pod>>, life: Life, now: Now) -> Self {
        let nobody = || PodKey { namespace: String::new(), name: String::new(), uid: String::new() };
        let key = pod.as_deref().map_or_else(nobody, key_of);
        Self {
            generation,
            life,
            full_name: full_name_of(&key),
            key,
            pod,
            admitted: false,
            rejected: false,
            has_run: false,
            terminal: false,
            set_up: false,
            saved: Memory::default(),
            revision: None,
            ips: Vec::new(),
            deletion: None,
            deleted: false,
            in_flight: BTreeMap::new(),
            sandbox_attempt: 0,
            digest: Digest::new(),
            deadline: None,
            since: Transitions::new(now.wall_ns),
            problem: None,
            recorded: false,
        }
    }

    pub(super) fn orphan(generation: u64, key: PodKey, machine: PodMachine, now: Now) -> Self {
        Self {
            full_name: full_name_of(&key),
            key,
            deleted: true,
            ..Self::new(generation, None, Life::Machine(Box::new(machine)), now)
        }
    }

    /// Takes the pod as it is wanted now; the plan, if that changed.
    pub(super) fn update(&mut self, pod: &Arc<Pod>, node: &NodeFacts) -> Option<PodPlan> {
        if self.deleted || self.pod.as_ref().is_some_and(|known| Arc::ptr_eq(known, pod)) {
            return None;
        }
        let plan = node.plan_of(pod);
        self.pod = Some(pod.clone());
        match &self.life {
            Life::Machine(machine) if *machine.plan() != plan => Some(plan),
            _ => None,
        }
    }

    /// No other pod of its full name may begin.
    pub(super) fn holds_name(&self) -> bool {
        matches!(self.life, Life::Machine(_)) && (self.admitted || self.deleted)
    }

    pub(super) fn waits(&self) -> bool {
        !self.admitted && !self.deleted && matches!(self.life, Life::Machine(_))
    }

    /// Counts when it is asked whether another one may run.
    pub(super) fn takes_room(&self) -> bool {
        self.holds_name() && !self.rejected && !self.terminal
    }

    /// What it takes; none of an orphan, of which nobody knows.
    pub(super) fn demand(&self) -> Option<Demand> {
        self.pod.as_deref().map(Demand::of)
    }

    /// How events name a container of it.
    pub(super) fn field_path(&self, container: &str) -> String {
        let plan = match &self.life {
            Life::Machine(machine) => machine.plan().containers.iter().find(|plan| plan.name == container),
            Life::Done(_) => None,
        };
        match plan.map(|plan| plan.kind) {
            Some(ContainerKind::Init | ContainerKind::Sidecar) => format!("spec.initContainers{{{container}}}"),
            Some(ContainerKind::Regular) | None => format!("spec.containers{{{container}}}"),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        match &self.life {
            Life::Machine(machine) => {
                machine.stage() > Stage::Syncing || self.in_flight.values().any(|flight| !flight.is_probe)
            }
            Life::Done(_) => false,
        }
    }

    pub(super) fn note_observed(&mut self, stamp: Millis, pod: &ObservedPod) {
        let attempts = pod.sandboxes.iter().map(|sandbox| sandbox.attempt);
        self.sandbox_attempt = attempts.fold(self.sandbox_attempt, u32::max);
        let ready = pod.sandboxes.iter().filter(|sandbox| sandbox.ready).max_by_key(|sandbox| sandbox.attempt);
        if let Some(home) = ready {
            self.ips.clone_from(&home.ips);
        }
        let digest = observe::digest_of(pod);
        if stamp == UNSTAMPED {
            self.digest.extend(digest);
        } else {
            self.digest = digest;
        }
    }

    /// A sandbox that was just made is known before the runtime tells of it.
    pub(super) fn note_done(&mut self, outcome: &Outcome) {
        if let Outcome::Ok(Done::Sandbox { id, ips }) = outcome {
            self.ips.clone_from(ips);
            let ready = cri::v1::PodSandboxState::SandboxReady as i32;
            self.digest.entry(id.clone()).or_insert(ready);
        }
    }

    pub(super) fn snapshot(&self, manifest_error: Option<ManifestError>) -> Snapshot {
        let life = match &self.life {
            Life::Machine(machine) => LifeReport::Live {
                report: Box::new(machine.report()),
                since: self.since.clone(),
                rejected: self.rejected,
            },
            Life::Done(status) => LifeReport::Stored(status.clone()),
        };
        Snapshot { key: self.key.clone(), pod: self.pod.clone(), life, manifest_error, deletion: self.deletion }
    }

    /// Its status as it is now; none of an orphan.
    pub(super) fn status(&self, node: &NodeFacts) -> Option<PodStatus> {
        self.snapshot(None).to_pod(node)?.status
    }
}

/// A pod that has no machine yet.
pub(super) fn snapshot_of_waiting(
    pod: &Arc<Pod>,
    status: PodStatus,
    manifest_error: Option<ManifestError>,
) -> Snapshot {
    Snapshot {
        key: key_of(pod),
        pod: Some(pod.clone()),
        life: LifeReport::Stored(Box::new(status)),
        manifest_error,
        deletion: None,
    }
}

pub(super) fn key_of(pod: &Pod) -> PodKey {
    PodKey { namespace: pod::namespace(pod).to_owned(), name: pod::name(pod).to_owned(), uid: pod::uid(pod).to_owned() }
}

/// `<name>_<namespace>`; of a pod that left only its UID, the UID.
pub(super) fn full_name_of(key: &PodKey) -> String {
    if key.name.is_empty() { key.uid.clone() } else { format!("{}_{}", key.name, key.namespace) }
}
