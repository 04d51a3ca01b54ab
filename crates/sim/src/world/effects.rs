//! Effects: what becomes of them, and when the kubelet hears.

use super::{Happening, World};
use crate::facts::{Fact, Fate, Flight};
use crate::kubelet::Mutant;
use crate::marks::Mark;
use crate::pods::Hook;
use crate::truth::Refusal;
use agent::core::{Job, Message, Performed, plan_of};
use lifecycle::{
    Done, Effect, EffectId, Failure, FailureClass, ObservedContainer, ObservedState, Outcome, PodPlan, ProbeKind,
};

/// A call that changes something is given up on after this, as the agent does it.
const CALL_WITHIN_MS: u64 = 120_000;
/// A pod of which a container is given so long to stop is often unwanted meanwhile, which shortens that.
const LONG_GRACE_MS: u64 = 31_000;
const UNWANTED_PERMILLE: u64 = 800;
/// A kubelet that was killed had sent what it asked for, so often in a thousand.
const SENT_PERMILLE: u64 = 500;

impl World {
    pub(super) fn issue(&mut self, (uid, generation, id): (String, u64, EffectId), job: Box<Job>) {
        self.serial += 1;
        let serial = self.serial;
        let fate = self.fate(&job.effect);
        self.trace.note(self.known.now_ms, format_args!("{uid}/{generation} do {} {:?} ({fate:?})", id.0, job.effect));
        let flight = Flight {
            serial,
            epoch: self.known.epoch,
            uid,
            generation,
            id,
            job,
            issued_ms: self.known.now_ms,
            fate,
            given_up: false,
            happened: false,
            outcome: None,
            observed: None,
            heard: false,
        };
        super::judge((&mut self.checkers, &mut self.marks), &Fact::Issued(&flight), &self.known, &mut self.broken);
        if let Effect::StopContainer { grace_ms: LONG_GRACE_MS.., .. } = flight.effect()
            && self.options.edits > 0
            && self.rng.chance(UNWANTED_PERMILLE)
        {
            let after_ms = self.rng.between(1, 100);
            self.at(after_ms, Happening::Unwant(flight.uid.clone()));
        }
        self.tell_of_beginning(&flight.uid, flight.generation, flight.effect());
        self.known.flights.insert(serial, flight);
        // It may have been given up in the very step that asked for it.
        self.see_cancels();
        let after_ms = match fate {
            Fate::Hangs => self.rng.between(5_000, 100_000),
            Fate::UnknownLate => self.rng.between(5_000, 60_000),
            _ => self.rng.between(0, 15),
        };
        self.at(after_ms, Happening::Happen(serial));
    }

    fn fate(&mut self, effect: &Effect) -> Fate {
        let options = &self.options;
        let gentle = matches!(effect, Effect::PostStart { .. } | Effect::PreStop { .. } | Effect::Probe { .. });
        let kinds = [
            (options.fails_before, Fate::FailsBefore),
            (options.hangs, Fate::Hangs),
            (options.unknown_before, Fate::UnknownBefore),
            (options.fails_after, Fate::FailsAfter),
            (options.unknown_after, Fate::UnknownAfter),
            (options.unknown_late, Fate::UnknownLate),
        ];
        let open = if gentle { 2 } else { kinds.len() };
        let fate = kinds.iter().take(open).find(|(permille, _)| self.rng.chance(*permille));
        fate.map_or(Fate::Fine, |(_, fate)| *fate)
    }

    /// An effect reaches what it changes.
    pub(super) fn carry_out(&mut self, serial: u64) {
        let Some(mut flight) = self.known.flights.remove(&serial) else { return };
        if flight.happened || flight.outcome.is_some() {
            self.known.flights.insert(serial, flight);
            return;
        }
        let orphaned = flight.epoch != self.known.epoch || self.kubelet.is_none();
        let own = matches!(
            flight.job.effect,
            Effect::SetUp
                | Effect::TearDown
                | Effect::EnsureImage { .. }
                | Effect::PostStart { .. }
                | Effect::PreStop { .. }
                | Effect::Probe { .. }
                | Effect::Inspect
        );
        if orphaned && (own || !self.rng.chance(SENT_PERMILLE)) {
            return;
        }
        if orphaned && self.is_beyond_knowing(&flight) {
            return;
        }
        let fate = flight.fate;
        let happens = !matches!(fate, Fate::FailsBefore | Fate::UnknownBefore);
        let real = if self.runtime_down && !is_file_work(&flight.job.effect) {
            failed(FailureClass::Retry, "RuntimeDown")
        } else if happens {
            flight.happened = true;
            self.note(format_args!("{} happens: {:?}", flight.uid, flight.job.effect));
            self.really(&mut flight)
        } else {
            failed(FailureClass::Retry, "Broken")
        };
        let outcome = match fate {
            Fate::Fine | Fate::Hangs | Fate::FailsBefore => real,
            Fate::FailsAfter => failed(FailureClass::Retry, "BrokenAfterwards"),
            Fate::UnknownBefore | Fate::UnknownAfter | Fate::UnknownLate => Outcome::Unknown,
        };
        let waits = matches!(flight.job.effect, Effect::StopContainer { .. }) && matches!(outcome, Outcome::Ok(_));
        let after_ms = self.answer_after(&flight, fate);
        flight.outcome = Some(outcome);
        self.known.flights.insert(serial, flight);
        self.changed();
        if orphaned {
            self.known.flights.remove(&serial);
        } else if !waits {
            self.at(after_ms, Happening::Answer(serial));
        } else {
            self.at(CALL_WITHIN_MS + 31_000, Happening::GiveUp);
            self.answer_stops();
        }
    }

    /// A start that hung in the runtime over the kubelet's death, while the next kubelet went on without it: nobody can
    /// know of it, and what comes of it is stopped once it is seen. Real runtimes give such calls up.
    fn is_beyond_knowing(&self, flight: &Flight) -> bool {
        let went_on_ms = self.known.truth.started_ms.get(&flight.uid);
        let has_machine = self.kubelet.as_ref().is_some_and(|kubelet| kubelet.reports.contains_key(&flight.uid));
        match flight.effect() {
            Effect::StartContainer { .. } => went_on_ms.is_some_and(|started_ms| *started_ms > flight.issued_ms),
            // Of a pod that ended in an earlier life the loop hears nothing more; the next kubelet clears it away.
            Effect::RunSandbox { .. } => self.finished.contains_key(&flight.uid) && !has_machine,
            _ => false,
        }
    }

    fn answer_after(&mut self, flight: &Flight, fate: Fate) -> u64 {
        match (&flight.job.effect, fate) {
            (_, Fate::UnknownLate) => 0,
            (_, Fate::UnknownBefore | Fate::UnknownAfter) => self.rng.between(100, 60_000),
            (Effect::PostStart { .. } | Effect::PreStop { .. }, _) => self.hook_lasts(flight),
            // An answer that was gathered and is slow to arrive is old news by then.
            (Effect::Inspect, _) if self.rng.chance(self.options.event_late) => self.rng.between(10, 8_000),
            _ => self.rng.between(1, 8),
        }
    }

    /// What the effect does to the truth, and its true outcome.
    fn really(&mut self, flight: &mut Flight) -> Outcome {
        let half = flight.fate == Fate::FailsAfter && self.rng.chance(500);
        let (uid, key) = (flight.uid.clone(), flight.job.key.clone());
        match flight.job.effect.clone() {
            Effect::SetUp if self.disk_full => failed(FailureClass::Retry, "FailedMount"),
            Effect::SetUp => {
                self.known.truth.volumes.insert(uid.clone());
                let stored = self.stored.entry(uid).or_default();
                stored.pod = flight.job.pod.clone();
                ok(Done::Nothing)
            }
            Effect::RunSandbox { attempt } => {
                let host = self.plan(flight).is_some_and(|plan| plan.host_network);
                match self.known.truth.run_sandbox(&key, attempt, host) {
                    Ok((id, ips)) => ok(Done::Sandbox { id, ips }),
                    Err(refusal) => refused(refusal),
                }
            }
            Effect::EnsureImage { container } => self.ensure_image(flight, &container),
            Effect::StartContainer { .. } => self.start(flight, half),
            Effect::PostStart { container_id, .. } | Effect::PreStop { container_id, .. } => {
                self.hook(flight, &container_id)
            }
            Effect::Probe { container_id, kind, .. } => self.probe(&container_id, kind),
            Effect::StopContainer { container_id, grace_ms } => {
                let kill_at_ms = self.known.now_ms + grace_ms;
                settled(self.known.truth.signal(&container_id, Some(kill_at_ms)))
            }
            Effect::RemoveContainer { container_id } => {
                self.flush_memory(&uid);
                let ran = self.known.truth.container(&container_id);
                if ran.is_some_and(|known| known.alive() && known.started_ms < flight.issued_ms) {
                    self.tell(&Fact::RemovedAlive(&container_id));
                }
                settled(self.known.truth.remove_container(&container_id))
            }
            Effect::StopSandbox { sandbox_id } => settled(self.known.truth.stop_sandbox(&sandbox_id)),
            Effect::RemoveSandbox { sandbox_id } => settled(self.known.truth.remove_sandbox(&sandbox_id)),
            Effect::Inspect => {
                let pod = self.known.truth.observe(&uid).map(|(_, pod, _)| pod).unwrap_or_default();
                flight.observed = Some((flight.issued_ms, pod));
                ok(Done::Nothing)
            }
            Effect::TearDown if self.mutant == Some(Mutant::AssumesGone) => ok(Done::Nothing),
            Effect::TearDown => {
                self.known.truth.volumes.remove(&uid);
                self.stored.remove(&uid);
                self.tell(&Fact::TornDown(&uid));
                ok(Done::Nothing)
            }
        }
    }

    fn plan(&self, flight: &Flight) -> Option<PodPlan> {
        flight.job.pod.as_deref().map(plan_of)
    }

    fn ensure_image(&mut self, flight: &Flight, container: &str) -> Outcome {
        let plan = self.plan(flight);
        let image = plan.and_then(|plan| Some(plan.containers.into_iter().find(|c| c.name == container)?.image));
        let Some(image) = image else { return failed(FailureClass::Retry, "InvalidImageName") };
        if self.absent_images.contains(&image) {
            return failed(FailureClass::Retry, "ErrImagePull");
        }
        ok(Done::Image { image_ref: format!("sha256:{image}") })
    }

    fn start(&mut self, flight: &Flight, half: bool) -> Outcome {
        let Effect::StartContainer { container, attempt, sandbox_id, image_ref } = flight.effect().clone() else {
            return Outcome::Unknown;
        };
        let Some(plan) = self.plan(flight) else { return failed(FailureClass::Retry, "CreateContainerConfigError") };
        let Some(of) = plan.containers.iter().find(|of| of.name == container) else {
            return failed(FailureClass::Retry, "CreateContainerConfigError");
        };
        let seen = ObservedContainer {
            id: String::new(),
            sandbox_id,
            name: container,
            attempt,
            hash: of.hash.clone(),
            state: ObservedState::Created,
            image: of.image.clone(),
            image_ref,
            created_at_ns: 0,
        };
        let created = self.known.truth.create(&flight.job.key, seen, plan.grace_ms);
        match created {
            Ok(id) if half => ok(Done::Container { id }),
            Ok(id) => match self.known.truth.start(&id) {
                Ok(()) => ok(Done::Container { id }),
                Err(refusal) => refused(refusal),
            },
            Err(refusal) => refused(refusal),
        }
    }

    fn hook_of(&self, flight: &Flight) -> Option<Hook> {
        let known = self.known.truth.container(crate::facts::container_id(flight.effect())?)?;
        Some(match flight.effect() {
            Effect::PostStart { .. } => known.run.post_start,
            _ => known.run.pre_stop,
        })
    }

    fn hook(&mut self, flight: &Flight, container_id: &str) -> Outcome {
        let grace_ms = match flight.effect() {
            Effect::PreStop { grace_ms, .. } => *grace_ms,
            _ => u64::MAX,
        };
        match self.hook_of(flight) {
            Some(Hook::Ends(lasts_ms)) if lasts_ms <= grace_ms && self.known.truth.runs(container_id) == Some(true) => {
                ok(Done::Nothing)
            }
            _ => failed(FailureClass::Retry, "HookFailed"),
        }
    }

    fn hook_lasts(&mut self, flight: &Flight) -> u64 {
        let lasts_ms = match self.hook_of(flight) {
            Some(Hook::Ends(lasts_ms) | Hook::Fails(lasts_ms)) => lasts_ms,
            Some(Hook::Hangs) => 45_000,
            None => 1,
        };
        match flight.effect() {
            Effect::PreStop { grace_ms, .. } => lasts_ms.min(*grace_ms),
            _ => lasts_ms,
        }
    }

    fn probe(&mut self, container_id: &str, kind: ProbeKind) -> Outcome {
        let now_ms = self.known.now_ms;
        let Some(known) = self.known.truth.container(container_id).filter(|known| known.alive()) else {
            return failed(FailureClass::Gone, "NotRunning");
        };
        let (age_ms, run) = (now_ms - known.started_ms, &known.run);
        let healthy = match kind {
            ProbeKind::Startup => age_ms >= run.starts_up_ms,
            ProbeKind::Liveness => run.sick_after_ms.is_none_or(|sick_ms| age_ms < sick_ms),
            ProbeKind::Readiness => age_ms < run.unready_ms.0 || age_ms >= run.unready_ms.1,
        };
        ok(Done::Probe { healthy, output: if healthy { String::new() } else { "no".to_owned() } })
    }

    /// Stops whose container is dead are answered; those that wait too long are given up on.
    pub(super) fn answer_stops(&mut self) {
        let mut due = Vec::new();
        for flight in self.known.flights.values_mut() {
            let Effect::StopContainer { container_id, grace_ms } = &flight.job.effect else { continue };
            if !flight.happened || flight.heard || flight.observed.is_some() || flight.fate == Fate::FailsAfter {
                continue;
            }
            let dead = self.known.truth.runs(container_id) != Some(true);
            let gives_up_ms = flight.issued_ms + grace_ms + CALL_WITHIN_MS;
            if dead && matches!(flight.outcome, Some(Outcome::Ok(_))) {
                // Marks it as answered: a stop observes nothing.
                flight.observed = Some((0, Default::default()));
                due.push((2, flight.serial));
            } else if self.known.now_ms >= gives_up_ms && matches!(flight.outcome, Some(Outcome::Ok(_))) {
                flight.outcome = Some(Outcome::Unknown);
                flight.observed = Some((0, Default::default()));
                due.push((0, flight.serial));
            }
        }
        for (after_ms, serial) in due {
            self.at(after_ms, Happening::Answer(serial));
        }
    }

    /// The outcome reaches the kubelet.
    pub(super) fn answer(&mut self, serial: u64) {
        let Some(mut flight) = self.known.flights.remove(&serial) else { return };
        let orphaned = flight.epoch != self.known.epoch || self.kubelet.is_none();
        if flight.heard || orphaned {
            return;
        }
        if self.rng.chance(self.options.kill_before_heard) {
            self.note(format_args!("{}: the kubelet dies before it hears of {}", flight.uid, flight.id.0));
            return self.kill();
        }
        flight.heard = true;
        let outcome = flight.outcome.clone().unwrap_or(Outcome::Unknown);
        self.note(format_args!("{}/{} end {} {}", flight.uid, flight.generation, flight.id.0, brief(&outcome)));
        let inspected = *flight.effect() == Effect::Inspect;
        let observed = flight.observed.clone().filter(|_| inspected && matches!(outcome, Outcome::Ok(_)));
        let current = self.kubelet.as_ref().and_then(|kubelet| kubelet.reports.get(&flight.uid));
        let current = current.is_some_and(|(generation, _)| *generation == flight.generation);
        // What a machine that is gone has asked, nobody hears.
        if let Some((stamp_ms, pod)) = observed.as_ref().filter(|_| current) {
            let fact = Fact::Saw { uid: &flight.uid, stamp_ms: *stamp_ms, pod };
            super::judge((&mut self.checkers, &mut self.marks), &fact, &self.known, &mut self.broken);
        }
        let fact = Fact::Heard { flight: &flight, outcome: &outcome };
        super::judge((&mut self.checkers, &mut self.marks), &fact, &self.known, &mut self.broken);
        if flight.given_up && matches!(outcome, Outcome::Ok(_)) {
            self.mark(Mark::CancelledLate);
        }
        let repeats = self.rng.chance(self.options.repeats);
        let retries = self.mutant == Some(Mutant::RetriesUnknown) && outcome == Outcome::Unknown;
        let message = completed(&flight, outcome, observed);
        let (uid, again) = (flight.uid.clone(), (flight.uid.clone(), flight.generation, flight.id, flight.job.clone()));
        if repeats {
            let after_ms = self.rng.between(1, 20_000);
            self.at(after_ms, Happening::Repeat(serial));
            self.known.flights.insert(serial, flight);
        }
        self.deliver(message, Some(&uid));
        if retries {
            self.issue((again.0, again.1, EffectId(again.2.0 + 1_000_000)), again.3);
        }
    }

    /// A completion comes once more: nobody waits for it any longer, so nothing may follow.
    pub(super) fn repeat(&mut self, serial: u64) {
        let Some(flight) = self.known.flights.remove(&serial) else { return };
        if flight.epoch != self.known.epoch || self.kubelet.is_none() {
            return;
        }
        self.tick();
        let now = self.now();
        let Some(kubelet) = &mut self.kubelet else { return };
        let before =
            kubelet.agent.machines().map(|(uid, _, machine)| (uid.to_owned(), machine.report())).collect::<Vec<_>>();
        let outcome = flight.outcome.clone().unwrap_or(Outcome::Unknown);
        let mut requests = kubelet.take(now, completed(&flight, outcome, None));
        let after =
            kubelet.agent.machines().map(|(uid, _, machine)| (uid.to_owned(), machine.report())).collect::<Vec<_>>();
        if self.mutant == Some(Mutant::HeedsStale) {
            requests.push(agent::core::Request::Inspect(flight.uid.clone()));
        }
        self.mark(Mark::StaleCompletion);
        self.note(format_args!("{}/{} end {} again", flight.uid, flight.generation, flight.id.0));
        if before != after || !requests.is_empty() {
            let how = format!("a stale completion of {:?} had effects: {requests:?}", flight.effect());
            self.breaks("rule 6", &how);
        }
        self.after(Some(&flight.uid), requests);
    }

    /// Which effects the kubelet has given up since, and what their executors say.
    pub(super) fn see_cancels(&mut self) {
        if self.mutant == Some(Mutant::DropsCancel) {
            return;
        }
        let epoch = self.known.epoch;
        let fresh: Vec<u64> = self
            .known
            .flights
            .values_mut()
            .filter(|flight| {
                flight.epoch == epoch && !flight.heard && !flight.given_up && flight.job.cancel.is_cancelled()
            })
            .map(|flight| {
                flight.given_up = true;
                flight.serial
            })
            .collect();
        for serial in fresh {
            self.note(format_args!("cancel {serial}"));
            if !self.rng.chance(self.options.cancels_late) {
                let after_ms = self.rng.between(0, 3);
                self.at(after_ms, Happening::Cancelled(serial));
            }
        }
    }

    /// The executor lets go of what it can let go of: images, probes and hooks at any time, the rest while it was not begun.
    pub(super) fn acknowledge(&mut self, serial: u64) {
        let Some(flight) = self.known.flights.get_mut(&serial) else { return };
        let gentle = matches!(
            flight.job.effect,
            Effect::EnsureImage { .. } | Effect::PostStart { .. } | Effect::PreStop { .. } | Effect::Probe { .. }
        );
        if flight.heard || flight.happened && !gentle || !gentle && flight.outcome.is_some() {
            return;
        }
        flight.happened = true;
        flight.outcome = Some(failed(FailureClass::Cancelled, ""));
        self.answer(serial);
    }
}

fn completed(flight: &Flight, outcome: Outcome, observed: Option<(u64, lifecycle::ObservedPod)>) -> Message {
    let mut performed = Performed::new(outcome);
    performed.observed = observed;
    Message::Completed { uid: flight.uid.clone(), generation: flight.generation, id: flight.id, performed }
}

fn is_file_work(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::SetUp | Effect::TearDown | Effect::Probe { .. } | Effect::PostStart { .. } | Effect::PreStop { .. }
    )
}

fn ok(done: Done) -> Outcome {
    Outcome::Ok(done)
}

pub(super) fn failed(class: FailureClass, reason: &str) -> Outcome {
    Outcome::Failed(Failure { class, reason: reason.to_owned(), message: "the world is bad".to_owned() })
}

fn refused(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::NotFound => failed(FailureClass::Gone, "NotFound"),
        Refusal::Conflict => failed(FailureClass::Retry, "NameReserved"),
    }
}

/// What is not there has ended, as the agent's executors see it.
fn settled(answer: Result<(), Refusal>) -> Outcome {
    match answer {
        Ok(()) | Err(Refusal::NotFound) => ok(Done::Nothing),
        Err(Refusal::Conflict) => refused(Refusal::Conflict),
    }
}

fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(done) => format!("{done:?}"),
        Outcome::Failed(failure) => format!("{:?} {}", failure.class, failure.reason),
        Outcome::Unknown => "Unknown".to_owned(),
    }
}
