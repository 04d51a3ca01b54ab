//! Failures as the API's clients see them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The class of a failure; it decides the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostErrorKind {
    /// 400: the request can never succeed as it is.
    Invalid,
    /// 404: the pod, container or image does not exist.
    NotFound,
    /// 409: the request does not fit the present state, e.g. an image that is in use.
    Conflict,
    /// 413: the request is larger than is allowed.
    TooLarge,
    /// 429: a limit was reached.
    Exhausted,
    /// 503: what is needed to answer cannot be reached now.
    Unavailable,
    /// 500.
    Internal,
}

/// Why the host could not do what was asked. The message is complete in itself and goes to the user as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// The class of the failure.
    pub kind: HostErrorKind,
    /// What failed, with its facts.
    pub message: String,
}

impl HostError {
    /// An error of class `kind`.
    pub fn new(kind: HostErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// [`HostErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(HostErrorKind::Invalid, message)
    }

    /// [`HostErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(HostErrorKind::NotFound, message)
    }

    /// [`HostErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(HostErrorKind::Internal, message)
    }

    fn status(&self) -> StatusCode {
        match self.kind {
            HostErrorKind::Invalid => StatusCode::BAD_REQUEST,
            HostErrorKind::NotFound => StatusCode::NOT_FOUND,
            HostErrorKind::Conflict => StatusCode::CONFLICT,
            HostErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            HostErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            HostErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            HostErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<cri::Error> for HostError {
    fn from(error: cri::Error) -> Self {
        use cri::Code;
        let kind = match error.code {
            Code::InvalidArgument => HostErrorKind::Invalid,
            Code::NotFound => HostErrorKind::NotFound,
            Code::AlreadyExists | Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied => {
                HostErrorKind::Conflict
            }
            Code::ResourceExhausted => HostErrorKind::Exhausted,
            Code::Unavailable | Code::DeadlineExceeded => HostErrorKind::Unavailable,
            Code::Unimplemented | Code::Internal | Code::Unknown => HostErrorKind::Internal,
        };
        Self::new(kind, error.message)
    }
}

/// The body of every failed request to the local socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For a person.
    pub message: String,
}

impl IntoResponse for HostError {
    fn into_response(self) -> Response {
        let status = self.status();
        (status, Json(ErrorBody { message: self.message })).into_response()
    }
}
