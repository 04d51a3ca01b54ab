//! From a manifest's bytes to the pods as they will run, and their secrets.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod::PullSecret;
use pod::identity::{self, SEEN_ANNOTATION, Source};

/// Larger manifests are refused unread.
pub(crate) const MANIFEST_MAX_BYTES: u64 = pod::manifest::MAX_BYTES as u64;

/// What a good manifest holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) pods: Vec<Arc<Pod>>,
    pub(crate) secrets: Vec<Arc<PullSecret>>,
}

impl Content {
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.secrets.is_empty()
    }
}

/// Parses `bytes`, gives each pod its identity, and keeps for a pod that `old` holds already when it was first seen.
///
/// # Errors
/// Says for a person what is wrong with each bad document; one of them refuses the file as a whole.
pub(crate) fn content_of(source: &Source, node_name: &str, bytes: &[u8], old: &[Arc<Pod>]) -> Result<Content, String> {
    let name = match source {
        Source::File { path } => path.as_str(),
        Source::Url { url } => url.as_str(),
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(format!(
            "{name}: holds nothing, expected a Pod, a Secret, a PodList or a List; to end its pods, remove it or write a PodList without items"
        ));
    }
    let manifest = pod::manifest::parse(name, bytes);
    if !manifest.errors.is_empty() {
        let messages: Vec<String> = manifest.errors.iter().map(ToString::to_string).collect();
        return Err(messages.join("; "));
    }
    let seen = Timestamp::now();
    let secrets = manifest.secrets.into_iter().map(Arc::new).collect();
    let pods = manifest.pods.into_iter().map(|parsed| {
        let document = parsed.document;
        let pod = identity::static_pod(parsed.pod, source, node_name, seen)
            .map_err(|error| format!("{name}: document {document}: {error}"))?;
        Ok(Arc::new(keep_seen(pod, old)))
    });
    Ok(Content { pods: pods.collect::<Result<_, String>>()?, secrets })
}

fn keep_seen(mut pod: Pod, old: &[Arc<Pod>]) -> Pod {
    let earlier = old.iter().find(|o| o.metadata.uid == pod.metadata.uid);
    let seen = earlier.and_then(|o| o.metadata.annotations.as_ref()?.get(SEEN_ANNOTATION));
    if let Some(seen) = seen {
        pod.metadata.annotations.get_or_insert_default().insert(SEEN_ANNOTATION.to_owned(), seen.clone());
    }
    pod
}
