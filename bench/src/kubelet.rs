//! Our side: a kubelet of its own directories, bridge and control group, fed through its manifest directory. Its
//! containers are run by the engine inside it, or by a daemon that belongs to it.

use crate::side::{Marks, Parts, Side, daemon_processes, run};
use crate::stamp::{self, IMAGE, MOUNT, Stamps, now_ns};
use anyhow::{Context, Result, bail};
use e2e::{Machine, Options, Runtime};
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// No report is awaited longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Kubelet {
    /// Taken only by the end.
    machine: Option<Machine>,
    marks: Marks,
    stamps: PathBuf,
}

impl Kubelet {
    /// Starts it with the daemon it needs; the image's archive must be in the directory of test images.
    pub(crate) fn start(runtime: Runtime, stamps: &Stamps) -> Result<Kubelet> {
        let in_containerd = matches!(runtime, Runtime::Containerd | Runtime::ContainerdSid);
        let images = if in_containerd { Vec::new() } else { vec!["stamp"] };
        let mut machine = Machine::start(Options { images, runtime, ..Options::default() });
        let name = machine.run_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = name.trim_start_matches("kubelet-").to_owned();
        let mut bridges = vec![name.replace("kt", "k")];
        if runtime != Runtime::Embedded {
            bridges.extend(machine.daemon().bridge());
        }
        let marks = Marks {
            mounts: vec![machine.dir.display().to_string(), machine.run_dir.display().to_string()],
            bridges,
            cgroups: vec![name],
        };
        if in_containerd {
            let socket = machine.daemon().socket();
            let import = ["--namespace", "k8s.io", "images", "import"];
            let archive = e2e::machine::image_archive("stamp");
            run(Command::new("ctr").arg("--address").arg(socket).args(import).arg(archive))?;
        }
        Ok(Kubelet { machine: Some(machine), marks, stamps: stamps.dir.clone() })
    }

    fn manifest(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 5\n  \
             containers:\n  - name: main\n    image: {IMAGE}\n    imagePullPolicy: IfNotPresent\n    \
             args: [{MOUNT}/{name}]\n    volumeMounts:\n    - name: out\n      mountPath: {MOUNT}\n  \
             volumes:\n  - name: out\n    hostPath:\n      path: {}\n",
            self.stamps.display()
        )
    }

    /// All that runs in the pods but the workloads.
    fn pauses(&self) -> Vec<u32> {
        let mut pids = self.machine().container_pids();
        pids.retain(|pid| !stamp::is_workload(*pid));
        pids
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("taken only by drop")
    }
}

impl Drop for Kubelet {
    /// Removes the pods, ends the kubelet and takes the census. Figures are not lost over what it finds.
    fn drop(&mut self) {
        let Some(machine) = self.machine.take().filter(|_| !std::thread::panicking()) else { return };
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let finished = std::panic::catch_unwind(AssertUnwindSafe(|| machine.finish()));
        std::panic::set_hook(hook);
        if let Err(panic) = finished {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            // The kubelet's whole log follows.
            let text = text.split("; log:").next().unwrap_or_default();
            eprintln!("the machine is not as it was, by this kubelet or by others; the figures stand: {text}");
        }
    }
}

impl Side for Kubelet {
    fn start(&self, name: &str) -> Result<u64> {
        self.start_all(&[name.to_owned()])
    }

    fn remove(&self, name: &str) -> Result<u64> {
        self.remove_all(&[name.to_owned()])
    }

    /// Everything is written to hidden names first: the clock starts at the first rename.
    fn start_all(&self, names: &[String]) -> Result<u64> {
        let mut renames = Vec::new();
        for name in names {
            let hidden = self.machine().manifests.join(format!(".{name}.yaml"));
            std::fs::write(&hidden, self.manifest(name)).with_context(|| format!("write {}", hidden.display()))?;
            renames.push((hidden, self.machine().manifests.join(format!("{name}.yaml"))));
        }
        let ordered_ns = now_ns();
        for (hidden, seen) in renames {
            std::fs::rename(&hidden, &seen).with_context(|| format!("rename to {}", seen.display()))?;
        }
        Ok(ordered_ns)
    }

    fn await_reported(&self, names: &[String]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let running = self.machine().pods().iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            if running >= names.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{running} of {} pods running; the kubelet's log:\n{}", names.len(), self.machine().log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn remove_all(&self, names: &[String]) -> Result<u64> {
        let ordered_ns = now_ns();
        for name in names {
            self.machine().remove_manifest(&format!("{name}.yaml"));
        }
        Ok(ordered_ns)
    }

    fn traces(&self) -> BTreeSet<String> {
        self.marks.traces()
    }

    fn supervisors(&self) -> Parts<Vec<u32>> {
        let machine = self.machine();
        let kubelet = vec![machine.kubelet_pid()];
        if machine.runtime() == Runtime::Embedded {
            return Parts { kubelet, shims: machine.shim_pids(), ..Parts::default() };
        }
        Parts { kubelet, pauses: self.pauses(), ..daemon_processes(&machine.dir.join("daemon")) }
    }
}
