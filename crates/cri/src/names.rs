//! Reading the protocol's enums without guessing, and the paths of log files.

use std::path::{Path, PathBuf};

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
}
