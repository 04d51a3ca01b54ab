//! What the machine as a whole uses.

use crate::memory;
use crate::source::Tree;

/// A tick of `/proc/stat`: USER_HZ is 100 on every Linux that matters here (proc_stat(5)).
const TICK_NS: u64 = 10_000_000;
/// Fields of the first line of `/proc/stat` that are work: user, nice, system, irq, softirq, steal. Guests' time is
/// part of user and nice.
const WORK: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// What the machine uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Work of all processors since the boot.
    pub cpu_ns: u64,
    /// Memory that is not free, the page cache included.
    pub memory_bytes: u64,
    /// Without what the kernel could give away at once.
    pub working_set_bytes: u64,
    /// What could still be had.
    pub available_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// When the machine was started, in seconds since 1970; 0 where the kernel does not tell.
    pub boot_s: i64,
}

/// Reads it; blocks for two small files.
pub fn usage() -> Usage {
    let tree = Tree::live();
    read(&tree.text("proc/stat").unwrap_or_default(), &tree.text("proc/meminfo").unwrap_or_default())
}

fn read(stat: &str, meminfo: &str) -> Usage {
    let line = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let ticks: Vec<u64> = line("cpu").unwrap_or_default().split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    let work: u64 = WORK.iter().filter_map(|at| ticks.get(*at)).sum();
    let value = |key| memory::value_bytes(meminfo, key).unwrap_or(0);
    let total = value("MemTotal");
    Usage {
        cpu_ns: work.saturating_mul(TICK_NS),
        memory_bytes: total.saturating_sub(value("MemFree")),
        working_set_bytes: total.saturating_sub(value("MemAvailable")),
        available_bytes: value("MemAvailable"),
        rss_bytes: value("AnonPages"),
        boot_s: line("btime").and_then(|n| n.trim().parse().ok()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_what_is_neither_idle_nor_counted_twice() {
        let stat = "cpu  10 20 30 1000 2000 1 2 3 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\nbtime 1700000000\n";
        let meminfo = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nAnonPages: 50 kB\n";
        let expected = Usage {
            cpu_ns: 66 * TICK_NS,
            memory_bytes: 900 << 10,
            working_set_bytes: 600 << 10,
            available_bytes: 400 << 10,
            rss_bytes: 50 << 10,
            boot_s: 1_700_000_000,
        };
        assert_eq!(read(stat, meminfo), expected);
        assert_eq!(read("", ""), Usage::default());
    }
}
