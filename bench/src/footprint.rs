//! What processes cost: memory and CPU time, as /proc tells it.

use anyhow::{Context, Result};
use std::path::Path;

/// Memory of a set of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    /// Pages that no other process has, clean and dirty.
    pub(crate) private_bytes: u64,
    /// Every page counted by the share each process has in it.
    pub(crate) proportional_bytes: u64,
}

impl std::ops::Add for Memory {
    type Output = Memory;

    fn add(self, other: Memory) -> Memory {
        Memory {
            private_bytes: self.private_bytes + other.private_bytes,
            proportional_bytes: self.proportional_bytes + other.proportional_bytes,
        }
    }
}

pub(crate) fn memory(pids: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        sum = sum + parse_rollup(&std::fs::read_to_string(&path).context(path)?);
    }
    Ok(sum)
}

fn parse_rollup(text: &str) -> Memory {
    let mut memory = Memory::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (key, value_kib) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0));
        match key {
            Some("Private_Clean:" | "Private_Dirty:") => memory.private_bytes += value_kib * 1024,
            Some("Pss:") => memory.proportional_bytes += value_kib * 1024,
            _ => {}
        }
    }
    memory
}

/// Memory of a process that is in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) now_bytes: u64,
    /// The most since its start, or since [`forget_peak`].
    pub(crate) peak_bytes: u64,
}

pub(crate) fn resident(pid: u32) -> Result<Resident> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(path)?;
    parse_resident(&text).context("no VmRSS and VmHWM")
}

fn parse_resident(status: &str) -> Option<Resident> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Resident { now_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
}

/// From now on the peak is what comes: 5 in clear_refs, proc_pid_clear_refs(5).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").context(path)
}

/// User and system time of the processes themselves since their start, without their children's, in seconds.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        ticks += parse_ticks(&std::fs::read_to_string(&path).context(path)?).context("utime and stime")?;
    }
    Ok(ticks as f64 / ticks_per_second as f64)
}

/// utime + stime: fields 14 and 15 of proc_pid_stat(5). The name before them may hold spaces and parentheses.
fn parse_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Processes whose command line holds `mark`, ascending.
pub(crate) fn pids_with_command(mark: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(mark))
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// A process's name, of which the kernel keeps 15 bytes; empty when it is gone.
pub(crate) fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Whether a process runs; one that ended and awaits its parent does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_summed() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  300 kB\nPss_Dirty: 7 kB\n\
                    Private_Clean:  40 kB\nPrivate_Dirty:  60 kB\n";
        assert_eq!(parse_rollup(text), Memory { private_bytes: 100 * 1024, proportional_bytes: 300 * 1024 });
    }

    #[test]
    fn residence_is_read_off_the_status() {
        let text = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\n";
        let expected = Resident { now_bytes: 200 * 1024, peak_bytes: 300 * 1024 };
        assert_eq!(parse_resident(text), Some(expected));
        assert_eq!(parse_resident("VmRSS: 1 kB\n"), None);
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 5 0 0 0 12 30 99 99 20 0 1 0 100";
        assert_eq!(parse_ticks(stat), Some(42));
        assert_eq!(parse_ticks("7 (a"), None);
    }
}
