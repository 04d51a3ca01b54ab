//! After the bad time: everything heals, and the world must come to rest as the manifests have it.

use super::{CALM_WITHIN_MS, Happening, World};
use crate::pods::name_of;
use crate::truth::Container;
use lifecycle::{ContainerKind, Effect, PodPlan, RestartPolicy, Stage};

const LOOK_MS: u64 = 5_000;
/// Looks in a row that must find everything at rest.
const RESTED: u64 = 3;

impl World {
    pub(super) fn heal(&mut self) {
        self.note(format_args!("everything heals"));
        self.known.calm = true;
        self.options = self.options.healed();
        self.disk_full = false;
        self.absent_images.clear();
        self.runtime_back();
        self.files.retain(|file| !file.contends);
        if self.kubelet.is_none() {
            self.boot();
        }
        for source in 0..super::SOURCES {
            self.at(100, Happening::Report { epoch: self.known.epoch, source });
        }
        self.at(LOOK_MS, Happening::Look);
        self.rested = self.known.now_ms + CALM_WITHIN_MS;
        self.looks = 0;
    }

    pub(super) fn look(&mut self) {
        match self.restless() {
            None => self.looks += 1,
            Some(how) => {
                self.looks = 0;
                if self.known.now_ms >= self.rested {
                    return self.breaks("liveness", &format!("no rest: {how}"));
                }
            }
        }
        if self.looks >= RESTED {
            self.done = true;
        } else {
            self.at(LOOK_MS, Happening::Look);
        }
    }

    /// What is not yet as it is to be.
    fn restless(&self) -> Option<String> {
        let open = self.open_flights().find(|flight| !matches!(flight.effect(), Effect::Probe { .. }));
        if let Some(flight) = open {
            return Some(format!("{}: {:?} is under way since {}", flight.uid, flight.effect(), flight.issued_ms));
        }
        let wanted: Vec<&PodPlan> = self.files.iter().map(|file| &file.version.plan).collect();
        let truth = &self.known.truth;
        let stray = truth.uids().into_iter().chain(truth.volumes.iter().cloned());
        let mut stray = stray.filter(|uid| !wanted.iter().any(|plan| plan.uid == *uid));
        if let Some(uid) = stray.next() {
            return Some(format!("{uid} is not wanted, and something of it is left"));
        }
        let kubelet = self.kubelet.as_ref()?;
        if let Some(uid) = kubelet.reports.keys().find(|uid| !wanted.iter().any(|plan| plan.uid == **uid)) {
            return Some(format!("{uid} is not wanted and has a machine"));
        }
        wanted.into_iter().find_map(|plan| self.restless_pod(plan))
    }

    fn restless_pod(&self, plan: &PodPlan) -> Option<String> {
        let (uid, truth) = (&plan.uid, &self.known.truth);
        let kubelet = self.kubelet.as_ref()?;
        let Some((_, report)) = kubelet.reports.get(uid) else {
            let ended = self.finished.contains_key(uid) && !truth.uids().contains(uid);
            return (!ended).then(|| format!("{uid} is wanted and has no machine"));
        };
        if report.stage != Stage::Syncing || !report.observed {
            return Some(format!("{uid} is {:?}", report.stage));
        }
        if report.phase.is_terminal() {
            let left = plan.containers.iter().find(|of| self.alive(uid, &of.name).next().is_some());
            return left.map(|of| format!("{uid} has ended and {} runs", of.name));
        }
        let runs = plan.containers.iter().any(|of| self.alive(uid, &of.name).next().is_some());
        if plan.restart_policy == RestartPolicy::Never && report.ips.is_empty() && !runs {
            // A pod that is never restarted gets no second sandbox: what did not start in the first never will.
            return None;
        }
        let ready = truth.sandboxes.iter().filter(|known| known.key.uid == *uid && known.seen.ready).count();
        if ready != 1 {
            return Some(format!("{uid} of {} has {ready} ready sandboxes", name_of(uid)));
        }
        for of in plan.containers.iter().filter(|of| of.kind != ContainerKind::Init) {
            let said = report.containers.iter().find(|said| said.name == of.name)?;
            let running: Vec<_> = self.alive(uid, &of.name).collect();
            let over = matches!(said.state, lifecycle::ContainerState::Terminated(_));
            match running.as_slice() {
                [] if over => {}
                [one] if one.seen.hash == of.hash && said.ready && said.started => {}
                [one] if one.seen.hash == of.hash => return Some(format!("{uid}: {} is not ready", of.name)),
                [_] => return Some(format!("{uid}: {} runs an old version", of.name)),
                other => return Some(format!("{uid}: {} runs {} times, {:?}", of.name, other.len(), said.state)),
            }
        }
        let init = plan
            .containers
            .iter()
            .find(|of| of.kind == ContainerKind::Init && self.alive(uid, &of.name).next().is_some());
        init.map(|of| format!("{uid}: {} still runs", of.name))
    }

    fn alive<'a>(&'a self, uid: &'a str, name: &'a str) -> impl Iterator<Item = &'a Container> {
        let containers = self.known.truth.containers.iter();
        containers.filter(move |known| known.key.uid == uid && known.seen.name == name && known.alive())
    }
}
