//! From what is known to what is said.

use super::core::Core;
use super::order::{self, Fate, Outlook, Verdict};
use super::record::Container;
use super::slot::Slot;
use super::syncing::{Syncing, is_pull_failure};
use super::{PodMachine, Stage, State};
use crate::backoff::go_duration;
use crate::{
    Condition, Conditions, ContainerKind, ContainerPlan, ContainerReport, ContainerState, Failure, ObservedState,
    Phase, PodReport, RestartAction, Terminated, WaitingReason,
};
use pod::reasons;

/// What is to be said, seen from the decisions that were taken.
struct View<'a> {
    machine: &'a PodMachine,
    core: &'a Core,
    /// None unless the pod is being kept up.
    outlook: Option<Outlook>,
}

impl View<'_> {
    /// An init container that must have done its work, for a later one was begun.
    fn has_passed(&self, index: usize) -> bool {
        matches!(&self.outlook, Some(Outlook::Going(verdicts)) if verdicts[index] == Verdict::Done)
            && self.core.plan.containers[index].kind == ContainerKind::Init
    }
}

/// The end of an init container of which no record is left.
fn unseen_end() -> Terminated {
    Terminated {
        exit_code: 0,
        reason: reasons::COMPLETED.to_owned(),
        message: "Its record is gone; as the pod has been initialized, it is taken to have completed".to_owned(),
        started_at_ns: 0,
        finished_at_ns: 0,
        container_id: String::new(),
    }
}

pub(super) fn report(machine: &PodMachine) -> PodReport {
    let core = &machine.core;
    let outlook = match &machine.state {
        State::Syncing(syncing) if machine.settled.is_none() => Some(order::outlook(core, &syncing.slots)),
        _ => None,
    };
    let view = View { machine, core, outlook };
    let containers: Vec<ContainerReport> =
        (0..core.plan.containers.len()).map(|index| container(&view, index)).collect();
    let ending = machine.settled.as_ref();
    let phase = ending.map_or_else(|| phase(core, &containers), |ending| ending.phase);
    let home = core.record.home();
    PodReport {
        uid: core.plan.uid.clone(),
        stage: machine.stage(),
        observed: core.observed(),
        phase,
        reason: ending.map_or_else(String::new, |ending| ending.reason.clone()),
        message: ending.map_or_else(String::new, |ending| ending.message.clone()),
        observed_generation: core.plan.generation,
        start_time_ns: core.start_ns,
        ips: home.map_or_else(Vec::new, |home| home.seen.ips.clone()),
        conditions: conditions(&view, phase, &containers),
        containers,
        problem: problem(&view).cloned(),
        kill_at_ms: match &machine.state {
            State::Terminating(terminating) => Some(terminating.kill_at_ms),
            State::Terminated(terminated) => Some(terminated.kill_at_ms),
            State::Waiting | State::Syncing(_) | State::Finished => None,
        },
    }
}

fn container(view: &View, index: usize) -> ContainerReport {
    let core = view.core;
    let (plan, life) = (&core.plan.containers[index], &core.lives[index]);
    let newest = core.record.newest(&plan.name);
    let waiting = match &view.machine.state {
        State::Syncing(syncing) => waits(view, syncing, index),
        State::Waiting => {
            Some((default_reason(core), format!("waiting for the former pod {} to end", core.plan.full_name)))
        }
        _ => None,
    };
    let finished = newest.and_then(terminated);
    // The end of the newest container itself is its state, not the one before it.
    let is_older = |last: &Terminated| newest.is_none_or(|newest| newest.seen.id != last.container_id);
    let remembered = || life.memory.as_ref().and_then(|memory| memory.last.clone()).filter(is_older);
    let previous = || core.record.previous(&plan.name).and_then(terminated).or_else(remembered);
    let running = newest.and_then(running_since);
    let (state, last) = match (running, finished, waiting) {
        (Some(_), _, Some((reason, message))) => (ContainerState::Waiting { reason, message }, previous()),
        (Some(started_at_ns), _, None) => (ContainerState::Running { started_at_ns }, previous()),
        (None, Some(finished), None) => (ContainerState::Terminated(finished), previous()),
        (None, Some(finished), Some((reason, message))) => {
            (ContainerState::Waiting { reason, message }, Some(finished))
        }
        (None, None, None) if view.has_passed(index) => (ContainerState::Terminated(unseen_end()), previous()),
        (None, None, waiting) => {
            let (reason, message) = waiting.unwrap_or_else(|| (default_reason(core), String::new()));
            (ContainerState::Waiting { reason, message }, previous())
        }
    };
    let attempt = newest.map_or(0, |newest| newest.seen.attempt);
    let container_id = newest.map_or_else(String::new, |newest| newest.seen.id.clone());
    // Runtimes have words of their own for an image; where the container is of this very plan, its word is known.
    let other = newest.map(|newest| &newest.seen).filter(|seen| seen.hash != plan.hash && !seen.image.is_empty());
    let completed = matches!(&state, ContainerState::Terminated(ended) if ended.exit_code == 0);
    ContainerReport {
        name: plan.name.clone(),
        kind: plan.kind,
        last,
        restart_count: attempt.max(life.memory.as_ref().map_or(0, |memory| memory.attempt)),
        ready: match plan.kind {
            ContainerKind::Init => completed,
            ContainerKind::Sidecar | ContainerKind::Regular => running.is_some() && life.ready(&container_id),
        },
        started: running.is_some() && life.started(&container_id),
        image: other.map_or(&plan.image, |seen| &seen.image).clone(),
        image_ref: newest.map_or_else(String::new, |newest| newest.seen.image_ref.clone()),
        container_id,
        state,
    }
}

/// Why a container that was not made yet is not there, if there is nothing else to say.
fn default_reason(core: &Core) -> WaitingReason {
    match core.plan.containers.first().map(|plan| plan.kind) {
        Some(ContainerKind::Init | ContainerKind::Sidecar) => WaitingReason::PodInitializing,
        Some(ContainerKind::Regular) | None => WaitingReason::ContainerCreating,
    }
}

fn running_since(known: &Container) -> Option<i64> {
    match known.seen.state {
        ObservedState::Running { started_at_ns } if !known.gone => Some(started_at_ns),
        _ => None,
    }
}

pub(super) fn terminated(known: &Container) -> Option<Terminated> {
    let ObservedState::Exited { started_at_ns, finished_at_ns, exit_code, reason, message } = &known.seen.state else {
        return None;
    };
    Some(Terminated {
        exit_code: *exit_code,
        reason: reason.clone(),
        message: message.clone(),
        started_at_ns: *started_at_ns,
        finished_at_ns: *finished_at_ns,
        container_id: known.seen.id.clone(),
    })
}

/// Why a container that is to run does not serve yet; `None` if nothing holds it up, or it is done.
fn waits(view: &View, syncing: &Syncing, index: usize) -> Option<(WaitingReason, String)> {
    let core = view.core;
    let (plan, slot, life) = (&core.plan.containers[index], &syncing.slots[index], &core.lives[index]);
    let newest = core.record.newest(&plan.name);
    let due_ms = match view.outlook.as_ref()? {
        Outlook::Over(_) => return None,
        Outlook::RestartAll(_) if newest.is_some_and(Container::alive) => return None,
        Outlook::RestartAll(_) => return Some((WaitingReason::RestartingAllContainers, String::new())),
        Outlook::Going(verdicts) => match verdicts[index] {
            Verdict::Alive => return hooking(core, index),
            Verdict::Done => return None,
            Verdict::Later => return Some((default_reason(core), String::new())),
            Verdict::Start { due_ms, .. } => due_ms,
        },
    };
    if order::barred(core) {
        let message = "the pod's sandbox is gone, and restartPolicy Never allows no second one".to_owned();
        return Some((default_reason(core), message));
    }
    if core.now.mono_ms < due_ms {
        return Some((WaitingReason::CrashLoopBackOff, crash_message(core, plan, slot)));
    }
    if let Some(failure) = syncing.image_failure(&core.plan.containers, index) {
        return Some(image_trouble(core, syncing, index, failure));
    }
    let failed = slot.start.failure.as_ref().or(syncing.sandbox.failure.as_ref()).or(syncing.set_up.failure.as_ref());
    let Some(failure) = failed else {
        let hook_failure =
            life.hook_failure.as_ref().filter(|_| newest.is_some_and(|newest| life.is_of(&newest.seen.id)))?;
        return Some((WaitingReason::Failed(reasons::POST_START_HOOK_ERROR.to_owned()), hook_failure.clone()));
    };
    let reason = match failure.reason.as_str() {
        "" => default_reason(core),
        reason => WaitingReason::Failed(reason.to_owned()),
    };
    Some((reason, failure.message.clone()))
}

/// A container counts as running once the hook that follows its start has ended.
fn hooking(core: &Core, index: usize) -> Option<(WaitingReason, String)> {
    let life = &core.lives[index];
    let newest = core.record.newest(&core.plan.containers[index].name)?;
    if !life.is_of(&newest.seen.id) || life.hooked {
        return None;
    }
    Some(match &life.hook_failure {
        Some(message) => (WaitingReason::Failed(reasons::POST_START_HOOK_ERROR.to_owned()), message.clone()),
        None => (default_reason(core), String::new()),
    })
}

fn crash_message(core: &Core, plan: &ContainerPlan, slot: &Slot) -> String {
    format!(
        "back-off {} restarting failed container={} pod={}({})",
        go_duration(slot.crash.delay_ms()),
        plan.name,
        core.plan.full_name,
        core.plan.uid
    )
}

/// The error itself for the first half of the back-off, then the back-off, as people know it from every kubelet.
fn image_trouble(core: &Core, syncing: &Syncing, index: usize, failure: &Failure) -> (WaitingReason, String) {
    let plan = &core.plan.containers[index];
    let half_ms = syncing.pull_of(&core.plan.containers, index).half_ms();
    if core.now.mono_ms >= half_ms && is_pull_failure(&failure.reason) {
        let message = format!("Back-off pulling image \"{}\": {}: {}", plan.image, failure.reason, failure.message);
        (WaitingReason::ImagePullBackOff, message)
    } else {
        (WaitingReason::Failed(failure.reason.clone()), failure.message.clone())
    }
}

/// The phase of a pod that has not settled, in the order in which upstream asks.
fn phase(core: &Core, containers: &[ContainerReport]) -> Phase {
    let regular = || containers.iter().filter(|report| report.kind == ContainerKind::Regular);
    let codes: Vec<i32> = regular().filter_map(finished).collect();
    let waiting = regular().filter(|report| is_new(report)).count();
    let running = containers.iter().filter(|report| report.kind != ContainerKind::Init && runs(report)).count();
    if core.stage >= Stage::Terminated {
        let succeeded = !codes.is_empty() && codes.len() == regular().count() && codes.iter().all(|&code| code == 0);
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    let initialized = regular().any(|report| runs(report) || finished(report).is_some());
    let initializing = containers.iter().any(|report| match report.kind {
        ContainerKind::Init => runs(report) || is_new(report),
        ContainerKind::Sidecar => !initialized && (is_new(report) || runs(report) && !report.started),
        ContainerKind::Regular => false,
    });
    let sidecar_waits = containers.iter().any(|report| report.kind == ContainerKind::Sidecar && is_new(report));
    if initializing || sidecar_waits || waiting > 0 || containers.is_empty() {
        return Phase::Pending;
    }
    let restarts = containers.iter().zip(&core.plan.containers).any(|(report, plan)| {
        let fate = |code| order::fate(plan, super::record::Sequel::ByPolicy, code);
        report.kind == ContainerKind::Regular && finished(report).is_some_and(|code| fate(code) != Fate::Rests)
    });
    // A start that was given up may come about yet, and who has ended does not run again.
    let coming = core.plan.containers.iter().any(|plan| core.ledger.starts(&plan.name));
    // Not settled, so an exit code that would end the pod is only being replaced, or sidecars are still to end.
    if running > 0 || restarts || coming || core.stage == Stage::Syncing {
        Phase::Running
    } else if codes.iter().all(|&code| code == 0) {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}

fn runs(report: &ContainerReport) -> bool {
    matches!(report.state, ContainerState::Running { .. })
}

fn finished(report: &ContainerReport) -> Option<i32> {
    match &report.state {
        ContainerState::Terminated(terminated) => Some(terminated.exit_code),
        ContainerState::Waiting { .. } => report.last.as_ref().map(|last| last.exit_code),
        ContainerState::Running { .. } => None,
    }
}

/// It never ran to an end, nor does it run.
fn is_new(report: &ContainerReport) -> bool {
    !runs(report) && finished(report).is_none()
}

fn yes() -> Condition {
    Condition { status: true, reason: "", message: String::new() }
}

fn no(reason: &'static str) -> Condition {
    Condition { status: false, reason, message: String::new() }
}

fn conditions(view: &View, phase: Phase, containers: &[ContainerReport]) -> Conditions {
    let rules = || view.core.plan.containers.iter().flat_map(|plan| &plan.rules);
    let restarting = matches!(view.outlook, Some(Outlook::RestartAll(_)));
    let containers_ready = containers_ready(phase, containers);
    Conditions {
        pod_ready_to_start_containers: if view.core.record.home().is_some() { yes() } else { Condition::default() },
        initialized: initialized(phase, containers),
        ready: containers_ready.clone(),
        containers_ready,
        pod_scheduled: yes(),
        all_containers_restarting: rules()
            .any(|rule| rule.action == RestartAction::RestartAllContainers)
            .then(|| Condition { status: restarting, ..Condition::default() }),
    }
}

fn containers_ready(phase: Phase, containers: &[ContainerReport]) -> Condition {
    let serving = || containers.iter().filter(|report| report.kind != ContainerKind::Init);
    let unready: Vec<&str> = serving().filter(|report| !report.ready).map(|report| report.name.as_str()).collect();
    match phase {
        Phase::Succeeded => no(reasons::POD_COMPLETED),
        Phase::Failed => no(reasons::POD_FAILED),
        Phase::Pending | Phase::Running if unready.is_empty() && serving().next().is_some() => yes(),
        Phase::Pending | Phase::Running => Condition {
            message: format!("containers with unready status: [{}]", unready.join(" ")),
            ..no(reasons::CONTAINERS_NOT_READY)
        },
    }
}

/// Once a regular container has run, the pod was initialized, whatever becomes of its sidecars.
fn initialized(phase: Phase, containers: &[ContainerReport]) -> Condition {
    if phase == Phase::Succeeded {
        return Condition { reason: reasons::POD_COMPLETED, ..yes() };
    }
    let incomplete: Vec<&str> = containers
        .iter()
        .filter(|report| match report.kind {
            ContainerKind::Init => !report.ready,
            ContainerKind::Sidecar => !report.started,
            ContainerKind::Regular => false,
        })
        .map(|report| report.name.as_str())
        .collect();
    let begun = |report: &ContainerReport| report.kind == ContainerKind::Regular && !is_new(report);
    if incomplete.is_empty() || containers.iter().any(begun) {
        return yes();
    }
    Condition {
        message: format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        ..no(reasons::CONTAINERS_NOT_INITIALIZED)
    }
}

/// What fails at the moment, the most hindering first.
fn problem<'a>(view: &View<'a>) -> Option<&'a Failure> {
    let (machine, core) = (view.machine, view.core);
    let runtime = || {
        let containers = core.record.containers.iter().filter(|known| !known.gone).map(|known| &known.retry);
        let sandboxes = core.record.sandboxes.iter().filter(|known| !known.gone).map(|known| &known.retry);
        containers.chain(sandboxes).find_map(|retry| retry.failure.as_ref())
    };
    let own = match &machine.state {
        State::Syncing(syncing) => {
            let starts = |index: &usize| match &view.outlook {
                Some(Outlook::Going(verdicts)) => matches!(verdicts[*index], Verdict::Start { .. }),
                _ => false,
            };
            let failure = |index: usize| {
                let image = syncing.image_failure(&core.plan.containers, index);
                image.or(syncing.slots[index].start.failure.as_ref())
            };
            let mut failed = (0..syncing.slots.len()).filter(starts).filter_map(failure);
            syncing.set_up.failure.as_ref().or(syncing.sandbox.failure.as_ref()).or_else(|| failed.next())
        }
        State::Terminated(terminated) => terminated.tear_down.failure.as_ref(),
        State::Waiting | State::Terminating(_) | State::Finished => None,
    };
    own.or_else(runtime).or(core.look.failure.as_ref())
}
