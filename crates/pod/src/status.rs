//! Plain constructors for the pieces of a `PodStatus`.

use crate::reasons;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, HostIP, PodCondition, PodIP,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Seconds of an API time: the API writes whole seconds only.
pub fn time(timestamp: Timestamp) -> Time {
    Time(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

/// From nanoseconds since the epoch, as the runtime tells it. Zero and what no calendar holds mean "not known".
pub fn time_from_ns(ns: i64) -> Option<Time> {
    if ns == 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(ns)).ok().map(time)
}

/// Waiting, with one of [`crate::reasons`].
pub fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: non_empty(message) }),
        ..ContainerState::default()
    }
}

/// Running since.
pub fn running(started_at_ns: i64) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning { started_at: time_from_ns(started_at_ns) }),
        ..ContainerState::default()
    }
}

/// How one attempt of a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    pub exit_code: i32,
    /// Empty: `Completed` for 0 and `Error` for everything else.
    pub reason: String,
    pub message: String,
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
    /// `<runtime>://<id>`.
    pub container_id: String,
}

/// Terminated. `signal` stays empty, as other kubelets leave it: an exit code above 128 tells it.
pub fn terminated(exit: &Exit) -> ContainerState {
    let reason = match (exit.reason.as_str(), exit.exit_code) {
        ("", 0) => reasons::COMPLETED,
        ("", _) => reasons::ERROR,
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.exit_code,
            reason: Some(reason.to_owned()),
            message: non_empty(&exit.message),
            started_at: time_from_ns(exit.started_at_ns),
            finished_at: time_from_ns(exit.finished_at_ns),
            container_id: non_empty(&exit.container_id),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// The truth value of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Truth::True } else { Truth::False }
    }
}

/// Why a condition is what it is; both empty for one that needs no explanation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Why {
    pub reason: String,
    pub message: String,
}

/// A condition that changed at `now`. [`keep_transition`] corrects the time when nothing changed.
pub fn condition(type_: &str, status: impl Into<Truth>, why: Why, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: status.into().as_str().to_owned(),
        reason: non_empty(&why.reason),
        message: non_empty(&why.message),
        last_transition_time: Some(time(now)),
        ..PodCondition::default()
    }
}

/// A condition's time moves only when its status does: takes the old time over where the status is the same.
pub fn keep_transition(new: &mut [PodCondition], old: &[PodCondition]) {
    for condition in new {
        let same = old.iter().find(|was| was.type_ == condition.type_ && was.status == condition.status);
        if let Some(was) = same {
            condition.last_transition_time.clone_from(&was.last_transition_time);
        }
    }
}

/// `status.podIPs`; the first is `status.podIP`.
pub fn pod_ips(ips: &[String]) -> Vec<PodIP> {
    ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()
}

/// `status.hostIPs`; the first is `status.hostIP`.
pub fn host_ips(ips: &[String]) -> Vec<HostIP> {
    ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()
}

/// `<runtime>://<id>`, as in `containerStatuses[].containerID`.
pub fn container_id(runtime_name: &str, id: &str) -> String {
    format!("{runtime_name}://{id}")
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn terminated_names_the_reason_when_the_runtime_does_not() {
        for (code, given, expected) in [(0, "", "Completed"), (1, "", "Error"), (137, "OOMKilled", "OOMKilled")] {
            let exit = Exit { exit_code: code, reason: given.into(), ..Exit::default() };
            let state = terminated(&exit).terminated.unwrap();
            assert_eq!((state.exit_code, state.reason.as_deref()), (code, Some(expected)));
            assert_eq!(state.started_at, None, "zero is not 1970");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let old = [condition(reasons::READY, true, Why::default(), at(10))];
        let mut same = [condition(reasons::READY, true, Why::default(), at(20))];
        keep_transition(&mut same, &old);
        assert_eq!(same[0].last_transition_time, Some(time(at(10))));
        let mut changed = [condition(reasons::READY, false, Why::default(), at(20))];
        keep_transition(&mut changed, &old);
        assert_eq!(changed[0].last_transition_time, Some(time(at(20))));
    }

    #[test]
    fn api_times_are_whole_seconds() {
        assert_eq!(time_from_ns(1_500_000_000_999_999_999).unwrap().0, at(1_500_000_000));
    }
}
