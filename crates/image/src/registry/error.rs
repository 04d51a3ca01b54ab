//! What can go wrong between this machine and a registry.

use std::path::PathBuf;
use std::time::Duration;

/// Why a registry did not give what was asked of it. A person reads these: each names the host and what was asked, and
/// none holds a credential, a token, the query of a URL or its userinfo.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry wants a credential, or another one.
    #[error("{host} refuses {asked}: {reason}")]
    Unauthorized { host: String, asked: String, reason: String },
    /// The registry has no such manifest, blob or repository.
    #[error("{host} has no {asked}: check the name and the tag{reason}")]
    NotFound {
        host: String,
        asked: String,
        /// What the registry said, as the end of the message.
        reason: String,
    },
    /// Another answer than the protocol's good ones.
    #[error("{host} answered {asked} with {status}{reason}")]
    Status {
        host: String,
        asked: String,
        /// HTTP status code.
        status: u16,
        /// What the registry said, as the end of the message.
        reason: String,
    },
    /// Too little came for too long.
    #[error("{host} stalled: {asked} made no progress for {} s; the network or the registry is too slow", after.as_secs_f32())]
    Stalled { host: String, asked: String, after: Duration },
    /// No connection, or none that can be trusted.
    #[error("cannot connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    /// The connection broke off, too often for another try.
    #[error("the connection to {host} broke off during {asked}: {reason}")]
    Broken { host: String, asked: String, reason: String },
    /// A redirect that is not followed.
    #[error("{host} redirects {asked} {reason}")]
    Redirect { host: String, asked: String, reason: String },
    /// A token server that is not asked.
    #[error("{host} names a token server that is not trusted with a credential: {reason}")]
    Realm { host: String, reason: String },
    /// More came than is read.
    #[error("{host} answered {asked} with more than {limit} bytes")]
    TooLarge { host: String, asked: String, limit: u64 },
    /// The content is not what its descriptor says.
    #[error("{host} answered {asked} with {what} {found}, expected {expected}")]
    Mismatch { host: String, asked: String, what: &'static str, expected: String, found: String },
    /// An answer that makes no sense in the protocol.
    #[error("{host} answered {asked} as no registry does: {reason}")]
    Protocol { host: String, asked: String, reason: String },
    /// A `hosts.toml`, or a file that it names, is wrong.
    #[error("{path:?}: {reason}")]
    Hosts { path: PathBuf, reason: String },
    /// No mirror has it, and neither has the registry itself, whose error is the last.
    #[error("{}", join(tried))]
    AllHosts { tried: Vec<RegistryError> },
}

impl RegistryError {
    /// True when another credential may get another answer: the registry refused this one, or pretends to have nothing.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unauthorized { .. } | Self::NotFound { .. } => true,
            Self::AllHosts { tried } => tried.last().is_some_and(Self::is_refusal),
            _ => false,
        }
    }

    /// True when the registry could not be reached or could not serve: the same request may succeed later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            Self::AllHosts { tried } => tried.last().is_some_and(Self::is_unavailable),
            _ => false,
        }
    }
}

fn join(tried: &[RegistryError]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
