//! A model of a container runtime and of the machine under it: what is really there, whoever knows of it.

use crate::pods::{Cast, Run};
use cri::keys::PodKey;
use lifecycle::{ObservedContainer, ObservedPod, ObservedSandbox, ObservedState};
use pod::reasons::CONTAINER_STATUS_UNKNOWN;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) key: PodKey,
    pub(crate) seen: ObservedSandbox,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) key: PodKey,
    pub(crate) seen: ObservedContainer,
    pub(crate) run: Run,
    pub(crate) grace_ms: u64,
    pub(crate) started_ms: u64,
    /// When it will exit, and with what code.
    ends: Option<(u64, i32)>,
    /// When it is to be killed.
    kill_at_ms: Option<u64>,
    /// Its code was not recorded.
    pub(crate) code_lost: bool,
}

impl Container {
    pub(crate) fn alive(&self) -> bool {
        matches!(self.seen.state, ObservedState::Running { .. })
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.seen.state {
            ObservedState::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    fn ends_by(&mut self, at_ms: u64, code: i32) {
        if self.ends.is_none_or(|(earlier_ms, _)| at_ms < earlier_ms) {
            self.ends = Some((at_ms, code));
        }
    }
}

/// Something that came about.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Sandbox(PodKey),
    Started(Box<Container>),
    Exited(Box<Container>),
    /// The record went.
    Removed(Box<Container>),
}

impl Change {
    pub(crate) fn key(&self) -> &PodKey {
        match self {
            Change::Sandbox(key) => key,
            Change::Started(container) | Change::Exited(container) | Change::Removed(container) => &container.key,
        }
    }
}

/// A call's answer where it is no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    Conflict,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    pub(crate) now_ms: u64,
    pub(crate) wall_ns: i64,
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
    /// UIDs with directories, volumes, control groups.
    pub(crate) volumes: BTreeSet<String>,
    pub(crate) cast: Cast,
    /// How often each container (UID and name) was started.
    starts: BTreeMap<(String, String), usize>,
    /// When anything of each pod (UID) last started.
    pub(crate) started_ms: BTreeMap<String, u64>,
    /// Every code that happened, by container id.
    pub(crate) codes: BTreeMap<String, i32>,
    pub(crate) changes: Vec<Change>,
    ids: u64,
}

impl Truth {
    fn id(&mut self, prefix: &str) -> String {
        self.ids += 1;
        format!("{prefix}{}", self.ids)
    }

    /// Names are reserved by UID and attempt; a ready sandbox of that attempt is what was asked for.
    pub(crate) fn run_sandbox(
        &mut self,
        key: &PodKey,
        attempt: u32,
        host_network: bool,
    ) -> Result<(String, Vec<String>), Refusal> {
        let same = |sandbox: &&Sandbox| sandbox.key.uid == key.uid && sandbox.seen.attempt == attempt;
        if let Some(known) = self.sandboxes.iter().find(same) {
            return if known.seen.ready {
                Ok((known.seen.id.clone(), known.seen.ips.clone()))
            } else {
                Err(Refusal::Conflict)
            };
        }
        let id = self.id("s");
        let ips = if host_network { Vec::new() } else { vec![format!("10.0.0.{}", self.ids % 250 + 2)] };
        let seen =
            ObservedSandbox { id: id.clone(), attempt, ready: true, ips: ips.clone(), created_at_ns: self.wall_ns };
        self.sandboxes.push(Sandbox { key: key.clone(), seen });
        self.changes.push(Change::Sandbox(key.clone()));
        Ok((id, ips))
    }

    /// Creates one attempt, without starting it.
    pub(crate) fn create(&mut self, key: &PodKey, seen: ObservedContainer, grace_ms: u64) -> Result<String, Refusal> {
        let home = self.sandboxes.iter().find(|sandbox| sandbox.seen.id == seen.sandbox_id);
        if !home.is_some_and(|sandbox| sandbox.seen.ready) {
            return Err(Refusal::NotFound);
        }
        let same = |known: &&Container| {
            known.key.uid == key.uid && known.seen.name == seen.name && known.seen.attempt == seen.attempt
        };
        if let Some(known) = self.containers.iter().find(same) {
            return if known.seen.sandbox_id == seen.sandbox_id {
                Ok(known.seen.id.clone())
            } else {
                Err(Refusal::Conflict)
            };
        }
        let id = self.id(&format!("{}-", seen.name));
        let number = self.starts.entry((key.uid.clone(), seen.name.clone())).or_default();
        let behaviour = &self.cast[&(key.uid.clone(), seen.name.clone())];
        let run = behaviour.run(*number).clone();
        *number += 1;
        self.containers.push(Container {
            key: key.clone(),
            seen: ObservedContainer {
                id: id.clone(),
                created_at_ns: self.wall_ns,
                state: ObservedState::Created,
                ..seen
            },
            run,
            grace_ms,
            started_ms: 0,
            ends: None,
            kill_at_ms: None,
            code_lost: false,
        });
        Ok(id)
    }

    /// Starts what was created; what was started before is left alone.
    pub(crate) fn start(&mut self, id: &str) -> Result<(), Refusal> {
        let (now_ms, wall_ns) = (self.now_ms, self.wall_ns);
        let Some(known) = self.containers.iter_mut().find(|known| known.seen.id == id) else {
            return Err(Refusal::NotFound);
        };
        if known.seen.state == ObservedState::Created {
            known.seen.state = ObservedState::Running { started_at_ns: wall_ns };
            known.started_ms = now_ms;
            known.ends = known.run.lasts_ms.map(|lasts_ms| (now_ms + lasts_ms, known.run.exit_code));
            self.started_ms.insert(known.key.uid.clone(), now_ms);
            self.changes.push(Change::Started(Box::new(known.clone())));
        }
        Ok(())
    }

    /// Sends the stop signal and sets the moment of the kill, if there is to be one.
    pub(crate) fn signal(&mut self, id: &str, kill_at_ms: Option<u64>) -> Result<(), Refusal> {
        let now_ms = self.now_ms;
        let known = self.containers.iter_mut().find(|known| known.seen.id == id).ok_or(Refusal::NotFound)?;
        if !known.alive() {
            if known.seen.state == ObservedState::Created {
                self.exit(id, 137);
            }
            return Ok(());
        }
        if let Some(term_ms) = known.run.term_ms {
            known.ends_by(now_ms + term_ms, 143);
        }
        if let Some(kill_at_ms) = kill_at_ms {
            let kill_at_ms = known.kill_at_ms.map_or(kill_at_ms, |earlier_ms| earlier_ms.min(kill_at_ms));
            known.kill_at_ms = Some(kill_at_ms);
            let dies_ms = kill_at_ms + known.run.unkillable_ms;
            known.ends_by(dies_ms, 137);
        }
        Ok(())
    }

    /// Whether a container runs; none if there is no such one.
    pub(crate) fn runs(&self, id: &str) -> Option<bool> {
        self.container(id).map(Container::alive)
    }

    pub(crate) fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|known| known.seen.id == id)
    }

    fn exit(&mut self, id: &str, code: i32) {
        let wall_ns = self.wall_ns;
        let Some(known) = self.containers.iter_mut().find(|known| known.seen.id == id) else { return };
        let started_at_ns = match known.seen.state {
            ObservedState::Running { started_at_ns } => started_at_ns,
            ObservedState::Created => 0,
            _ => return,
        };
        // A runtime that lost the code says so, and never that it was 0.
        let exit_code = if known.code_lost { 137 } else { code };
        let reason = if known.code_lost {
            CONTAINER_STATUS_UNKNOWN
        } else if code == 0 {
            "Completed"
        } else {
            "Error"
        };
        known.seen.state = ObservedState::Exited {
            started_at_ns,
            finished_at_ns: wall_ns,
            exit_code,
            reason: reason.to_owned(),
            message: String::new(),
        };
        known.ends = None;
        self.codes.insert(id.to_owned(), exit_code);
        self.changes.push(Change::Exited(Box::new(known.clone())));
    }

    /// It ends at once.
    pub(crate) fn crash(&mut self, id: &str, code: i32) -> Result<(), Refusal> {
        self.runs(id).ok_or(Refusal::NotFound)?;
        self.exit(id, code);
        Ok(())
    }

    /// Removes a container's record; kills it first if need be.
    pub(crate) fn remove_container(&mut self, id: &str) -> Result<(), Refusal> {
        self.exit(id, 137);
        let index = self.containers.iter().position(|known| known.seen.id == id).ok_or(Refusal::NotFound)?;
        let removed = self.containers.remove(index);
        self.changes.push(Change::Removed(Box::new(removed)));
        Ok(())
    }

    /// Stops a sandbox and what is in it.
    pub(crate) fn stop_sandbox(&mut self, id: &str) -> Result<(), Refusal> {
        let known = self.sandboxes.iter_mut().find(|known| known.seen.id == id).ok_or(Refusal::NotFound)?;
        known.seen.ready = false;
        known.seen.ips.clear();
        let key = known.key.clone();
        for container in self.ids_in(id) {
            self.exit(&container, 137);
        }
        self.changes.push(Change::Sandbox(key));
        Ok(())
    }

    pub(crate) fn remove_sandbox(&mut self, id: &str) -> Result<(), Refusal> {
        self.stop_sandbox(id)?;
        for container in self.ids_in(id) {
            self.remove_container(&container)?;
        }
        self.sandboxes.retain(|known| known.seen.id != id);
        Ok(())
    }

    fn ids_in(&self, sandbox_id: &str) -> Vec<String> {
        let inside = self.containers.iter().filter(|known| known.seen.sandbox_id == sandbox_id);
        inside.map(|known| known.seen.id.clone()).collect()
    }

    /// The machine went down: what ran is dead, and what the runtime knew only in memory is gone.
    pub(crate) fn reboot(&mut self) {
        for known in &mut self.containers {
            known.code_lost |= known.alive();
        }
        for id in self.sandboxes.iter().map(|known| known.seen.id.clone()).collect::<Vec<_>>() {
            let _there = self.stop_sandbox(&id);
        }
    }

    /// The processes of a pod's sandboxes die, and who would have recorded how.
    pub(crate) fn lose_sandboxes(&mut self, uid: &str) {
        for known in self.containers.iter_mut().filter(|known| known.key.uid == uid) {
            known.code_lost |= known.alive();
        }
        let sandboxes = self.sandboxes.iter().filter(|known| known.key.uid == uid);
        for id in sandboxes.map(|known| known.seen.id.clone()).collect::<Vec<_>>() {
            let _there = self.stop_sandbox(&id);
        }
    }

    /// The same, and nothing of it is remembered.
    pub(crate) fn reboot_forgetting(&mut self) {
        self.reboot();
        self.sandboxes.clear();
        self.containers.clear();
    }

    /// Who was to see to it that they die is gone.
    pub(crate) fn forget_kills(&mut self) {
        for known in self.containers.iter_mut().filter(|known| known.kill_at_ms.is_some()) {
            known.kill_at_ms = None;
            if known.ends.is_some_and(|(_, code)| code == 137) {
                known.ends = known.run.lasts_ms.map(|lasts_ms| (known.started_ms + lasts_ms, known.run.exit_code));
            }
        }
    }

    /// One running container dies of something that nobody recorded.
    pub(crate) fn lose_exit(&mut self, number: u64) {
        let alive: Vec<usize> = (0..self.containers.len()).filter(|&index| self.containers[index].alive()).collect();
        if alive.is_empty() {
            return;
        }
        let index = alive[usize::try_from(number).unwrap_or(0) % alive.len()];
        self.containers[index].code_lost = true;
        let id = self.containers[index].seen.id.clone();
        self.exit(&id, 0);
    }

    /// When something happens by itself next.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.containers
            .iter()
            .filter(|known| known.alive())
            .filter_map(|known| known.ends)
            .map(|(at_ms, _)| at_ms)
            .min()
    }

    /// Lets happen what is due.
    pub(crate) fn advance(&mut self) {
        let due: Vec<(u64, String, i32)> = self
            .containers
            .iter()
            .filter(|known| known.alive())
            .filter_map(|known| known.ends.map(|(at_ms, code)| (at_ms, known.seen.id.clone(), code)))
            .filter(|(at_ms, ..)| *at_ms <= self.now_ms)
            .collect();
        for (_, id, code) in due {
            self.exit(&id, code);
        }
    }

    pub(crate) fn observe(&self, uid: &str) -> Option<(PodKey, ObservedPod, Option<u64>)> {
        let sandboxes: Vec<_> = self.sandboxes.iter().filter(|known| known.key.uid == uid).collect();
        let containers: Vec<_> = self.containers.iter().filter(|known| known.key.uid == uid).collect();
        let key = sandboxes.first().map(|known| &known.key).or(containers.first().map(|known| &known.key))?.clone();
        let grace_ms = containers.first().map(|known| known.grace_ms);
        let pod = ObservedPod {
            sandboxes: sandboxes.into_iter().map(|known| known.seen.clone()).collect(),
            containers: containers.into_iter().map(|known| known.seen.clone()).collect(),
        };
        Some((key, pod, grace_ms))
    }

    pub(crate) fn uids(&self) -> BTreeSet<String> {
        let sandboxes = self.sandboxes.iter().map(|known| known.key.uid.clone());
        sandboxes.chain(self.containers.iter().map(|known| known.key.uid.clone())).collect()
    }

    pub(crate) fn is_clear_of(&self, uid: &str) -> bool {
        !self.uids().contains(uid) && !self.volumes.contains(uid)
    }
}
