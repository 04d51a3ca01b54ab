//! What people are told of a pod's life, in the words that every kubelet uses.

use super::core::Core;
use crate::{Action, ContainerPlan, Event, ProbeKind, Severity};
use pod::reasons;

/// The message of a pod that ran for too long.
pub(crate) const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// Why a container is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The pod ends, or the container is not wanted (any more).
    Unwanted,
    /// Its definition changed.
    Changed,
    Probe(ProbeKind),
    /// The hook after its start failed.
    Hook,
}

pub(crate) fn killing(core: &Core, container: &str, why: Why) -> Event {
    let restarts =
        core.plan.containers.iter().any(|plan| plan.name == container && super::order::restarts_failed(plan));
    let again = if restarts { ", will be restarted" } else { "" };
    let message = match why {
        Why::Unwanted => format!("Stopping container {container}"),
        Why::Changed => format!("Container {container} definition changed, will be restarted"),
        Why::Probe(ProbeKind::Startup) => format!("Container {container} failed startup probe{again}"),
        Why::Probe(ProbeKind::Liveness | ProbeKind::Readiness) => {
            format!("Container {container} failed liveness probe{again}")
        }
        Why::Hook => reasons::FAILED_POST_START_HOOK.to_owned(),
    };
    of_container(Severity::Normal, reasons::KILLING, container, message)
}

pub(crate) fn post_start_failed(container: &str) -> Event {
    of_container(Severity::Warning, reasons::FAILED_POST_START_HOOK, container, "PostStartHook failed".to_owned())
}

pub(crate) fn pre_stop_failed(container: &str) -> Event {
    of_container(Severity::Warning, reasons::FAILED_PRE_STOP_HOOK, container, "PreStopHook failed".to_owned())
}

pub(crate) fn back_off(core: &Core, container: &str) -> Event {
    let message =
        format!("Back-off restarting failed container {container} in pod {}({})", core.plan.full_name, core.plan.uid);
    of_container(Severity::Warning, reasons::BACK_OFF, container, message)
}

/// Of an image that cannot be had.
pub(crate) fn pull_back_off(plan: &ContainerPlan, actions: &mut Vec<Action>) {
    let waits = format!("Back-off pulling image \"{}\"", plan.image);
    tell(of_container(Severity::Normal, reasons::BACK_OFF, &plan.name, waits), actions);
    let error = format!("Error: {}", reasons::IMAGE_PULL_BACK_OFF);
    tell(of_container(Severity::Warning, reasons::FAILED, &plan.name, error), actions);
}

pub(crate) fn sandbox_changed() -> Event {
    of_pod(
        Severity::Normal,
        reasons::SANDBOX_CHANGED,
        "Pod sandbox changed, it will be killed and re-created.".to_owned(),
    )
}

pub(crate) fn deadline_exceeded() -> Event {
    of_pod(Severity::Normal, reasons::DEADLINE_EXCEEDED, DEADLINE_MESSAGE.to_owned())
}

pub(crate) fn grace_exceeded() -> Event {
    let message = "Container runtime did not kill the pod within specified grace period.".to_owned();
    of_pod(Severity::Warning, reasons::EXCEEDED_GRACE_PERIOD, message)
}

pub(crate) fn kill_failed(message: &str) -> Event {
    of_pod(Severity::Warning, reasons::FAILED_KILL_POD, format!("error killing pod: {message}"))
}

fn of_container(severity: Severity, reason: &'static str, container: &str, message: String) -> Event {
    Event { severity, reason, message, container: Some(container.to_owned()) }
}

fn of_pod(severity: Severity, reason: &'static str, message: String) -> Event {
    Event { severity, reason, message, container: None }
}

pub(crate) fn tell(event: Event, actions: &mut Vec<Action>) {
    actions.push(Action::Tell(event));
}
