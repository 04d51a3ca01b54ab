//! The loop: pod sources → pod machines → effects → completions.
//!
//! [`run`] starts it and returns an [`AgentHandle`]. One task owns every pod's machine and decides; sources, effects and
//! file work run beside it and only ever speak to it through its queue, so that one stuck call never delays another pod.

mod clock;
mod config;
pub mod core;
pub mod credentials;
mod deletion;
mod durable;
mod effects;
mod events;
mod finished;
mod handle;
mod image_gc;
mod messages;
mod observe;
mod plan;
mod pull_records;
mod remembered;
mod rotation;
mod run;
mod sources;
mod status;
#[cfg(test)]
mod testing;
mod volumes;

pub use config::{AgentConfig, DnsConfig, ImageGcConfig, ImagesConfig, MAX_PODS, SourceConfig};
pub use handle::{AgentHandle, ContainerView, LookupError, ManifestStatus, PodView, RunState};
pub use image_gc::{PruneError, PruneFailure, Pruned, PrunedImage};
pub use lifecycle::ContainerKind;
pub use lifecycle::image_access;
pub use run::{StartError, run};
pub use sources::url::UrlError;
