//! What a list is asked for, where a runtime has to choose by itself. All conditions must hold; an absent one always does.

use crate::keys::Map;
use crate::v1;

/// Whether a sandbox is asked for.
pub fn sandbox(filter: Option<&v1::PodSandboxFilter>, item: &v1::PodSandbox) -> bool {
    let Some(filter) = filter else { return true };
    (filter.id.is_empty() || filter.id == item.id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && has_labels(&item.labels, &filter.label_selector)
}

/// Whether a container is asked for.
pub fn container(filter: Option<&v1::ContainerFilter>, item: &v1::Container) -> bool {
    let Some(filter) = filter else { return true };
    (filter.id.is_empty() || filter.id == item.id)
        && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == item.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && has_labels(&item.labels, &filter.label_selector)
}

fn has_labels(labels: &Map, wanted: &Map) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_must_hold() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let item = v1::Container {
            id: "c".into(),
            pod_sandbox_id: "s".into(),
            state: 1,
            labels: labels(&[("a", "1"), ("b", "2")]),
            ..Default::default()
        };
        let all = v1::ContainerFilter {
            id: "c".into(),
            state: Some(v1::ContainerStateValue { state: 1 }),
            pod_sandbox_id: "s".into(),
            label_selector: labels(&[("a", "1")]),
        };
        assert!(container(None, &item) && container(Some(&v1::ContainerFilter::default()), &item));
        assert!(container(Some(&all), &item));
        for wrong in [
            v1::ContainerFilter { id: "x".into(), ..all.clone() },
            v1::ContainerFilter { pod_sandbox_id: "x".into(), ..all.clone() },
            v1::ContainerFilter { state: Some(v1::ContainerStateValue { state: 0 }), ..all.clone() },
            v1::ContainerFilter { label_selector: labels(&[("a", "2")]), ..all.clone() },
            v1::ContainerFilter { label_selector: labels(&[("c", "")]), ..all.clone() },
        ] {
            assert!(!container(Some(&wrong), &item), "{wrong:?}");
        }
        let ready = v1::PodSandbox { id: "s".into(), state: 0, labels: labels(&[("a", "1")]), ..Default::default() };
        let state =
            |state| v1::PodSandboxFilter { state: Some(v1::PodSandboxStateValue { state }), ..Default::default() };
        assert!(sandbox(Some(&state(0)), &ready) && !sandbox(Some(&state(1)), &ready));
    }
}
