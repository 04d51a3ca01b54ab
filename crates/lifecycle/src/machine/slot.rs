//! What is remembered of the making of one container: its image, its tries, its crashes.

use super::retry::Retry;
use crate::backoff::{Backoff, CRASH, IMAGE, IMAGE_LOCAL, RETRY};
use crate::{ContainerPlan, Failure, Millis, PullPolicy};

/// What is remembered of one container of the plan beyond what the runtime shows.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) image: Image,
    /// Of making the image present. Of the containers of one image that of the first one counts for all: an image that
    /// cannot be had is not asked for once more for each of them.
    pub(crate) pull: Retry,
    /// The failed pull, by its time, of whose back-off people were told.
    pub(crate) told_pull_ms: Option<Millis>,
    /// Of restarts after an exit.
    pub(crate) crash: Backoff,
    /// The attempt for which the back-off last grew.
    pub(crate) paced_attempt: Option<u32>,
    /// The attempt of whose back-off people were told.
    pub(crate) told_attempt: Option<u32>,
    /// Of creating and starting one attempt.
    pub(crate) start: Retry,
    /// The attempt that last failed to start.
    pub(crate) failed_attempt: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// Nothing was asked yet: a container from before a restart of the kubelet may tell.
    Unasked,
    /// It must be ensured before the next start.
    Stale,
    Resolved(String),
}

impl Slot {
    pub(crate) fn new(plan: &ContainerPlan, max_restart_delay_ms: Millis) -> Slot {
        let (image, pace) = match plan.pull_policy {
            PullPolicy::Always => (Image::Stale, IMAGE),
            PullPolicy::IfNotPresent => (Image::Unasked, IMAGE),
            PullPolicy::Never => (Image::Unasked, IMAGE_LOCAL),
        };
        Slot {
            image,
            pull: Retry::new(pace),
            told_pull_ms: None,
            crash: Backoff::new(CRASH.at_most(max_restart_delay_ms)),
            paced_attempt: None,
            told_attempt: None,
            start: Retry::new(RETRY),
            failed_attempt: None,
        }
    }

    pub(crate) fn wants_image(&self) -> bool {
        !matches!(self.image, Image::Resolved(_))
    }

    pub(crate) fn started(&mut self, policy: PullPolicy) {
        self.start.succeeded();
        self.failed_attempt = None;
        if policy == PullPolicy::Always {
            self.image = Image::Stale;
        }
    }

    pub(crate) fn start_failed(&mut self, attempt: u32, now_ms: Millis, failure: Failure) {
        self.start.failed(now_ms, failure);
        // It may have been created all the same, and the image may be what is missing.
        self.start.doubt(now_ms);
        self.failed_attempt = Some(attempt);
        self.image = Image::Stale;
    }

    pub(crate) fn start_unknown(&mut self, now_ms: Millis) {
        self.start.unknown(now_ms);
    }
}
