//! Measures the kubelet side by side with Docker on the same machine, in one run, and prints a table. It reports; it
//! asserts nothing about time.

mod docker;
mod footprint;
mod kubelet;
mod measure;
mod report;
mod side;
mod stamp;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use docker::{Daemon, Docker, Order};
use kubelet::Kubelet;
use measure::{Burst, Life};
use report::{Goal, Row, percentile};
use side::Side;
use stamp::Stamps;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(about = "Measures the kubelet side by side with Docker on this machine.")]
struct Arguments {
    /// Fewer samples, 20 pods instead of 100, 10 idle seconds instead of 60
    #[arg(long)]
    quick: bool,
    /// Only these measures
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Only one of the two
    #[arg(long, value_name = "SIDE")]
    side: Option<Which>,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Kubelet,
    Docker,
}

impl Arguments {
    fn wants(&self, measures: &[Measure]) -> bool {
        self.only.is_empty() || measures.iter().any(|measure| self.only.contains(measure))
    }

    fn measures(&self, which: Which) -> bool {
        self.side.is_none_or(|side| side == which)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(rustix::process::geteuid().is_root(), "containers are started: run it as root");
    let archive = e2e::machine::workspace().join("target/test-images/stamp.tar");
    stamp::build_archive(&archive)?;
    let directory = tempfile::tempdir()?;

    let mut rows = Vec::new();
    let mut machine = machine()?;
    if arguments.measures(Which::Docker) {
        let stamps = Stamps::watch(directory.path().join("probe"))?;
        machine =
            format!("{machine}; {} without packet filter rules", Daemon::start(&archive, &stamps)?.description()?);
    }
    println!("{machine}");
    if arguments.wants(&[Measure::Start, Measure::Restart, Measure::Removal]) {
        let lives = lives(&arguments, &archive, &Stamps::watch(directory.path().join("lives"))?)?;
        rows.extend(life_rows(&arguments, &lives));
    }
    if arguments.wants(&[Measure::Burst, Measure::Memory, Measure::Idle]) {
        let bursts = bursts(&arguments, &archive, &Stamps::watch(directory.path().join("bursts"))?)?;
        rows.extend(burst_rows(&arguments, &bursts));
    }
    println!("\n{}", report::table(&rows));
    if let Some(file) = &arguments.json {
        let text = format!("{:#}\n", report::json(&machine, &rows));
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

/// Lives of one workload after the other: the kubelet's, and Docker's for each way to order it.
struct Lives {
    kubelet: Vec<Life>,
    client: Vec<Life>,
    api: Vec<Life>,
    unconfined: Vec<Life>,
}

/// The sides take turns, so that a disturbance of the machine meets all of them.
fn lives(arguments: &Arguments, archive: &Path, stamps: &Stamps) -> Result<Lives> {
    let rounds = if arguments.quick { 8 } else { 30 };
    let kubelet = arguments.measures(Which::Kubelet).then(|| Kubelet::start(stamps));
    let daemon = if arguments.measures(Which::Docker) { Some(Daemon::start(archive, stamps)?) } else { None };
    let docker = |order| daemon.as_ref().map(|daemon| Docker { daemon, order });
    let (client, api) = (docker(Order::Client { at_a_time: 1 }), docker(Order::Api));
    let unconfined = docker(Order::ApiUnconfined);

    let mut lives = Lives { kubelet: Vec::new(), client: Vec::new(), api: Vec::new(), unconfined: Vec::new() };
    for round in 0..=rounds {
        if round % 5 == 0 {
            eprintln!("one workload after the other: {round} of {rounds}");
        }
        let turns: [(Option<&dyn Side>, &str, &mut Vec<Life>); 4] = [
            (kubelet.as_ref().map(|side| side as &dyn Side), "kubelet", &mut lives.kubelet),
            (client.as_ref().map(|side| side as &dyn Side), "client", &mut lives.client),
            (api.as_ref().map(|side| side as &dyn Side), "api", &mut lives.api),
            (unconfined.as_ref().map(|side| side as &dyn Side), "unconfined", &mut lives.unconfined),
        ];
        for (side, name, into) in turns {
            let Some(side) = side else { continue };
            let life = measure::life(side, stamps, &format!("{name}-{round}"))?;
            // The first round warms caches and makes what is made once.
            if round > 0 {
                into.push(life);
            }
        }
    }
    Ok(lives)
}

fn life_rows(arguments: &Arguments, lives: &Lives) -> Vec<Row> {
    let count = lives.kubelet.len().max(lives.client.len());
    let row = |label: String, percent: usize, of: fn(&Life) -> f64, docker: &[Life], goal| {
        let figure = |lives: &[Life]| percentile(&lives.iter().map(of).collect::<Vec<_>>(), percent);
        Row { label, unit: "ms", ours: figure(&lives.kubelet), docker: figure(docker), goal }
    };
    let mut rows = Vec::new();
    let mut triple = |what: &str, of: fn(&Life) -> f64, client: &str, goal: Option<Goal>| {
        rows.push(row(format!("{what}, p50 of {count}; {client}"), 50, of, &lives.client, goal));
        rows.push(row("  p99".into(), 99, of, &lives.client, None));
        rows.push(row("  p50; Engine API".into(), 50, of, &lives.api, None));
        rows.push(row("  p50; Engine API, no seccomp filter".into(), 50, of, &lives.unconfined, None));
    };
    if arguments.wants(&[Measure::Start]) {
        let goal = Some(Goal::Ratio(1.0 / 8.0));
        triple("manifest written → first instruction", |life| life.start_ms, "docker run -d", goal);
    }
    if arguments.wants(&[Measure::Restart]) {
        let goal = Some(Goal::Value(15.0));
        triple("kill -9 → first instruction again", |life| life.restart_ms, "--restart=always", goal);
    }
    if arguments.wants(&[Measure::Removal]) {
        triple("manifest removed → gone", |life| life.removal_ms, "docker rm -f", None);
    }
    rows
}

/// Many at once: the kubelet's, and Docker's with its orders given so many at a time.
struct Bursts {
    pods: usize,
    kubelet: Option<Burst>,
    docker: Vec<(usize, Burst)>,
}

fn bursts(arguments: &Arguments, archive: &Path, stamps: &Stamps) -> Result<Bursts> {
    let pods = if arguments.quick { 20 } else { 100 };
    let idle = Duration::from_secs(if arguments.quick { 10 } else { 60 });
    let idle = arguments.wants(&[Measure::Idle]).then_some(idle);
    let names = |prefix: &str| (0..pods).map(|number| format!("{prefix}-{number}")).collect::<Vec<_>>();
    let mut bursts = Bursts { pods, kubelet: None, docker: Vec::new() };
    if arguments.measures(Which::Kubelet) {
        eprintln!("{pods} at once: kubelet");
        let kubelet = Kubelet::start(stamps);
        bursts.kubelet = Some(measure::burst(&kubelet, stamps, &names("kubelet"), idle)?);
    }
    if arguments.measures(Which::Docker) {
        let ways: &[usize] = if arguments.quick || !arguments.wants(&[Measure::Burst]) { &[4] } else { &[2, 4, 8] };
        for (turn, &at_a_time) in ways.iter().enumerate() {
            eprintln!("{pods} at once: docker run -d, {at_a_time} at a time");
            let daemon = Daemon::start(archive, stamps)?;
            let docker = Docker { daemon: &daemon, order: Order::Client { at_a_time } };
            // At rest it is the same whichever way the containers were started.
            let idle = idle.filter(|_| turn == 0);
            bursts
                .docker
                .push((at_a_time, measure::burst(&docker, stamps, &names(&format!("docker{at_a_time}")), idle)?));
        }
    }
    Ok(bursts)
}

fn burst_rows(arguments: &Arguments, bursts: &Bursts) -> Vec<Row> {
    let Bursts { pods, kubelet, docker } = bursts;
    let fastest = docker.iter().min_by(|(_, a), (_, b)| a.first_instructions_s.total_cmp(&b.first_instructions_s));
    let way = fastest.map_or(String::new(), |(at_a_time, _)| format!("; docker run -d, {at_a_time} at a time"));
    // Rest costs the same whichever way the containers were started; only the first way was watched at rest.
    let (fastest, first) = (fastest.map(|(_, burst)| burst), docker.first().map(|(_, burst)| burst));
    let row = |label: String, unit: &'static str, docker: Option<&Burst>, of: fn(&Burst) -> Option<f64>| Row {
        label,
        unit,
        ours: kubelet.as_ref().and_then(of),
        docker: docker.and_then(of),
        goal: None,
    };
    // The goals are for a hundred pods.
    let goal = |row: Row, limit: f64| Row { goal: (*pods == 100).then_some(Goal::Value(limit)), ..row };

    let mut rows = Vec::new();
    if arguments.wants(&[Measure::Burst]) {
        let label = format!("{pods} pods at once → all first instructions{way}");
        rows.push(goal(row(label, "s", fastest, |burst| Some(burst.first_instructions_s)), 1.5));
        rows.push(row("  all reported as running".into(), "s", fastest, |burst| Some(burst.reported_s)));
        rows.push(row("  all removed → gone".into(), "s", fastest, |burst| Some(burst.removal_s)));
    }
    if arguments.wants(&[Measure::Memory]) {
        let label = format!("memory at {pods} pods, proportional");
        rows.push(goal(row(label, "MB", first, |burst| Some(burst.memory.proportional_bytes as f64 / 1e6)), 50.0));
        rows.push(row("  private".into(), "MB", first, |burst| Some(burst.memory.private_bytes as f64 / 1e6)));
    }
    if arguments.wants(&[Measure::Idle]) {
        rows.push(goal(row(format!("CPU of one core, {pods} idle pods"), "%", first, |burst| burst.idle_percent), 0.3));
    }
    rows
}
