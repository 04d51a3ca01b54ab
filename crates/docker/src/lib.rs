//! The Docker Engine as a runtime: pods made of its containers, behind [`cri::Runtime`].
//!
//! A pod's sandbox is a container of its own that does nothing: it holds the network and IPC namespaces, and the pod's
//! other containers join them. What is true of a pod lies with Docker, in names and labels, so that a kubelet that is
//! started again finds it all; nothing is remembered here but what a call in progress needs.

mod attach;
mod call;
mod config;
mod container;
mod core;
mod events;
mod exec;
mod exec_sync;
mod facts;
mod images;
mod kill;
mod labels;
mod logs;
mod names;
mod pause;
mod resolver;
mod runtime;
mod sandbox;
mod session;
mod spec;
mod stats;
mod status;
mod stopping;

pub use config::Config;
pub use runtime::Docker;
