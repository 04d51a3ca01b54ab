//! Which faults a world has, and how often. Each seed switches each kind on or off by itself: a world with few kinds
//! reaches states that one with all of them never does.

use crate::rng::Rng;

/// Rates in a thousand, per occasion; 0 is off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// An effect fails and has changed nothing.
    pub(crate) fails_before: u64,
    /// An effect fails although it happened, wholly or by half.
    pub(crate) fails_after: u64,
    /// No answer comes in time, and nothing happened.
    pub(crate) unknown_before: u64,
    /// No answer comes in time, but it happened.
    pub(crate) unknown_after: u64,
    /// No answer comes in time, and it happens only then.
    pub(crate) unknown_late: u64,
    /// It takes long, then answers truly.
    pub(crate) hangs: u64,
    /// A completion is delivered again, later.
    pub(crate) repeats: u64,
    /// Who is cancelled takes its time to say so, or ends as if it had not been.
    pub(crate) cancels_late: u64,
    pub(crate) event_lost: u64,
    pub(crate) event_late: u64,
    pub(crate) event_doubled: u64,
    /// The kubelet is killed before what it decided was sent.
    pub(crate) kill_before_issue: u64,
    pub(crate) kill_after_issue: u64,
    /// It happened and the kubelet dies before it hears of it.
    pub(crate) kill_before_heard: u64,
    /// A record of the kubelet's is damaged when it starts.
    pub(crate) record_damaged: u64,
    /// Per accident slot (one for each few seconds of the bad time).
    pub(crate) runtime_down: u64,
    pub(crate) reboot: u64,
    pub(crate) disk_full: u64,
    pub(crate) wall_steps: u64,
    pub(crate) image_absent: u64,
    pub(crate) edits: u64,
    /// How late a source may report after the kubelet's start.
    pub(crate) source_late_ms: u64,
    /// Containers' shims keep their deadline without the kubelet.
    pub(crate) shim_kills: bool,
    /// A container dies of something that nobody recorded.
    pub(crate) exits_lost: u64,
}

impl Options {
    pub(crate) fn roll(rng: &mut Rng) -> Options {
        let mut rate = |highest: u64| if rng.chance(500) { 1 + rng.below(highest) } else { 0 };
        Options {
            fails_before: rate(100),
            fails_after: rate(60),
            unknown_before: rate(50),
            unknown_after: rate(80),
            unknown_late: rate(30),
            hangs: rate(40),
            repeats: rate(100),
            cancels_late: rate(600),
            event_lost: rate(300),
            event_late: rate(300),
            event_doubled: rate(200),
            kill_before_issue: rate(12),
            kill_after_issue: rate(12),
            kill_before_heard: rate(12),
            record_damaged: rate(200),
            runtime_down: rate(120),
            reboot: rate(60),
            disk_full: rate(120),
            wall_steps: rate(200),
            image_absent: rate(300),
            edits: 100 + rate(500),
            source_late_ms: rate(60_000),
            exits_lost: rate(60),
            shim_kills: rng.chance(700),
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn healed(&self) -> Options {
        Options { shim_kills: true, ..Options::default() }
    }
}
