//! What is known of the runtime's objects of this pod.
//!
//! Answers overtake each other: a question may be asked first and answered last. So what a container went through only
//! accumulates (created, running, exited), and an object is believed gone only when a question asked after the
//! machine last heard of it does not show it.

use super::retry::Retry;
use crate::backoff::RETRY;
use crate::{Millis, Now, ObservedContainer, ObservedPod, ObservedSandbox, ObservedState, UNSTAMPED};
use pod::reasons;

/// A container of which only a former kubelet has told.
const RECALLED_MS: Millis = 0;

/// What follows the end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequel {
    /// Rules and policy decide by the exit code.
    ByPolicy,
    /// A probe or a hook condemned it: a failure, whatever code it ended with.
    AsFailure,
    /// It was stopped to be replaced: its exit code says nothing about the workload.
    AtOnce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreStop {
    Due,
    Asked,
    /// It ended, or there is no time for it any more.
    Over,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) seen: ObservedContainer,
    /// When it was last heard of, or found gone.
    known_ms: Millis,
    /// Removed, or missing. The newest attempts are remembered nevertheless.
    pub(crate) gone: bool,
    /// When its exit was learned.
    pub(crate) exited_ms: Millis,
    /// When it is to be killed at the latest, once it is being stopped.
    pub(crate) kill_at_ms: Option<Millis>,
    /// What its end leads to.
    pub(crate) sequel: Sequel,
    /// How far the hook before its stop got.
    pub(crate) pre_stop: PreStop,
    /// Of stopping and removing it.
    pub(crate) retry: Retry,
}

impl Container {
    fn new(seen: ObservedContainer, now: Now) -> Container {
        Container {
            seen,
            known_ms: now.mono_ms,
            gone: false,
            exited_ms: now.mono_ms,
            kill_at_ms: None,
            sequel: Sequel::ByPolicy,
            pre_stop: PreStop::Due,
            retry: Retry::new(RETRY),
        }
    }

    /// A process of it may run.
    pub(crate) fn alive(&self) -> bool {
        !self.gone && matches!(self.seen.state, ObservedState::Running { .. } | ObservedState::Unknown)
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.seen.state {
            ObservedState::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    fn ran(&self) -> bool {
        !matches!(self.seen.state, ObservedState::Created)
    }

    /// Orders the attempts under one name.
    fn rank(&self) -> (u32, bool, bool, i64) {
        (self.seen.attempt, !self.gone, self.alive(), self.seen.created_at_ns)
    }

    /// A container that vanished without an exit code ended in an unknown way, which is never a success.
    fn vanish(&mut self, now: Now) {
        if self.alive() {
            let started_at_ns = match self.seen.state {
                ObservedState::Running { started_at_ns } => started_at_ns,
                _ => 0,
            };
            self.seen.state = ObservedState::Exited {
                started_at_ns,
                finished_at_ns: now.wall_ns,
                exit_code: 137,
                reason: reasons::CONTAINER_STATUS_UNKNOWN.to_owned(),
                message: "The container could not be located; it used to be running".to_owned(),
            };
            self.exited_ms = now.mono_ms;
        }
        self.gone = true;
        self.known_ms = now.mono_ms;
    }

    fn merge(&mut self, seen: ObservedContainer, stamp_ms: Millis, now: Now) {
        let newer = stamp_ms > self.known_ms;
        if self.gone && !newer {
            return;
        }
        let takes = match (&self.seen.state, &seen.state) {
            // What was only remembered from a former kubelet knows less.
            _ if self.known_ms == RECALLED_MS => true,
            (ObservedState::Exited { .. }, _) => self.gone,
            (_, ObservedState::Exited { .. }) => true,
            (ObservedState::Unknown, _) | (_, ObservedState::Unknown) => newer,
            (ObservedState::Running { .. }, ObservedState::Created) => false,
            _ => true,
        };
        if takes {
            if matches!(seen.state, ObservedState::Exited { .. }) && self.exit_code().is_none() {
                self.exited_ms = now.mono_ms;
                self.retry.succeeded();
            }
            self.seen = seen;
        }
        self.gone = false;
        self.known_ms = self.known_ms.max(now.mono_ms);
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) seen: ObservedSandbox,
    known_ms: Millis,
    pub(crate) gone: bool,
    /// We stopped it and it was acknowledged.
    pub(crate) stopped: bool,
    /// Of stopping and removing it.
    pub(crate) retry: Retry,
}

impl Sandbox {
    fn new(seen: ObservedSandbox, now: Now) -> Sandbox {
        Sandbox { seen, known_ms: now.mono_ms, gone: false, stopped: false, retry: Retry::new(RETRY) }
    }

    /// Containers may be started in it. One in the machine's network has no address of its own.
    fn serves(&self, network: Network) -> bool {
        let reachable = network == Network::Host || !self.seen.ips.is_empty();
        !self.gone && !self.stopped && self.seen.ready && reachable
    }
}

/// Whose network a pod's sandbox lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Network {
    #[default]
    Own,
    Host,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
    /// When the latest question was asked whose answer was heard.
    pub(crate) stamp_ms: Option<Millis>,
    /// A pushed event hinted at something that only an answer can settle.
    pub(crate) hint_ms: Option<Millis>,
    pub(crate) network: Network,
    /// The highest sandbox attempt ever known.
    top_attempt: Option<u32>,
}

impl Record {
    pub(crate) fn new(network: Network) -> Record {
        Record { network, ..Record::default() }
    }

    pub(crate) fn observe(&mut self, stamp_ms: Millis, pod: ObservedPod, now: Now) {
        for seen in pod.sandboxes {
            self.merge_sandbox(seen, stamp_ms, now);
        }
        for seen in pod.containers {
            match self.containers.iter_mut().find(|known| known.seen.id == seen.id) {
                Some(known) => known.merge(seen, stamp_ms, now),
                None => self.containers.push(Container::new(seen, now)),
            }
        }
        if stamp_ms == UNSTAMPED {
            return;
        }
        self.stamp_ms = Some(self.stamp_ms.map_or(stamp_ms, |latest_ms| latest_ms.max(stamp_ms)));
        // Whatever the answer showed has just become known "now", which is not before the stamp.
        self.containers
            .iter_mut()
            .filter(|known| !known.gone && known.known_ms < stamp_ms)
            .for_each(|known| known.vanish(now));
        for known in self.sandboxes.iter_mut().filter(|known| !known.gone && known.known_ms < stamp_ms) {
            known.gone = true;
            known.known_ms = now.mono_ms;
        }
        self.forget(stamp_ms);
    }

    fn merge_sandbox(&mut self, seen: ObservedSandbox, stamp_ms: Millis, now: Now) {
        self.top_attempt = self.top_attempt.max(Some(seen.attempt));
        let network = self.network;
        let Some(known) = self.sandboxes.iter_mut().find(|known| known.seen.id == seen.id) else {
            self.sandboxes.push(Sandbox::new(seen, now));
            return;
        };
        if stamp_ms > known.known_ms {
            known.gone = false;
            known.seen = seen;
        } else if known.gone {
            return;
        } else if seen.ready && (network == Network::Host || !seen.ips.is_empty()) {
            if known.seen.ready && known.seen.ips.is_empty() {
                known.seen.ips = seen.ips;
            }
        } else if known.serves(network) {
            // An event from while it was being made, or news of its death: only an answer can tell.
            self.hint_ms = Some(now.mono_ms);
        }
        known.known_ms = known.known_ms.max(now.mono_ms);
    }

    /// Drops what an answer confirmed gone and neither a decision nor the report needs any more.
    fn forget(&mut self, stamp_ms: Millis) {
        self.sandboxes.retain(|known| !known.gone || known.known_ms >= stamp_ms);
        for index in (0..self.containers.len()).rev() {
            let known = &self.containers[index];
            if known.gone && known.known_ms < stamp_ms && !self.keeps(index) {
                self.containers.swap_remove(index);
            }
        }
    }

    pub(crate) fn learn_sandbox(&mut self, seen: ObservedSandbox, now: Now) {
        self.top_attempt = self.top_attempt.max(Some(seen.attempt));
        match self.sandboxes.iter_mut().find(|known| known.seen.id == seen.id) {
            Some(known) => {
                known.seen.ready = true;
                if !seen.ips.is_empty() {
                    known.seen.ips = seen.ips;
                }
                known.gone = false;
                known.known_ms = now.mono_ms;
            }
            None => self.sandboxes.push(Sandbox::new(seen, now)),
        }
    }

    pub(crate) fn learn_container(&mut self, seen: ObservedContainer, now: Now) {
        match self.containers.iter_mut().find(|known| known.seen.id == seen.id) {
            Some(known) => {
                if known.exit_code().is_none() && !known.alive() {
                    known.seen.state = seen.state;
                }
                // Its start was acknowledged now, so it was there now, whatever an older answer lacked.
                known.gone = known.gone && known.exit_code().is_some();
                known.known_ms = now.mono_ms;
            }
            None => self.containers.push(Container::new(seen, now)),
        }
    }

    pub(crate) fn container_gone(&mut self, id: &str, now: Now) {
        if let Some(known) = self.containers.iter_mut().find(|known| known.seen.id == id) {
            known.vanish(now);
        }
    }

    pub(crate) fn sandbox_gone(&mut self, id: &str, now: Now) {
        if let Some(known) = self.sandboxes.iter_mut().find(|known| known.seen.id == id) {
            known.gone = true;
            known.known_ms = now.mono_ms;
        }
    }

    pub(crate) fn container(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|known| known.seen.id == id)
    }

    pub(crate) fn sandbox(&mut self, id: &str) -> Option<&mut Sandbox> {
        self.sandboxes.iter_mut().find(|known| known.seen.id == id)
    }

    /// A container that another kubelet knew of; the first answer shows what became of it.
    pub(crate) fn recall(&mut self, seen: ObservedContainer, now: Now) {
        self.containers.push(Container { known_ms: RECALLED_MS, ..Container::new(seen, now) });
    }

    /// The newest attempt under a name, remembered ones included.
    pub(crate) fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|known| known.seen.name == name).max_by_key(|known| known.rank())
    }

    /// The newest finished run before the newest attempt.
    pub(crate) fn previous(&self, name: &str) -> Option<&Container> {
        let newest = self.newest(name)?;
        self.containers
            .iter()
            .filter(|known| known.seen.name == name && known.seen.id != newest.seen.id && known.exit_code().is_some())
            .max_by_key(|known| known.rank())
    }

    /// Whether a container's remains still serve: as the newest attempt, or as the finished run before it.
    pub(crate) fn keeps(&self, index: usize) -> bool {
        let known = &self.containers[index].seen;
        self.newest(&known.name).is_some_and(|newest| newest.seen.id == known.id)
            || self.previous(&known.name).is_some_and(|previous| previous.seen.id == known.id)
    }

    /// The sandbox in which the pod lives: the newest one, if it serves.
    pub(crate) fn home(&self) -> Option<&Sandbox> {
        self.sandboxes
            .iter()
            .filter(|known| !known.gone)
            .max_by_key(|known| known.seen.attempt)
            .filter(|s| s.serves(self.network))
    }

    pub(crate) fn next_sandbox_attempt(&self) -> u32 {
        self.top_attempt.map_or(0, |attempt| attempt.saturating_add(1))
    }

    pub(crate) fn any_alive(&self) -> bool {
        self.containers.iter().any(Container::alive)
    }

    pub(crate) fn any_ran(&self) -> bool {
        self.containers.iter().any(Container::ran)
    }

    /// Nothing of the pod is left in the runtime, as far as is known.
    pub(crate) fn is_clear(&self) -> bool {
        self.containers.iter().all(|known| known.gone) && self.sandboxes.iter().all(|known| known.gone)
    }
}
