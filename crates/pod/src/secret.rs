//! Secrets that stand beside pods in manifests: credentials for pulling images.

use crate::docker_config::DockerConfig;
use std::fmt;

/// The one type that is understood.
pub const PULL_SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Its only key.
pub const PULL_SECRET_KEY: &str = ".dockerconfigjson";

/// A Secret of type `kubernetes.io/dockerconfigjson`. Of its metadata only the name and the UID are kept: an annotation may hold a copy of
/// all its data. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    pub namespace: String,
    pub name: String,
    /// Empty where the document has none.
    pub uid: String,
    pub config: DockerConfig,
}

impl PullSecret {
    /// Namespace and name.
    pub fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullSecret({}/{})", self.namespace, self.name)
    }
}
