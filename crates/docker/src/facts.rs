//! What Docker says of a container's life.

use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status};

/// What other runtimes say of a container whose program could not be executed.
const START_FAILED: i32 = 128;
const START_ERROR: &str = "StartError";
const UNKNOWN: &str = "ContainerStatusUnknown";
/// By SIGKILL.
const KILLED_CODE: i32 = 137;
/// As if it had been killed.
const UNKNOWN_CODE: i32 = KILLED_CODE;
const ERROR: &str = "Error";
const SETTLED_NS: i64 = 500_000_000;

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Ended(End),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: i32,
    pub(crate) finished_at_ns: i64,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A container's life as Docker tells it.
pub(crate) fn life(container: &ContainerInspectResponse) -> Life {
    let Some(state) = &container.state else { return Life::Created };
    let message = state.error.clone().unwrap_or_default();
    let code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(UNKNOWN_CODE);
    match state.status {
        // One that failed to start is as it was before, but for the reason.
        Some(Status::CREATED) | None if message.is_empty() && code == 0 => Life::Created,
        Some(Status::CREATED) | None => Life::Ended(End {
            code: START_FAILED,
            finished_at_ns: ended_ns(container, state),
            reason: START_ERROR,
            message,
        }),
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING | Status::STOPPING) => Life::Running,
        Some(Status::EXITED | Status::DEAD | Status::REMOVING | Status::EMPTY) => {
            // Nobody saw it run: what it would have returned is not known, and 0 it was not.
            let (code, reason) = match (time_ns(state.started_at.as_deref()), state.oom_killed, code) {
                (0, ..) => (UNKNOWN_CODE, UNKNOWN),
                (_, Some(true), code) => (code, "OOMKilled"),
                (_, _, 0) => (0, "Completed"),
                (_, _, code) => (code, ERROR),
            };
            Life::Ended(End { code, finished_at_ns: ended_ns(container, state), reason, message })
        }
    }
}

/// One that never ran has no time of its end. Of one that ended at once Docker may have noted the start after the end.
fn ended_ns(container: &ContainerInspectResponse, state: &ContainerState) -> i64 {
    match time_ns(state.finished_at.as_deref()) {
        0 => time_ns(container.created.as_deref()),
        ns => ns.max(started_ns(container)),
    }
}

/// Docker hears of a container's end and of the kernel's killing in it by ways of their own, the second one sometimes a
/// moment later. This is how much longer what it says of a container that has just been killed may change.
pub(crate) fn unsettled_for(container: &ContainerInspectResponse, now_ns: i64) -> Option<Duration> {
    let limited = container.host_config.as_ref().and_then(|host| host.memory).is_some_and(|bytes| bytes > 0);
    match life(container) {
        Life::Ended(end) if limited && end.code == KILLED_CODE && end.reason == ERROR => {
            let left = end.finished_at_ns.saturating_add(SETTLED_NS).saturating_sub(now_ns);
            u64::try_from(left)
                .ok()
                .filter(|left| *left > 0)
                .map(|left| Duration::from_nanos(left.min(SETTLED_NS as u64)))
        }
        _ => None,
    }
}

/// When the container was started; 0 if it never was.
pub(crate) fn started_ns(container: &ContainerInspectResponse) -> i64 {
    time_ns(container.state.as_ref().and_then(|state| state.started_at.as_deref()))
}

/// Nanoseconds since the epoch; 0 for the year 1, by which Docker says "never".
pub(crate) fn time_ns(text: Option<&str>) -> i64 {
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok()).filter(|ns| *ns > 0).unwrap_or(0)
}

/// Nanoseconds since the epoch, now.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: &str = "1970-01-01T00:00:01.000000005Z";
    const NEVER: &str = "0001-01-01T00:00:00Z";

    fn container(status: Status, started: &str, (code, oom, error): (i64, bool, &str)) -> ContainerInspectResponse {
        let state = ContainerState {
            status: Some(status),
            exit_code: Some(code),
            oom_killed: Some(oom),
            error: Some(error.into()),
            started_at: Some(started.into()),
            finished_at: Some(if started == NEVER { NEVER } else { "1970-01-01T00:00:02Z" }.into()),
            ..Default::default()
        };
        let created = Some("1970-01-01T00:00:00.5Z".into());
        ContainerInspectResponse { state: Some(state), created, ..Default::default() }
    }

    #[test]
    fn lives_table() {
        let ended = |code, reason, finished_at_ns, message: &str| {
            Life::Ended(End { code, reason, finished_at_ns, message: message.into() })
        };
        for (status, started, facts, expected) in [
            (Status::CREATED, NEVER, (0, false, ""), Life::Created),
            (
                Status::CREATED,
                NEVER,
                (127, false, "no such file"),
                ended(128, "StartError", 500_000_000, "no such file"),
            ),
            (Status::RUNNING, STARTED, (0, false, ""), Life::Running),
            (Status::PAUSED, STARTED, (0, false, ""), Life::Running),
            (Status::EXITED, STARTED, (0, false, ""), ended(0, "Completed", 2_000_000_000, "")),
            (Status::EXITED, STARTED, (3, false, ""), ended(3, "Error", 2_000_000_000, "")),
            (Status::EXITED, STARTED, (137, true, ""), ended(137, "OOMKilled", 2_000_000_000, "")),
            (Status::EXITED, STARTED, (0, true, ""), ended(0, "OOMKilled", 2_000_000_000, "")),
            (Status::DEAD, NEVER, (0, false, ""), ended(137, "ContainerStatusUnknown", 500_000_000, "")),
        ] {
            let found = life(&container(status, started, facts));
            assert_eq!(found, expected, "{status:?} {facts:?}");
        }
    }

    #[test]
    fn only_who_was_just_killed_under_a_limit_may_yet_have_been_short_of_memory() {
        let host = |memory| bollard::models::HostConfig { memory: Some(memory), ..Default::default() };
        let killed = |memory, facts| ContainerInspectResponse {
            host_config: Some(host(memory)),
            ..container(Status::EXITED, STARTED, facts)
        };
        let ended_ns = 2_000_000_000;
        let left = |found: &ContainerInspectResponse, after_ms: i64| {
            unsettled_for(found, ended_ns + after_ms * 1_000_000).map(|left| left.as_millis())
        };
        let found = killed(1, (137, false, ""));
        assert_eq!([0, 100, 499, 500, 9_000].map(|ms| left(&found, ms)), [Some(500), Some(400), Some(1), None, None]);
        // A clock that was set back does not hold anybody up for longer.
        assert_eq!(left(&found, -1_000_000), Some(500));
        for other in [killed(0, (137, false, "")), killed(1, (137, true, "")), killed(1, (1, false, ""))] {
            assert_eq!(left(&other, 0), None);
        }
    }

    #[test]
    fn times_are_read_to_the_nanosecond_and_never_is_zero() {
        assert_eq!(time_ns(Some(STARTED)), 1_000_000_005);
        assert_eq!(time_ns(Some("2026-01-01T02:00:00+02:00")), time_ns(Some("2026-01-01T00:00:00Z")));
        for none in [Some(NEVER), Some(""), Some("yesterday"), None] {
            assert_eq!(time_ns(none), 0);
        }
    }
}
