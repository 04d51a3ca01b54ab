//! When what a runtime says of a container's end is its last word.
//!
//! Docker and containerd hear of a container's end and of the kernel's killing for want of memory in it by ways of their
//! own, the second one sometimes a moment later. Until it came, a container that had too little memory looks like one that
//! somebody killed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::v1;

/// By SIGKILL.
const KILLED_CODE: i32 = 137;
const KILLED_REASON: &str = "Error";
/// From when the end was first seen, as a runtime that was held up tells both late.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);
/// Longer ago than any runtime is held up: such an end is not waited for after a restart of the kubelet.
const OLD: Duration = Duration::from_secs(60);
const REMEMBERED: usize = 1024;

/// When containers were first seen ended.
#[derive(Debug, Default)]
pub struct Settling {
    seen: Mutex<HashMap<String, Instant>>,
}

impl Settling {
    /// Counts from now, where a container's end is known before its status is asked for. One that is being stopped need not
    /// be waited for at all: who kills it is known.
    pub fn begin(&self, id: &str) {
        self.first_seen(id);
    }

    /// How long to wait before the runtime is asked anew about a container of which it said this; none where that will not
    /// change any more.
    pub fn pause(&self, status: &v1::ContainerStatus) -> Option<Duration> {
        if !(may_change(status, SystemTime::now()) && is_limited(status)) {
            return None;
        }
        let left = SETTLES_WITHIN.checked_sub(self.first_seen(&status.id).elapsed())?;
        Some(left.min(LOOK)).filter(|pause| !pause.is_zero())
    }

    fn first_seen(&self, id: &str) -> Instant {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED && !seen.contains_key(id) {
            seen.retain(|_, at| at.elapsed() < OLD);
            if seen.len() >= REMEMBERED {
                // Who is forgotten is waited for once more.
                seen.clear();
            }
        }
        *seen.entry(id.to_owned()).or_insert_with(Instant::now)
    }
}

/// Whether it was killed, just now, and not for want of memory as far as is known.
pub(crate) fn may_change(status: &v1::ContainerStatus, now: SystemTime) -> bool {
    let now_ns = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    status.state() == v1::ContainerState::ContainerExited
        && (status.exit_code, status.reason.as_str()) == (KILLED_CODE, KILLED_REASON)
        && now_ns.saturating_sub(u128::try_from(status.finished_at).unwrap_or(0)) < OLD.as_nanos()
}

fn is_limited(status: &v1::ContainerStatus) -> bool {
    let linux = status.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    linux.is_some_and(|linux| linux.memory_limit_in_bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(id: &str) -> v1::ContainerStatus {
        let linux = v1::LinuxContainerResources { memory_limit_in_bytes: 1, ..Default::default() };
        v1::ContainerStatus {
            id: id.into(),
            state: v1::ContainerState::ContainerExited.into(),
            exit_code: KILLED_CODE,
            reason: KILLED_REASON.into(),
            finished_at: now_ns(),
            resources: Some(v1::ContainerResources { linux: Some(linux), windows: None }),
            ..Default::default()
        }
    }

    fn now_ns() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
    }

    /// How long the runtime is asked again and again.
    async fn waited(settling: &Settling, status: &v1::ContainerStatus) -> Duration {
        let began = Instant::now();
        while let Some(pause) = settling.pause(status) {
            tokio::time::sleep(pause).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_waited_for_from_when_it_was_first_seen_and_once() {
        let settling = Settling::default();
        // Its time is the runtime's, which may tell of it late.
        let late = v1::ContainerStatus { finished_at: now_ns() - 5_000_000_000, ..killed("late") };
        assert_eq!(waited(&settling, &late).await, SETTLES_WITHIN);
        assert_eq!(waited(&settling, &late).await, Duration::ZERO);
        settling.begin("told");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(waited(&settling, &killed("told")).await, Duration::from_millis(100));
        // A clock that was set back does not hold anybody up for longer.
        let ahead = v1::ContainerStatus { finished_at: i64::MAX, ..killed("ahead") };
        assert_eq!(waited(&settling, &ahead).await, SETTLES_WITHIN);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_was_just_killed_under_a_limit_may_yet_have_been_short_of_memory() {
        let settling = Settling::default();
        for other in [
            v1::ContainerStatus { reason: "OOMKilled".into(), ..killed("known") },
            v1::ContainerStatus { exit_code: 1, ..killed("failed") },
            v1::ContainerStatus { resources: None, ..killed("unlimited") },
            v1::ContainerStatus { state: v1::ContainerState::ContainerRunning.into(), ..killed("running") },
            v1::ContainerStatus { finished_at: 1, ..killed("old") },
        ] {
            assert_eq!(settling.pause(&other), None, "{}", other.id);
        }
        assert_eq!(settling.pause(&killed("short")), Some(LOOK));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_remembered_have_a_limit() {
        let settling = Settling::default();
        for number in 0..3 * REMEMBERED {
            settling.begin(&number.to_string());
            assert!(settling.seen.lock().unwrap().len() <= REMEMBERED);
        }
    }
}
