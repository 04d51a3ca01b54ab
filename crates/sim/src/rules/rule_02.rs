//! A grace period can only shrink. Becoming terminating cancels what was in flight.

use super::Checker;
use crate::facts::{Fact, Known, begins};
use crate::marks::{Mark, Marks};
use lifecycle::{Effect, Stage};
use std::collections::{BTreeMap, BTreeSet};

/// No stop is given less, so a stop that comes late may end so much later than was meant.
pub(super) const MIN_STOP_MS: u64 = 2_000;

#[derive(Default)]
pub(super) struct GraceShrinks {
    kill_at_ms: BTreeMap<(String, u64), u64>,
    /// Containers' deadlines by the stops that were asked for.
    stops: BTreeMap<String, u64>,
    ending: BTreeSet<(String, u64)>,
}

impl Checker for GraceShrinks {
    fn name(&self) -> &'static str {
        "rule 2"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = GraceShrinks::default(),
            Fact::Machine(seen) => {
                let machine = (seen.uid.to_owned(), seen.generation);
                if seen.report.stage >= Stage::Terminating && self.ending.insert(machine.clone()) {
                    let open = known.open(seen.uid, seen.generation).filter(|flight| begins(flight.effect()));
                    for flight in open {
                        if !flight.given_up {
                            return Err(format!("{} ends and {:?} was not given up", seen.uid, flight.effect()));
                        }
                        marks.hit(Mark::CancelledAtDelete);
                    }
                }
                if let Some(kill_at_ms) = seen.report.kill_at_ms {
                    let former = self.kill_at_ms.insert(machine, kill_at_ms);
                    if former.is_some_and(|former_ms| kill_at_ms > former_ms) {
                        return Err(format!("{}'s grace grew from {former:?} to {kill_at_ms}", seen.uid));
                    }
                }
            }
            Fact::Issued(flight) => {
                let Effect::StopContainer { container_id, grace_ms } = flight.effect() else { return Ok(()) };
                let deadline_ms = known.now_ms + grace_ms;
                if let Some(former_ms) = self.stops.insert(container_id.clone(), deadline_ms) {
                    if deadline_ms > former_ms.max(known.now_ms + MIN_STOP_MS) {
                        return Err(format!("{container_id} was to die by {former_ms} and now by {deadline_ms}"));
                    }
                    let shortens = deadline_ms < former_ms
                        && known.open(&flight.uid, flight.generation).any(|other| {
                            matches!(other.effect(), Effect::StopContainer { container_id: id, .. } if id == container_id)
                        });
                    if shortens {
                        marks.hit(Mark::StopShortened);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
