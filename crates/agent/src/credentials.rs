//! Who the kubelet is to registries: a pod's own Secrets, the node's docker configuration, and programs that know.

mod docker_files;
mod providers;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::v1;
use lifecycle::image_access::Bearer;
use pod::PullSecret;
use pod::docker_config::{Credential, DockerConfig};
use tokio::sync::Mutex;
use tracing::warn;

use crate::pull_records;
use docker_files::DockerFiles;
use providers::Providers;
pub use turns::{PullFailure, with_each};

/// Credentials given for one image; more would be tried for hours.
const TRIED_MAX: usize = 100;
/// For all of docker's configuration.
const READ_WITHIN: Duration = Duration::from_secs(10);

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
    #[error(
        "{given} is set and {missing} is not: a credential provider needs its configuration and the directory of its program"
    )]
    Incomplete { given: &'static str, missing: &'static str },
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: holds no file that ends in .yaml, .yml or .json: expected a CredentialProviderConfig", path.display())]
    NoFiles { path: PathBuf },
    /// Each with the file, the line and the field.
    #[error("{}", problems.join("; "))]
    Wrong { problems: Vec<String> },
}

/// Finds credentials. By default it knows none but those of pods. Its `Debug` shows none.
#[derive(Debug, Default)]
pub struct Credentials {
    docker: Arc<Mutex<DockerFiles>>,
    providers: Providers,
}

impl Credentials {
    /// Reads the configuration of credential providers, which blocks.
    ///
    /// # Errors
    /// That configuration is wrong, or a program that it names is missing.
    pub fn new(config: CredentialsConfig) -> Result<Self, CredentialsError> {
        let providers = match (&config.provider_config, &config.provider_bin_dir) {
            (None, None) => Providers::default(),
            (Some(path), Some(bin_dir)) => Providers::load(path, bin_dir)?,
            (Some(_), None) => {
                let (given, missing) = ("--image-credential-provider-config", "--image-credential-provider-bin-dir");
                return Err(CredentialsError::Incomplete { given, missing });
            }
            (None, Some(_)) => {
                let (given, missing) = ("--image-credential-provider-bin-dir", "--image-credential-provider-config");
                return Err(CredentialsError::Incomplete { given, missing });
            }
        };
        Ok(Self { docker: Arc::new(Mutex::new(DockerFiles::new(config.docker_configs))), providers })
    }

    /// A pod's own for an image, and which of its Secrets each stands in.
    pub(crate) fn own(image: &str, secrets: &[Arc<PullSecret>]) -> Vec<(v1::AuthConfig, Bearer)> {
        let image = pod::image_name::normalize(image).unwrap_or_default();
        let bearer = |secret: &PullSecret, credential: &Credential| {
            let auth = auth_config(credential);
            let (namespace, name, uid) = (secret.namespace.clone(), secret.name.clone(), secret.uid.clone());
            let hash = pull_records::hash(&auth);
            (auth, Bearer { namespace, name, uid, hash })
        };
        let of = |secret: &Arc<PullSecret>| {
            secret.config.for_image(&image).map(|credential| bearer(secret, credential)).collect::<Vec<_>>()
        };
        secrets.iter().flat_map(of).take(TRIED_MAX).collect()
    }

    /// What is known for an image, each once and in the order to be tried: the pod's Secrets, docker's
    /// configuration, credential providers. Empty where nothing is known: then it is pulled without.
    pub async fn for_image(&self, image: &str, secrets: &[Arc<PullSecret>]) -> Vec<v1::AuthConfig> {
        let mut found = Found::default();
        Self::own(image, secrets).into_iter().for_each(|(auth, _)| found.push(auth));
        // What is no image's name is nobody's credential's either.
        let image = &pod::image_name::normalize(image).unwrap_or_default();
        let looking = async {
            // One at a time: a file system that hangs holds one thread and not all that there are.
            let mut docker = self.docker.clone().lock_owned().await;
            tokio::task::spawn_blocking(move || docker.look()).await
        };
        match tokio::time::timeout(READ_WITHIN, looking).await {
            Ok(Ok(configs)) => configs.iter().for_each(|config| found.add(config, image)),
            Ok(Err(error)) => warn!(%error, "looking for docker's configuration broke off"),
            // A home on a file system that hangs.
            Err(_) => warn!(image, "docker's configuration is not read within {} s", READ_WITHIN.as_secs()),
        }
        for config in self.providers.for_image(image).await {
            found.add(&config, image);
        }
        found.0
    }
}

#[derive(Default)]
struct Found(Vec<v1::AuthConfig>);

impl Found {
    fn add(&mut self, config: &DockerConfig, image: &str) {
        config.for_image(image).map(auth_config).for_each(|auth| self.push(auth));
    }

    fn push(&mut self, auth: v1::AuthConfig) {
        if self.0.len() < TRIED_MAX && !self.0.contains(&auth) {
            self.0.push(auth);
        }
    }
}

/// Without the registry's address: a runtime compares it with the host it asks, which for `docker.io` has another name.
fn auth_config(credential: &Credential) -> v1::AuthConfig {
    v1::AuthConfig {
        username: credential.username.clone(),
        password: credential.password.clone(),
        identity_token: credential.identity_token.clone(),
        registry_token: credential.registry_token.clone(),
        ..v1::AuthConfig::default()
    }
}

#[cfg(test)]
mod tests;
