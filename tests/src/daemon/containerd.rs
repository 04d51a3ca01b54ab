//! A containerd, started and ended by `scripts/containerd.sh`.

use super::{keep_log, run, sweep};
use crate::machine::workspace;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the network plugins note what they made, whoever asked them.
const NOTES: &str = "/var/lib/cni/results";

pub struct Containerd {
    dir: PathBuf,
}

impl Containerd {
    /// With the programs of Debian's package in `/usr/bin`, or those of another directory.
    pub fn start(dir: &Path, programs: &Path) -> Containerd {
        std::fs::create_dir_all(dir).expect("the daemon's directory");
        let containerd = Containerd { dir: dir.to_owned() };
        run(containerd.script("start").arg(programs));
        containerd
    }

    fn script(&self, what: &str) -> Command {
        let mut script = Command::new(workspace().join("scripts/containerd.sh"));
        script.arg(what).arg(&self.dir);
        script
    }

    /// Its client, at its socket and in the namespace where pods' images are.
    pub fn ctr(&self) -> Command {
        let mut ctr = Command::new("/usr/bin/ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        ctr
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(super) fn launch(&self) {
        run(&mut self.script("restart"));
    }

    pub(super) fn pid(&self) -> u32 {
        std::fs::read_to_string(self.dir.join("pid")).ok().and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
    }

    pub(super) fn kill(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("containerd runs");
        kill_process(pid, Signal::KILL).expect("killed");
    }

    fn conflist(&self) -> serde_json::Value {
        let text = std::fs::read(self.dir.join("cni/conf/10-pods.conflist")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The bridge that the plugins make for the first pod, and keep.
    pub(super) fn bridge(&self) -> Option<String> {
        self.conflist()["plugins"][0]["bridge"].as_str().map(str::to_owned)
    }

    pub(super) fn holds(&self) -> Vec<String> {
        let list = |what: &str| {
            run(self.ctr().args([what, "list", "--quiet"])).lines().map(|id| format!("{what} {id}")).collect::<Vec<_>>()
        };
        let conflist = self.conflist();
        let network = conflist["name"].as_str().unwrap_or("-");
        let leases = std::fs::read_dir(self.dir.join("cni/data").join(network)).into_iter().flatten().flatten();
        let notes = std::fs::read_dir(NOTES).into_iter().flatten().flatten();
        let names = leases.chain(notes).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let lease = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
        let kept = names.filter(|name| lease(name) || name.starts_with(&format!("{network}-")));
        let kept = kept.map(|name| format!("network {name}"));
        list("containers").into_iter().chain(list("tasks")).chain(kept).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        keep_log(&self.dir);
        let output = self.script("stop").output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{}: not ended well: {output:?}", self.dir.display());
        }
        sweep(&self.dir);
    }
}
