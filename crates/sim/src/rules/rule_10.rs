//! Updates coalesce to the latest; status is level-triggered and never blocks the machine: whatever the pod is at, its
//! machine follows the plan that the sources want now.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use lifecycle::{Effect, PodPlan, Stage};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Latest {
    /// The plan each machine follows, and how often it changed since its last start.
    followed: BTreeMap<String, (PodPlan, u32)>,
}

impl Checker for Latest {
    fn name(&self) -> &'static str {
        "rule 10"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => self.followed.clear(),
            Fact::Machine(seen) if matches!(seen.report.stage, Stage::Waiting | Stage::Syncing) => {
                let plan = seen.machine.plan();
                let wanted = known.plans(seen.uid);
                // The name is rule 9's affair.
                let same = |wanted: &PodPlan| *plan == PodPlan { full_name: plan.full_name.clone(), ..wanted.clone() };
                if wanted.len() == 1 && !same(wanted[0]) {
                    return Err(format!("{} follows an old plan", seen.uid));
                }
                let (followed, changes) = self.followed.entry(seen.uid.to_owned()).or_insert_with(|| (plan.clone(), 0));
                if followed != plan {
                    *followed = plan.clone();
                    *changes += 1;
                    if *changes == 2 {
                        marks.hit(Mark::UpdatesCoalesced);
                    }
                }
            }
            Fact::Issued(flight) if matches!(flight.effect(), Effect::StartContainer { .. }) => {
                if let Some((_, changes)) = self.followed.get_mut(&flight.uid) {
                    *changes = 0;
                }
            }
            Fact::Ended { uid, .. } => _ = self.followed.remove(*uid),
            _ => {}
        }
        Ok(())
    }
}
