//! The few facts about the machine that a container's specification depends on.

use std::fs;

/// The capabilities that this process may pass on.
pub(crate) fn held_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

/// How many CPUs the kernel can have: one more than the last number of `/sys/devices/system/cpu/possible`.
pub(crate) fn possible_cpus() -> usize {
    cpu_count(&fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default())
}

fn cpu_count(possible: &str) -> usize {
    /// Each CPU is a path in every container's specification.
    const MAX: usize = 256;
    let last = possible.trim().rsplit(['-', ',']).next().and_then(|number| number.parse::<usize>().ok());
    last.map_or(0, |last| last.saturating_add(1)).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted() {
        for (text, count) in [("0-1\n", 2), ("0", 1), ("0-3,8-11", 12), ("", 0), ("x", 0), ("0-99999", 256)] {
            assert_eq!(cpu_count(text), count, "{text:?}");
        }
    }
}
