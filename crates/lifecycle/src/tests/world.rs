//! A tiny model of a runtime: what effects do to it, and what must never happen in it.

use super::script::{done_of, failure, now};
use crate::*;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) pod: ObservedPod,
    /// How often each attempt was really started.
    pub(super) starts: BTreeMap<(String, u32), u32>,
    pub(super) volumes: bool,
    pub(super) now_ms: Millis,
}

/// What goes wrong with one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Failed,
    UnknownButHappened,
    UnknownAndNot,
}

impl World {
    pub(super) fn carry_out(&mut self, effect: &Effect, fault: Option<Fault>) -> Outcome {
        match fault {
            None => self.happen(effect),
            Some(Fault::Failed) => failure(FailureClass::Retry, "Broken"),
            Some(Fault::UnknownAndNot) => Outcome::Unknown,
            Some(Fault::UnknownButHappened) => {
                self.happen(effect);
                Outcome::Unknown
            }
        }
    }

    fn happen(&mut self, effect: &Effect) -> Outcome {
        let gone = || failure(FailureClass::Gone, "Gone");
        match effect {
            Effect::SetUp => self.volumes = true,
            Effect::EnsureImage { .. } | Effect::Inspect => {}
            Effect::PostStart { .. } | Effect::PreStop { .. } | Effect::Probe { .. } => {}
            Effect::RunSandbox { attempt } => {
                assert!(self.volumes, "a sandbox without volumes");
                if !self.pod.sandboxes.iter().any(|sandbox| sandbox.attempt == *attempt) {
                    assert!(self.pod.sandboxes.iter().all(|sandbox| !sandbox.ready), "two sandboxes");
                    self.pod.sandboxes.push(ObservedSandbox {
                        id: format!("s{attempt}"),
                        attempt: *attempt,
                        ready: true,
                        ips: vec![format!("10.0.0.{attempt}")],
                        created_at_ns: now(self.now_ms).wall_ns,
                    });
                }
            }
            Effect::StartContainer { container, attempt, sandbox_id, image_ref } => {
                if !self.pod.sandboxes.iter().any(|sandbox| sandbox.id == *sandbox_id && sandbox.ready) {
                    return gone();
                }
                self.start((container, *attempt), sandbox_id, image_ref);
            }
            Effect::StopContainer { container_id, .. } => {
                if !self.exit(container_id, 143) {
                    return gone();
                }
            }
            Effect::RemoveContainer { container_id } => {
                let Some(index) = self.pod.containers.iter().position(|found| found.id == *container_id) else {
                    return gone();
                };
                let removed = self.pod.containers.remove(index);
                assert!(!is_running(&removed), "{container_id} is removed while it runs");
            }
            Effect::StopSandbox { sandbox_id } => {
                let within = |found: &&ObservedContainer| found.sandbox_id == *sandbox_id;
                assert!(
                    !self.pod.containers.iter().filter(within).any(is_running),
                    "a sandbox is stopped under a container"
                );
                match self.pod.sandboxes.iter_mut().find(|found| found.id == *sandbox_id) {
                    Some(found) => found.ready = false,
                    None => return gone(),
                }
            }
            Effect::RemoveSandbox { sandbox_id } => {
                assert!(!self.pod.containers.iter().any(|found| found.sandbox_id == *sandbox_id), "records are lost");
                self.pod.sandboxes.retain(|found| found.id != *sandbox_id);
            }
            Effect::TearDown => {
                if self.pod != ObservedPod::default() {
                    return failure(FailureClass::Retry, "Busy");
                }
                self.volumes = false;
            }
        }
        Outcome::Ok(done_of(effect))
    }

    /// (pod, name, attempt) is the key: the same attempt is never started twice.
    fn start(&mut self, (name, attempt): (&str, u32), sandbox_id: &str, image_ref: &str) {
        if self.pod.containers.iter().any(|found| found.name == name && found.attempt == attempt) {
            return;
        }
        let doubled = self.pod.containers.iter().any(|found| found.name == name && is_running(found));
        assert!(!doubled, "two containers {name} at once");
        *self.starts.entry((name.to_owned(), attempt)).or_default() += 1;
        self.pod.containers.push(ObservedContainer {
            id: format!("{name}#{attempt}"),
            sandbox_id: sandbox_id.to_owned(),
            name: name.to_owned(),
            attempt,
            hash: format!("h-{name}"),
            state: ObservedState::Running { started_at_ns: now(self.now_ms).wall_ns },
            image: format!("image-{name}"),
            image_ref: image_ref.to_owned(),
            created_at_ns: now(self.now_ms).wall_ns,
        });
    }

    /// False if there is no such container.
    pub(super) fn exit(&mut self, id: &str, exit_code: i32) -> bool {
        let finished_at_ns = now(self.now_ms).wall_ns;
        let Some(found) = self.pod.containers.iter_mut().find(|found| found.id == id) else { return false };
        if let ObservedState::Running { started_at_ns } = found.state {
            let (reason, message) = ("Error".to_owned(), String::new());
            found.state = ObservedState::Exited { started_at_ns, finished_at_ns, exit_code, reason, message };
        }
        true
    }

    pub(super) fn lose_sandbox(&mut self) {
        let ids: Vec<String> = self.pod.containers.iter().map(|found| found.id.clone()).collect();
        for id in ids {
            self.exit(&id, 137);
        }
        self.pod.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
    }

    pub(super) fn runs(&self, id: &str) -> bool {
        self.pod.containers.iter().any(|found| found.id == id && is_running(found))
    }
}

fn is_running(container: &ObservedContainer) -> bool {
    matches!(container.state, ObservedState::Running { .. })
}
