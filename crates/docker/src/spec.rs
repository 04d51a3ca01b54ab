//! From what the CRI asks to what Docker is told. Pure.

pub(crate) mod container;
mod mounts;
mod namespaces;
pub(crate) mod sandbox;
mod security;
pub(crate) mod signals;

use std::collections::HashMap;

use bollard::models::{HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum};
use cri::Refused;

use crate::Config;

fn unsupported<T>(field: &str) -> Result<T, Refused> {
    Err(Refused::new(field, "not supported yet with docker"))
}

/// Pods are restarted by their kubelet, never by Docker.
fn no_restarts() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
}

/// Files that Docker rotates; the only driver whose logs can be read again, whatever the daemon's default is.
fn log_config(config: &Config) -> HostConfigLogConfig {
    let options = HashMap::from([
        ("max-size".to_owned(), config.log_max_bytes.max(1).to_string()),
        ("max-file".to_owned(), config.log_max_files.max(1).to_string()),
    ]);
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(options) }
}

/// An empty text is no wish.
fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
