//! One pod of the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::keys::PodKey;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{Done, EffectId, Failure, Millis, Now, ObservedPod, Outcome, PodMachine, PodPlan, Stage, UNSTAMPED};
use tokio_util::sync::CancellationToken;

use crate::observe::{self, Digest};
use crate::plan;
use crate::sources::mux::ManifestError;
use crate::status::{LifeReport, Snapshot, Transitions};

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
    pub(super) admitted: bool,
    /// Its machine was told that it is not wanted any more.
    pub(super) deleted: bool,
    pub(super) in_flight: BTreeMap<EffectId, CancellationToken>,
    pub(super) sandbox_attempt: u32,
    /// What the machine was last told, for comparison with listings.
    pub(super) digest: Digest,
    pub(super) deadline: Option<Millis>,
    pub(super) since: Transitions,
    pub(super) problem: Option<Failure>,
    /// Its end is on disk.
    pub(super) recorded: bool,
}

impl Entry {
    pub(super) fn new(generation: u64, pod: Option<Arc<Pod>>, life: Life, now: Now) -> Self {
        let key = pod.as_deref().map_or_else(
            || PodKey { namespace: String::new(), name: String::new(), uid: String::new() },
            |pod| PodKey {
                namespace: pod::namespace(pod).to_owned(),
                name: pod::name(pod).to_owned(),
                uid: pod::uid(pod).to_owned(),
            },
        );
        Self {
            generation,
            life,
            full_name: full_name_of(&key),
            key,
            pod,
            admitted: false,
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
    pub(super) fn update(&mut self, pod: &Arc<Pod>) -> Option<PodPlan> {
        if self.deleted || self.pod.as_ref().is_some_and(|known| Arc::ptr_eq(known, pod)) {
            return None;
        }
        let plan = plan::plan_of(pod);
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

    pub(super) fn is_busy(&self) -> bool {
        match &self.life {
            Life::Machine(machine) => !self.in_flight.is_empty() || machine.stage() > Stage::Syncing,
            Life::Done(_) => false,
        }
    }

    pub(super) fn note_observed(&mut self, stamp: Millis, pod: &ObservedPod) {
        let attempts = pod.sandboxes.iter().map(|sandbox| sandbox.attempt);
        self.sandbox_attempt = attempts.fold(self.sandbox_attempt, u32::max);
        let digest = observe::digest_of(pod);
        if stamp == UNSTAMPED {
            self.digest.extend(digest);
        } else {
            self.digest = digest;
        }
    }

    /// A sandbox that was just made is known before the runtime tells of it.
    pub(super) fn note_done(&mut self, outcome: &Outcome) {
        if let Outcome::Ok(Done::Sandbox { id, .. }) = outcome {
            let ready = cri::v1::PodSandboxState::SandboxReady as i32;
            self.digest.entry(id.clone()).or_insert(ready);
        }
    }

    pub(super) fn snapshot(&self, manifest_error: Option<ManifestError>) -> Snapshot {
        let life = match &self.life {
            Life::Machine(machine) => LifeReport::Live { report: Box::new(machine.report()), since: self.since },
            Life::Done(status) => LifeReport::Stored(status.clone()),
        };
        Snapshot { key: self.key.clone(), pod: self.pod.clone(), life, manifest_error }
    }
}

/// A pod that has no machine yet.
pub(super) fn snapshot_of_waiting(
    pod: &Arc<Pod>,
    status: PodStatus,
    manifest_error: Option<ManifestError>,
) -> Snapshot {
    let key = PodKey {
        namespace: pod::namespace(pod).to_owned(),
        name: pod::name(pod).to_owned(),
        uid: pod::uid(pod).to_owned(),
    };
    Snapshot { key, pod: Some(pod.clone()), life: LifeReport::Stored(Box::new(status)), manifest_error }
}

/// `<name>_<namespace>`; of a pod that left only its UID, the UID.
pub(super) fn full_name_of(key: &PodKey) -> String {
    if key.name.is_empty() { key.uid.clone() } else { format!("{}_{}", key.name, key.namespace) }
}
