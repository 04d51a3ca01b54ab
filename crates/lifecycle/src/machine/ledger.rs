//! Effects that were asked for and have not ended yet.

use crate::{Effect, EffectId, Millis, ProbeKind};

/// What an effect works on. Two effects on one subject are never outstanding together, save a stop that shortens
/// the grace of the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Directories, volumes, control group.
    Pod,
    /// One sandbox, or with `None` all of them.
    Sandbox(Option<String>),
    /// One container by its id, or with `None` every attempt under the name.
    Container { name: String, id: Option<String> },
    /// The hook after the start of the container of this id. Nothing waits for a hook or a probe that was given up.
    PostStart(String),
    /// The hook before its stop.
    PreStop(String),
    /// One of its probes.
    Probe(String, ProbeKind),
    /// The image of the container of this name; nothing of the pod changes.
    Image(String),
    /// A question.
    Runtime,
}

impl Subject {
    fn overlaps(&self, other: &Subject) -> bool {
        fn meets(a: &Option<String>, b: &Option<String>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        match (self, other) {
            (Subject::Pod, Subject::Pod) | (Subject::Runtime, Subject::Runtime) => true,
            (Subject::Sandbox(a), Subject::Sandbox(b)) => meets(a, b),
            (Subject::Container { name: n, id: a }, Subject::Container { name: m, id: b }) => n == m && meets(a, b),
            (Subject::PostStart(a), Subject::PostStart(b)) | (Subject::PreStop(a), Subject::PreStop(b)) => a == b,
            (Subject::Probe(a, kind), Subject::Probe(b, other)) => kind == other && a == b,
            (Subject::Image(a), Subject::Image(b)) => a == b,
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) id: EffectId,
    pub(crate) effect: Effect,
    pub(crate) subject: Subject,
    /// Hash of the container plan it was issued under; empty where no container is meant.
    pub(crate) hash: String,
    pub(crate) issued_ms: Millis,
    pub(crate) cancelled: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    last_id: u64,
    flights: Vec<Flight>,
}

impl Ledger {
    pub(crate) fn busy(&self, subject: &Subject) -> bool {
        self.flights.iter().any(|flight| flight.subject.overlaps(subject))
    }

    /// Whether nothing works on the subject but stops that were given up.
    pub(crate) fn only_cancelled_stops(&self, subject: &Subject) -> bool {
        self.flights
            .iter()
            .filter(|flight| flight.subject.overlaps(subject))
            .all(|flight| flight.cancelled && matches!(flight.effect, Effect::StopContainer { .. }))
    }

    /// Whether any attempt under this name is being worked on.
    pub(crate) fn busy_name(&self, container: &str) -> bool {
        self.flights
            .iter()
            .any(|flight| matches!(&flight.subject, Subject::Container { name, .. } if name == container))
    }

    pub(crate) fn open(&mut self, effect: Effect, subject: Subject, hash: &str, now_ms: Millis) -> EffectId {
        self.last_id += 1;
        let id = EffectId(self.last_id);
        self.flights.push(Flight { id, effect, subject, hash: hash.to_owned(), issued_ms: now_ms, cancelled: false });
        id
    }

    /// Ends an effect. `None`: it ended already, or never was.
    pub(crate) fn close(&mut self, id: EffectId) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.id == id)?;
        Some(self.flights.remove(index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter()
    }

    /// Marks what `choose` names as given up and tells the ids. It stays outstanding.
    pub(crate) fn cancel(&mut self, choose: impl Fn(&Flight) -> bool) -> Vec<EffectId> {
        let mut ids = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| !flight.cancelled) {
            if choose(flight) {
                flight.cancelled = true;
                ids.push(flight.id);
            }
        }
        ids
    }

    /// An attempt under this name is being created or started.
    pub(crate) fn starts(&self, name: &str) -> bool {
        self.iter()
            .any(|flight| matches!(&flight.effect, Effect::StartContainer { container, .. } if container == name))
    }

    pub(crate) fn makes_container(&self, name: &str, of: u32) -> bool {
        self.iter().any(|flight| match &flight.effect {
            Effect::StartContainer { container, attempt, .. } => container == name && *attempt == of,
            _ => false,
        })
    }

    pub(crate) fn makes_sandbox(&self, of: u32) -> bool {
        self.iter().any(|flight| matches!(flight.effect, Effect::RunSandbox { attempt } if attempt == of))
    }

    /// The stop of a container that was not given up.
    pub(crate) fn stop_of(&self, id: &str) -> Option<&Flight> {
        self.iter().find(|flight| {
            !flight.cancelled
                && matches!(&flight.effect, Effect::StopContainer { container_id, .. } if container_id == id)
        })
    }

    /// A container is being created or started in this sandbox.
    pub(crate) fn starts_in(&self, sandbox: &str) -> bool {
        self.iter().any(|flight| match &flight.effect {
            Effect::StartContainer { sandbox_id, .. } => sandbox_id == sandbox,
            _ => false,
        })
    }
}
