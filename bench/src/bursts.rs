//! Many workloads at once, and what they cost at rest.

use crate::docker::{Docker, Order};
use crate::measure::{self, Burst};
use crate::report::{Column, Goal, Row};
use crate::side::Parts;
use crate::stamp::Stamps;
use crate::{Arguments, Bench, Measure};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// The kubelet's with each runtime, and Docker's with its orders given so many at a time.
pub(crate) struct Bursts {
    pods: usize,
    ours: BTreeMap<Column, Burst>,
    docker: Vec<(usize, Burst)>,
}

pub(crate) fn measure(bench: &Bench, stamps: &Stamps) -> Result<Bursts> {
    let arguments = &bench.arguments;
    let pods = if arguments.quick { 20 } else { 100 };
    let idle = Duration::from_secs(if arguments.quick { 10 } else { 60 });
    let idle = arguments.wants(&[Measure::Idle]).then_some(idle);
    let names = |prefix: &str| (0..pods).map(|number| format!("{prefix}-{number}")).collect::<Vec<_>>();
    let mut bursts = Bursts { pods, ours: BTreeMap::new(), docker: Vec::new() };
    for column in bench.columns() {
        if let Some(kubelet) = bench.kubelet(column, stamps)? {
            eprintln!("{pods} at once: {}", column.name());
            bursts.ours.insert(column, measure::burst(&kubelet, stamps, &names(column.name()), idle)?);
        }
    }
    if arguments.measures(Column::DockerRun) {
        let ways: &[usize] = if arguments.quick || !arguments.wants(&[Measure::Burst]) { &[4] } else { &[2, 4, 8] };
        for (turn, &at_a_time) in ways.iter().enumerate() {
            eprintln!("{pods} at once: docker run -d, {at_a_time} at a time");
            let daemon = bench.dockerd(stamps)?;
            let docker = Docker { daemon: &daemon, order: Order::Client { at_a_time } };
            // At rest it is the same whichever way the containers were started.
            let idle = idle.filter(|_| turn == 0);
            let names = names(&format!("docker{at_a_time}"));
            bursts.docker.push((at_a_time, measure::burst(&docker, stamps, &names, idle)?));
        }
    }
    Ok(bursts)
}

pub(crate) fn rows(arguments: &Arguments, bursts: &Bursts) -> Vec<Row> {
    let Bursts { pods, ours, docker } = bursts;
    let row = |label: String, unit: &'static str, docker: Option<&Burst>, of: &dyn Fn(&Burst) -> Option<f64>| {
        let burst = |column| if column == Column::DockerRun { docker } else { ours.get(&column) };
        Row { label, unit, figures: Column::ALL.map(|column| burst(column).and_then(of)), goal: None }
    };
    // The goals are for a hundred pods.
    let goal = |row: Row, limit: f64| Row { goal: (*pods == 100).then_some(Goal::Value(limit)), ..row };

    let mut rows = Vec::new();
    if arguments.wants(&[Measure::Burst]) {
        let fastest = docker.iter().min_by(|(_, a), (_, b)| a.first_instructions_s.total_cmp(&b.first_instructions_s));
        let way = fastest.map_or(String::new(), |(at_a_time, _)| format!("; docker run -d, {at_a_time} at a time"));
        let row = |label: String, of: fn(&Burst) -> f64| {
            row(label, "s", fastest.map(|(_, burst)| burst), &|burst| Some(of(burst)))
        };
        let label = format!("{pods} pods at once → all first instructions{way}");
        rows.push(goal(row(label, |burst| burst.first_instructions_s), 1.5));
        rows.push(row("  all reported as running".into(), |burst| burst.reported_s));
        rows.push(row("  all removed → gone".into(), |burst| burst.removal_s));
    }
    // Rest costs the same whichever way the containers were started; only the first way was watched at rest.
    let rest = docker.first().map(|(_, burst)| burst);
    let label = |what: &str, at: usize| if at == 0 { what.to_owned() } else { format!("  {}", PARTS[at - 1]) };
    if arguments.wants(&[Measure::Memory]) {
        let what = format!("memory at {pods} pods, proportional");
        for at in 0..=PARTS.len() {
            let of = |burst: &Burst| part(burst.memory, at).map(|memory| megabytes(memory.proportional_bytes));
            let row = row(label(&what, at), "MB", rest, &of);
            rows.push(if at == 0 { goal(row, 50.0) } else { row });
        }
        let of = |burst: &Burst| part(burst.memory, 0).map(|memory| megabytes(memory.private_bytes));
        rows.push(row("  all of them, private".into(), "MB", rest, &of));
    }
    if arguments.wants(&[Measure::Idle]) {
        let what = format!("CPU of one core, {pods} idle pods");
        for at in 0..=PARTS.len() {
            let row = row(label(&what, at), "%", rest, &|burst: &Burst| part(burst.idle_percent?, at));
            rows.push(if at == 0 { goal(row, 0.3) } else { row });
        }
    }
    rows
}

/// In the order of [`Parts::all`].
const PARTS: [&str; 4] = ["kubelet", "daemons", "shims", "pause programs"];

/// The sum of all parts at 0, then one part each; none of what has no process.
fn part<T: Copy + std::ops::Add<Output = T>>(parts: Parts<Option<T>>, at: usize) -> Option<T> {
    let all = parts.all();
    if at > 0 { all[at - 1] } else { all.into_iter().flatten().reduce(|a, b| a + b) }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
