//! What a runtime answers when it cannot do what it was asked.

use std::fmt;

/// The class of a failure: gRPC's status codes, as far as a runtime uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The sandbox, container or image does not exist.
    NotFound,
    /// One with this name or id exists already.
    AlreadyExists,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The request does not fit the object's present state.
    FailedPrecondition,
    /// Somebody asked for a credential, and none or a wrong one was given.
    Unauthenticated,
    /// The credential is good, but not for this.
    PermissionDenied,
    /// A limit was reached: memory, disk, pids, addresses, message size.
    ResourceExhausted,
    /// The runtime cannot be reached now; whether the request was carried out is not known.
    Unavailable,
    /// The time given ran out; whether the request was carried out is not known.
    DeadlineExceeded,
    /// This runtime does not offer the call.
    Unimplemented,
    /// The runtime failed.
    Internal,
    /// The runtime gave no class.
    Unknown,
}

impl Code {
    /// The number this code has in gRPC.
    pub const fn number(self) -> i32 {
        match self {
            Self::Unknown => 2,
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// The code's name as gRPC clients print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::InvalidArgument => "InvalidArgument",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Unimplemented => "Unimplemented",
            Self::Internal => "Internal",
            Self::Unavailable => "Unavailable",
        }
    }

    /// True where a failure says nothing about whether the request was carried out:
    /// the caller looks before it acts again.
    pub const fn leaves_outcome_unknown(self) -> bool {
        matches!(self, Self::Unavailable | Self::DeadlineExceeded)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failed call: its class for the caller, its message for a person.
///
/// The message is lower case, complete in itself (it names the object), and is what `Display` shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The class of the failure.
    pub code: Code,
    /// What failed, with its facts.
    pub message: String,
}

impl Error {
    /// An error of class `code`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// [`Code::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// [`Code::AlreadyExists`].
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    /// [`Code::InvalidArgument`].
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// [`Code::FailedPrecondition`].
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// [`Code::ResourceExhausted`].
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    /// [`Code::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// [`Code::DeadlineExceeded`].
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, message)
    }

    /// [`Code::Unimplemented`].
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// [`Code::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }
}
