//! Termination is complete only when every container has exited and the volumes are gone: observed, not assumed.

use super::Checker;
use crate::facts::{Fact, Known, begins};
use crate::marks::{Mark, Marks};
use lifecycle::{Effect, Outcome};

#[derive(Default)]
pub(super) struct AllGone;

impl Checker for AllGone {
    fn name(&self) -> &'static str {
        "rule 12"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::Ended { uid, generation } => {
                // A call that was left unanswered by an earlier kubelet, or by this one, may still come about.
                let late = known
                    .flights
                    .values()
                    .any(|flight| flight.uid == *uid && !flight.happened && begins(flight.effect()));
                if !known.truth.is_clear_of(uid) && !late {
                    return Err(format!("{uid} is said to be gone, and something of it is left"));
                }
                if let Some(open) = known.open(uid, *generation).find(|flight| *flight.effect() != Effect::Inspect) {
                    return Err(format!("{uid} is said to be gone, and {:?} is under way", open.effect()));
                }
                marks.hit(Mark::TornDown);
            }
            Fact::TornDown(uid) => {
                if let Some(alive) = known.truth.containers.iter().find(|c| c.key.uid == **uid && c.alive()) {
                    let late = known.now_ms - alive.started_ms < 1_000;
                    if !late {
                        return Err(format!("the volumes of {uid} go while {} runs", alive.seen.id));
                    }
                }
            }
            Fact::Heard { flight, outcome: Outcome::Ok(_) } if flight.given_up && begins(flight.effect()) => {
                marks.hit(Mark::LateArrival);
            }
            _ => {}
        }
        Ok(())
    }
}
