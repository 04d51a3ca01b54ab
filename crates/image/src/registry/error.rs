//! What can go wrong between this machine and a registry.

use crate::digest::shorten;
use std::error::Error;
use std::io;
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
    #[error("{host} has no {asked}{reason}")]
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
    /// No connection.
    #[error("cannot connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    /// The host cannot prove that it is the one that is meant.
    #[error("{host} is not trusted: {reason}")]
    Certificate { host: String, reason: String },
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
    /// The error that counts: of several hosts the registry itself, which is asked last, has the last word.
    pub fn decisive(&self) -> &Self {
        match self {
            Self::AllHosts { tried } => tried.last().map_or(self, Self::decisive),
            _ => self,
        }
    }

    /// True when another credential may get another answer: the registry refused this one, or pretends to have nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(self.decisive(), Self::Unauthorized { .. } | Self::NotFound { .. })
    }

    /// True when the registry could not be reached or could not serve: the same request may succeed later.
    pub fn is_unavailable(&self) -> bool {
        match self.decisive() {
            Self::Connect { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// What a failed request means. Of the library's error nothing is kept but its last cause, which names no URL.
pub(super) fn classify(error: reqwest::Error, host: &str, asked: &str) -> RegistryError {
    let (host, asked, error) = (host.to_owned(), asked.to_owned(), error.without_url());
    let cause = root_cause(&error);
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(wrong)) => {
            let advice = match wrong {
                rustls::CertificateError::UnknownIssuer => {
                    "; if that is right, name its CA with \"ca\" in the registry's hosts.toml"
                }
                _ => "",
            };
            return RegistryError::Certificate { host, reason: format!("{cause}{advice}") };
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            let reason = "it does not speak TLS; if that is right, name it with http:// in the registry's hosts.toml";
            return RegistryError::Connect { host, reason: reason.into() };
        }
        _ => {}
    }
    if error.is_connect() {
        let reason = if error.is_timeout() { "it does not answer".to_owned() } else { cause };
        return RegistryError::Connect { host, reason };
    }
    RegistryError::Broken { host, asked, reason: cause }
}

/// The innermost cause of an error, the one that a person can act on.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    shorten(&last.to_string())
}

/// The TLS library's error among the causes.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // What an `io::Error` wraps is not its source: that is the wrapped one's.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map_or_else(|| error.source(), |inner| Some(inner as &(dyn Error + 'static)));
    }
    None
}

fn join(tried: &[RegistryError]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
