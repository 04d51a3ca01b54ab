//! The runtimes that a kubelet of the suites can be given.

use crate::machine::workspace;
use crate::skip;
use std::path::{Path, PathBuf};

const CONTAINERD: [&str; 3] = ["/usr/bin/containerd", "/usr/bin/ctr", "/usr/lib/cni/bridge"];
const CONTAINERD_PACKAGES: &str = "packages containerd and containernetworking-plugins";

/// What runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    #[default]
    Embedded,
    /// Debian's Docker Engine.
    Docker,
    /// Debian's containerd.
    Containerd,
    /// The containerd of Debian sid, beside the runc of this machine.
    ContainerdSid,
}

impl Runtime {
    /// Whether it can be had here. Says why it cannot; in CI that is a failure.
    pub fn is_available(self) -> bool {
        let missing = match self {
            Runtime::Embedded => None,
            Runtime::Docker => absent(&["/usr/sbin/dockerd", "/usr/bin/docker"], "package docker.io"),
            Runtime::Containerd => absent(&CONTAINERD, CONTAINERD_PACKAGES),
            Runtime::ContainerdSid => absent(&CONTAINERD, CONTAINERD_PACKAGES).or_else(|| {
                let program = sid().join("usr/bin/containerd").display().to_string();
                absent(&[&program], "scripts/containerd.sh fetch-sid target/containerd-sid")
            }),
        };
        let Some(missing) = missing else { return true };
        skip(&format!("{self:?}: {missing}"));
        false
    }

    /// The name under which its containers go in statuses: `containerID: docker://…`.
    pub fn scheme(self) -> &'static str {
        match self {
            Runtime::Embedded => "embedded",
            Runtime::Docker => "docker",
            Runtime::Containerd | Runtime::ContainerdSid => "containerd",
        }
    }

    /// Where its programs are.
    pub(crate) fn programs(self) -> PathBuf {
        match self {
            Runtime::ContainerdSid => sid().join("usr/bin"),
            _ => PathBuf::from("/usr/bin"),
        }
    }
}

fn absent(programs: &[&str], packages: &str) -> Option<String> {
    let missing = programs.iter().find(|program| !Path::new(program).exists())?;
    Some(format!("needs {missing} ({packages})"))
}

fn sid() -> PathBuf {
    workspace().join("target/containerd-sid")
}
