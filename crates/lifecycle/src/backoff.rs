//! Back-off as data: how long to hold still between tries, and when the past is forgiven.

use crate::Millis;

/// How a delay grows. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub initial_ms: Millis,
    pub max_ms: Millis,
    /// A try that came to grief only after so long starts the row anew.
    pub forgive_ms: Millis,
}

/// A container that exits: the first restart at once, then 10 s doubling to 300 s, anew after 600 s of running.
pub const CRASH: Policy = Policy { initial_ms: 10_000, max_ms: 300_000, forgive_ms: 600_000 };
/// An image that cannot be had: 10 s doubling to 300 s.
pub const IMAGE: Policy = Policy { initial_ms: 10_000, max_ms: 300_000, forgive_ms: 600_000 };
/// An image that may not be pulled: looking again costs nothing, so the delay does not grow.
pub const IMAGE_LOCAL: Policy = Policy { initial_ms: 10_000, max_ms: 10_000, forgive_ms: 600_000 };
/// Everything else: 1 s doubling to 60 s.
pub const RETRY: Policy = Policy { initial_ms: 1_000, max_ms: 60_000, forgive_ms: 600_000 };

/// One row of tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    policy: Policy,
    /// 0: no try yet, the next one comes at once.
    delay_ms: Millis,
    stepped_ms: Millis,
}

impl Policy {
    /// The same, but never slower than this.
    pub fn at_most(self, max_ms: Millis) -> Policy {
        Policy { initial_ms: self.initial_ms.min(max_ms), max_ms: self.max_ms.min(max_ms), ..self }
    }
}

impl Backoff {
    pub const fn new(policy: Policy) -> Backoff {
        Backoff { policy, delay_ms: 0, stepped_ms: 0 }
    }

    /// When the next try may come if the last one came to grief at `event_ms`.
    pub fn due_ms(&self, event_ms: Millis) -> Millis {
        if self.forgiven(event_ms) { event_ms } else { event_ms.saturating_add(self.delay_ms) }
    }

    /// The delay that holds now.
    pub fn delay_ms(&self) -> Millis {
        self.delay_ms
    }

    /// When the row last grew.
    pub fn stepped_ms(&self) -> Millis {
        self.stepped_ms
    }

    /// A try is made (or failed) at `now_ms`, the one before having come to grief at `event_ms`.
    pub fn step(&mut self, event_ms: Millis, now_ms: Millis) {
        self.delay_ms = if self.forgiven(event_ms) {
            self.policy.initial_ms
        } else {
            self.delay_ms.saturating_mul(2).min(self.policy.max_ms)
        };
        self.stepped_ms = now_ms;
    }

    pub fn reset(&mut self) {
        self.delay_ms = 0;
    }

    fn forgiven(&self, event_ms: Millis) -> bool {
        self.delay_ms == 0 || event_ms.saturating_sub(self.stepped_ms) > self.policy.forgive_ms
    }
}

/// A duration as Go prints it (`10s`, `1m20s`, `5m0s`), because people and tools match on upstream's messages.
pub(crate) fn go_duration(ms: Millis) -> String {
    let (minutes, seconds) = (ms / 60_000, ms % 60_000 / 1_000);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_11_first_crash_at_once_then_doubling_to_the_cap() {
        let mut row = Backoff::new(CRASH);
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let exited = now + 5;
            let due = row.due_ms(exited);
            waits.push((due - exited) / 1_000);
            row.step(exited, due);
            now = due;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn rule_11_more_than_ten_minutes_of_running_forgives() {
        let mut row = Backoff::new(CRASH);
        row.step(0, 0);
        row.step(10, 10_010);
        assert_eq!(row.due_ms(10_010 + 600_000), 10_010 + 600_000 + 20_000, "ten minutes sharp are not more");
        assert_eq!(row.due_ms(10_010 + 600_001), 10_010 + 600_001);
        row.step(10_010 + 600_001, 10_010 + 600_001);
        assert_eq!(row.delay_ms(), 10_000);
    }

    #[test]
    fn retries_grow_from_one_second_to_sixty() {
        let mut row = Backoff::new(RETRY);
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            row.step(now, now);
            delays.push(row.delay_ms() / 1_000);
            now = row.due_ms(now);
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        row.reset();
        assert_eq!(row.due_ms(now), now);
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        for (ms, text) in [(10_000, "10s"), (40_000, "40s"), (80_000, "1m20s"), (160_000, "2m40s"), (300_000, "5m0s")] {
            assert_eq!(go_duration(ms), text);
        }
    }
}
