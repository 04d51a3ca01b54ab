//! The embedded container engine: sandboxes, containers, their network, exec and events, behind [`cri::Runtime`].
//!
//! The engine decides and records; a shim, one process for each sandbox, holds the containers and outlives it. Whatever
//! is true of a sandbox lies in its directory below [`Config::run_dir`], so an engine that is opened again finds it.

mod cidr;
mod config;

pub use cidr::{Cidr, CidrError};
pub use config::Config;
