//! Labels and annotations as Docker keeps them: in one map, together with those that an image brings along.

use std::collections::HashMap;

use cri::keys::Map;

/// `podsandbox` or `container`.
pub(crate) const TYPE: &str = "io.kubernetes.docker.type";
pub(crate) const TYPE_SANDBOX: &str = "podsandbox";
pub(crate) const TYPE_CONTAINER: &str = "container";
/// The id of a container's sandbox.
pub(crate) const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
/// Where a container's log is linked.
pub(crate) const LOG_PATH: &str = "io.kubernetes.container.logpath";
/// What the pod calls its image.
pub(crate) const IMAGE: &str = "kubelet.local/image";
/// The image's digest, or its id where it has none.
pub(crate) const IMAGE_REF: &str = "kubelet.local/image-ref";

/// The keys of the labels that were asked for, with commas between. It also marks a container as this kubelet's.
pub(crate) const OWN_LABELS: &str = "kubelet.local/labels";
/// The keys of the annotations that were asked for, with commas between.
const OWN_ANNOTATIONS: &str = "kubelet.local/annotations";
const ANNOTATION_PREFIX: &str = "annotation.";

/// All in one map. `ours` is above what was asked for.
pub(crate) fn join<const N: usize>(
    labels: &Map,
    annotations: &Map,
    ours: [(&str, String); N],
) -> HashMap<String, String> {
    let keys = |map: &Map| map.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    let plain = labels.iter().map(|(key, value)| (key.clone(), value.clone()));
    let prefixed = annotations.iter().map(|(key, value)| (format!("{ANNOTATION_PREFIX}{key}"), value.clone()));
    let mut all: HashMap<String, String> = plain.chain(prefixed).collect();
    all.insert(OWN_LABELS.to_owned(), keys(labels));
    all.insert(OWN_ANNOTATIONS.to_owned(), keys(annotations));
    all.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    all
}

/// Labels and annotations that were asked for, and no other: an image must not be able to say what a pod did not.
pub(crate) fn split(all: &HashMap<String, String>) -> (Map, Map) {
    let named = |list: &str| {
        let keys = all.get(list).map(String::as_str).unwrap_or_default();
        keys.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let labels = named(OWN_LABELS).into_iter().filter_map(|key| Some((key.clone(), all.get(&key)?.clone())));
    let annotations = named(OWN_ANNOTATIONS)
        .into_iter()
        .filter_map(|key| Some((key.clone(), all.get(&format!("{ANNOTATION_PREFIX}{key}"))?.clone())));
    (labels.collect(), annotations.collect())
}

/// Whether a container is a pod's own, by which its sandbox is known.
pub(crate) fn is_sandbox(all: &HashMap<String, String>) -> bool {
    is_ours(all) && text(all, TYPE) == TYPE_SANDBOX
}

/// Whether a container is one of a pod's others.
pub(crate) fn is_container(all: &HashMap<String, String>) -> bool {
    is_ours(all) && text(all, TYPE) == TYPE_CONTAINER
}

fn is_ours(all: &HashMap<String, String>) -> bool {
    all.contains_key(OWN_LABELS)
}

/// The label's value; nothing where it is absent.
pub(crate) fn text<'a>(all: &'a HashMap<String, String>, key: &str) -> &'a str {
    all.get(key).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_asked_for_is_read_back_and_what_an_image_adds_is_not() {
        let (labels, annotations) = (map(&[("app", "web"), ("empty", "")]), map(&[("a/b", "{\"x\":1}"), ("none", "")]));
        let mut all = join(&labels, &annotations, [(TYPE, TYPE_CONTAINER.to_owned())]);
        assert_eq!(text(&all, "annotation.a/b"), "{\"x\":1}");
        all.insert("maintainer".into(), "someone".into());
        all.insert("annotation.io.kubernetes.container.restartCount".into(), "7".into());
        assert_eq!(split(&all), (labels, annotations));
        assert!(is_container(&all) && !is_sandbox(&all));
    }

    #[test]
    fn no_label_of_a_pods_makes_it_something_else() {
        let labels = map(&[(TYPE, TYPE_SANDBOX), (SANDBOX_ID, "another")]);
        let ours = [(TYPE, TYPE_CONTAINER.to_owned()), (SANDBOX_ID, "own".to_owned())];
        let all = join(&labels, &Map::new(), ours);
        assert!(is_container(&all));
        assert_eq!(text(&all, SANDBOX_ID), "own");
    }

    #[test]
    fn a_container_of_anybody_else_is_none_of_ours() {
        let all = HashMap::from([(TYPE.to_owned(), TYPE_SANDBOX.to_owned())]);
        assert!(!is_sandbox(&all) && !is_container(&all));
        assert_eq!(split(&all), (Map::new(), Map::new()));
    }
}
