//! The two clocks. The only place of the agent that reads the monotonic one.

use lifecycle::{Millis, Now};
use rustix::time::{ClockId, clock_gettime};

/// What time it is on both clocks.
pub(crate) fn now() -> Now {
    Now { mono_ms: mono_ms(), wall_ns: wall_ns() }
}

/// Milliseconds since boot, time asleep included: never steps.
pub(crate) fn mono_ms() -> Millis {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Nanoseconds since the epoch; 0 where the clock shows a year that 64 bits of them cannot.
pub(crate) fn wall_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// When on the monotonic clock something happened that the runtime dates by the wall clock, both read now. The wall
/// clock may have been set in between, so the answer is never in the future.
pub(crate) fn mono_ms_of(wall_ns: i64, now: Now) -> Millis {
    let ago_ms = u64::try_from(now.wall_ns.saturating_sub(wall_ns) / 1_000_000).unwrap_or(0);
    now.mono_ms.saturating_sub(ago_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_g01_a_stepped_wall_clock_never_dates_an_event_into_the_future() {
        let now = Now { mono_ms: 10_000, wall_ns: 1_000_000_000_000 };
        let cases = [(999_000_000_000, 9_000), (1_000_000_000_000, 10_000), (2_000_000_000_000, 10_000), (0, 0)];
        for (wall_ns, mono_ms) in cases {
            assert_eq!(mono_ms_of(wall_ns, now), mono_ms, "{wall_ns}");
        }
    }
}
