//! Why a request is not carried out, in the request's own words.

use crate::Error;

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
