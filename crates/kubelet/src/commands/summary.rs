//! A pod in two words, as people know them from `kubectl get pods`: READY and STATUS.

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod};

const INITIALIZING: &str = "PodInitializing";

/// READY and STATUS of one pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Of the containers that are to stay: regular ones and sidecars.
    pub(super) ready: usize,
    pub(super) total: usize,
    /// A phase, or what keeps the pod from running: `Init:1/2`, `CrashLoopBackOff`, `Terminating`, …
    pub(super) status: String,
}

pub(super) fn summary(pod: &Pod) -> Summary {
    let init: &[Container] = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let regular = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let sidecars = init.iter().filter(|container| is_sidecar(container)).count();
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    let said = status.and_then(|status| status.reason.as_deref()).filter(|reason| !reason.is_empty());
    let statuses = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let (mut ready, waits_for) = initialization(init, statuses);
    let mut text = waits_for.clone().unwrap_or_else(|| said.unwrap_or(phase).to_owned());
    if waits_for.is_none() || condition(pod, "Initialized") {
        let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        ready += statuses.iter().filter(|status| is_ready(status)).count();
        if let Some(reason) = statuses.iter().find_map(standstill) {
            text = reason;
        }
        if text == "Completed" && statuses.iter().any(is_ready) {
            text = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if pod.metadata.deletion_timestamp.is_some() && !matches!(phase, "Succeeded" | "Failed") {
        text = "Terminating".to_owned();
    }
    Summary { ready, total: regular + sidecars, status: text }
}

/// A container that starts with the init containers and stays.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// How many sidecars are ready, and the step at which the initialization is if it is not over.
fn initialization(init: &[Container], statuses: &[ContainerStatus]) -> (usize, Option<String>) {
    let mut ready = 0;
    for (at, status) in statuses.iter().enumerate() {
        let sidecar = init.iter().any(|container| container.name == status.name && is_sidecar(container));
        let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        let step = match ended {
            Some(ended) if ended.exit_code == 0 => continue,
            _ if sidecar && status.started == Some(true) => {
                ready += usize::from(status.ready);
                continue;
            }
            Some(ended) => end(ended),
            None if !reason.is_empty() && reason != INITIALIZING => reason.to_owned(),
            None => format!("{at}/{}", init.len()),
        };
        return (ready, Some(format!("Init:{step}")));
    }
    (ready, None)
}

fn is_ready(status: &ContainerStatus) -> bool {
    status.ready && status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Why a container does not run; nothing for one that does.
fn standstill(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone()).filter(|reason| !reason.is_empty());
    waiting.or_else(|| state.terminated.as_ref().map(end))
}

fn end(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }
}

fn condition(pod: &Pod, name: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == name && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(name: &str, state: Value, flags: (bool, bool)) -> Value {
        let (ready, started) = flags;
        json!({"name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": ready, "started": started, "state": state})
    }

    fn running() -> Value {
        json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({"terminated": {"exitCode": code, "reason": reason}})
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason}})
    }

    /// A pod with the init containers `a` and `side` (a sidecar), and the regular ones `x` and `y`.
    fn pod(init: &[Value], regular: &[Value], more: Value) -> Pod {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "initContainers": [{"name": "a", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}],
                "containers": [{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]},
            "status": {"phase": "Pending", "initContainerStatuses": init, "containerStatuses": regular}});
        for (path, value) in more.as_object().unwrap() {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn told(pod: &Pod) -> (String, String) {
        let Summary { ready, total, status } = summary(pod);
        (format!("{ready}/{total}"), status)
    }

    #[test]
    fn init_containers_show_how_far_they_are() {
        let off = (false, false);
        let later = [waiting(INITIALIZING), waiting(INITIALIZING)].map(|state| status("x", state, off));
        let cases = [
            (vec![status("a", waiting(INITIALIZING), off)], "0/3", "Init:0/2"),
            (vec![status("a", running(), off)], "0/3", "Init:0/2"),
            (vec![status("a", ended(1, "Error"), off)], "0/3", "Init:Error"),
            (vec![status("a", ended(137, ""), off)], "0/3", "Init:ExitCode:137"),
            (vec![status("a", waiting("CrashLoopBackOff"), off)], "0/3", "Init:CrashLoopBackOff"),
            (
                vec![status("a", ended(0, "Completed"), (true, false)), status("side", running(), off)],
                "0/3",
                "Init:1/2",
            ),
            (
                vec![status("a", ended(0, "Completed"), (true, false)), status("side", running(), (true, true))],
                "1/3",
                INITIALIZING,
            ),
        ];
        for (init, ready, text) in cases {
            assert_eq!(told(&pod(&init, &later, json!({}))), (ready.into(), text.into()));
        }
    }

    #[test]
    fn regular_containers_say_what_stands_still() {
        let init = [status("a", ended(0, "Completed"), (true, false)), status("side", running(), (true, true))];
        let on = (true, true);
        let off = (false, false);
        let phase = |phase: &str| json!({"/status/phase": phase});
        let cases = [
            ([running(), running()], [on, on], "3/3", "Running"),
            ([running(), running()], [on, (false, true)], "2/3", "Running"),
            ([running(), waiting("CrashLoopBackOff")], [on, off], "2/3", "CrashLoopBackOff"),
            ([ended(0, "Completed"), running()], [off, on], "2/3", "NotReady"),
            ([ended(2, "Error"), running()], [off, on], "2/3", "Error"),
        ];
        for (states, flags, ready, text) in cases {
            let regular: Vec<Value> =
                states.into_iter().zip(flags).map(|(state, flags)| status("x", state, flags)).collect();
            assert_eq!(told(&pod(&init, &regular, phase("Running"))), (ready.into(), text.into()));
        }
    }

    #[test]
    fn the_pods_own_reason_and_its_end() {
        let mut rejected = pod(&[], &[], json!({"/status/phase": "Failed"}));
        assert_eq!(told(&rejected).1, "Failed");
        rejected.status.as_mut().unwrap().reason = Some("OutOfcpu".into());
        assert_eq!(told(&rejected), ("0/3".into(), "OutOfcpu".into()));
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        rejected.metadata.deletion_timestamp = Some(now.clone());
        assert_eq!(told(&rejected).1, "OutOfcpu", "a pod that has ended terminates no more");
        let mut ending = pod(&[], &[status("x", running(), (true, true))], json!({"/status/phase": "Running"}));
        ending.metadata.deletion_timestamp = Some(now);
        assert_eq!(told(&ending), ("1/3".into(), "Terminating".into()));
    }
}
