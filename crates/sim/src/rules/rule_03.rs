//! After terminating begins, nothing is pulled, created or started, and no probe but readiness runs.

use super::Checker;
use crate::facts::{Fact, Known, begins};
use crate::marks::{Mark, Marks};
use lifecycle::{ContainerState, Stage};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct NothingBegins {
    stages: BTreeMap<(String, u64), Stage>,
    /// Machines of which a container is still to be started.
    starting: BTreeSet<(String, u64)>,
}

impl Checker for NothingBegins {
    fn name(&self) -> &'static str {
        "rule 3"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = NothingBegins::default(),
            Fact::Machine(seen) => {
                let machine = (seen.uid.to_owned(), seen.generation);
                let waits = seen.report.containers.iter().any(|c| matches!(c.state, ContainerState::Waiting { .. }));
                if seen.report.stage == Stage::Syncing && waits {
                    self.starting.insert(machine.clone());
                } else if seen.report.stage == Stage::Syncing {
                    self.starting.remove(&machine);
                } else if seen.report.stage >= Stage::Terminating && self.starting.remove(&machine) {
                    marks.hit(Mark::DeletedWhileStarting);
                }
                self.stages.insert(machine, seen.report.stage);
            }
            Fact::Issued(flight) if begins(flight.effect()) => {
                let stage = self.stages.get(&(flight.uid.clone(), flight.generation));
                if stage.is_none_or(|stage| *stage != Stage::Syncing) {
                    return Err(format!("{} is {stage:?} and asks for {:?}", flight.uid, flight.effect()));
                }
                if known.all_reported() && known.plans(&flight.uid).is_empty() {
                    return Err(format!("nobody wants {} and it asks for {:?}", flight.uid, flight.effect()));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
