//! Reading the protocol's enums without guessing, and the paths of log files.

use std::path::{Component, Path, PathBuf};

use crate::Refused;
use crate::v1::{ContainerState, PodSandboxState};

/// The state of a container; a number this version does not know is `ContainerUnknown`, not `ContainerCreated`.
pub fn container_state(number: i32) -> ContainerState {
    ContainerState::try_from(number).unwrap_or(ContainerState::ContainerUnknown)
}

/// The state of a sandbox; a number this version does not know is `SandboxNotready`, not `SandboxReady`.
pub fn sandbox_state(number: i32) -> PodSandboxState {
    PodSandboxState::try_from(number).unwrap_or(PodSandboxState::SandboxNotready)
}

/// A pod's log directory (`PodSandboxConfig.log_directory`): `<root>/<namespace>_<name>_<uid>`.
/// The parts are validated names: none holds a slash or is `..`.
pub fn log_directory(root: &Path, pod: &crate::keys::PodKey) -> PathBuf {
    root.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// A container's log file beneath its pod's directory (`ContainerConfig.log_path`): `<container>/<attempt>.log`.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Where a container's log is to be written, from its sandbox's `log_directory` and its own `log_path`; `None` where
/// none is wanted.
///
/// # Errors
/// A path that leaves the pod's log directory.
pub fn log_file(directory: &str, path: &str) -> Result<Option<PathBuf>, Refused> {
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !normal || path.contains('\0') {
        return Err(Refused::new("log_path", format!("{path:?}: expected a path beneath the pod's log directory")));
    }
    if !directory.starts_with('/') {
        return Err(Refused::new("log_directory", format!("{directory:?}: expected an absolute path")));
    }
    Ok(Some(Path::new(directory).join(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PodKey;

    #[test]
    fn an_unknown_state_is_never_taken_for_a_healthy_one() {
        assert_eq!(container_state(1), ContainerState::ContainerRunning);
        assert_eq!(sandbox_state(0), PodSandboxState::SandboxReady);
        for number in [-1, 4, i32::MAX] {
            assert_eq!(container_state(number), ContainerState::ContainerUnknown);
            assert_eq!(sandbox_state(number), PodSandboxState::SandboxNotready);
        }
    }

    #[test]
    fn log_files_lie_where_log_collectors_look() {
        let pod = PodKey { namespace: "shop".into(), name: "web".into(), uid: "u-1".into() };
        let directory = log_directory(Path::new("/var/log/pods"), &pod);
        assert_eq!(directory.join(log_path("app", 3)), Path::new("/var/log/pods/shop_web_u-1/app/3.log"));
    }

    #[test]
    fn s_f01_a_log_stays_beneath_its_pods_directory() {
        let logs = "/var/log/pods/a_b_c";
        assert_eq!(log_file(logs, "app/0.log").unwrap(), Some(PathBuf::from("/var/log/pods/a_b_c/app/0.log")));
        assert_eq!(log_file("", "app/0.log").unwrap(), None);
        assert_eq!(log_file(logs, "").unwrap(), None);
        for bad in ["../x", "/etc/passwd", "app/../../x", "app/./\0", "app/\0"] {
            assert!(log_file(logs, bad).is_err(), "{bad:?}");
        }
        assert!(log_file("logs", "0.log").is_err());
    }
}
