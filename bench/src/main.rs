//! Measures the kubelet, with each runtime that it can use, side by side with Docker on the same machine, in one run,
//! and prints a table. It reports; it asserts nothing about time.

mod bursts;
mod docker;
mod footprint;
mod kubelet;
mod lives;
mod measure;
mod pull;
mod report;
mod side;
mod stamp;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use docker::Daemon;
use e2e::Runtime;
use kubelet::Kubelet;
use report::Column;
use stamp::Stamps;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Parser)]
#[command(about = "Measures the kubelet side by side with Docker on this machine.")]
struct Arguments {
    /// Only these columns of the table
    #[arg(value_name = "COLUMN")]
    columns: Vec<Column>,
    /// Fewer samples, 20 pods instead of 100, 10 idle seconds instead of 60
    #[arg(long)]
    quick: bool,
    /// Only this measure; may be given several times
    #[arg(long, value_name = "MEASURE")]
    only: Vec<Measure>,
    /// The containerd of Debian sid instead of the installed one
    #[arg(long)]
    containerd_sid: bool,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    Start,
    Restart,
    Removal,
    Burst,
    Memory,
    Idle,
    /// An image from a registry, beside containerd's and podman's pull
    Pull,
}

impl Arguments {
    fn wants(&self, measures: &[Measure]) -> bool {
        self.only.is_empty() || measures.iter().any(|measure| self.only.contains(measure))
    }

    fn measures(&self, column: Column) -> bool {
        self.columns.is_empty() || self.columns.contains(&column)
    }
}

/// What all measures work with.
struct Bench {
    arguments: Arguments,
    /// The workload's image.
    archive: PathBuf,
}

impl Bench {
    /// The kubelet of a column with the daemon it needs; none of Docker by itself.
    fn kubelet(&self, column: Column, stamps: &Stamps) -> Result<Option<Kubelet>> {
        let runtime = match column {
            Column::Embedded => Runtime::Embedded,
            Column::DockerThroughUs => Runtime::Docker,
            Column::ContainerdThroughUs if self.arguments.containerd_sid => Runtime::ContainerdSid,
            Column::ContainerdThroughUs => Runtime::Containerd,
            Column::DockerRun => return Ok(None),
        };
        ensure!(runtime.is_available(), "{}: run `scripts/setup.sh test`", column.name());
        Kubelet::start(runtime, stamps).map(Some)
    }

    fn dockerd(&self, stamps: &Stamps) -> Result<Daemon> {
        Daemon::start(&self.archive, stamps)
    }

    /// The columns to measure, ordered.
    fn columns(&self) -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(|column| self.arguments.measures(*column))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "containers are started: run it as root");
    let archive = e2e::machine::workspace().join("target/test-images/stamp.tar");
    stamp::build_archive(&archive)?;
    let directory = tempfile::tempdir()?;
    let stamps = |name: &str| Stamps::watch(directory.path().join(name));
    let bench = Bench { arguments, archive };

    let arguments = &bench.arguments;
    let mut machine = machine()?;
    let only_pulls = arguments.only == [Measure::Pull];
    if !only_pulls && (arguments.measures(Column::DockerThroughUs) || arguments.measures(Column::DockerRun)) {
        let docker = bench.dockerd(&stamps("probe")?)?.description()?;
        machine = format!("{machine}; {docker} without packet filter rules");
    }
    if arguments.measures(Column::ContainerdThroughUs) {
        machine = format!("{machine}; {}", containerd_version(arguments)?);
    }
    println!("{machine}");
    let mut rows = Vec::new();
    if arguments.wants(&[Measure::Start, Measure::Restart, Measure::Removal]) {
        rows.extend(lives::rows(arguments, &lives::measure(&bench, &stamps("lives")?)?));
    }
    if arguments.wants(&[Measure::Burst, Measure::Memory, Measure::Idle]) {
        rows.extend(bursts::rows(arguments, &bursts::measure(&bench, &stamps("bursts")?)?));
    }
    if !rows.is_empty() {
        println!("\n{}", report::table(&rows));
    }
    // Not of a column: it is compared with what pulls, not with what runs.
    let pulls = arguments.wants(&[Measure::Pull]) && arguments.measures(Column::Embedded);
    let pulls = pulls.then(|| pull::measure(&bench)).transpose()?;
    if let Some(pulls) = &pulls {
        println!("\n{}", pulls.text);
    }
    if let Some(file) = &arguments.json {
        let mut figures = report::json(&machine, &rows);
        if let Some(pulls) = pulls {
            figures["pull"] = pulls.json;
        }
        let text = format!("{figures:#}\n");
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn machine() -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    let load = load.split(' ').next().unwrap_or("?");
    Ok(format!("{cores} cores, Linux {}, load {load}", kernel.trim()))
}

fn containerd_version(arguments: &Arguments) -> Result<String> {
    let sid = e2e::machine::workspace().join("target/containerd-sid/usr/bin/containerd");
    let program = if arguments.containerd_sid { sid } else { PathBuf::from("/usr/bin/containerd") };
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("{}: run `scripts/setup.sh test`", program.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).split(' ').nth(2).unwrap_or("?").to_owned();
    Ok(format!("containerd {version}"))
}
