//! What Docker says of a container's life.

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status};

/// What other runtimes say of a container whose program could not be executed.
const START_FAILED: i32 = 128;
const START_ERROR: &str = "StartError";
const UNKNOWN: &str = "ContainerStatusUnknown";
/// As if it had been killed.
const UNKNOWN_CODE: i32 = 137;

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
                (_, _, code) => (code, "Error"),
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
    fn times_are_read_to_the_nanosecond_and_never_is_zero() {
        assert_eq!(time_ns(Some(STARTED)), 1_000_000_005);
        assert_eq!(time_ns(Some("2026-01-01T02:00:00+02:00")), time_ns(Some("2026-01-01T00:00:00Z")));
        for none in [Some(NEVER), Some(""), Some("yesterday"), None] {
            assert_eq!(time_ns(none), 0);
        }
    }
}
