//! The kubelet's HTTP API.
//!
//! Three routers over one [`Host`]: [`read_only`] for port 10255, [`healthz`] for port 10248 and [`local`] for the
//! unix socket of the command line. [`bind_tcp`], [`bind_unix`] and [`serve`] run a router within [`Limits`].
//! [`logs`] reads container logs, [`channel`] is the framing of exec sessions, shared with the client.

mod error;
mod health;
mod host;
mod images;
mod listen;
pub mod logs;
mod port_forward;
mod routes;
pub mod stats;
mod streams;
mod websocket;

pub use error::{ErrorBody, HostError, HostErrorKind};
pub use host::{
    AttachRequest, ContainerRef, EventFilter, ExecRequest, HealthCheck, Host, ImagePull, ImageSummary, ImportRequest,
    ImportedImage, LayerPull, LayerState, LogRequest, ManifestStatus, PodRef, PruneFailure, Pruned, PrunedImage,
    PullLine, PullRequest, PulledImage, StreamOptions,
};
pub use listen::{Bound, Limits, ListenError, bind_tcp, bind_unix, serve};
pub use routes::{healthz, local, read_only};
