//! Two pods with one full name never run at once; the second waits.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use crate::pods::name_of;
use lifecycle::Stage;

#[derive(Default)]
pub(super) struct OneName;

impl Checker for OneName {
    fn name(&self) -> &'static str {
        "rule 9"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::Started(started) => {
                let uid = &started.key.uid;
                let other =
                    known.truth.containers.iter().find(|other| {
                        other.alive() && other.key.uid != *uid && name_of(&other.key.uid) == name_of(uid)
                    });
                if let Some(other) = other {
                    return Err(format!("{uid} runs {} beside {}", started.seen.name, other.seen.id));
                }
            }
            Fact::Machine(seen) if seen.report.stage == Stage::Waiting => {
                let mut others = known.truth.uids().into_iter().filter(|uid| uid != seen.uid);
                if others.any(|uid| name_of(&uid) == name_of(seen.uid)) {
                    marks.hit(Mark::NamesakeWaited);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
