//! What the daemon answered, in the words of the CRI.

use std::error::Error as _;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as DockerError;
use cri::{Code, Error};

/// A call that failed, and the status code of the daemon's answer where there was one.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) status: Option<u16>,
    pub(crate) error: Error,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { status: None, error }
    }
}

pub(crate) const NOT_FOUND: u16 = 404;
pub(crate) const CONFLICT: u16 = 409;

/// Waits for an answer, but not for ever.
pub(crate) async fn within<T>(
    action: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| of_docker(action, &error)),
        Err(_) => {
            let text = format!("{action}: docker gave no answer within {} s", limit.as_secs());
            Err(Error::deadline_exceeded(text).into())
        }
    }
}

/// What was asked to end or go, and is not there, has ended.
pub(crate) fn absent_is_done(answer: Result<(), Failed>) -> Result<(), Failed> {
    match answer {
        Err(failed) if failed.status == Some(NOT_FOUND) => Ok(()),
        answer => answer,
    }
}

pub(crate) fn of_docker(action: &str, error: &DockerError) -> Failed {
    let told =
        |status, code, text: &dyn Display| Failed { status, error: Error::new(code, format!("{action}: {text}")) };
    match error {
        DockerError::DockerResponseServerError { status_code, message } => {
            told(Some(*status_code), code_of(*status_code, message), message)
        }
        DockerError::DockerStreamError { error } => told(None, Code::Unknown, error),
        // Nobody listens, or whoever did went away in the middle of it.
        DockerError::IOError { .. }
        | DockerError::HyperResponseError { .. }
        | DockerError::HyperLegacyError { .. }
        | DockerError::SocketNotFoundError(_) => {
            let cause = std::iter::successors(error.source(), |cause| (*cause).source()).last();
            match cause {
                Some(cause) => told(None, Code::Unavailable, &format!("docker cannot be reached: {error}: {cause}")),
                None => told(None, Code::Unavailable, &format!("docker cannot be reached: {error}")),
            }
        }
        DockerError::RequestTimeoutError => told(None, Code::DeadlineExceeded, &"docker gave no answer in time"),
        other => told(None, Code::Internal, other),
    }
}

pub(crate) fn code_of(status: u16, message: &str) -> Code {
    match status {
        400 => Code::InvalidArgument,
        NOT_FOUND => Code::NotFound,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        CONFLICT => Code::FailedPrecondition,
        501 => Code::Unimplemented,
        // A daemon that ends refuses what it has not begun and breaks off what it has.
        503 => Code::Unavailable,
        500.. if message.contains("shutting down") || message.contains("connection refused") => Code::Unavailable,
        500.. if message.contains("no space left on device") => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

/// An error for which nobody but this machine is to blame.
pub(crate) fn internal<E: Display>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::internal(format!("{action}: {error}"))
}

/// Runs what blocks where it may.
pub(crate) async fn on_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(internal("run on the blocking pool"))
}

/// Does all of the work even if the caller does not wait for it: half a sandbox helps nobody.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(internal("do all of a request"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_class_that_a_caller_acts_on() {
        let answer = |status_code, message: &str| {
            let error = DockerError::DockerResponseServerError { status_code, message: message.into() };
            of_docker("start container c", &error).error
        };
        assert_eq!(answer(404, "No such container: c").code, Code::NotFound);
        assert_eq!(answer(409, "name in use").code, Code::FailedPrecondition);
        assert_eq!(answer(400, "bad parameter").code, Code::InvalidArgument);
        assert_eq!(answer(500, "something").code, Code::Internal);
        assert!(answer(503, "").code.leaves_outcome_unknown());
        assert!(answer(500, "daemon is shutting down").code.leaves_outcome_unknown());
        assert_eq!(answer(404, "No such container: c").message, "start container c: No such container: c");
    }

    #[test]
    fn a_daemon_that_is_away_is_no_failure_of_the_object() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for error in [DockerError::IOError { err: refused }, DockerError::SocketNotFoundError("/x.sock".into())] {
            assert_eq!(of_docker("list", &error).error.code, Code::Unavailable);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_given_up() {
        let failed = within::<()>("list", Duration::from_secs(120), std::future::pending()).await.unwrap_err();
        assert_eq!(failed.error.code, Code::DeadlineExceeded);
        assert_eq!(failed.error.message, "list: docker gave no answer within 120 s");
    }
}
