//! A containerd of its own directories and bridge, which our kubelet is to order.

use crate::side::{Marks, Parts, daemon_processes, run};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

static DAEMONS: AtomicU8 = AtomicU8::new(0);

/// A running containerd. Dropping it removes everything it made.
pub(crate) struct Containerd {
    dir: PathBuf,
    pub(crate) marks: Marks,
}

impl Containerd {
    /// Runs the containerd in `bin`, with the image in `archive` loaded.
    pub(crate) fn start(bin: &Path, archive: &Path) -> Result<Containerd> {
        let number = DAEMONS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bench-bc{}x{number}", std::process::id()));
        // Made first: what a start that failed has left is removed with it.
        let mut daemon = Containerd { dir, marks: Marks::default() };
        run(script("start", &daemon.dir).arg(bin))?;
        let network = daemon.dir.join("cni/conf/10-pods.conflist");
        let network: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&network).with_context(|| format!("read {}", network.display()))?)?;
        let bridge = network["plugins"][0]["bridge"].as_str().context("the bridge's name")?;
        daemon.marks = Marks {
            mounts: vec![daemon.dir.display().to_string()],
            bridges: vec![bridge.to_owned()],
            cgroups: Vec::new(),
        };
        let import = ["--namespace", "k8s.io", "images", "import"];
        run(Command::new("ctr").arg("--address").arg(daemon.socket()).args(import).arg(archive))?;
        Ok(daemon)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn processes(&self) -> Parts<Vec<u32>> {
        daemon_processes(&self.dir)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = run(&mut script("stop", &self.dir)) {
            eprintln!("{} is left: {error:#}", self.dir.display());
        }
    }
}

/// Which containerd it is, for the head of the report.
pub(crate) fn description(bin: &Path) -> Result<String> {
    let output = Command::new(bin.join("containerd")).arg("--version").output();
    let output = output.with_context(|| format!("{}: run `scripts/setup.sh test`", bin.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).split(' ').nth(2).unwrap_or("?").to_owned();
    Ok(format!("containerd {version}"))
}

fn script(verb: &str, dir: &Path) -> Command {
    let mut script = Command::new(e2e::machine::workspace().join("scripts/containerd.sh"));
    script.arg(verb).arg(dir);
    script
}
