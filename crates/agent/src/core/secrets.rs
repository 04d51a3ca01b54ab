//! Credentials that pods name.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifecycle::Now;
use pod::{PullSecret, reasons};

use super::Agent;
use crate::events::whole_warning;

impl Agent {
    /// What a pod's `imagePullSecrets` name, in that order and each once: those that are there, and the names of the rest.
    pub(super) fn pull_secrets(&self, uid: &str) -> (Vec<Arc<PullSecret>>, Vec<String>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let Some(pod) = self.entries.get(uid).and_then(|entry| entry.pod.as_deref()) else { return (found, missing) };
        let references = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let mut named = BTreeSet::new();
        for reference in references.filter(|reference| named.insert(reference.name.as_str())) {
            match self.secrets.get(&(pod::namespace(pod).to_owned(), reference.name.clone())) {
                Some(secret) => found.push(secret.clone()),
                None => missing.push(reference.name.clone()),
            }
        }
        (found, missing)
    }

    /// Takes over which secrets are in force. Whether they are others than before.
    pub(super) fn take_secrets(&mut self) -> bool {
        let secrets = self.mux.secrets();
        let changed = secrets != self.secrets;
        self.secrets = secrets;
        self.secrets_revision += u64::from(changed);
        changed
    }

    pub(super) fn tell_missing_secrets(&mut self, now: Now, uid: &str) {
        let (_, missing) = self.pull_secrets(uid);
        if missing.is_empty() {
            return;
        }
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        self.tell(now, uid, whole_warning(reasons::FAILED_TO_RETRIEVE_IMAGE_PULL_SECRET, message));
    }
}
