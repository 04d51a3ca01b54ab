//! The labels and annotations by which the kubelet knows its own sandboxes and containers again, after a restart
//! of itself or in a runtime it shares. The names are Kubernetes' own, so that other tools find the pods too.

use std::collections::BTreeMap;

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Container annotation: hash of the container's specification, FNV-32a in hex.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Container annotation: how often the container was restarted before this one, decimal.
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Container annotation: where in the container its termination message is written.
pub const CONTAINER_TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Container annotation: `File` or `FallbackToLogsOnError`.
pub const CONTAINER_TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Container annotation: the preStop handler as JSON.
pub const CONTAINER_PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
/// Container annotation: the container's ports as JSON.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Container annotation: the pod's `terminationGracePeriodSeconds`, decimal.
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Container annotation: the grace period of the pod's deletion in seconds, decimal.
pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";

/// In the `info` of a verbose image status: `true` where no registry need be asked what this name means, because an archive
/// gave it to the image, or because it holds a digest.
pub const IMAGE_GIVEN: &str = "given";

/// Labels or annotations as the protocol carries them.
pub type Map = BTreeMap<String, String>;

/// Which pod a sandbox or container belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
}

impl PodKey {
    /// Reads the pod from a sandbox's or container's labels; `None` where one is absent or empty: not a kubelet's.
    pub fn from_labels(labels: &Map) -> Option<Self> {
        Some(Self {
            namespace: present(labels, POD_NAMESPACE)?.to_owned(),
            name: present(labels, POD_NAME)?.to_owned(),
            uid: present(labels, POD_UID)?.to_owned(),
        })
    }

    fn labels(&self) -> [(String, String); 3] {
        [(POD_NAME, &self.name), (POD_NAMESPACE, &self.namespace), (POD_UID, &self.uid)]
            .map(|(key, value)| (key.to_owned(), value.clone()))
    }
}

/// The labels of a pod's sandbox: the pod's own, and above them the three that say whose it is.
pub fn sandbox_labels(pod: &PodKey, pod_labels: &Map) -> Map {
    // Ours come last: a pod that carries such a label itself must not pass for another pod.
    pod_labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain(pod.labels()).collect()
}

/// The labels of a container: its pod and its name.
pub fn container_labels(pod: &PodKey, container: &str) -> Map {
    pod.labels().into_iter().chain([(CONTAINER_NAME.to_owned(), container.to_owned())]).collect()
}

/// The container's name from its labels; `None` where absent or empty.
pub fn container_name(labels: &Map) -> Option<&str> {
    present(labels, CONTAINER_NAME)
}

/// The restart count from a container's annotations; `None` where absent or not a number.
pub fn restart_count(annotations: &Map) -> Option<u32> {
    annotations.get(CONTAINER_RESTART_COUNT)?.parse().ok()
}

fn present<'a>(map: &'a Map, key: &str) -> Option<&'a str> {
    map.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> PodKey {
        PodKey { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() }
    }

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_is_read_back_from_the_labels_written_for_it() {
        assert_eq!(PodKey::from_labels(&sandbox_labels(&web(), &Map::new())), Some(web()));
        let labels = container_labels(&web(), "app");
        assert_eq!(PodKey::from_labels(&labels), Some(web()));
        assert_eq!(container_name(&labels), Some("app"));
    }

    #[test]
    fn a_pods_own_labels_are_kept_and_cannot_forge_its_identity() {
        let own = map(&[("app", "web"), (POD_UID, "u-of-another"), (POD_NAMESPACE, "kube-system")]);
        let labels = sandbox_labels(&web(), &own);
        assert_eq!(labels.get("app").map(String::as_str), Some("web"));
        assert_eq!(PodKey::from_labels(&labels), Some(web()));
    }

    #[test]
    fn what_no_kubelet_made_has_no_pod() {
        for labels in [
            map(&[]),
            map(&[(POD_NAME, "web"), (POD_NAMESPACE, "shop")]),
            map(&[(POD_NAME, "web"), (POD_NAMESPACE, "shop"), (POD_UID, "")]),
        ] {
            assert_eq!(PodKey::from_labels(&labels), None, "{labels:?}");
        }
    }

    #[test]
    fn restart_counts_are_decimal_numbers() {
        for (text, count) in [("0", Some(0)), ("17", Some(17)), ("", None), ("-1", None), ("4294967296", None)] {
            assert_eq!(restart_count(&map(&[(CONTAINER_RESTART_COUNT, text)])), count, "{text:?}");
        }
        assert_eq!(restart_count(&Map::new()), None);
    }
}
