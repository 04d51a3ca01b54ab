//! The measures, the same for every side.

use crate::footprint::{self, Memory};
use crate::side::{Parts, Side};
use crate::stamp::{self, MOUNT, Stamps, now_ns};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between two acts, so that each meets a machine at rest: some kernel paths are slower then.
const REST: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// No end is awaited longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

/// One workload's life, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) start_ms: f64,
    pub(crate) restart_ms: f64,
    pub(crate) removal_ms: f64,
}

/// Starts a workload, kills it once and removes it.
pub(crate) fn life(side: &dyn Side, stamps: &Stamps, name: &str) -> Result<Life> {
    let traces = side.traces();
    let supervisors = side.supervisors().all().concat();
    let ordered_ns = side.start(name)?;
    let start_ms = since_ms(ordered_ns, stamps.await_start(name, 0)?);
    std::thread::sleep(REST);

    let pid = workload_pid(name)?;
    let killed_ns = now_ns();
    kill(pid)?;
    let restart_ms = since_ms(killed_ns, stamps.await_start(name, 1)?);
    std::thread::sleep(REST);

    let mut pids = side.supervisors().all().concat();
    pids.retain(|pid| !supervisors.contains(pid));
    pids.push(workload_pid(name)?);
    let removed_ns = side.remove(name)?;
    let gone_ns = await_gone(side, &pids, &traces)?;
    std::thread::sleep(REST);
    Ok(Life { start_ms, restart_ms, removal_ms: since_ms(removed_ns, gone_ns) })
}

/// Many workloads at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    pub(crate) first_instructions_s: f64,
    pub(crate) reported_s: f64,
    pub(crate) removal_s: f64,
    /// None of a part that has no process.
    pub(crate) memory: Parts<Option<Memory>>,
    /// Of one core; none when it was not asked for.
    pub(crate) idle_percent: Option<Parts<Option<f64>>>,
}

/// Starts many workloads, looks at what they cost at rest for so long, and removes them.
pub(crate) fn burst(side: &dyn Side, stamps: &Stamps, names: &[String], idle: Option<Duration>) -> Result<Burst> {
    let traces = side.traces();
    let before = side.supervisors().all().concat();
    let ordered_ns = side.start_all(names)?;
    let mut last_ns = 0;
    for name in names {
        last_ns = last_ns.max(stamps.await_start(name, 0)?);
    }
    side.await_reported(names)?;
    let reported_ns = now_ns();

    // What the start stirred up has settled then.
    std::thread::sleep(Duration::from_secs(5));
    let supervisors = side.supervisors();
    let memory = supervisors.try_map(|pids| some(pids, footprint::memory))?;
    let idle_percent = idle.map(|duration| idle_percent(&supervisors, duration)).transpose()?;

    let mut pids = supervisors.all().concat();
    pids.retain(|pid| !before.contains(pid));
    for name in names {
        pids.push(workload_pid(name)?);
    }
    let removed_ns = side.remove_all(names)?;
    let gone_ns = await_gone(side, &pids, &traces)?;
    Ok(Burst {
        first_instructions_s: since_ms(ordered_ns, last_ns) / 1e3,
        reported_s: since_ms(ordered_ns, reported_ns) / 1e3,
        removal_s: since_ms(removed_ns, gone_ns) / 1e3,
        memory,
        idle_percent,
    })
}

/// What `of` says of these processes, if there are any.
fn some<T>(pids: &[u32], of: fn(&[u32]) -> Result<T>) -> Result<Option<T>> {
    if pids.is_empty() { Ok(None) } else { of(pids).map(Some) }
}

fn idle_percent(supervisors: &Parts<Vec<u32>>, duration: Duration) -> Result<Parts<Option<f64>>> {
    let seconds = |pids: &Vec<u32>| some(pids, footprint::cpu_seconds);
    let (before, from) = (supervisors.try_map(seconds)?, Instant::now());
    std::thread::sleep(duration);
    let (after, elapsed_s) = (supervisors.try_map(seconds)?, from.elapsed().as_secs_f64());
    let percent = |before: Option<f64>, after: Option<f64>| Some((after? - before?) / elapsed_s * 100.0);
    Ok(Parts {
        kubelet: percent(before.kubelet, after.kubelet),
        daemons: percent(before.daemons, after.daemons),
        shims: percent(before.shims, after.shims),
        pauses: percent(before.pauses, after.pauses),
    })
}

fn since_ms(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

/// When the processes are gone and nothing is there that was not there before.
fn await_gone(side: &dyn Side, pids: &[u32], before: &BTreeSet<String>) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let alive: Vec<&u32> = pids.iter().filter(|pid| footprint::is_alive(**pid)).collect();
        // The cheap look first: the machine is measured while we look.
        if alive.is_empty() && side.traces().is_subset(before) {
            return Ok(now_ns());
        }
        if Instant::now() > deadline {
            let left: Vec<String> = side.traces().difference(before).cloned().collect();
            bail!("left after {PATIENCE:?}: processes {alive:?}, {left:#?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The workload itself, not a client whose command line names it too: its own begins with the program.
fn workload_pid(name: &str) -> Result<u32> {
    let line = format!("/stamp {MOUNT}/{name} ");
    let found = footprint::pids_with_command(&line);
    found.into_iter().find(|pid| stamp::is_workload(*pid)).with_context(|| format!("no process runs {line}"))
}

fn kill(pid: u32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a pid is not 0")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}
