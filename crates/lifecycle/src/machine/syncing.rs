//! A wanted pod: from whatever the runtime holds towards what the plan says.

use super::core::Core;
use super::ledger::Subject;
use super::record::Container;
use super::retry::Retry;
use crate::backoff::{Backoff, CRASH, IMAGE, IMAGE_LOCAL, RETRY};
use crate::{Action, ContainerPlan, Effect, Failure, Millis, ObservedState, Phase, PodPlan, PullPolicy, RestartPolicy};
use pod::reasons;

#[derive(Debug)]
pub(crate) struct Syncing {
    pub(crate) is_set_up: bool,
    pub(crate) set_up: Retry,
    pub(crate) sandbox: Retry,
    /// One for each container of the plan, in its order.
    pub(crate) slots: Vec<Slot>,
}

/// What is remembered of one container of the plan beyond what the runtime shows.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) image: Image,
    pub(crate) pull: Retry,
    /// Of restarts after an exit.
    pub(crate) crash: Backoff,
    /// The attempt for which the back-off last grew.
    paced_attempt: Option<u32>,
    /// Of creating and starting one attempt.
    pub(crate) start: Retry,
    /// The attempt that last failed to start.
    failed_attempt: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// Nothing was asked yet: a container from before a restart of the kubelet may tell.
    Unasked,
    /// It must be ensured before the next start.
    Stale,
    Resolved(String),
}

/// What should become of one container of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs, or is being stopped.
    Alive,
    /// It ended for good.
    Done,
    Start {
        attempt: u32,
        due_ms: Millis,
    },
}

/// What the pod's sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Something is to be started in one.
    Start,
    /// What runs in it goes on.
    Keep,
    /// Everything ended for good.
    Rest,
}

impl Slot {
    fn new(plan: &ContainerPlan) -> Slot {
        let (image, pace) = match plan.pull_policy {
            PullPolicy::Always => (Image::Stale, IMAGE),
            PullPolicy::IfNotPresent => (Image::Unasked, IMAGE),
            PullPolicy::Never => (Image::Unasked, IMAGE_LOCAL),
        };
        Slot {
            image,
            pull: Retry::new(pace),
            crash: Backoff::new(CRASH),
            paced_attempt: None,
            start: Retry::new(RETRY),
            failed_attempt: None,
        }
    }

    pub(crate) fn image_resolved(&mut self, image_ref: String) {
        self.image = Image::Resolved(image_ref);
        self.pull.succeeded();
    }

    pub(crate) fn started(&mut self, policy: PullPolicy) {
        self.start.succeeded();
        self.failed_attempt = None;
        if policy == PullPolicy::Always {
            self.image = Image::Stale;
        }
    }

    pub(crate) fn start_failed(&mut self, attempt: u32, now_ms: Millis, failure: Failure) {
        self.start.failed(now_ms, failure);
        // It may have been created all the same, and the image may be what is missing.
        self.start.doubt(now_ms);
        self.failed_attempt = Some(attempt);
        self.image = Image::Stale;
    }

    pub(crate) fn start_unknown(&mut self, now_ms: Millis) {
        self.start.unknown(now_ms);
    }
}

impl Syncing {
    pub(crate) fn new(plan: &PodPlan) -> Syncing {
        Syncing {
            is_set_up: false,
            set_up: Retry::new(RETRY),
            sandbox: Retry::new(RETRY),
            slots: plan.containers.iter().map(Slot::new).collect(),
        }
    }

    /// Takes over a new plan. What changed forgets its past; what did not keeps it.
    pub(crate) fn replan(&mut self, core: &mut Core, plan: PodPlan, actions: &mut Vec<Action>) {
        let former = std::mem::replace(&mut core.plan, plan);
        let mut slots: Vec<Option<Slot>> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        let kept = |plan: &ContainerPlan, former: &ContainerPlan| {
            plan.name == former.name && plan.hash == former.hash && plan.pull_policy == former.pull_policy
        };
        for plan in &core.plan.containers {
            let slot = former.containers.iter().position(|f| kept(plan, f)).and_then(|index| slots[index].take());
            self.slots.push(slot.unwrap_or_else(|| Slot::new(plan)));
        }
        let plans = &core.plan.containers;
        let obsolete = core.ledger.cancel(|flight| match &flight.effect {
            Effect::EnsureImage { container } => {
                !plans.iter().any(|plan| &plan.name == container && plan.hash == flight.hash)
            }
            _ => false,
        });
        actions.extend(obsolete.into_iter().map(Action::Cancel));
    }

    /// Everything ended for good: the phase in which the pod rests.
    pub(crate) fn step(&mut self, core: &mut Core, settled: Option<Phase>, actions: &mut Vec<Action>) -> Option<Phase> {
        if !core.observed() {
            core.look_after(0);
            return None;
        }
        self.stop_unwanted(core, actions);
        let verdicts: Vec<Verdict> = (0..self.slots.len())
            .map(|index| if settled.is_some() { Verdict::Done } else { self.verdict(core, index) })
            .collect();
        let aim = self.aim(core, &verdicts);
        if aim == Aim::Start || core.record.any_alive() {
            self.set_up(core, actions);
        }
        self.keep_sandbox(core, aim, actions);
        for (index, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Verdict::Start { due_ms, .. } if core.now.mono_ms < due_ms => core.wake(due_ms),
                Verdict::Start { attempt, .. } if aim == Aim::Start => {
                    self.ensure_image(core, index, actions);
                    self.start(core, (index, attempt), actions);
                }
                _ => {}
            }
        }
        remove_superseded(core, actions);
        (aim == Aim::Rest).then(|| final_phase(core))
    }

    fn aim(&self, core: &Core, verdicts: &[Verdict]) -> Aim {
        let at_rest = |(verdict, plan): (&Verdict, &ContainerPlan)| {
            *verdict == Verdict::Done && !core.ledger.busy_name(&plan.name)
        };
        if !barred(core) && verdicts.iter().any(|verdict| matches!(verdict, Verdict::Start { .. })) {
            Aim::Start
        } else if !verdicts.is_empty() && verdicts.iter().zip(&core.plan.containers).all(at_rest) {
            Aim::Rest
        } else {
            Aim::Keep
        }
    }

    fn set_up(&mut self, core: &mut Core, actions: &mut Vec<Action>) {
        if !self.is_set_up && !core.ledger.busy(&Subject::Pod) && core.passes(core.gate(&self.set_up)) {
            core.emit(Effect::SetUp, Subject::Pod, actions);
        }
    }

    /// Stops what runs and should not: strangers, old attempts, changed containers, those outside the pod's sandbox.
    fn stop_unwanted(&self, core: &mut Core, actions: &mut Vec<Action>) {
        for index in 0..core.record.containers.len() {
            let known = &core.record.containers[index];
            if !known.alive() {
                continue;
            }
            let plan = core.plan.containers.iter().find(|plan| plan.name == known.seen.name);
            let changed = plan.is_some_and(|plan| plan.hash != known.seen.hash);
            let at_home = core.record.home().is_some_and(|home| home.seen.id == known.seen.sandbox_id);
            // While a sandbox is being made or stopped its readiness says nothing yet.
            let homeless = !at_home && !core.ledger.busy(&Subject::Sandbox(Some(known.seen.sandbox_id.clone())));
            let newest = core.record.newest(&known.seen.name).is_some_and(|newest| newest.seen.id == known.seen.id);
            let lost = known.seen.state == ObservedState::Unknown;
            if plan.is_some() && newest && !changed && !homeless && !lost {
                continue;
            }
            if changed || homeless && core.plan.restart_policy != RestartPolicy::Never {
                core.record.containers[index].replace = true;
            }
            let kill_at_ms = core.now.mono_ms.saturating_add(core.plan.grace_ms);
            core.stop_container(index, kill_at_ms, actions);
        }
    }

    pub(crate) fn verdict(&self, core: &Core, index: usize) -> Verdict {
        let (plan, slot) = (&core.plan.containers[index], &self.slots[index]);
        let Some(newest) = core.record.newest(&plan.name) else {
            return Verdict::Start { attempt: 0, due_ms: 0 };
        };
        let attempt = newest.seen.attempt;
        match &newest.seen.state {
            _ if newest.alive() => Verdict::Alive,
            ObservedState::Exited { exit_code, .. } => {
                let replaced = newest.replace || newest.seen.hash != plan.hash;
                if replaced {
                    // We ended it; that says nothing of the workload, so it waits for nothing and counts as no crash.
                    return Verdict::Start { attempt: attempt + 1, due_ms: 0 };
                }
                if !restarts(core.plan.restart_policy, *exit_code) {
                    return Verdict::Done;
                }
                // A try for this attempt was paced already; its own failures set the pace from there.
                let due_ms = match slot.paced_attempt {
                    Some(paced) if paced > attempt => 0,
                    _ => slot.crash.due_ms(newest.exited_ms),
                };
                Verdict::Start { attempt: attempt + 1, due_ms }
            }
            _ if is_startable(newest, plan, core) && slot.failed_attempt != Some(attempt) => {
                Verdict::Start { attempt, due_ms: 0 }
            }
            _ => Verdict::Start { attempt: attempt + 1, due_ms: 0 },
        }
    }

    fn ensure_image(&mut self, core: &mut Core, index: usize, actions: &mut Vec<Action>) {
        let plan = &core.plan.containers[index];
        let slot = &mut self.slots[index];
        if slot.image == Image::Unasked
            && let Some(newest) = core.record.newest(&plan.name)
            && newest.seen.hash == plan.hash
            && !newest.seen.image_ref.is_empty()
        {
            slot.image = Image::Resolved(newest.seen.image_ref.clone());
        }
        let subject = Subject::Image(plan.name.clone());
        if matches!(slot.image, Image::Resolved(_)) || core.ledger.busy(&subject) {
            return;
        }
        if slot.pull.failure.is_some() && core.now.mono_ms < slot.pull.half_ms() {
            // The report turns from the error to the back-off.
            core.wake(slot.pull.half_ms());
        }
        if core.passes(core.gate(&slot.pull)) {
            let container = core.plan.containers[index].name.clone();
            core.emit(Effect::EnsureImage { container }, subject, actions);
        }
    }

    fn start(&mut self, core: &mut Core, (index, attempt): (usize, u32), actions: &mut Vec<Action>) {
        let name = &core.plan.containers[index].name;
        let slot = &mut self.slots[index];
        let (true, Some(home), Image::Resolved(image_ref)) = (self.is_set_up, core.record.home(), &slot.image) else {
            return;
        };
        // Never two of one name: not while an older one may still run, whatever became of the newest.
        let doubled = core.record.containers.iter().any(|known| known.alive() && known.seen.name == *name);
        if doubled || core.ledger.busy_name(name) {
            return;
        }
        let effect = Effect::StartContainer {
            container: name.clone(),
            attempt,
            sandbox_id: home.seen.id.clone(),
            image_ref: image_ref.clone(),
        };
        let subject = Subject::Container { name: name.clone(), id: None };
        let hash = &core.plan.containers[index].hash;
        let crashed =
            |newest: &&Container| newest.exit_code().is_some() && !newest.replace && newest.seen.hash == *hash;
        let exited_ms = core.record.newest(name).filter(crashed).map(|newest| newest.exited_ms);
        if !core.passes(core.gate(&slot.start)) {
            return;
        }
        if let Some(exited_ms) = exited_ms
            && slot.paced_attempt != Some(attempt)
        {
            slot.crash.step(exited_ms, core.now.mono_ms);
            slot.paced_attempt = Some(attempt);
        }
        core.emit(effect, subject, actions);
    }

    /// One sandbox that serves while something is to be started, and none that does not.
    fn keep_sandbox(&mut self, core: &mut Core, aim: Aim, actions: &mut Vec<Action>) {
        if core.ledger.iter().any(|flight| matches!(flight.effect, Effect::RunSandbox { .. })) {
            return;
        }
        let home = core.record.home().map(|home| home.seen.id.clone());
        let mut stale = false;
        for index in 0..core.record.sandboxes.len() {
            let known = &core.record.sandboxes[index];
            if known.gone || home.as_ref() == Some(&known.seen.id) && aim != Aim::Rest {
                continue;
            }
            let id = &known.seen.id;
            if !known.stopped {
                stale = true;
                if core.is_idle(id) {
                    core.stop_sandbox(index, actions);
                }
            } else if home.is_some()
                && home.as_ref() != Some(id)
                && !core.record.containers.iter().any(|container| !container.gone && container.seen.sandbox_id == *id)
            {
                // Removing a sandbox removes its containers' records: the last exit code must not go with it.
                core.remove_sandbox(index, actions);
            }
        }
        let wanted = aim == Aim::Start && home.is_none() && !stale && self.is_set_up && !core.record.any_alive();
        if wanted && !core.ledger.busy(&Subject::Sandbox(None)) && core.passes(core.gate(&self.sandbox)) {
            let attempt = core.record.next_sandbox_attempt();
            core.emit(Effect::RunSandbox { attempt }, Subject::Sandbox(None), actions);
        }
    }

    /// An image may have come: what waits for one looks again.
    pub(crate) fn images_changed(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.pull.hurry());
    }
}

/// Whether a container that exited is to run again.
pub(crate) fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// A pod that is never restarted gets no second sandbox once anything of it ran.
pub(crate) fn barred(core: &Core) -> bool {
    core.plan.restart_policy == RestartPolicy::Never && core.record.any_ran() && core.record.home().is_none()
}

/// Created, never started, and still what is wanted: the attempt goes on.
fn is_startable(known: &Container, plan: &ContainerPlan, core: &Core) -> bool {
    !known.gone
        && known.seen.hash == plan.hash
        && core.record.home().is_some_and(|home| home.seen.id == known.seen.sandbox_id)
}

/// Removes what newer attempts have made useless, and what strangers left. The newest finished run stays: it is the last
/// state, and its log the previous one.
fn remove_superseded(core: &mut Core, actions: &mut Vec<Action>) {
    for index in 0..core.record.containers.len() {
        let known = &core.record.containers[index];
        if known.gone || known.alive() {
            continue;
        }
        let stranger = !core.plan.containers.iter().any(|plan| plan.name == known.seen.name);
        let busy = core.ledger.busy_name(&known.seen.name);
        if !busy && (stranger || !core.record.keeps(index)) {
            core.remove_container(index, actions);
        }
    }
}

fn final_phase(core: &Core) -> Phase {
    let succeeded = core
        .plan
        .containers
        .iter()
        .all(|plan| core.record.newest(&plan.name).and_then(|newest| newest.exit_code()) == Some(0));
    if succeeded { Phase::Succeeded } else { Phase::Failed }
}

/// Failures of looking for an image that a later look may not share, and that are no failed pull.
pub(crate) fn is_pull_failure(reason: &str) -> bool {
    !matches!(reason, reasons::ERR_IMAGE_NEVER_PULL | reasons::INVALID_IMAGE_NAME | reasons::IMAGE_INSPECT_ERROR)
}
