//! Phases only move forward. A finished machine never restarts; the same UID seen again gets a new machine after the old
//! one is gone.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use lifecycle::{Phase, Stage};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Forward {
    /// Generation, stage and terminal phase of each machine of this kubelet.
    machines: BTreeMap<String, (u64, Stage, Option<Phase>)>,
    /// UIDs whose machine ended in this kubelet's life.
    ended: BTreeSet<String>,
    generations: BTreeSet<u64>,
}

impl Checker for Forward {
    fn name(&self) -> &'static str {
        "rule 1"
    }

    fn see(&mut self, fact: &Fact<'_>, _known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = Forward::default(),
            Fact::Machine(seen) => {
                let (uid, report) = (seen.uid, seen.report);
                let phase = report.phase.is_terminal().then_some(report.phase);
                match self.machines.get(uid) {
                    Some((generation, stage, settled)) if *generation == seen.generation => {
                        if report.stage < *stage {
                            return Err(format!("{uid} went back from {stage:?} to {:?}", report.stage));
                        }
                        if settled.is_some() && phase != *settled {
                            return Err(format!("{uid} was {settled:?} and is {:?}", report.phase));
                        }
                        if settled.is_none() && phase.is_some() {
                            marks.hit(Mark::PodSettled);
                        }
                    }
                    Some((generation, stage, _)) => {
                        return Err(format!("{uid} has machine {} while {generation} is {stage:?}", seen.generation));
                    }
                    None if self.generations.contains(&seen.generation) => {
                        return Err(format!("{uid}: generation {} was given before", seen.generation));
                    }
                    None if self.ended.remove(uid) => marks.hit(Mark::UidReturned),
                    None => {}
                }
                self.generations.insert(seen.generation);
                self.machines.insert(uid.to_owned(), (seen.generation, report.stage, phase));
            }
            Fact::Ended { uid, generation } => {
                if self.machines.remove(*uid).is_some_and(|(known, ..)| known != *generation) {
                    return Err(format!("{uid}: another machine ended than the one there was"));
                }
                self.ended.insert((*uid).to_owned());
            }
            Fact::Issued(flight) => {
                let current = self.machines.get(&flight.uid).map(|(generation, ..)| *generation);
                if current != Some(flight.generation) {
                    return Err(format!(
                        "{}: {:?} is asked for by a machine that is gone",
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
