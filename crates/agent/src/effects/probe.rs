//! Running one probe of a container once.

use lifecycle::{Outcome, ProbeKind};

use super::{Job, World, retry};

/// What is to be probed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) container: &'a str,
    pub(super) container_id: &'a str,
    pub(super) kind: ProbeKind,
}

pub(super) async fn run(world: &World, job: &Job, target: Target<'_>) -> Outcome {
    let _ = (world, job, target);
    retry("Unhealthy", "being built")
}
