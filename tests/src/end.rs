//! The end of a pod, and what it is at last.

use crate::{Machine, await_some};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use std::path::PathBuf;

/// A pod that ends and does not go, so that nobody misses what it is at last: a mount that is not the kubelet's lies
/// beneath its directory.
#[must_use]
pub struct Held<'a> {
    machine: &'a Machine,
    pod: &'a str,
    mount: PathBuf,
}

impl Held<'_> {
    /// What the pod is once nothing of it is left in the runtime; then it goes. Costs a second: the kubelet's next try.
    #[track_caller]
    pub fn last(self) -> Value {
        let in_the_way = format!("{}: is mounted and not by the kubelet", self.mount.display());
        let last = self.machine.await_pod(self.pod, |pod| {
            pod["status"]["message"].as_str().is_some_and(|message| message.contains(&in_the_way))
        });
        unmount(&self.mount, UnmountFlags::NOFOLLOW).expect("unmounted");
        self.machine.await_pod_gone(self.pod);
        last
    }
}

impl Machine {
    /// Keeps a pod that has its directory from going. In a test that fails the mount goes with the machine.
    #[track_caller]
    pub fn hold<'a>(&'a self, pod: &'a str) -> Held<'a> {
        let found = self.pod(pod).expect("the pod");
        let uid = found["metadata"]["uid"].as_str().expect("a UID");
        let path = self.dir.join("root/pods").join(uid).join("held");
        std::fs::create_dir(&path).expect("beneath the pod's directory");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).expect("mounted");
        Held { machine: self, pod, mount: path }
    }

    /// Takes the manifest away: what the pod is at last, once it is gone.
    #[track_caller]
    pub fn last_of(&self, pod: &str) -> Value {
        let held = self.hold(pod);
        self.end_play(pod);
        held.last()
    }

    /// Takes the manifest away, and waits until the pod is gone.
    #[track_caller]
    pub fn await_end(&self, pod: &str) {
        self.end_play(pod);
        self.await_pod_gone(pod);
    }

    #[track_caller]
    pub fn await_pod_gone(&self, pod: &str) {
        await_some(&format!("the end of pod {pod}"), || match self.pod(pod) {
            None => Ok(()),
            Some(found) => Err(format!("{}; log:\n{}", found["status"], self.log())),
        });
    }
}
