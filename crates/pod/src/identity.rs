//! Who a pod from a file or URL is: its UID, its name on this node, and the marks that tell where it came from.

use crate::accessors::{name, namespace};
use crate::field::FieldError;
use crate::names::{self, SUBDOMAIN_RULE};
use crate::reasons::PHASE_PENDING;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use serde_json::Value;

pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// Longest file name (NAME_MAX): the log directory carries namespace, name and UID in one.
const LOG_DIRECTORY_MAX: usize = 255;

/// Where a static pod came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Absolute path of the manifest.
    File {
        path: String,
    },
    Url {
        url: String,
    },
}

impl Source {
    /// As in the annotation `kubernetes.io/config.source`.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::File { .. } => "file",
            Source::Url { .. } => "http",
        }
    }
}

/// The pod's own UID if the manifest gives one; else 32 hexadecimal digits that change with the pod, the node and the source.
///
/// It is FNV-128a over the pod's JSON with sorted keys, then `host:<node>` and `file:<path>`, or `url:<url>`. The same inputs
/// give the same UID in every run, so a restarted kubelet knows its pods again. It is not the number that other kubelets
/// compute: theirs hashes a dump of their own memory layout.
pub fn uid(pod: &Pod, source: &Source, node_name: &str) -> String {
    if let Some(uid) = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty()) {
        return uid.to_owned();
    }
    let mut hash = Fnv128::default();
    // A pod holds strings, numbers and maps with string keys only, so it always has a JSON form.
    hash_canonical(&serde_json::to_value(pod).unwrap_or_default(), &mut hash);
    match source {
        Source::File { path } => {
            hash.write(format!("host:{node_name}").as_bytes());
            hash.write(format!("file:{path}").as_bytes());
        }
        Source::Url { url } => hash.write(format!("url:{url}").as_bytes()),
    }
    format!("{:032x}", hash.0)
}

/// The pod as this node runs it: UID, `-<node>` suffix, namespace, node name, marks, toleration and phase.
///
/// Errors: the name with its suffix is no longer a valid name, or too long for the pod's log directory.
pub fn static_pod(mut pod: Pod, source: &Source, node_name: &str, seen: Timestamp) -> Result<Pod, FieldError> {
    let uid = uid(&pod, source, node_name);
    let full = format!("{}-{}", name(&pod), node_name.to_lowercase());
    if !names::is_subdomain(&full) {
        return Err(FieldError::with_found(
            "metadata.name",
            full,
            format!("with the node's name appended it {SUBDOMAIN_RULE}"),
        ));
    }
    let namespace = namespace(&pod).to_owned();
    let log_directory = namespace.len() + full.len() + uid.len() + 2;
    if log_directory > LOG_DIRECTORY_MAX {
        let over = log_directory - LOG_DIRECTORY_MAX;
        let message = format!(
            "namespace, name with the node's name, and UID together are {over} bytes too long; shorten the name"
        );
        return Err(FieldError::with_found("metadata.name", full, message));
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH_ANNOTATION.to_owned(), uid.clone());
    annotations.insert(SOURCE_ANNOTATION.to_owned(), source.kind().to_owned());
    annotations.insert(SEEN_ANNOTATION.to_owned(), rfc3339_nano(seen));
    pod.metadata.uid = Some(uid);
    pod.metadata.name = Some(full);
    pod.metadata.namespace = Some(namespace);
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node_name.to_owned());
    if matches!(source, Source::File { .. }) {
        spec.tolerations.get_or_insert_default().push(Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Toleration::default()
        });
    }
    pod.status = Some(PodStatus { phase: Some(PHASE_PENDING.to_owned()), ..PodStatus::default() });
    Ok(pod)
}

/// Whether the pod came from a file or URL.
pub fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(SOURCE_ANNOTATION)).is_some_and(|source| source != "api")
}

/// UTC, nine decimals less trailing zeros.
fn rfc3339_nano(time: Timestamp) -> String {
    // jiff prints a timestamp as RFC 3339 in UTC with as many decimals as are needed.
    time.to_string()
}

/// FNV-1a with 128 bits.
struct Fnv128(u128);

impl Default for Fnv128 {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }
}

/// JSON without blanks and with sorted keys. Written out here, so that no feature of a JSON crate elsewhere in the build changes UIDs.
fn hash_canonical(value: &Value, hash: &mut Fnv128) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            hash.write(b"{");
            for (key, value) in entries {
                hash.write(Value::from(key.as_str()).to_string().as_bytes());
                hash.write(b":");
                hash_canonical(value, hash);
                hash.write(b",");
            }
            hash.write(b"}");
        }
        Value::Array(items) => {
            hash.write(b"[");
            for item in items {
                hash_canonical(item, hash);
                hash.write(b",");
            }
            hash.write(b"]");
        }
        plain => hash.write(plain.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"b": "2", "a": "1"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}
        }))
        .unwrap()
    }

    fn file(path: &str) -> Source {
        Source::File { path: path.to_owned() }
    }

    #[test]
    fn fnv_128a_of_known_texts() {
        let hash = |text: &str| {
            let mut hash = Fnv128::default();
            hash.write(text.as_bytes());
            format!("{:032x}", hash.0)
        };
        assert_eq!(hash(""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(hash("a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(hash("foobar"), "343e1662793c64bf6f0d3597ba446f18");
    }

    #[test]
    fn uid_is_stable_and_follows_pod_node_and_source() {
        let base = uid(&pod(), &file("/m/a.yaml"), "n1");
        // Pinned: a change of this number restarts every pod of every user at an upgrade.
        assert_eq!(base, "76c700fc015ad9678061c1d7ca14f474");
        assert_eq!(base, uid(&pod(), &file("/m/a.yaml"), "n1"));
        let mut edited = pod();
        edited.metadata.labels = None;
        let url = Source::Url { url: "http://x/".into() };
        let others = [
            uid(&edited, &file("/m/a.yaml"), "n1"),
            uid(&pod(), &file("/m/b.yaml"), "n1"),
            uid(&pod(), &file("/m/a.yaml"), "n2"),
            uid(&pod(), &url, "n1"),
        ];
        assert!(others.iter().all(|other| *other != base && other.len() == 32), "{others:?}");
        assert_eq!(uid(&pod(), &url, "n1"), uid(&pod(), &url, "n2"), "a URL's pods are the same on every node");
        edited.metadata.uid = Some("mine".into());
        assert_eq!(uid(&edited, &url, "n1"), "mine");
    }

    #[test]
    fn static_pod_gets_its_marks() {
        let seen = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
        let made = static_pod(pod(), &file("/m/a.yaml"), "Node-1", seen).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("web-node-1"));
        assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
        let annotations = made.metadata.annotations.as_ref().unwrap();
        assert_eq!(Some(&annotations[HASH_ANNOTATION]), made.metadata.uid.as_ref());
        assert_eq!(annotations[SOURCE_ANNOTATION], "file");
        assert_eq!(annotations[SEEN_ANNOTATION], "2023-11-14T22:13:20.123456789Z");
        let spec = made.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
        assert_eq!(spec.tolerations.as_ref().unwrap()[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
        assert!(is_static(&made) && !is_static(&pod()));

        let url = Source::Url { url: "http://x/".into() };
        let made = static_pod(pod(), &url, "n", seen).unwrap();
        assert_eq!(made.metadata.annotations.unwrap()[SOURCE_ANNOTATION], "http");
        assert_eq!(made.spec.unwrap().tolerations, None);
    }

    #[test]
    fn names_that_do_not_survive_the_suffix_are_refused() {
        let seen = Timestamp::UNIX_EPOCH;
        let error = static_pod(pod(), &file("/a"), "bad_node", seen).unwrap_err();
        assert!(error.to_string().contains("web-bad_node"), "{error}");
        let mut long = pod();
        long.metadata.name = Some("a".repeat(230));
        let error = static_pod(long, &file("/a"), "n", seen).unwrap_err();
        assert!(error.to_string().contains("shorten the name"), "{error}");
    }
}
