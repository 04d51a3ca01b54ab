//! One workload after the other: how long it takes to start, to start again and to go.

use crate::docker::{Docker, Order};
use crate::measure::{self, Life};
use crate::report::{Column, Goal, Row, percentile};
use crate::side::Side;
use crate::stamp::Stamps;
use crate::{Arguments, Bench, Measure};
use anyhow::Result;
use std::collections::BTreeMap;

/// Whose lives: a column's, or Docker's when it is ordered in other ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Column(Column),
    EngineApi,
    EngineApiUnconfined,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Column(column) => column.name(),
            Way::EngineApi => "engine-api",
            Way::EngineApiUnconfined => "engine-api-unconfined",
        }
    }
}

pub(crate) type Lives = BTreeMap<Way, Vec<Life>>;

/// The sides take turns, so that a disturbance of the machine meets all of them.
pub(crate) fn measure(bench: &Bench, stamps: &Stamps) -> Result<Lives> {
    let rounds = if bench.arguments.quick { 8 } else { 30 };
    let daemon = bench.arguments.measures(Column::DockerRun).then(|| bench.dockerd(stamps)).transpose()?;
    let mut sides: Vec<(Way, Box<dyn Side + '_>)> = Vec::new();
    if let Some(daemon) = &daemon {
        for (way, order) in [
            (Way::Column(Column::DockerRun), Order::Client { at_a_time: 1 }),
            (Way::EngineApi, Order::Api),
            (Way::EngineApiUnconfined, Order::ApiUnconfined),
        ] {
            sides.push((way, begin(way, Docker { daemon, order }, stamps)?));
        }
    }
    for column in bench.columns() {
        if let Some(kubelet) = bench.kubelet(column, stamps)? {
            let way = Way::Column(column);
            sides.push((way, begin(way, kubelet, stamps)?));
        }
    }

    let mut lives = Lives::new();
    for round in 1..=rounds {
        if round % 5 == 0 {
            eprintln!("one workload after the other: {round} of {rounds}");
        }
        for (way, side) in &sides {
            let life = measure::life(side.as_ref(), stamps, &format!("{}-{round}", way.name()))?;
            lives.entry(*way).or_default().push(life);
        }
    }
    // The last that came is the first to go: each takes a census that the earlier ones are in.
    while sides.pop().is_some() {}
    Ok(lives)
}

/// The first life warms caches and makes what is made once: a side that comes later finds it there in its census.
fn begin<'a>(way: Way, side: impl Side + 'a, stamps: &Stamps) -> Result<Box<dyn Side + 'a>> {
    eprintln!("one workload after the other: {} begins", way.name());
    measure::life(&side, stamps, &format!("{}-0", way.name()))?;
    Ok(Box::new(side))
}

pub(crate) fn rows(arguments: &Arguments, lives: &Lives) -> Vec<Row> {
    let count = lives.values().map(Vec::len).max().unwrap_or(0);
    let figure = |way: Way, percent: usize, of: fn(&Life) -> f64| {
        percentile(&lives.get(&way)?.iter().map(of).collect::<Vec<_>>(), percent)
    };
    let row = |label: String, percent: usize, of: fn(&Life) -> f64, docker: Way| {
        let figures = Column::ALL
            .map(|column| figure(if column == Column::DockerRun { docker } else { Way::Column(column) }, percent, of));
        Row { label, unit: "ms", figures, goal: None }
    };
    let docker_run = Way::Column(Column::DockerRun);
    let mut rows = Vec::new();
    let mut group = |what: &str, of: fn(&Life) -> f64, client: &str, goal: Option<Goal>| {
        let has_docker = lives.contains_key(&docker_run);
        let client = if has_docker { format!("; {client}") } else { String::new() };
        rows.push(Row { goal, ..row(format!("{what}, p50 of {count}{client}"), 50, of, docker_run) });
        rows.push(row("  p99".into(), 99, of, docker_run));
        if has_docker {
            rows.push(row("  p50; Engine API".into(), 50, of, Way::EngineApi));
            rows.push(row("  p50; Engine API, no seccomp filter".into(), 50, of, Way::EngineApiUnconfined));
        }
    };
    if arguments.wants(&[Measure::Start]) {
        let goal = Some(Goal::Ratio(1.0 / 8.0));
        group("manifest written → first instruction", |life| life.start_ms, "docker run -d", goal);
    }
    if arguments.wants(&[Measure::Restart]) {
        let goal = Some(Goal::Value(15.0));
        group("kill -9 → first instruction again", |life| life.restart_ms, "--restart=always", goal);
    }
    if arguments.wants(&[Measure::Removal]) {
        group("manifest removed → gone", |life| life.removal_ms, "docker rm -f", None);
    }
    rows
}
