//! Back-off: the first crash restarts at once, then 10 s doubling to 300 s, reset after 10 minutes of running. Image
//! back-off likewise. The figures are computed here anew.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use lifecycle::{ContainerKind, Effect, ObservedState, Outcome, RestartAction};
use std::collections::BTreeMap;

const INITIAL_MS: u64 = 10_000;
const MAX_MS: u64 = 300_000;
const FORGIVEN_AFTER_MS: u64 = 600_000;

#[derive(Default, Clone)]
struct Row {
    delay_ms: u64,
    stepped_ms: u64,
    attempt: u32,
    hash: String,
}

#[derive(Default)]
pub(super) struct BackOff {
    rows: BTreeMap<(String, u64, String), Row>,
    images: BTreeMap<(String, u64, String), (u64, u64)>,
    /// When the present kubelet first saw the exit of a container.
    exits: BTreeMap<String, u64>,
    /// Containers that the kubelet stopped, which says nothing of them.
    stopped: BTreeMap<String, u64>,
}

impl Checker for BackOff {
    fn name(&self) -> &'static str {
        "rule 11"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => *self = BackOff::default(),
            Fact::ImagesChanged => self.images.clear(),
            Fact::SourceReported => {
                self.images.clear();
                // Another version of a container begins a row of its own, even if the former one comes back.
                self.rows.retain(|(uid, _, name), row| {
                    let mut plans = known.plans(uid).into_iter().flat_map(|plan| &plan.containers);
                    plans.all(|of| of.name != *name || of.hash == row.hash)
                });
            }
            Fact::Saw { pod, .. } => {
                for seen in &pod.containers {
                    if matches!(seen.state, ObservedState::Exited { .. }) {
                        self.exits.entry(seen.id.clone()).or_insert(known.now_ms);
                    }
                }
            }
            Fact::Heard { flight, outcome } => {
                let Effect::EnsureImage { container } = flight.effect() else { return Ok(()) };
                let image = (flight.uid.clone(), flight.generation, container.clone());
                match outcome {
                    Outcome::Failed(_) if !flight.given_up => {
                        let (delay_ms, _) = self.images.get(&image).copied().unwrap_or((INITIAL_MS / 2, 0));
                        self.images.insert(image, ((delay_ms * 2).min(MAX_MS), known.now_ms));
                    }
                    _ => _ = self.images.remove(&image),
                }
            }
            Fact::Issued(flight) => match flight.effect() {
                Effect::EnsureImage { container } => {
                    let image = (flight.uid.clone(), flight.generation, container.clone());
                    let Some((delay_ms, failed_ms)) = self.images.get(&image) else { return Ok(()) };
                    if known.now_ms < failed_ms + delay_ms {
                        return Err(format!("{}: the image of {container} is tried again too soon", flight.uid));
                    }
                    marks.hit(Mark::ImageBackedOff);
                }
                Effect::StopContainer { container_id, .. } => {
                    self.stopped.insert(container_id.clone(), known.now_ms);
                }
                Effect::StartContainer { container, attempt, sandbox_id, .. } => {
                    let row = (flight.uid.clone(), flight.generation, container.clone());
                    return self.restart(row, (*attempt, sandbox_id), known, marks);
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

impl BackOff {
    fn restart(
        &mut self,
        key: (String, u64, String),
        (attempt, sandbox_id): (u32, &str),
        known: &Known,
        marks: &mut Marks,
    ) -> Result<(), String> {
        let (uid, _, name) = &key;
        let plans = known.plans(uid);
        let Some(plan) = plans.first() else { return Ok(()) };
        // Whoever starts over for another's sake does so at once.
        let all = plan
            .containers
            .iter()
            .flat_map(|of| &of.rules)
            .any(|rule| rule.action == RestartAction::RestartAllContainers);
        let Some(of) = plan.containers.iter().find(|of| of.name == *name) else { return Ok(()) };
        let mine = known.truth.containers.iter().filter(|c| c.key.uid == *uid && c.seen.name == *name);
        let Some(newest) = mine.max_by_key(|c| c.seen.attempt) else { return Ok(()) };
        let id = &newest.seen.id;
        let by_itself = !self.stopped.contains_key(id) && !newest.code_lost;
        let crashed = attempt > newest.seen.attempt
            && by_itself
            && newest.seen.hash == of.hash
            && newest.exit_code().is_some_and(|code| of.kind != ContainerKind::Init || code != 0)
            // In a new sandbox everything begins anew.
            && newest.seen.sandbox_id == sandbox_id;
        let Some(exited_ms) = self.exits.get(id).copied().filter(|_| crashed && !all) else { return Ok(()) };
        let row = self.rows.entry(key.clone()).or_default();
        if row.hash != of.hash {
            *row = Row { hash: of.hash.clone(), ..Row::default() };
        }
        if row.attempt == attempt {
            return Ok(());
        }
        let forgiven = row.delay_ms == 0 || exited_ms.saturating_sub(row.stepped_ms) > FORGIVEN_AFTER_MS;
        if !forgiven && known.now_ms < exited_ms + row.delay_ms {
            let after_ms = known.now_ms - exited_ms;
            return Err(format!(
                "{uid}: {name}#{attempt} starts {after_ms} ms after the crash and not {}",
                row.delay_ms
            ));
        }
        if !forgiven {
            marks.hit(Mark::CrashBackedOff);
        }
        row.delay_ms = if forgiven { INITIAL_MS } else { (row.delay_ms * 2).min(MAX_MS) };
        row.stepped_ms = known.now_ms;
        row.attempt = attempt;
        Ok(())
    }
}
