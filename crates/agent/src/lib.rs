//! The loop: pod sources → pod machines → effects → completions.
//!
//! [`run`] starts it and returns an [`AgentHandle`]. One task owns every pod's machine and decides; sources, effects and
//! file work run beside it and only ever speak to it through its queue, so that one stuck call never delays another pod.

mod config;
mod handle;

pub use config::{AgentConfig, DnsConfig, SourceConfig};
pub use handle::{AgentHandle, ContainerView, LookupError, ManifestStatus, PodView, RunState};
