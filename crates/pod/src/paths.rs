//! Where a pod's things lie. Every name is checked before it becomes part of a path, so that a result is always beneath its root
//! whatever a source of pods may have let through.

use crate::accessors::{name, namespace, uid};
use crate::qos::{self, Qos};
use k8s_openapi::api::core::v1::Pod;
use std::path::{Path, PathBuf};

/// Longest file name of every common file system (NAME_MAX), bytes.
const COMPONENT_MAX: usize = 255;

/// A name that may not be part of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" cannot be part of a path: {rule}", crate::field::printable(name))]
pub struct UnsafeName {
    pub name: String,
    pub rule: &'static str,
}

/// `<root>/pods/<uid>`.
pub fn pod_dir(root: &Path, pod: &Pod) -> Result<PathBuf, UnsafeName> {
    Ok(root.join("pods").join(component(uid(pod))?))
}

/// `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<volume>`; `plugin` as in `empty-dir`.
pub fn volume_dir(root: &Path, pod: &Pod, plugin: &str, volume: &str) -> Result<PathBuf, UnsafeName> {
    let plugin = format!("kubernetes.io~{plugin}");
    Ok(pod_dir(root, pod)?.join("volumes").join(component(&plugin)?).join(component(volume)?))
}

/// `<root>/pods/<uid>/containers/<container>`.
pub fn container_dir(root: &Path, pod: &Pod, container: &str) -> Result<PathBuf, UnsafeName> {
    Ok(pod_dir(root, pod)?.join("containers").join(component(container)?))
}

/// `<logs>/<namespace>_<name>_<uid>`.
pub fn log_dir(logs: &Path, pod: &Pod) -> Result<PathBuf, UnsafeName> {
    let directory = format!("{}_{}_{}", namespace(pod), name(pod), uid(pod));
    Ok(logs.join(component(&directory)?))
}

/// `<container>/<attempt>.log`, relative to [`log_dir`] as the runtime wants it.
pub fn log_path(container: &str, attempt: u32) -> Result<String, UnsafeName> {
    Ok(format!("{}/{attempt}.log", component(container)?))
}

/// `<cgroup root>/kubepods/[burstable/|besteffort/]pod<uid>`; the root begins with a slash or is empty.
pub fn pod_cgroup(cgroup_root: &str, pod: &Pod) -> Result<String, UnsafeName> {
    let group = format!("pod{}", component(uid(pod))?);
    Ok(format!("{}/{}", qos_cgroup(cgroup_root, qos::class(pod)), component(&group)?))
}

/// The control group above all pods of one class.
pub fn qos_cgroup(cgroup_root: &str, class: Qos) -> String {
    let root = cgroup_root.trim_end_matches('/');
    match class {
        Qos::Guaranteed => format!("{root}/kubepods"),
        Qos::Burstable => format!("{root}/kubepods/burstable"),
        Qos::BestEffort => format!("{root}/kubepods/besteffort"),
    }
}

fn component(name: &str) -> Result<&str, UnsafeName> {
    let rule = if name.is_empty() || name == "." || name == ".." {
        "it must not be empty, '.' or '..'"
    } else if name.contains('/') || name.chars().any(char::is_control) {
        "it must not contain '/' or control characters"
    } else if name.len() > COMPONENT_MAX {
        "it has more than 255 bytes"
    } else {
        return Ok(name);
    };
    Err(UnsafeName { name: name.to_owned(), rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(uid: &str, namespace: &str, name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.namespace = Some(namespace.to_owned());
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    #[test]
    fn layout() {
        let pod = pod("u1", "ns", "web-node");
        let root = Path::new("/var/lib/kubelet");
        assert_eq!(pod_dir(root, &pod).unwrap(), Path::new("/var/lib/kubelet/pods/u1"));
        assert_eq!(
            volume_dir(root, &pod, "empty-dir", "v").unwrap(),
            Path::new("/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/v")
        );
        assert_eq!(log_dir(Path::new("/var/log/pods"), &pod).unwrap(), Path::new("/var/log/pods/ns_web-node_u1"));
        assert_eq!(log_path("c", 3).unwrap(), "c/3.log");
        assert_eq!(pod_cgroup("", &pod).unwrap(), "/kubepods/besteffort/podu1");
        assert_eq!(pod_cgroup("/x/", &pod).unwrap(), "/x/kubepods/besteffort/podu1");
    }

    #[test]
    fn s_a14_names_that_climb_are_refused() {
        let root = Path::new("/r");
        for bad in ["", ".", "..", "a/../../b", "/etc", "a\0b", "a\nb", &"x".repeat(300)] {
            assert!(pod_dir(root, &pod(bad, "ns", "n")).is_err(), "{bad:?}");
            assert!(volume_dir(root, &pod("u", "ns", "n"), "empty-dir", bad).is_err(), "{bad:?}");
            assert!(container_dir(root, &pod("u", "ns", "n"), bad).is_err(), "{bad:?}");
            assert!(log_path(bad, 0).is_err(), "{bad:?}");
        }
        assert!(log_dir(root, &pod("u", "ns", &"n".repeat(253))).is_err(), "longer than a file name may be");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn s_a14_every_path_is_beneath_its_root(uid in "\\PC{0,12}|[./a\\x00-\\x1f]{0,8}", name in "[./a-c~]{0,6}|\\PC{0,8}") {
            let root = Path::new("/r");
            let pod = pod(&uid, &name, &name);
            let paths = [
                pod_dir(root, &pod),
                volume_dir(root, &pod, "empty-dir", &name),
                container_dir(root, &pod, &name),
                log_dir(root, &pod),
            ];
            for path in paths.into_iter().flatten() {
                prop_assert!(path.starts_with(root));
                prop_assert!(path.components().all(|part| part != std::path::Component::ParentDir));
                prop_assert!(path.components().count() > 2);
            }
        }
    }
}
