//! What the runtime answered, in the words of this crate.

use std::future::Future;
use std::time::Duration;

use tonic::{Response, Status, TimeoutExpired};

use crate::{Code, Error, v1};

/// Waits for a call's answer, but not for ever.
pub(super) async fn within<T>(
    call: &str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error_of(call, &status)),
        Err(_) => {
            Err(Error::deadline_exceeded(format!("{call}: the runtime gave no answer within {} s", limit.as_secs())))
        }
    }
}

/// What was asked to end or go, and is not there, has ended.
pub(super) fn ended<T: Default>(answer: Result<T, Error>) -> Result<T, Error> {
    match answer {
        Err(error) if error.code == Code::NotFound => Ok(T::default()),
        answer => answer,
    }
}

/// Runtimes keep an index of names and refuse a second object of one name, each with a text and a
/// code of its own.
pub(super) fn reserved<T>(answer: Result<T, Error>) -> Result<T, Error> {
    answer.map_err(|error| {
        let taken = ["is reserved for", "name is reserved", "already in use", "already exists"];
        match error.code {
            Code::Unknown | Code::Internal | Code::FailedPrecondition
                if taken.iter().any(|text| error.message.contains(text)) =>
            {
                Error::already_exists(error.message)
            }
            _ => error,
        }
    })
}

/// What a runtime that does not know the service at all speaks is another version of the protocol.
pub(super) fn spoken(answer: Result<v1::VersionResponse, Error>) -> Result<v1::VersionResponse, Error> {
    answer.map_err(|error| match error.code {
        Code::Unimplemented => Error::failed_precondition(format!(
            "the runtime does not speak CRI v1, which containerd does from 1.6 on and CRI-O from 1.23 on; if it is one of \
             these, its CRI plugin is disabled ({})",
            error.message
        )),
        _ => error,
    })
}

/// Who makes control groups must name them as the other reads them.
pub(super) fn fits(version: &v1::VersionResponse, config: v1::RuntimeConfigResponse) -> Result<(), Error> {
    let Some(linux) = config.linux else { return Ok(()) };
    match linux.cgroup_driver() {
        v1::CgroupDriver::Cgroupfs => Ok(()),
        v1::CgroupDriver::Systemd => Err(Error::failed_precondition(format!(
            "{} {} has systemd as its cgroup driver, and this kubelet makes control groups itself: let the runtime do the \
             same (containerd: SystemdCgroup = false in the options of its runc runtime, CRI-O: cgroup_manager = \
             \"cgroupfs\") and restart it",
            version.runtime_name, version.runtime_version
        ))),
    }
}

pub(super) fn error_of(call: &str, status: &Status) -> Error {
    let sources = || std::iter::successors(std::error::Error::source(status), |error| error.source());
    // The limit that goes with a call is minded on this side as well, and then it is no word of the runtime's.
    if sources().any(|source| source.is::<TimeoutExpired>()) {
        return Error::deadline_exceeded(format!("{call}: the runtime gave no answer in time"));
    }
    let code = match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::FailedPrecondition => Code::FailedPrecondition,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::Internal | tonic::Code::DataLoss => Code::Internal,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        // Whoever broke it off, nobody knows what became of it.
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Aborted => Code::Unavailable,
        tonic::Code::Unknown | tonic::Code::Ok if std::error::Error::source(status).is_some() => Code::Unavailable,
        tonic::Code::Unknown | tonic::Code::Ok => Code::Unknown,
    };
    // The transport's own errors say little themselves; what caused them does.
    let cause = sources().last();
    let message = match cause {
        Some(cause) => format!("{call}: {}: {cause}", status.message()),
        None => format!("{call}: {}", status.message()),
    };
    Error::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_are_known_by_their_text() {
        let texts = [
            "failed to reserve sandbox name \"a_b_c_0\": name \"a_b_c_0\" is reserved for \"4f\"",
            "error reserving pod name a for id b: name is reserved",
        ];
        for text in texts {
            let answer: Result<(), Error> = Err(Error::new(Code::Unknown, text));
            assert_eq!(reserved(answer).unwrap_err().code, Code::AlreadyExists, "{text}");
        }
        let other: Result<(), Error> = Err(Error::new(Code::Unknown, "no space left on device"));
        assert_eq!(reserved(other).unwrap_err().code, Code::Unknown);
        let lost: Result<(), Error> = Err(Error::unavailable("it already exists, perhaps"));
        assert_eq!(reserved(lost).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn a_runtime_that_does_not_fit_is_told_what_to_do() {
        let version = v1::VersionResponse { runtime_name: "containerd".into(), ..Default::default() };
        let config = |driver: v1::CgroupDriver| v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver as i32 }),
        };
        assert_eq!(fits(&version, config(v1::CgroupDriver::Cgroupfs)), Ok(()));
        assert_eq!(fits(&version, v1::RuntimeConfigResponse::default()), Ok(()));
        let refused = fits(&version, config(v1::CgroupDriver::Systemd)).unwrap_err();
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert!(refused.message.contains("SystemdCgroup = false"), "{refused}");
        let old = spoken(Err(Error::unimplemented("unknown service runtime.v1.RuntimeService"))).unwrap_err();
        assert!(old.code == Code::FailedPrecondition && old.message.contains("CRI v1"), "{old}");
        assert_eq!(spoken(Err(Error::unavailable("x"))).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn what_nobody_knows_is_unknown_and_no_failure() {
        for code in
            [tonic::Code::Unavailable, tonic::Code::Cancelled, tonic::Code::Aborted, tonic::Code::DeadlineExceeded]
        {
            assert!(error_of("Status", &Status::new(code, "x")).code.leaves_outcome_unknown(), "{code:?}");
        }
        assert!(!error_of("Status", &Status::unknown("x")).code.leaves_outcome_unknown());
        assert_eq!(error_of("Status", &Status::not_found("no such")).message, "Status: no such");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_is_given_up() {
        let error = within::<()>("ListContainers", Duration::from_secs(120), std::future::pending()).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        assert_eq!(error.message, "ListContainers: the runtime gave no answer within 120 s");
    }
}
