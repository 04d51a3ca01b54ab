//! The names of containers, which carry what the labels leave out: the attempt.

use cri::v1;

const PREFIX: &str = "k8s";
/// The name of a pod's own container, in which its sandbox lives.
const SANDBOX: &str = "POD";

/// `k8s_POD_<pod>_<namespace>_<uid>_<attempt>`.
pub(crate) fn of_sandbox(pod: &v1::PodSandboxMetadata) -> String {
    format!("{PREFIX}_{SANDBOX}_{}_{}_{}_{}", pod.name, pod.namespace, pod.uid, pod.attempt)
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`.
pub(crate) fn of_container(container: &v1::ContainerMetadata, pod: &v1::PodSandboxMetadata) -> String {
    format!("{PREFIX}_{}_{}_{}_{}_{}", container.name, pod.name, pod.namespace, pod.uid, container.attempt)
}

/// For a container whose name is still held by that of an older sandbox: always the same for one sandbox, so that a
/// repeated request meets what its first made.
pub(crate) fn beside(name: &str, sandbox_id: &str) -> String {
    format!("{name}_{}", sandbox_id.get(..8).unwrap_or(sandbox_id))
}

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) container: String,
    pub(crate) pod: v1::PodSandboxMetadata,
    /// The container's attempt; for a pod's own container the sandbox's.
    pub(crate) attempt: u32,
}

/// Reads a name as Docker lists it, with its slash or without. None of the parts can hold an underscore.
pub(crate) fn parse(name: &str) -> Option<Parts> {
    let parts: Vec<&str> = name.trim_start_matches('/').split('_').collect();
    let [PREFIX, container, pod, namespace, uid, attempt, rest @ ..] = parts.as_slice() else { return None };
    if rest.len() > 1 {
        return None;
    }
    let attempt = attempt.parse().ok()?;
    let pod = v1::PodSandboxMetadata {
        name: (*pod).to_owned(),
        namespace: (*namespace).to_owned(),
        uid: (*uid).to_owned(),
        attempt,
    };
    Some(Parts { container: (*container).to_owned(), pod, attempt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(attempt: u32) -> v1::PodSandboxMetadata {
        v1::PodSandboxMetadata { name: "web".into(), namespace: "shop".into(), uid: "u-1".into(), attempt }
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(of_sandbox(&pod(2)), "k8s_POD_web_shop_u-1_2");
        let container = v1::ContainerMetadata { name: "app".into(), attempt: 3 };
        let name = of_container(&container, &pod(2));
        assert_eq!(name, "k8s_app_web_shop_u-1_3");
        for name in [format!("/{name}"), beside(&name, "0123456789abcdef")] {
            let parts = parse(&name).unwrap();
            assert_eq!((parts.container.as_str(), parts.attempt), ("app", 3), "{name}");
            assert_eq!(parts.pod, pod(3));
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        for name in ["web", "/k8s_POD_web_shop_u-1", "k8s_a_b_c_d_x", "k8s_a_b_c_d_-1", "k8s_a_b_c_d_1_2_3", ""] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
