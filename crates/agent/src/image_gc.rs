//! Removing images that nobody uses: every five minutes where they take too much room or are too old, and all of them when
//! somebody asks.

mod collector;
mod disk;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::core::Message;
use crate::effects::World;
use crate::handle::Query;
use collector::{Collector, Next};

/// Between two looks at the images.
const EVERY: Duration = Duration::from_secs(300);
/// Until it is asked again what is wanted, while that is not known.
const AGAIN: Duration = Duration::from_secs(10);

/// What a removal of unused images came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: Vec<PrunedImage>,
    /// Images that were to be removed and could not be.
    pub failed: Vec<PruneFailure>,
    /// By how much the images' file system has grown emptier, as the file system says; 0 if it does not say.
    pub freed_bytes: u64,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedImage {
    /// The runtime's.
    pub id: String,
    /// Tags it was known by or, if it had none, digests; none of an image that had lost its names.
    pub names: Vec<String>,
    /// As the runtime counts it, content shared with other images included.
    pub size_bytes: u64,
}

/// An image that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneFailure {
    pub id: String,
    pub names: Vec<String>,
    pub error: String,
}

/// Why no image was removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    #[error(
        "the kubelet does not know yet which images are wanted, because not every source of pods has reported; try again in a moment"
    )]
    NotReady,
    #[error("{what}: {error}")]
    Runtime { what: &'static str, error: cri::Error },
    #[error("the kubelet is shutting down")]
    Closed,
}

/// Somebody asks for the removal of all that is not used.
pub(crate) type Asked = oneshot::Sender<Result<Pruned, PruneError>>;

/// What the work with images needs to know of everything else.
pub(crate) struct Surroundings {
    pub(crate) world: Arc<World>,
    /// Asked which images are wanted.
    pub(crate) queries: mpsc::Sender<Query>,
    /// Told of what goes wrong.
    pub(crate) messages: mpsc::Sender<Message>,
}

/// Looks after the images until `stop`.
pub(crate) async fn look_after_images(
    surroundings: Surroundings,
    mut asked: mpsc::Receiver<Asked>,
    stop: CancellationToken,
) {
    let first_after = surroundings.world.config.images.gc.min_age.min(EVERY);
    let mut collector = Collector::new(surroundings, disk::MEASURES);
    let idle = collector.is_idle();
    let work = async {
        if let Err(error) = collector.look().await {
            debug!(%error, "images are looked at later, and taken for younger than they are");
        }
        // Whoever put an image there while no kubelet ran has this time to add the pod that wants it.
        let mut next = Instant::now() + first_after;
        loop {
            tokio::select! {
                Some(reply) = asked.recv() => {
                    let pruned = collector.prune().await;
                    // Whoever asked may have gone meanwhile.
                    let _gone = reply.send(pruned);
                }
                () = sleep_until(next), if !idle => {
                    let wait = match collector.round().await {
                        Next::Regular => EVERY,
                        Next::Soon => AGAIN,
                    };
                    next = Instant::now() + wait;
                }
                else => return,
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests;
