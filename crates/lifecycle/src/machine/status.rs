//! From what is known to what is said.

use super::core::Core;
use super::record::Container;
use super::syncing::{Slot, Syncing, Verdict, barred, is_pull_failure, restarts};
use super::{PodMachine, Stage, State};
use crate::backoff::go_duration;
use crate::{
    Condition, Conditions, ContainerPlan, ContainerReport, ContainerState, Failure, ObservedState, Phase, PodReport,
    Terminated, WaitingReason,
};
use pod::reasons;

pub(super) fn report(machine: &PodMachine) -> PodReport {
    let core = &machine.core;
    let containers: Vec<ContainerReport> =
        (0..core.plan.containers.len()).map(|index| container(machine, index)).collect();
    let phase = machine.settled.unwrap_or_else(|| phase(core, &containers));
    let home = core.record.home();
    PodReport {
        uid: core.plan.uid.clone(),
        stage: machine.stage(),
        observed: core.observed(),
        phase,
        reason: String::new(),
        message: String::new(),
        observed_generation: core.plan.generation,
        start_time_ns: core.start_ns,
        ips: home.map_or_else(Vec::new, |home| home.seen.ips.clone()),
        conditions: conditions(phase, home.is_some(), &containers),
        containers,
        problem: problem(machine).cloned(),
        kill_at_ms: match &machine.state {
            State::Terminating(terminating) => Some(terminating.kill_at_ms),
            State::Terminated(terminated) => Some(terminated.kill_at_ms),
            State::Waiting | State::Syncing(_) | State::Finished => None,
        },
    }
}

fn container(machine: &PodMachine, index: usize) -> ContainerReport {
    let core = &machine.core;
    let plan = &core.plan.containers[index];
    let newest = core.record.newest(&plan.name);
    let waiting = match &machine.state {
        State::Syncing(syncing) if machine.settled.is_none() => waits(core, syncing, index),
        State::Waiting => Some((
            WaitingReason::ContainerCreating,
            format!("waiting for the former pod {} to end", core.plan.full_name),
        )),
        _ => None,
    };
    let finished = newest.and_then(terminated);
    let previous = || core.record.previous(&plan.name).and_then(terminated);
    let running = newest.and_then(running_since);
    let (state, last) = match (running, finished, waiting) {
        (Some(started_at_ns), _, _) => (ContainerState::Running { started_at_ns }, previous()),
        (None, Some(finished), None) => (ContainerState::Terminated(finished), previous()),
        (None, Some(finished), Some((reason, message))) => {
            (ContainerState::Waiting { reason, message }, Some(finished))
        }
        (None, None, waiting) => {
            let (reason, message) = waiting.unwrap_or((WaitingReason::ContainerCreating, String::new()));
            (ContainerState::Waiting { reason, message }, previous())
        }
    };
    let image = newest.map_or(&plan.image, |newest| &newest.seen.image);
    ContainerReport {
        name: plan.name.clone(),
        kind: plan.kind,
        state,
        last,
        restart_count: newest.map_or(0, |newest| newest.seen.attempt),
        ready: running.is_some(),
        started: running.is_some(),
        image: if image.is_empty() { plan.image.clone() } else { image.clone() },
        image_ref: newest.map_or_else(String::new, |newest| newest.seen.image_ref.clone()),
        container_id: newest.map_or_else(String::new, |newest| newest.seen.id.clone()),
    }
}

fn running_since(known: &Container) -> Option<i64> {
    match known.seen.state {
        ObservedState::Running { started_at_ns } if !known.gone => Some(started_at_ns),
        _ => None,
    }
}

fn terminated(known: &Container) -> Option<Terminated> {
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

/// Why a container that is to be started does not run yet; `None` if nothing holds it up.
fn waits(core: &Core, syncing: &Syncing, index: usize) -> Option<(WaitingReason, String)> {
    let Verdict::Start { due_ms, .. } = syncing.verdict(core, index) else { return None };
    let (plan, slot) = (&core.plan.containers[index], &syncing.slots[index]);
    if barred(core) {
        let message = "the pod's sandbox is gone, and restartPolicy Never allows no second one".to_owned();
        return Some((WaitingReason::ContainerCreating, message));
    }
    if core.now.mono_ms < due_ms {
        return Some((WaitingReason::CrashLoopBackOff, crash_message(core, plan, slot)));
    }
    if let Some(failure) = &slot.pull.failure {
        return Some(image_trouble(core, plan, slot, failure));
    }
    let failure =
        slot.start.failure.as_ref().or(syncing.sandbox.failure.as_ref()).or(syncing.set_up.failure.as_ref())?;
    let reason = match failure.reason.as_str() {
        "" => WaitingReason::ContainerCreating,
        reason => WaitingReason::Failed(reason.to_owned()),
    };
    Some((reason, failure.message.clone()))
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
fn image_trouble(core: &Core, plan: &ContainerPlan, slot: &Slot, failure: &Failure) -> (WaitingReason, String) {
    if core.now.mono_ms >= slot.pull.half_ms() && is_pull_failure(&failure.reason) {
        let message = format!("Back-off pulling image \"{}\": {}: {}", plan.image, failure.reason, failure.message);
        (WaitingReason::ImagePullBackOff, message)
    } else {
        (WaitingReason::Failed(failure.reason.clone()), failure.message.clone())
    }
}

/// The phase of a pod that has not settled, in the order in which upstream asks.
fn phase(core: &Core, containers: &[ContainerReport]) -> Phase {
    let finished = |report: &ContainerReport| match &report.state {
        ContainerState::Terminated(terminated) => Some(terminated.exit_code),
        ContainerState::Waiting { .. } => report.last.as_ref().map(|last| last.exit_code),
        ContainerState::Running { .. } => None,
    };
    let running = containers.iter().filter(|report| matches!(report.state, ContainerState::Running { .. })).count();
    let codes: Vec<i32> = containers.iter().filter_map(finished).collect();
    let waiting = containers.len() - running - codes.len();
    if core.stage >= Stage::Terminated {
        let succeeded = !codes.is_empty() && waiting == 0 && codes.iter().all(|&code| code == 0);
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    if waiting > 0 || containers.is_empty() {
        Phase::Pending
    } else if running > 0 || codes.iter().any(|&code| restarts(core.plan.restart_policy, code)) {
        Phase::Running
    } else if codes.iter().all(|&code| code == 0) {
        // Not settled, so an exit code that would end the pod is only being replaced.
        if core.stage == Stage::Syncing { Phase::Running } else { Phase::Succeeded }
    } else if core.stage == Stage::Syncing {
        Phase::Running
    } else {
        Phase::Failed
    }
}

fn conditions(phase: Phase, at_home: bool, containers: &[ContainerReport]) -> Conditions {
    let yes = || Condition { status: true, reason: "", message: String::new() };
    let no = |reason| Condition { status: false, reason, message: String::new() };
    let unready: Vec<&str> =
        containers.iter().filter(|report| !report.ready).map(|report| report.name.as_str()).collect();
    let containers_ready = match phase {
        Phase::Succeeded => no(reasons::POD_COMPLETED),
        Phase::Failed => no(reasons::POD_FAILED),
        Phase::Pending | Phase::Running if unready.is_empty() && !containers.is_empty() => yes(),
        Phase::Pending | Phase::Running => Condition {
            message: format!("containers with unready status: [{}]", unready.join(" ")),
            ..no(reasons::CONTAINERS_NOT_READY)
        },
    };
    Conditions {
        pod_ready_to_start_containers: if at_home { yes() } else { Condition::default() },
        initialized: match phase {
            Phase::Succeeded => Condition { reason: reasons::POD_COMPLETED, ..yes() },
            Phase::Pending | Phase::Running | Phase::Failed => yes(),
        },
        ready: containers_ready.clone(),
        containers_ready,
        pod_scheduled: yes(),
        all_containers_restarting: None,
    }
}

/// What fails at the moment, the most hindering first.
fn problem(machine: &PodMachine) -> Option<&Failure> {
    let core = &machine.core;
    let runtime = || {
        let containers = core.record.containers.iter().filter(|known| !known.gone).map(|known| &known.retry);
        let sandboxes = core.record.sandboxes.iter().filter(|known| !known.gone).map(|known| &known.retry);
        containers.chain(sandboxes).find_map(|retry| retry.failure.as_ref())
    };
    let own = match &machine.state {
        State::Syncing(syncing) => {
            let slots = (0..syncing.slots.len())
                .filter(|&index| matches!(syncing.verdict(core, index), Verdict::Start { .. }))
                .map(|index| &syncing.slots[index]);
            let mut failed = slots.filter_map(|slot| slot.pull.failure.as_ref().or(slot.start.failure.as_ref()));
            syncing.set_up.failure.as_ref().or(syncing.sandbox.failure.as_ref()).or_else(|| failed.next())
        }
        State::Terminated(terminated) => terminated.tear_down.failure.as_ref(),
        State::Waiting | State::Terminating(_) | State::Finished => None,
    };
    own.or_else(runtime).or(core.look.failure.as_ref())
}
