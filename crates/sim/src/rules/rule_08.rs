//! An exit code is durable before the container's record may go. Unknown codes are reported as unknown, never as 0. What
//! is reported is what happened.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};
use lifecycle::{ContainerState, Effect, ObservedState, PodReport, Terminated};
use pod::reasons::CONTAINER_STATUS_UNKNOWN;
use std::collections::BTreeSet;

/// What a container is said to have ended with when nobody knows.
const UNKNOWN_CODE: i32 = 137;

#[derive(Default)]
pub(super) struct Codes {
    /// Containers whose end the present kubelet has seen.
    heard: BTreeSet<String>,
    told: BTreeSet<String>,
}

impl Checker for Codes {
    fn name(&self) -> &'static str {
        "rule 8"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => self.heard.clear(),
            Fact::Saw { pod, .. } => {
                let ended = pod.containers.iter().filter(|seen| matches!(seen.state, ObservedState::Exited { .. }));
                self.heard.extend(ended.map(|seen| seen.id.clone()));
            }
            Fact::Issued(flight) => {
                let Effect::RemoveContainer { container_id } = flight.effect() else { return Ok(()) };
                let there = known.truth.container(container_id);
                // What never ran has no code, whatever its record says.
                if there.is_some_and(|there| there.started_ms > 0 && there.exit_code().is_some())
                    && !self.heard.contains(container_id)
                {
                    return Err(format!("{container_id} is removed and its code was never heard"));
                }
                marks.hit(Mark::RecordRemoved);
            }
            Fact::RemovedAlive(id) => return Err(format!("{id} was removed while it ran")),
            Fact::Machine(seen) => {
                for ended in ends(seen.report) {
                    self.check(ended, known, marks)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Codes {
    fn check(&mut self, ended: &Terminated, known: &Known, marks: &mut Marks) -> Result<(), String> {
        if ended.container_id.is_empty() {
            return Ok(());
        }
        let really = known.truth.codes.get(&ended.container_id);
        let fresh = self.told.insert(ended.container_id.clone());
        match really {
            Some(code) if *code == ended.exit_code => {
                if fresh && ended.reason == CONTAINER_STATUS_UNKNOWN {
                    marks.hit(Mark::CodeUnknown);
                } else if fresh && *code != 0 {
                    marks.hit(Mark::CodeReported);
                }
                Ok(())
            }
            _ if ended.exit_code == UNKNOWN_CODE => {
                if fresh {
                    marks.hit(Mark::CodeUnknown);
                }
                Ok(())
            }
            _ => Err(format!(
                "{} is said to have ended with {}, and it was {really:?}",
                ended.container_id, ended.exit_code
            )),
        }
    }
}

fn ends(report: &PodReport) -> impl Iterator<Item = &Terminated> {
    report.containers.iter().flat_map(|container| {
        let now = match &container.state {
            ContainerState::Terminated(ended) => Some(ended),
            _ => None,
        };
        now.into_iter().chain(&container.last)
    })
}
