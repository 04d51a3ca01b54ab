//! What goes wrong with the machine, the runtime, the disk, the clock and the kubelet's process.

use super::{Happening, SLOT_MS, SOURCES, World};
use crate::facts::Fact;
use crate::kubelet::{Kubelet, Mutant};
use crate::marks::Mark;
use agent::core::{Message, SourceReport};
use lifecycle::{Effect, ObservedPod};

/// A wall clock is set this far at most.
const STEP_MAX_S: u64 = 7_200;

impl World {
    /// One slot of the bad time.
    pub(super) fn accident(&mut self) {
        if self.known.calm {
            return;
        }
        self.at(SLOT_MS, Happening::Accident);
        let options = self.options.clone();
        if self.rng.chance(options.edits) {
            self.edit();
        }
        if self.rng.chance(options.wall_steps) {
            let seconds = i64::try_from(self.rng.below(2 * STEP_MAX_S)).unwrap_or(0) - STEP_MAX_S as i64;
            self.wall_ahead_ns += seconds * 1_000_000_000;
            self.note(format_args!("the wall clock steps by {seconds} s"));
        }
        if self.rng.chance(options.image_absent) {
            self.image_goes();
        }
        if self.rng.chance(options.disk_full) {
            self.note(format_args!("the disk is full"));
            self.disk_full = true;
            let after_ms = self.rng.between(1_000, 40_000);
            self.at(after_ms, Happening::DiskFree);
        }
        if self.rng.chance(options.exits_lost) {
            let number = self.rng.next();
            self.known.truth.lose_exit(number);
            self.changed();
        }
        if self.rng.chance(options.runtime_down) && !self.runtime_down {
            self.note(format_args!("the runtime is down"));
            self.mark(Mark::RuntimeWentAway);
            self.runtime_down = true;
            let after_ms = self.rng.between(500, 20_000);
            self.at(after_ms, Happening::RuntimeBack);
        }
        if self.rng.chance(options.reboot) {
            self.reboot();
        }
    }

    fn reboot(&mut self) {
        self.note(format_args!("the machine reboots"));
        self.mark(Mark::Rebooted);
        self.kill();
        // Calls that the dead kubelet had sent do not outlive the machine.
        self.known.flights.clear();
        if self.rng.chance(500) {
            self.known.truth.reboot();
            self.changed();
        } else {
            self.known.truth.reboot();
            self.changed();
            self.known.truth.reboot_forgetting();
        }
    }

    fn image_goes(&mut self) {
        let images: Vec<String> =
            self.files.iter().flat_map(|file| &file.version.plan.containers).map(|plan| plan.image.clone()).collect();
        let Some(image) = images.get(usize::try_from(self.rng.below(images.len() as u64)).unwrap_or(0)) else { return };
        self.note(format_args!("image {image} is not to be had"));
        self.absent_images.insert(image.clone());
        let after_ms = self.rng.between(5_000, 60_000);
        self.at(after_ms, Happening::ImageBack(image.clone()));
    }

    pub(super) fn image_back(&mut self, image: &str) {
        if self.absent_images.remove(image) && self.kubelet.is_some() && self.rng.chance(500) {
            self.note(format_args!("image {image} is imported"));
            self.tell(&Fact::ImagesChanged);
            self.deliver(Message::ImagesChanged, None);
        }
    }

    pub(super) fn runtime_back(&mut self) {
        if std::mem::take(&mut self.runtime_down) {
            self.note(format_args!("the runtime is back"));
            if self.kubelet.as_ref().is_some_and(|kubelet| kubelet.heard_runtime) {
                self.list_now();
            }
        }
    }

    pub(super) fn kill(&mut self) {
        if self.kubelet.take().is_none() {
            return;
        }
        self.note(format_args!("the kubelet is killed"));
        self.mark(Mark::KubeletKilled);
        self.tell(&Fact::KubeletDied);
        self.listens = false;
        if !self.options.shim_kills {
            self.known.truth.forget_kills();
        }
        let forgotten = self.queue.values().filter_map(|happening| match happening {
            Happening::Store { epoch, store: super::Store::Memory(uid, _) } if *epoch == self.known.epoch => {
                Some(uid.clone())
            }
            _ => None,
        });
        let forgotten: Vec<String> = forgotten.collect();
        // What waited for these to be on disk was never sent.
        self.known.flights.retain(|_, flight| {
            flight.happened
                || !matches!(flight.effect(), Effect::RemoveContainer { .. })
                || !forgotten.contains(&flight.uid)
        });
        self.known.forgotten.extend(forgotten);
        let after_ms = self.rng.pick(&[20, 200, 3_000, 40_000]);
        self.at(after_ms, Happening::Boot);
    }

    pub(super) fn boot(&mut self) {
        if self.kubelet.is_some() {
            return;
        }
        self.known.epoch += 1;
        self.known.told = vec![None; SOURCES];
        self.kubelet = Some(Kubelet::new(SOURCES));
        self.listed_ms = self.known.now_ms;
        let epoch = self.known.epoch;
        self.note(format_args!("kubelet {epoch} starts"));
        self.damage();
        self.tell(&Fact::KubeletStarted);
        let after_ms = self.rng.between(1, 30);
        self.at(after_ms, Happening::First(epoch));
        self.at(SLOT_MS, Happening::List(epoch));
        for source in 0..SOURCES {
            let late = self.options.source_late_ms;
            let after_ms = if self.rng.chance(500) { self.rng.between(1, 40) } else { 1 + self.rng.below(late + 40) };
            self.at(after_ms, Happening::Report { epoch, source });
            if self.mutant == Some(Mutant::CleansEarly) {
                self.deliver(Message::Report(SourceReport { source, files: Vec::new() }), None);
            }
        }
    }

    /// Records on disk cannot be read any more.
    fn damage(&mut self) {
        let uids: Vec<String> = self.stored.keys().chain(self.finished.keys()).cloned().collect();
        for uid in uids {
            if !self.rng.chance(self.options.record_damaged) {
                continue;
            }
            self.note(format_args!("records of {uid} are damaged"));
            self.mark(Mark::RecordDamaged);
            self.known.forgotten.insert(uid.clone());
            self.known.damaged.insert(uid.clone());
            match self.rng.below(3) {
                0 => _ = self.finished.remove(&uid),
                1 => self.stored.get_mut(&uid).into_iter().for_each(|stored| stored.memory = None),
                _ => self.stored.get_mut(&uid).into_iter().for_each(|stored| stored.pod = None),
            }
        }
    }

    /// The first question is gathered; from now on events are listened to.
    pub(super) fn ask_everything(&mut self) {
        let epoch = self.known.epoch;
        if self.runtime_down {
            return self.at(1_000, Happening::First(epoch));
        }
        self.listens = true;
        let pods = self.everything();
        let (finished, stored) = (self.finished.clone(), self.stored.clone());
        let message =
            Box::new(Message::Started { stamp: self.known.now_ms, pods, unseen: Vec::new(), finished, stored });
        let after_ms = self.rng.between(1, 10);
        self.at(after_ms, Happening::Begin { epoch, message });
    }

    pub(super) fn begin(&mut self, message: Message) {
        if let Some(kubelet) = &mut self.kubelet {
            kubelet.heard_runtime = true;
        }
        if let Message::Started { stamp, pods, .. } = &message {
            let everyone = self.known.told.iter().flatten().flatten().map(|told| told.plan.uid.clone());
            let known = pods.iter().map(|pod| pod.key.uid.clone());
            let uids: std::collections::BTreeSet<String> = everyone.chain(known).collect();
            let nothing = ObservedPod::default();
            for uid in uids {
                let pod = pods.iter().find(|pod| pod.key.uid == uid).map_or(&nothing, |pod| &pod.observed);
                self.tell(&Fact::Saw { uid: &uid, stamp_ms: *stamp, pod });
            }
        }
        self.deliver(message, None);
    }
}
