//! What a runtime that is another process says of itself: whether this kubelet can use it, and whether it is ready.
//!
//! That it is away or hangs shows in every call, and is told by [`cri::calls`].

use cri::{Code, Error, Runtime, v1};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Between two looks at a runtime that is well: it may be restarted with other settings at any time.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Between two looks at one that is not, or does not answer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What keeps the runtime from running pods, in words for a person; kept up to date by [`look_after`].
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    trouble: Mutex<Option<String>>,
}

/// What was learned by looking once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    runtime: Option<String>,
    network: Option<String>,
}

impl Readiness {
    /// Nothing where all is well, as far as the runtime has been heard.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Looks at the runtime until `stop`, and tells each change in the log. A network that is not ready is no trouble of the
/// runtime's: pods on the host's network run without, among them those that set it up.
pub(crate) async fn look_after(runtime: Arc<dyn Runtime>, readiness: Arc<Readiness>, stop: CancellationToken) {
    let work = async {
        let mut last = Seen::default();
        loop {
            let seen = look(&*runtime).await;
            let pause = if seen.as_ref().is_some_and(is_well) { LOOK_EVERY } else { LOOK_AGAIN_AFTER };
            if let Some(seen) = seen {
                tell(&last.runtime, &seen.runtime, "the runtime is ready");
                tell(&last.network, &seen.network, "the runtime's network is ready");
                readiness.set(seen.runtime.clone());
                last = seen;
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

fn is_well(seen: &Seen) -> bool {
    *seen == Seen::default()
}

/// Nothing where the runtime does not answer.
async fn look(runtime: &dyn Runtime) -> Option<Seen> {
    match runtime.version(v1::VersionRequest::default()).await {
        Ok(_) => {}
        Err(error) => return unfit(&error),
    }
    let status = runtime.status(v1::StatusRequest { verbose: false }).await.ok()?;
    Some(seen(&status.status.unwrap_or_default().conditions))
}

/// A runtime that answers and cannot be used, by its version or its settings.
fn unfit(error: &Error) -> Option<Seen> {
    let refused = error.code == Code::FailedPrecondition;
    refused.then(|| Seen { runtime: Some(error.message.clone()), network: None })
}

/// In the words that every kubelet uses.
fn seen(conditions: &[v1::RuntimeCondition]) -> Seen {
    let unmet = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.r#type == kind && !condition.status)?;
        Some(format!("{kind}=false reason:{} message:{}", found.reason, found.message))
    };
    Seen {
        runtime: unmet("RuntimeReady").map(|told| format!("container runtime not ready: {told}")),
        network: unmet("NetworkReady").map(|told| format!("container runtime network not ready: {told}")),
    }
}

fn tell(before: &Option<String>, now: &Option<String>, well: &str) {
    match now {
        Some(trouble) if before.as_ref() != Some(trouble) => warn!("{trouble}"),
        None if before.is_some() => info!("{well}"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: bool) -> v1::RuntimeCondition {
        v1::RuntimeCondition { r#type: kind.into(), status, reason: "Why".into(), message: "so it is".into() }
    }

    #[test]
    fn only_a_condition_that_is_not_met_is_told() {
        let both = |runtime, network| seen(&[condition("RuntimeReady", runtime), condition("NetworkReady", network)]);
        assert_eq!(
            [both(true, true), seen(&[]), seen(&[condition("Other", false)])].map(|seen| is_well(&seen)),
            [true; 3]
        );
        let told = both(false, true);
        let text = "container runtime not ready: RuntimeReady=false reason:Why message:so it is";
        assert_eq!(told, Seen { runtime: Some(text.into()), network: None });
        let told = both(true, false);
        let text = "container runtime network not ready: NetworkReady=false reason:Why message:so it is";
        assert_eq!((told.runtime, told.network.as_deref()), (None, Some(text)));
    }

    #[test]
    fn a_runtime_that_does_not_answer_says_nothing_of_itself() {
        let refused = Error::failed_precondition("it has systemd as its cgroup driver");
        assert_eq!(unfit(&refused).and_then(|seen| seen.runtime), Some(refused.message));
        for error in [Error::unavailable("away"), Error::deadline_exceeded("late"), Error::internal("injected failure")]
        {
            assert_eq!(unfit(&error), None, "{error}");
        }
    }
}
