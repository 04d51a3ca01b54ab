//! Where a runtime does something else than the embedded engine.

use e2e::{Machine, Runtime};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// What keeps a command from being executed is told on its standard output, as Docker's own client shows it.
    ExecTellsOnOutput,
    /// The containers of a pod have host names of their own, which are the same: Docker joins no UTS namespaces.
    OwnHostnames,
    /// A privileged container wants every capability there is, also those that the daemon itself was not given.
    PrivilegedNeedsAll,
    /// A registry that cannot be reached is told as an error like others: only our store says why it has no image.
    UnreachableIsErrImagePull,
}

/// The table of ARCHITECTURE.md, as far as it shows from outside.
pub(crate) const DIFFERENCES: [(Difference, &[Runtime]); 4] = [
    (Difference::ExecTellsOnOutput, &[Runtime::Docker]),
    (Difference::OwnHostnames, &[Runtime::Docker]),
    (Difference::PrivilegedNeedsAll, &[Runtime::Docker]),
    (Difference::UnreachableIsErrImagePull, &[Runtime::Docker, Runtime::Containerd, Runtime::ContainerdSid]),
];

pub(crate) fn differs(machine: &Machine, what: Difference) -> bool {
    DIFFERENCES.iter().any(|(difference, runtimes)| *difference == what && runtimes.contains(&machine.runtime()))
}
