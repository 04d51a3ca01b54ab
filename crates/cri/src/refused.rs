//! Why a request is not carried out, in the request's own words; and why a runtime cannot be used.

use crate::{Error, v1};

/// A field of a request that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct Refused {
    field: String,
    fault: String,
}

impl Refused {
    /// `fault` says what was found and what is expected.
    pub fn new(field: &str, fault: impl Into<String>) -> Self {
        Self { field: field.to_owned(), fault: fault.into() }
    }

    /// The answer to the request for `what`.
    pub fn of(self, what: &str) -> Error {
        Error::invalid_argument(format!("{what}: {self}"))
    }
}

/// The answer of a runtime whose control groups another makes: who makes them must name them as the other reads them.
/// `setting` tells what to write into which of its files.
pub fn cgroup_driver_refused(version: &v1::VersionResponse, driver: &str, setting: &str) -> Error {
    Error::failed_precondition(format!(
        "{} {} has {driver} as its cgroup driver, and this kubelet makes control groups itself: let the runtime do the same \
         ({setting}) and restart it",
        version.runtime_name, version.runtime_version
    ))
}
