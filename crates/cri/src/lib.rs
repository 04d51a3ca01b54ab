//! The CRI v1 vocabulary and the [`Runtime`] trait: the one language between the agent and whatever runs containers.
//!
//! [`v1`] holds the protocol's messages. The embedded engine, Docker and remote runtimes implement [`Runtime`]
//! over them; the agent knows nothing else.

pub mod attach;
pub mod backlog;
pub mod calls;
pub mod channel;
#[cfg(feature = "client")]
pub mod client;
mod error;
pub mod filter;
pub mod keys;
pub mod names;
pub mod ports;
mod redact;
mod refused;
pub mod resolver;
mod runtime;
pub mod settling;
#[cfg(feature = "spdy")]
pub mod spdy;
pub mod stats;
#[cfg(feature = "testing")]
pub mod testing;
pub mod turns;

pub use error::{Code, Error};
pub use refused::{Refused, cgroup_driver_refused};
pub use runtime::{ByteStream, ExecSession, LogRotation, Runtime};

/// The messages of CRI v1 as of Kubernetes 1.36, generated from `proto/api.proto`.
///
/// Enums travel as `i32`. The generated getters turn a number that this version does not know into the enum's first
/// value; [`names::container_state`] and [`names::sandbox_state`] turn it into "unknown" and "not ready" instead.
#[allow(deprecated, missing_docs, clippy::doc_markdown, clippy::enum_variant_names, clippy::large_enum_variant)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// What a verbose answer shows under this key of its `info`; null where that is no JSON, or nothing.
pub fn shown_json(info: &std::collections::BTreeMap<String, String>, key: &str) -> serde_json::Value {
    info.get(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
