//! What the runtime answered, in the words of this crate.

use std::future::Future;
use std::time::Duration;

use tonic::{Response, Status, TimeoutExpired};

use crate::{Code, Error, cgroup_driver_refused, shown_json, v1};

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

const CGROUP_SETTINGS: &str = "containerd: SystemdCgroup = false in the options of its runc runtime, CRI-O: cgroup_manager = \
                               \"cgroupfs\"";

/// Whether the runtime makes control groups as this kubelet does.
pub(super) fn fits(version: &v1::VersionResponse, driver: v1::CgroupDriver) -> Result<(), Error> {
    match driver {
        v1::CgroupDriver::Cgroupfs => Ok(()),
        v1::CgroupDriver::Systemd => Err(cgroup_driver_refused(version, "systemd", CGROUP_SETTINGS)),
    }
}

/// What a runtime tells of its driver; one that tells nothing makes control groups by path.
pub(super) fn driver_told(config: &v1::RuntimeConfigResponse) -> v1::CgroupDriver {
    config.linux.as_ref().map_or(v1::CgroupDriver::Cgroupfs, v1::LinuxRuntimeConfiguration::cgroup_driver)
}

/// containerd before 2.0 has no call for it, and shows it in its configuration, as that of the runtime that it uses.
pub(super) fn driver_shown(status: &v1::StatusResponse) -> v1::CgroupDriver {
    let config = shown_json(&status.info, "config");
    let containerd = &config["containerd"];
    let used = containerd["defaultRuntimeName"].as_str().unwrap_or("runc");
    match containerd["runtimes"][used]["options"]["SystemdCgroup"] == serde_json::Value::Bool(true) {
        true => v1::CgroupDriver::Systemd,
        false => v1::CgroupDriver::Cgroupfs,
    }
}

/// The limits of a container as containerd before 1.7 tells them, in the specification that it made for runc.
pub(super) fn limits_shown(answer: &v1::ContainerStatusResponse) -> v1::ContainerResources {
    let limit = shown_json(&answer.info, "info")["runtimeSpec"]["linux"]["resources"]["memory"]["limit"].as_i64();
    let linux = v1::LinuxContainerResources { memory_limit_in_bytes: limit.unwrap_or(0), ..Default::default() };
    v1::ContainerResources { linux: Some(linux), windows: None }
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
        let told = |driver: v1::CgroupDriver| v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver as i32 }),
        };
        assert_eq!(fits(&version, driver_told(&told(v1::CgroupDriver::Cgroupfs))), Ok(()));
        assert_eq!(fits(&version, driver_told(&v1::RuntimeConfigResponse::default())), Ok(()));
        let refused = fits(&version, driver_told(&told(v1::CgroupDriver::Systemd))).unwrap_err();
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert!(refused.message.contains("SystemdCgroup = false"), "{refused}");
        let old = spoken(Err(Error::unimplemented("unknown service runtime.v1.RuntimeService"))).unwrap_err();
        assert!(old.code == Code::FailedPrecondition && old.message.contains("CRI v1"), "{old}");
        assert_eq!(spoken(Err(Error::unavailable("x"))).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn a_runtime_without_the_call_shows_its_driver_in_its_configuration() {
        use v1::CgroupDriver::{Cgroupfs, Systemd};
        let shown = |config: &str| {
            let info = [("config".to_owned(), config.to_owned())].into();
            driver_shown(&v1::StatusResponse { info, ..Default::default() })
        };
        let config = |used: &str| {
            format!(
                r#"{{"containerd": {{"defaultRuntimeName": "{used}", "runtimes":
                {{"runc": {{"options": {{"SystemdCgroup": false}}}}, "other": {{"options": {{"SystemdCgroup": true}}}},
                "bare": {{"options": null}}}}}}}}"#
            )
        };
        for (used, driver) in [("runc", Cgroupfs), ("other", Systemd), ("bare", Cgroupfs), ("absent", Cgroupfs)] {
            assert_eq!(shown(&config(used)), driver, "{used}");
        }
        for other in ["", "{}", "[1]", "cgroup_manager = \"systemd\"", r#"{"containerd": 1}"#] {
            assert_eq!(shown(other), Cgroupfs, "{other}");
        }
        assert_eq!(driver_shown(&v1::StatusResponse::default()), Cgroupfs);
    }

    #[test]
    fn limits_are_read_from_what_runc_was_told() {
        let shown = |info: &str| {
            let info = [("info".to_owned(), info.to_owned())].into();
            limits_shown(&v1::ContainerStatusResponse { info, ..Default::default() })
                .linux
                .unwrap()
                .memory_limit_in_bytes
        };
        assert_eq!(shown(r#"{"runtimeSpec": {"linux": {"resources": {"memory": {"limit": 16777216}}}}}"#), 16 << 20);
        for none in ["", "[]", "{}", r#"{"runtimeSpec": {"linux": {"resources": {"memory": {"limit": "x"}}}}}"#] {
            assert_eq!(shown(none), 0, "{none}");
        }
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
