//! The embedded container engine: sandboxes, containers, their network, exec and events, behind [`cri::Runtime`].
//!
//! The engine decides and records; a shim, one process for each sandbox, holds the containers and outlives it. Whatever
//! is true of a sandbox lies in its directory below [`Config::run_dir`], so an engine that is opened again finds it.

mod attach;
mod cidr;
mod config;
mod container;
mod delete;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod ids;
mod images;
mod login;
mod machine;
mod network;
mod record;
mod recover;
mod repair;
mod sandbox;
mod shim_link;
mod shim_process;
mod spec;
mod state;
mod stats;
mod status;
mod sys;
mod terminal;

pub use cidr::{Cidr, CidrError};
pub use config::Config;
pub use engine::{Engine, OpenError};
pub use files::FileError;
pub use login::login;
pub use network::NetworkError;
pub use shim_process::pause_program;
