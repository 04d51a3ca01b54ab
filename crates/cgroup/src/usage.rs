//! What a group used.

use crate::{Result, file};
use std::path::Path;

/// What a group used. What its hierarchies do not tell is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub cpu_ns: u64,
    /// Everything charged to the group, page cache included.
    pub memory_bytes: u64,
    /// `memory_bytes` without what the kernel can drop at once (inactive file pages).
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
}

impl Usage {
    pub(crate) fn add_v1_cpu(&mut self, dir: &Path) {
        self.cpu_ns = file::read_number(&dir.join("cpuacct.usage")).unwrap_or(0);
    }

    pub(crate) fn add_v1_memory(&mut self, dir: &Path) -> Result<()> {
        let stat = file::read(&dir.join("memory.stat"))?;
        self.memory_bytes = file::read_number(&dir.join("memory.usage_in_bytes")).unwrap_or(0);
        self.add_stat(&stat, ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"]);
        Ok(())
    }

    pub(crate) fn add_v2(&mut self, dir: &Path) -> Result<()> {
        let cpu = file::read(&dir.join("cpu.stat"))?;
        self.cpu_ns = file::field(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000);
        if let Ok(stat) = file::read(&dir.join("memory.stat")) {
            self.memory_bytes = file::read_number(&dir.join("memory.current")).unwrap_or(0);
            self.add_stat(&stat, ["inactive_file", "anon", "pgfault", "pgmajfault"]);
        }
        Ok(())
    }

    fn add_stat(&mut self, stat: &str, [inactive, rss, faults, major]: [&str; 4]) {
        let get = |key| file::field(stat, key).unwrap_or(0);
        self.working_set_bytes = self.memory_bytes.saturating_sub(get(inactive));
        self.rss_bytes = get(rss);
        self.page_faults = get(faults);
        self.major_page_faults = get(major);
    }

    pub(crate) fn add_pids(&mut self, dir: &Path) {
        self.pids = file::read_number(&dir.join("pids.current")).unwrap_or(0);
    }
}

/// How many processes of the group the kernel killed for want of memory. Read it before the group is removed.
///
/// # Errors
/// The directory is not one of a hierarchy that counts memory.
pub fn oom_kills(memory_dir: &Path) -> Result<u64> {
    let v2 = file::read(&memory_dir.join("memory.events"));
    let text = v2.or_else(|_| file::read(&memory_dir.join("memory.oom_control")))?;
    Ok(file::field(&text, "oom_kill").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_set_leaves_out_inactive_files_and_never_wraps() {
        for (memory, inactive, expected) in [(100, 30, 70), (100, 0, 100), (100, 300, 0)] {
            let mut usage = Usage { memory_bytes: memory, ..Usage::default() };
            usage.add_stat(&format!("i {inactive}\nr 5\nf 6\nm 7\n"), ["i", "r", "f", "m"]);
            assert_eq!(usage.working_set_bytes, expected);
            assert_eq!((usage.rss_bytes, usage.page_faults, usage.major_page_faults), (5, 6, 7));
        }
    }
}
