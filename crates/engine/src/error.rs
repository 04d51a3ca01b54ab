//! From the engine's own errors to the CRI's.

use std::fmt::Display;

use cri::{Code, Error};
use shim::protocol::FailureKind;

use crate::shim_link::ShimError;

/// An error for which nobody but this machine is to blame.
pub(crate) fn internal<E: Display>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::internal(format!("{action}: {error}"))
}

/// Runs what blocks where it may.
pub(crate) async fn on_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(internal("run on the blocking pool"))
}

/// What a shim's failure means to the caller.
pub(crate) fn of_shim(action: &str, error: &ShimError) -> Error {
    let code = match error {
        ShimError::Gone | ShimError::Socket { .. } => Code::Unavailable,
        ShimError::Timeout { .. } => Code::DeadlineExceeded,
        ShimError::TooLarge { .. } => Code::InvalidArgument,
        ShimError::Failed(failure) => match failure.kind {
            FailureKind::NotFound => Code::FailedPrecondition,
            FailureKind::Refused => Code::InvalidArgument,
            FailureKind::Entrypoint | FailureKind::System => Code::Internal,
        },
    };
    Error::new(code, format!("{action}: {error}"))
}
