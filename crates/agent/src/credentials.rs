//! Who the kubelet is to registries: a pod's own Secrets, the node's docker configuration, and programs that know.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1;
use pod::PullSecret;
use pod::docker_config::Credential;

/// Where credentials are found.
#[derive(Debug, Clone, Default)]
pub struct CredentialsConfig {
    /// Docker's client configurations, those to be tried first first; one named `.dockercfg` is of the old form. They are
    /// read anew when they have changed, and need not exist.
    pub docker_configs: Vec<PathBuf>,
    /// A `CredentialProviderConfig`, or a directory of them.
    pub provider_config: Option<PathBuf>,
    /// The programs that it names.
    pub provider_bin_dir: Option<PathBuf>,
}

impl CredentialsConfig {
    /// Where every kubelet looks for docker's configuration, without credential providers.
    pub fn usual(root_dir: &Path, home: Option<&Path>) -> Self {
        let homes = home.into_iter().chain([Path::new("/")]);
        let (mut docker_configs, mut legacy) = (vec![root_dir.join("config.json")], vec![root_dir.join(".dockercfg")]);
        for home in homes {
            docker_configs.push(home.join(".docker/config.json"));
            legacy.push(home.join(".dockercfg"));
        }
        docker_configs.extend(legacy);
        Self { docker_configs, ..Self::default() }
    }
}

/// Why credentials cannot be looked for as configured.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{}: {message}", path.display())]
    Config { path: PathBuf, message: String },
}

/// Finds credentials. By default it knows none but those of pods. Its `Debug` shows none.
#[derive(Debug, Default)]
pub struct Credentials {
    config: CredentialsConfig,
}

impl Credentials {
    /// # Errors
    /// The configuration of credential providers is wrong, or a program that it names is missing.
    pub fn new(config: CredentialsConfig) -> Result<Self, CredentialsError> {
        Ok(Self { config })
    }

    /// What is known for an image by its full name, in the order to be tried: the pod's Secrets, docker's configuration,
    /// credential providers. Empty where nothing is known: then it is pulled without.
    pub async fn for_image(&self, image: &str, secrets: &[Arc<PullSecret>]) -> Vec<v1::AuthConfig> {
        let of_pod = secrets.iter().flat_map(|secret| secret.config.for_image(image));
        of_pod.map(|credential| auth_config(credential, image)).collect()
    }
}

fn auth_config(credential: &Credential, image: &str) -> v1::AuthConfig {
    v1::AuthConfig {
        username: credential.username.clone(),
        password: credential.password.clone(),
        identity_token: credential.identity_token.clone(),
        registry_token: credential.registry_token.clone(),
        server_address: pod::docker_config::registry_of(image).to_owned(),
        ..v1::AuthConfig::default()
    }
}
