//! What stands between a kubelet and the daemon of its runtime, and makes calls fail in the ways in which daemons fail.

mod docker;

use crate::{Daemon, await_some};
use cri::testing::{FaultyProxy, Rule};
use docker::DockerProxy;
use std::collections::BTreeMap;
use std::path::Path;

pub use cri::testing::{Delivered, Fault};

/// A proxy in front of a daemon's socket.
pub enum Faults {
    Cri(FaultyProxy, std::path::PathBuf),
    Docker(DockerProxy),
}

impl Faults {
    pub(crate) fn start(daemon: &Daemon, socket: &Path) -> Faults {
        match daemon {
            Daemon::Docker(_) => Faults::Docker(DockerProxy::start(socket, &daemon.socket())),
            Daemon::Containerd(_) => {
                let proxy = FaultyProxy::start(socket, &daemon.socket()).expect("the proxy starts");
                Faults::Cri(proxy, socket.to_owned())
            }
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        match self {
            Faults::Cri(_, socket) => socket,
            Faults::Docker(proxy) => proxy.socket(),
        }
    }

    /// From now on this many requests of a call fail: `RunPodSandbox`, `POST /containers/*/start`; all that hold `text`.
    pub fn inject(&self, call: &str, text: &str, (fault, times): (Fault, u32)) {
        let rule = Rule { call: call.to_owned(), containing: text.to_owned(), fault, times };
        match self {
            Faults::Cri(proxy, _) => proxy.inject(rule),
            Faults::Docker(proxy) => proxy.inject(rule),
        }
    }

    /// From now on all calls pass.
    pub fn heal(&self) {
        match self {
            Faults::Cri(proxy, _) => proxy.heal(),
            Faults::Docker(proxy) => proxy.heal(),
        }
    }

    /// How often each call was made.
    pub fn asked(&self) -> BTreeMap<String, u32> {
        match self {
            Faults::Cri(proxy, _) => proxy.asked(),
            Faults::Docker(proxy) => proxy.asked(),
        }
    }

    /// How often each call failed in each way.
    pub fn delivered(&self) -> Delivered {
        match self {
            Faults::Cri(proxy, _) => proxy.delivered(),
            Faults::Docker(proxy) => proxy.delivered(),
        }
    }

    /// Waits until each of these calls has failed in this way.
    #[track_caller]
    pub fn await_delivered(&self, calls: &[&str], fault: Fault) {
        await_some(&format!("each of these calls to end in {:?}", fault.name()), || {
            let delivered = self.delivered();
            let missing = |call: &&&str| !delivered.contains_key(&(call.to_string(), fault.name()));
            let missing: Vec<_> = calls.iter().filter(missing).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} did not")) }
        });
    }
}
