//! A wanted pod: from whatever the runtime holds towards what the plan says.

use super::core::Core;
use super::ledger::Subject;
use super::order::{self, Outlook, Verdict, barred};
use super::record::{Container, Sequel};
use super::retry::Retry;
use super::slot::{Image, Slot};
use super::stopping::{Order, Stop};
use super::telling::{self, Why, tell};
use super::{hooks, probing, restart_all};
use crate::backoff::RETRY;
use crate::{
    Action, ContainerKind, ContainerPlan, Done, Effect, Failure, Millis, ObservedState, Outcome, Phase, PodPlan,
    RestartPolicy,
};
use pod::reasons;

#[derive(Debug, Clone)]
pub(crate) struct Syncing {
    pub(crate) is_set_up: bool,
    pub(crate) set_up: Retry,
    pub(crate) sandbox: Retry,
    /// One for each container of the plan, in its order.
    pub(crate) slots: Vec<Slot>,
    /// The work is over: when what still runs is to be dead.
    pub(crate) kill_at_ms: Option<Millis>,
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

impl Syncing {
    pub(crate) fn new(plan: &PodPlan) -> Syncing {
        Syncing {
            is_set_up: false,
            set_up: Retry::new(RETRY),
            sandbox: Retry::new(RETRY),
            slots: plan.containers.iter().map(|c| Slot::new(c, plan.max_restart_delay_ms)).collect(),
            kill_at_ms: None,
        }
    }

    /// Takes over a new plan. What changed forgets its past; what did not keeps it.
    pub(crate) fn replan(&mut self, core: &mut Core, plan: PodPlan, actions: &mut Vec<Action>) {
        let former = core.replan(plan);
        let mut slots: Vec<Option<Slot>> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        let kept = |plan: &ContainerPlan, former: &ContainerPlan| {
            plan.name == former.name && plan.hash == former.hash && plan.pull_policy == former.pull_policy
        };
        for plan in &core.plan.containers {
            let index = former.containers.iter().position(|former| former.name == plan.name);
            let slot = match index.and_then(|index| Some((&former.containers[index], slots[index].take()?))) {
                Some((former, slot)) if kept(plan, former) => slot,
                Some((_, slot)) => {
                    let mut fresh = Slot::new(plan, core.plan.max_restart_delay_ms);
                    fresh.start.inherit_doubt(&slot.start);
                    fresh
                }
                None => Slot::new(plan, core.plan.max_restart_delay_ms),
            };
            self.slots.push(slot);
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
        let outlook = settled.map_or_else(|| order::outlook(core, &self.slots), Outlook::Over);
        let rests = match outlook {
            Outlook::Over(phase) => self.wind_down(core, actions).then_some(phase),
            Outlook::RestartAll(source) => {
                self.kill_at_ms = None;
                self.set_up(core, actions);
                restart_all::step(core, source, actions);
                None
            }
            Outlook::Going(verdicts) => {
                self.kill_at_ms = None;
                stop_unwanted(core, actions);
                // What was just condemned may have changed whose turn it is.
                let aim = self.aim(core, &verdicts);
                if aim == Aim::Start || core.record.any_alive() {
                    self.set_up(core, actions);
                }
                self.keep_sandbox(core, aim, actions);
                self.start_due(core, (&verdicts, aim), actions);
                hooks::run_due(core, actions);
                None
            }
        };
        remove_superseded(core, actions);
        probing::ask_due(core, actions);
        rests
    }

    /// The work is over: what still runs is stopped, in its order and within one grace. True when nothing is left.
    fn wind_down(&mut self, core: &mut Core, actions: &mut Vec<Action>) -> bool {
        let fresh_ms = core.now.mono_ms.saturating_add(core.plan.grace_ms);
        let alive = core.record.any_alive();
        if alive {
            let kill_at_ms = *self.kill_at_ms.get_or_insert(fresh_ms);
            self.set_up(core, actions);
            for index in 0..core.record.containers.len() {
                if core.record.containers[index].alive() {
                    let stop = Stop { kill_at_ms, why: Why::Unwanted, order: Order::LastFirst };
                    core.stop_container(index, stop, actions);
                }
            }
        }
        let busy = core.plan.containers.iter().any(|plan| core.ledger.busy_name(&plan.name));
        self.keep_sandbox(core, if alive || busy { Aim::Keep } else { Aim::Rest }, actions);
        !alive && !busy
    }

    fn aim(&self, core: &Core, verdicts: &[Verdict]) -> Aim {
        let starts = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Start { .. }));
        if starts && !barred(core) { Aim::Start } else { Aim::Keep }
    }

    fn set_up(&mut self, core: &mut Core, actions: &mut Vec<Action>) {
        if !self.is_set_up && !core.ledger.busy(&Subject::Pod) && core.passes(core.gate(&self.set_up)) {
            core.emit(Effect::SetUp, Subject::Pod, actions);
        }
    }

    fn start_due(&mut self, core: &mut Core, (verdicts, aim): (&[Verdict], Aim), actions: &mut Vec<Action>) {
        let mut hook_ahead = false;
        for (index, verdict) in verdicts.iter().enumerate() {
            match *verdict {
                Verdict::Start { attempt, due_ms } if core.now.mono_ms < due_ms => {
                    core.wake(due_ms);
                    let slot = &mut self.slots[index];
                    if slot.told_attempt != Some(attempt) {
                        slot.told_attempt = Some(attempt);
                        tell(telling::back_off(core, &core.plan.containers[index].name), actions);
                    }
                }
                Verdict::Start { attempt, .. } if aim == Aim::Start => {
                    self.ensure_image(core, index, actions);
                    if !hook_ahead {
                        self.start(core, (index, attempt), actions);
                    }
                }
                _ => {}
            }
            hook_ahead |= self.hook_is_ahead(core, (index, *verdict));
        }
    }

    /// No regular container starts past one whose `postStart` hook has yet to run, unless that one is in trouble.
    fn hook_is_ahead(&self, core: &Core, (index, verdict): (usize, Verdict)) -> bool {
        let (plan, slot, life) = (&core.plan.containers[index], &self.slots[index], &core.lives[index]);
        if !plan.post_start || plan.kind != ContainerKind::Regular {
            return false;
        }
        match verdict {
            Verdict::Start { due_ms, .. } => {
                let image_failed = self.image_failure(&core.plan.containers, index).is_some();
                due_ms <= core.now.mono_ms && !image_failed && slot.start.failure.is_none()
            }
            Verdict::Alive => core
                .record
                .newest(&plan.name)
                .is_some_and(|newest| newest.kill_at_ms.is_none() && !(life.is_of(&newest.seen.id) && life.hooked)),
            Verdict::Done | Verdict::Later => false,
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
        if !slot.wants_image() || asks_for_image(core, index) {
            return;
        }
        let pull = self.pull_of(&core.plan.containers, index);
        if let Some(failure) = &pull.failure
            && is_pull_failure(&failure.reason)
        {
            if core.now.mono_ms < pull.half_ms() {
                // The report turns from the error to the back-off.
                core.wake(pull.half_ms());
            } else if core.now.mono_ms < pull.due_ms() && self.slots[index].told_pull_ms != Some(pull.failed_ms()) {
                self.slots[index].told_pull_ms = Some(pull.failed_ms());
                telling::pull_back_off(&core.plan.containers[index], actions);
            }
        }
        let pull = self.pull_of(&core.plan.containers, index);
        if core.passes(core.gate(pull)) {
            let container = core.plan.containers[index].name.clone();
            let subject = Subject::Image(container.clone());
            core.emit(Effect::EnsureImage { container }, subject, actions);
        }
    }

    /// How it goes with the image of a container.
    pub(crate) fn pull_of(&self, plans: &[ContainerPlan], index: usize) -> &Retry {
        &self.slots[first_of_image(plans, index)].pull
    }

    pub(crate) fn image_ensured(&mut self, core: &Core, index: usize, outcome: Outcome) {
        if let Outcome::Ok(Done::Image { image_ref }) = &outcome {
            self.slots[index].image = Image::Resolved(image_ref.clone());
        }
        let first = first_of_image(&core.plan.containers, index);
        self.slots[first].pull.settle(core.now.mono_ms, outcome);
    }

    /// Why the image that a container waits for is not there.
    pub(crate) fn image_failure(&self, plans: &[ContainerPlan], index: usize) -> Option<&Failure> {
        self.pull_of(plans, index).failure.as_ref().filter(|_| self.slots[index].wants_image())
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
        let crashed = |newest: &&Container| {
            newest.exit_code().is_some() && newest.sequel != Sequel::AtOnce && newest.seen.hash == *hash
        };
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
            if attempt > 0 && self.sandbox.failure.is_none() {
                tell(telling::sandbox_changed(), actions);
            }
            core.emit(Effect::RunSandbox { attempt }, Subject::Sandbox(None), actions);
        }
    }

    /// An image may have come: what waits for one looks again.
    pub(crate) fn images_changed(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.pull.hurry());
    }
}

/// The first container of the pod that has the same image, and asks for it in the same way.
fn first_of_image(plans: &[ContainerPlan], index: usize) -> usize {
    plans.iter().position(|plan| shares_image(plan, &plans[index])).unwrap_or(index)
}

/// Another policy may have another answer, and a pace of its own: what is present is enough for one and not for the other.
fn shares_image(plan: &ContainerPlan, other: &ContainerPlan) -> bool {
    plan.image == other.image && plan.pull_policy == other.pull_policy
}

/// Whether this container's image is being made present, for it or for another one.
fn asks_for_image(core: &Core, index: usize) -> bool {
    let plan = &core.plan.containers[index];
    core.ledger.iter().any(|flight| match &flight.effect {
        Effect::EnsureImage { container } => {
            let other = core.plan.containers.iter().find(|other| other.name == *container);
            *container == plan.name || !flight.cancelled && other.is_some_and(|other| shares_image(other, plan))
        }
        _ => false,
    })
}

/// Failures that a back-off is told of: the others are no failed pull, and the next look may show something else.
pub(crate) fn is_pull_failure(reason: &str) -> bool {
    !matches!(reason, reasons::ERR_IMAGE_NEVER_PULL | reasons::INVALID_IMAGE_NAME | reasons::IMAGE_INSPECT_ERROR)
}

/// Stops what runs and should not: strangers, old attempts, changed containers, those outside the pod's sandbox; and goes
/// on with every stop that began.
fn stop_unwanted(core: &mut Core, actions: &mut Vec<Action>) {
    for index in 0..core.record.containers.len() {
        let known = &core.record.containers[index];
        if !known.alive() {
            continue;
        }
        let plan = core.plan.containers.iter().find(|plan| plan.name == known.seen.name);
        // What an init container does is done once, whatever its image is by now.
        let changed = plan.is_some_and(|plan| plan.kind != ContainerKind::Init && plan.hash != known.seen.hash);
        let at_home = core.record.home().is_some_and(|home| home.seen.id == known.seen.sandbox_id);
        // While a sandbox is being made or stopped its readiness says nothing yet.
        let homeless = !at_home && !core.ledger.busy(&Subject::Sandbox(Some(known.seen.sandbox_id.clone())));
        let newest = core.record.newest(&known.seen.name).is_some_and(|newest| newest.seen.id == known.seen.id);
        let lost = known.seen.state == ObservedState::Unknown;
        let stopping = known.kill_at_ms.is_some();
        if plan.is_some() && newest && !changed && !homeless && !lost && !stopping {
            continue;
        }
        if changed || homeless && core.plan.restart_policy != RestartPolicy::Never {
            core.record.containers[index].sequel = Sequel::AtOnce;
        }
        let kill_at_ms = core.kill_at_ms(index);
        let why = if changed { Why::Changed } else { Why::Unwanted };
        core.stop_container(index, Stop { kill_at_ms, why, order: Order::Alone }, actions);
    }
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
