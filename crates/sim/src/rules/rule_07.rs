//! A container in the runtime that nobody desires is an orphan and is terminated; nothing is cleaned before every
//! configured source has reported once. That every orphan is gone in the end is seen when the world comes to rest.

use super::Checker;
use crate::facts::{Fact, Known, destroys};
use crate::marks::{Mark, Marks};
use std::collections::BTreeSet;

#[derive(Default)]
pub(super) struct Orphans {
    /// UIDs that some source wanted from this kubelet.
    wanted: BTreeSet<String>,
}

impl Checker for Orphans {
    fn name(&self) -> &'static str {
        "rule 7"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = Orphans::default(),
            Fact::SourceReported => {
                let told = known.told.iter().flatten().flatten();
                self.wanted.extend(told.map(|told| told.plan.uid.clone()));
            }
            Fact::Saw { uid, stamp_ms, pod } => {
                let there = *stamp_ms > 0 && !(pod.sandboxes.is_empty() && pod.containers.is_empty());
                if there && !known.all_reported() && !self.wanted.contains(*uid) {
                    marks.hit(Mark::OrphanWaited);
                }
            }
            Fact::Issued(flight)
                if destroys(flight.effect()) && !known.all_reported() && !self.wanted.contains(&flight.uid) =>
            {
                return Err(format!("{:?} of {} before every source has spoken", flight.effect(), flight.uid));
            }
            Fact::Ended { uid, .. } if !self.wanted.contains(*uid) => marks.hit(Mark::OrphanEnded),
            _ => {}
        }
        Ok(())
    }
}
