//! The vocabulary of pods: manifest text becomes validated, defaulted pods; everything that follows from a pod alone
//! (identity, QoS class, control group figures, environment, host names, paths) is computed here.
//!
//! Pure: no I/O, no clock, no randomness, no threads. Time and facts about the node are inputs.

pub mod defaults;
pub mod docker_config;
pub mod duration;
pub mod env;
pub mod field;
pub mod hosts;
pub mod identity;
pub mod image_name;
pub mod manifest;
pub mod names;
pub mod paths;
pub mod ports;
pub mod qos;
pub mod quantity;
pub mod reasons;
pub mod resources;
pub mod secret;
pub mod signals;
pub mod status;
pub mod support;
pub mod validate;

mod accessors;

pub use accessors::{
    RestartPolicy, container, containers_in_order, full_name, grace_period_seconds, host_network, image,
    init_containers, is_sidecar, long_lived, name, namespace, restart_policy, spec, uid,
};
pub use field::FieldError;
pub use hosts::{HostsFacts, etc_hosts, etc_hosts_of_host_network, hostname};
pub use k8s_openapi::api::core::v1::Pod;
pub use manifest::{Manifest, ManifestError, ParsedPod};
pub use secret::PullSecret;
