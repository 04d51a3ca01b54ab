//! What checkers are told, in the order in which it came about.

use crate::truth::{Container, Truth};
use agent::ManifestStatus;
use agent::core::Job;
use lifecycle::{Effect, EffectId, ObservedPod, Outcome, PodMachine, PodPlan, PodReport, ProbeKind};
use std::collections::{BTreeMap, BTreeSet};

/// An effect that the kubelet asked for.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) serial: u64,
    /// Which life of the kubelet asked.
    pub(crate) epoch: u64,
    pub(crate) uid: String,
    pub(crate) generation: u64,
    pub(crate) id: EffectId,
    pub(crate) job: Box<Job>,
    pub(crate) issued_ms: u64,
    pub(crate) fate: Fate,
    /// The kubelet's wish to give it up was seen.
    pub(crate) given_up: bool,
    pub(crate) happened: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) observed: Option<(u64, ObservedPod)>,
    /// The kubelet was told.
    pub(crate) heard: bool,
}

impl Flight {
    pub(crate) fn effect(&self) -> &Effect {
        &self.job.effect
    }
}

/// What will become of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    FailsBefore,
    /// It happens; half of it where it has halves.
    FailsAfter,
    UnknownBefore,
    UnknownAfter,
    UnknownLate,
    Hangs,
}

/// One machine after a step.
pub(crate) struct Seen<'a> {
    pub(crate) uid: &'a str,
    pub(crate) generation: u64,
    pub(crate) machine: &'a PodMachine,
    pub(crate) report: &'a PodReport,
}

pub(crate) enum Fact<'a> {
    KubeletStarted,
    KubeletDied,
    /// The kubelet was given a source's files; `Known::told` has changed.
    SourceReported,
    ManifestStatuses(&'a [ManifestStatus]),
    /// An answer of the runtime, or with stamp 0 an event, reached the kubelet.
    Saw {
        uid: &'a str,
        stamp_ms: u64,
        pod: &'a ObservedPod,
    },
    Heard {
        flight: &'a Flight,
        outcome: &'a Outcome,
    },
    Machine(Seen<'a>),
    /// A machine ended and is forgotten.
    Ended {
        uid: &'a str,
        generation: u64,
    },
    Issued(&'a Flight),
    ImagesChanged,
    Started(&'a Container),
    Exited(&'a Container),
    /// Its effect was carried out on a container that ran already when it was asked for.
    RemovedAlive(&'a str),
    TornDown(&'a str),
}

/// A file of a source as the kubelet was last given it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) file: String,
    pub(crate) plan: PodPlan,
    pub(crate) spoiled: bool,
    /// It claims a name that another file has.
    pub(crate) contends: bool,
}

/// What is so at the moment of a fact.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) now_ms: u64,
    /// Lives of the kubelet so far.
    pub(crate) epoch: u64,
    pub(crate) truth: Truth,
    pub(crate) flights: BTreeMap<u64, Flight>,
    /// By source; none before it has reported to this kubelet.
    pub(crate) told: Vec<Option<Vec<Told>>>,
    /// Pods whose stored records are damaged or older than what the last kubelet knew.
    pub(crate) forgotten: BTreeSet<String>,
    /// Pods whose stored records were ever damaged.
    pub(crate) damaged: BTreeSet<String>,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
}

impl Known {
    pub(crate) fn all_reported(&self) -> bool {
        self.told.iter().all(Option::is_some)
    }

    /// The plans that the sources want for a UID.
    pub(crate) fn plans(&self, uid: &str) -> Vec<&PodPlan> {
        let files = self.told.iter().flatten().flatten().filter(|told| !told.contends);
        files.map(|told| &told.plan).filter(|plan| plan.uid == uid).collect()
    }

    /// What the kubelet has asked for and not heard the end of.
    pub(crate) fn open(&self, uid: &str, generation: u64) -> impl Iterator<Item = &Flight> {
        self.flights.values().filter(move |flight| {
            flight.epoch == self.epoch && flight.uid == uid && flight.generation == generation && !flight.heard
        })
    }
}

/// Begins something: what must not be once a pod's end has begun.
pub(crate) fn begins(effect: &Effect) -> bool {
    match effect {
        Effect::SetUp
        | Effect::RunSandbox { .. }
        | Effect::EnsureImage { .. }
        | Effect::StartContainer { .. }
        | Effect::PostStart { .. } => true,
        Effect::Probe { kind, .. } => *kind != ProbeKind::Readiness,
        _ => false,
    }
}

/// Ends or removes something.
pub(crate) fn destroys(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::PreStop { .. }
            | Effect::StopContainer { .. }
            | Effect::RemoveContainer { .. }
            | Effect::StopSandbox { .. }
            | Effect::RemoveSandbox { .. }
            | Effect::TearDown
    )
}

/// The container's id that an effect names.
pub(crate) fn container_id(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::PostStart { container_id, .. }
        | Effect::PreStop { container_id, .. }
        | Effect::Probe { container_id, .. }
        | Effect::StopContainer { container_id, .. }
        | Effect::RemoveContainer { container_id } => Some(container_id),
        _ => None,
    }
}
