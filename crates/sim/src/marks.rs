//! How often the situations that the rules are about really came up: a rule that was never tempted has not been tested.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Rule 1: a UID that had ended was wanted again and got a new machine.
    UidReturned,
    /// Rule 1: a pod came to its end and stayed there.
    PodSettled,
    /// Rule 2: a pod's end began while something was in flight that had to be given up.
    CancelledAtDelete,
    /// Rule 2: a stop that was under way was shortened.
    StopShortened,
    /// Rule 3: a pod's end began before all of it had started.
    DeletedWhileStarting,
    /// Rule 4: a cancelled effect ended as if it had not been.
    CancelledLate,
    /// Rule 5: an outcome remained unknown, and it had happened.
    UnknownHappened,
    /// Rule 5: an outcome remained unknown, and nothing had happened.
    UnknownNothing,
    /// Rule 6: a completion came twice, or for a machine that was gone.
    StaleCompletion,
    /// Rule 7: an orphan was there before every source had reported.
    OrphanWaited,
    /// Rule 7: an orphan was ended.
    OrphanEnded,
    /// Rule 8: an exit code other than 0 was reported.
    CodeReported,
    /// Rule 8: a code that nobody knows was reported as such.
    CodeUnknown,
    /// Rule 8: a record went after its code had been heard.
    RecordRemoved,
    /// Rule 9: a pod waited for one of its name.
    NamesakeWaited,
    /// Rule 10: a plan changed twice before the first change was carried out.
    UpdatesCoalesced,
    /// Rule 11: a container's restart waited for its back-off.
    CrashBackedOff,
    /// Rule 11: an image's did.
    ImageBackedOff,
    /// Rule 12: a pod's end was complete.
    TornDown,
    /// Rule 12: something of a pod happened after its end had begun.
    LateArrival,
    /// Rule 13: a file turned bad while its pod was running.
    ManifestSpoiled,
    /// Rule 13: two files claimed one name.
    NameContested,
    InitContainersOrdered,
    SidecarsInReverse,
    RestartedAll,
    ProbeFailedContainer,
    HookRan,
    PreStopRan,
    KubeletKilled,
    RuntimeWentAway,
    Rebooted,
    ReadinessKept,
    RecordDamaged,
    DeadlineReached,
    Rejected,
}

impl Mark {
    pub const ALL: &[Mark] = &[
        Mark::UidReturned,
        Mark::PodSettled,
        Mark::CancelledAtDelete,
        Mark::StopShortened,
        Mark::DeletedWhileStarting,
        Mark::CancelledLate,
        Mark::UnknownHappened,
        Mark::UnknownNothing,
        Mark::StaleCompletion,
        Mark::OrphanWaited,
        Mark::OrphanEnded,
        Mark::CodeReported,
        Mark::CodeUnknown,
        Mark::RecordRemoved,
        Mark::NamesakeWaited,
        Mark::UpdatesCoalesced,
        Mark::CrashBackedOff,
        Mark::ImageBackedOff,
        Mark::TornDown,
        Mark::LateArrival,
        Mark::ManifestSpoiled,
        Mark::NameContested,
        Mark::InitContainersOrdered,
        Mark::SidecarsInReverse,
        Mark::RestartedAll,
        Mark::ProbeFailedContainer,
        Mark::HookRan,
        Mark::PreStopRan,
        Mark::KubeletKilled,
        Mark::RuntimeWentAway,
        Mark::Rebooted,
        Mark::ReadinessKept,
        Mark::RecordDamaged,
        Mark::DeadlineReached,
        Mark::Rejected,
    ];
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    pub fn hit(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Marks) {
        for (mark, count) in &other.0 {
            *self.0.entry(*mark).or_default() += count;
        }
    }

    pub fn missing(&self) -> Vec<Mark> {
        Mark::ALL.iter().copied().filter(|mark| self.count(*mark) == 0).collect()
    }
}
