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
