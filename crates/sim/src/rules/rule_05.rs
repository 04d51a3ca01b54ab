//! `Unknown` is not failure: inspect before acting again.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use lifecycle::{Effect, ObservedContainer, ObservedPod, ObservedState, Outcome};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct LookFirst {
    /// When an outcome on this resource last remained unknown, by UID, generation and resource.
    doubts: BTreeMap<(String, u64, String), u64>,
    /// When the latest question was asked whose answer reached each pod.
    looked: BTreeMap<String, u64>,
}

/// What of the runtime the effect changes.
fn resource(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::RunSandbox { .. } => "a sandbox".to_owned(),
        Effect::StartContainer { container, attempt, .. } => format!("{attempt} of {container}"),
        Effect::StopContainer { container_id, .. } | Effect::RemoveContainer { container_id } => container_id.clone(),
        Effect::StopSandbox { sandbox_id } | Effect::RemoveSandbox { sandbox_id } => sandbox_id.clone(),
        _ => return None,
    })
}

/// An exit that a stop was to bring about, or a container that a start was.
fn shows(pod: &ObservedPod, resource: &str) -> bool {
    let ended = |seen: &ObservedContainer| matches!(seen.state, ObservedState::Exited { .. });
    pod.containers.iter().any(|seen| {
        seen.id == resource && ended(seen)
            || resource.split_once(" of ").is_some_and(|(attempt, name)| {
                name == seen.name && attempt.parse().is_ok_and(|attempt: u32| seen.attempt >= attempt)
            })
    })
}

impl Checker for LookFirst {
    fn name(&self) -> &'static str {
        "rule 5"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = LookFirst::default(),
            Fact::Saw { uid, stamp_ms, pod } => {
                // What is seen to have happened is in no doubt, however it was learned.
                self.doubts.retain(|(of, _, resource), _| of != uid || !shows(pod, resource));
                let looked_ms = self.looked.entry((*uid).to_owned()).or_default();
                *looked_ms = (*looked_ms).max(*stamp_ms);
            }
            Fact::Heard { flight, outcome: Outcome::Unknown } => {
                marks.hit(if flight.happened { Mark::UnknownHappened } else { Mark::UnknownNothing });
                // A stop that was given up was overtaken by another one.
                if let Some(resource) = resource(flight.effect()).filter(|_| !flight.given_up) {
                    self.doubts.insert((flight.uid.clone(), flight.generation, resource), known.now_ms);
                }
            }
            Fact::Issued(flight) => {
                let Some(resource) = resource(flight.effect()) else { return Ok(()) };
                let doubt_ms = self.doubts.get(&(flight.uid.clone(), flight.generation, resource));
                let looked_ms = self.looked.get(&flight.uid).copied().unwrap_or(0);
                if doubt_ms.is_some_and(|doubt_ms| looked_ms <= *doubt_ms) {
                    return Err(format!(
                        "{} does not know what became of the last try of {:?}",
                        flight.uid,
                        flight.effect()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
