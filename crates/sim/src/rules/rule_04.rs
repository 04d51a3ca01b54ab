//! At most one outstanding mutating effect per (pod, resource). A cancelled effect is outstanding until it is acknowledged;
//! only a stop may overtake one that it shortens, and neither hooks nor probes hold a stop up.

use super::Checker;
use crate::facts::{Fact, Flight, Known, container_id};
use crate::marks::Marks;
use lifecycle::Effect;

#[derive(Default)]
pub(super) struct OneAtATime;

impl Checker for OneAtATime {
    fn name(&self) -> &'static str {
        "rule 4"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, _marks: &mut Marks) -> Result<(), String> {
        let Fact::Issued(flight) = fact else { return Ok(()) };
        for other in known.open(&flight.uid, flight.generation) {
            if other.id == flight.id {
                return Err(format!("{} uses effect id {} twice", flight.uid, flight.id.0));
            }
            let shortens = other.job.cancel.is_cancelled()
                && matches!(flight.effect(), Effect::StopContainer { .. })
                && matches!(other.effect(), Effect::StopContainer { .. });
            if clash(known, flight, other) && !shortens {
                let (effect, other) = (flight.effect(), other.effect());
                return Err(format!("{} asks for {effect:?} while {other:?} is outstanding", flight.uid));
            }
        }
        Ok(())
    }
}

fn clash(known: &Known, a: &Flight, b: &Flight) -> bool {
    let (a, b) = (a.effect(), b.effect());
    match (a, b) {
        (Effect::SetUp | Effect::TearDown, Effect::SetUp | Effect::TearDown) => true,
        (Effect::Inspect, Effect::Inspect) => true,
        (Effect::EnsureImage { container: a }, Effect::EnsureImage { container: b }) => a == b,
        (Effect::Probe { .. } | Effect::PostStart { .. } | Effect::PreStop { .. }, _) => hooks_clash(a, b),
        (_, Effect::Probe { .. } | Effect::PostStart { .. } | Effect::PreStop { .. }) => false,
        (Effect::RunSandbox { .. }, other) | (other, Effect::RunSandbox { .. }) => {
            matches!(other, Effect::RunSandbox { .. } | Effect::StopSandbox { .. } | Effect::RemoveSandbox { .. })
        }
        _ => sandbox_id(a).is_some() && sandbox_id(a) == sandbox_id(b) || containers_clash(known, a, b),
    }
}

fn hooks_clash(a: &Effect, b: &Effect) -> bool {
    match (a, b) {
        (Effect::Probe { container_id: a, kind: x, .. }, Effect::Probe { container_id: b, kind: y, .. }) => {
            a == b && x == y
        }
        (Effect::PostStart { container_id: a, .. }, Effect::PostStart { container_id: b, .. })
        | (Effect::PreStop { container_id: a, .. }, Effect::PreStop { container_id: b, .. }) => a == b,
        _ => false,
    }
}

fn sandbox_id(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::StopSandbox { sandbox_id } | Effect::RemoveSandbox { sandbox_id } => Some(sandbox_id),
        _ => None,
    }
}

/// A start works on every attempt of its name.
fn containers_clash(known: &Known, a: &Effect, b: &Effect) -> bool {
    let name = |effect: &Effect| match effect {
        Effect::StartContainer { container, .. } => Some(container.clone()),
        other => known.truth.container(container_id(other)?).map(|known| known.seen.name.clone()),
    };
    let starts = |effect: &Effect| matches!(effect, Effect::StartContainer { .. });
    match (container_id(a), container_id(b)) {
        (Some(a), Some(b)) => a == b,
        _ if starts(a) || starts(b) => name(a).is_some() && name(a) == name(b),
        _ => false,
    }
}
