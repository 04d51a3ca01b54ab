//! The kubelet's HTTP API.
//!
//! Three routers over one [`Host`]: [`read_only`] for port 10255, [`healthz`] for port 10248 and [`local`] for the
//! unix socket of the command line. [`bind_tcp`], [`bind_unix`] and [`serve`] run a router within [`Limits`].
//! [`logs`] reads container logs, [`channel`] is the framing of exec sessions, shared with the client.

mod error;
mod exec;
mod health;
mod host;
mod listen;
pub mod logs;
mod routes;
pub mod stats;

pub use error::{ErrorBody, HostError, HostErrorKind};
pub use host::{
    ContainerRef, EventFilter, ExecRequest, HealthCheck, Host, ImageSummary, ImportRequest, ImportedImage, LogRequest,
    ManifestStatus,
};
pub use listen::{Bound, Limits, ListenError, bind_tcp, bind_unix, serve};
pub use routes::{healthz, local, read_only};
