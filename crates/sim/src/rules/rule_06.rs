//! A late or stale completion (id or attempt differs) changes nothing but the record. That nothing follows from one that
//! comes twice is seen where it is delivered; here: no outcome moves a pod that has ended, or one of another machine.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

#[derive(Default)]
pub(super) struct StaleIsIdle {
    /// The machine whose effect just ended.
    ended_of: Option<(String, u64)>,
}

impl Checker for StaleIsIdle {
    fn name(&self) -> &'static str {
        "rule 6"
    }

    fn see(&mut self, fact: &Fact<'_>, _known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::Heard { flight, .. } => self.ended_of = Some((flight.uid.clone(), flight.generation)),
            Fact::Machine(seen) => {
                if let Some((uid, generation)) = self.ended_of.take()
                    && uid == seen.uid
                    && generation < seen.generation
                {
                    marks.hit(Mark::StaleCompletion);
                }
            }
            Fact::Issued(flight) => {
                if let Some((uid, generation)) = self.ended_of.take()
                    && uid == flight.uid
                    && generation < flight.generation
                {
                    return Err(format!("{uid}: an outcome for machine {generation} made {} act", flight.generation));
                }
            }
            _ => self.ended_of = None,
        }
        Ok(())
    }
}
