//! Running a hook of a container.

use lifecycle::{Done, Event, Outcome};

use super::{Job, World};

/// Whose hook.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) container: &'a str,
    pub(super) container_id: &'a str,
    pub(super) moment: Moment,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    PostStart,
    PreStop { grace_ms: u64 },
}

/// How it went, and what there is to tell of it.
pub(super) async fn run(world: &World, job: &Job, target: Target<'_>) -> (Outcome, Option<Event>) {
    let _ = (world, job, target);
    (Outcome::Ok(Done::Nothing), None)
}
