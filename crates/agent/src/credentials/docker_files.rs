//! Docker's client configuration on this node. Synchronous; it runs where blocking is allowed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pod::docker_config::{self, DockerConfig, Parsed};
use tracing::{info, warn};

use crate::sources::files::read::{self, Fingerprint, ReadError};

/// Its whole content is what stands under `auths` elsewhere.
const LEGACY_NAME: &str = ".dockercfg";

/// The files, and what each held when it was read last.
#[derive(Debug, Default)]
pub(super) struct DockerFiles {
    files: Vec<(PathBuf, Known)>,
}

#[derive(Debug, Default)]
struct Known {
    fingerprint: Option<Fingerprint>,
    config: Arc<DockerConfig>,
    /// What was said of it; empty where all is well.
    told: Vec<String>,
}

impl DockerFiles {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let mut files: Vec<(PathBuf, Known)> = Vec::new();
        for path in paths {
            if !files.iter().any(|(known, _)| *known == path) {
                files.push((path, Known::default()));
            }
        }
        Self { files }
    }

    /// What the files hold now. One that cannot be read, or is no such file, holds nothing and is told once.
    pub(super) fn look(&mut self) -> Vec<Arc<DockerConfig>> {
        let looked = self.files.iter_mut().map(|(path, known)| {
            known.look(path);
            known.config.clone()
        });
        looked.collect()
    }
}

impl Known {
    fn look(&mut self, path: &Path) {
        let read = read::stat(path).and_then(|fingerprint| match self.fingerprint == Some(fingerprint) {
            true => Ok(None),
            false => read::regular_file(path, docker_config::MAX_BYTES as u64).map(Some),
        });
        match read {
            Ok(None) => {}
            Ok(Some((fingerprint, bytes))) => {
                let parsed = match path.file_name().is_some_and(|name| name == LEGACY_NAME) {
                    true => docker_config::parse_legacy(&bytes),
                    false => docker_config::parse(&bytes),
                };
                self.tell(path, problems(path, &parsed));
                self.fingerprint = Some(fingerprint);
                self.config = Arc::new(parsed.config);
            }
            // Whoever writes it is done in a moment; until then it holds what it held.
            Err(ReadError::Changing(_)) => {}
            Err(ReadError::Missing) => *self = Self::default(),
            Err(error) => {
                self.tell(path, vec![error.to_string()]);
                (self.fingerprint, self.config) = (None, Arc::default());
            }
        }
    }

    fn tell(&mut self, path: &Path, problems: Vec<String>) {
        for problem in problems.iter().filter(|problem| !self.told.contains(problem)) {
            warn!("registry credentials: {problem}");
        }
        if problems.is_empty() && !self.told.is_empty() {
            info!(path = %path.display(), "registry credentials can be read again");
        }
        self.told = problems;
    }
}

fn problems(path: &Path, parsed: &Parsed) -> Vec<String> {
    let path = path.display();
    let helpers = parsed.helpers.iter().map(|field| {
        format!(
            "{path}: {field}: credential helpers are not asked; log in without one, or set up a credential provider \
             (--image-credential-provider-config)"
        )
    });
    parsed.problems.iter().map(|problem| format!("{path}: {problem}; it is passed over")).chain(helpers).collect()
}

#[cfg(test)]
mod tests;
