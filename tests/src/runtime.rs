//! The runtimes that a kubelet of the suites can be given.

use crate::machine::workspace;
use crate::skip;
use std::path::{Path, PathBuf};

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
    /// Whether it can be had here. Says why it cannot; in CI that is a failure where Debian's own packages are missing.
    pub fn is_available(self) -> bool {
        let missing = match self {
            Runtime::Embedded => None,
            Runtime::Docker => absent(&["/usr/sbin/dockerd", "/usr/bin/docker"], "package docker.io"),
            Runtime::Containerd => absent(
                &["/usr/bin/containerd", "/usr/bin/ctr", "/usr/lib/cni/bridge"],
                "packages containerd and containernetworking-plugins",
            ),
            Runtime::ContainerdSid => return Runtime::Containerd.is_available() && fetched(),
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

/// Fetching it is a choice (`scripts/test.sh`): it doubles what the suites with a containerd take.
fn fetched() -> bool {
    let fetched = sid().join("usr/bin/containerd").exists();
    if !fetched {
        println!("skipped: no newer containerd; scripts/containerd.sh fetch-sid {} fetches one", sid().display());
    }
    fetched
}
