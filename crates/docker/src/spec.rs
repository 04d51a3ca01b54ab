//! From what the CRI asks to what Docker is told. Pure.

pub(crate) mod container;
mod mounts;
mod namespaces;
pub(crate) mod sandbox;
mod security;
pub(crate) mod signals;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bollard::models::{HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum};
use cri::Error;

use crate::Config;

/// A field of a request that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub(crate) struct Refused {
    field: String,
    fault: String,
}

impl Refused {
    pub(crate) fn new(field: &str, fault: impl Into<String>) -> Self {
        Self { field: field.to_owned(), fault: fault.into() }
    }

    pub(crate) fn of(self, what: &str) -> Error {
        Error::invalid_argument(format!("{what}: {self}"))
    }
}

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

/// The path at which a container's log is to be found; `None` where none is wanted.
///
/// # Errors
/// A path that leaves the pod's log directory.
pub(crate) fn log_path(directory: &str, path: &str) -> Result<Option<PathBuf>, Refused> {
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !normal || path.contains('\0') {
        return Err(Refused::new("log_path", format!("{path:?}: expected a path beneath the pod's log directory")));
    }
    if !directory.starts_with('/') {
        return Err(Refused::new("log_directory", format!("{directory:?}: expected an absolute path")));
    }
    Ok(Some(Path::new(directory).join(path)))
}

/// An empty text is no wish.
fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
