//! What a group may use, and the files that say so.

use crate::devices::{self, DevicePolicy};
use crate::layout::Controller;
use crate::{Error, Result, file, sys};
use std::fs::File;
use std::io;
use std::path::Path;

/// What a group may use. `None` leaves what is set; a negative number means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Relative weight, 2 to 262,144 as on v1; translated by [`cpu_weight`] for v2.
    pub cpu_shares: Option<u64>,
    /// CPU time in a period, microseconds.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    /// Memory, and memory with swap: a limited group does not swap.
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
    pub devices: DevicePolicy,
    /// On v2 an OOM kill takes all processes of the group; v1 has no such thing.
    pub oom_group: bool,
}

const DEFAULT_PERIOD_US: u64 = 100_000;

/// The v2 weight for v1 shares: a curve through (2, 1), (1024, 100) and (262144, 10000), as the runtimes have it, so
/// that the default of one version is the default of the other.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

pub(crate) fn apply_v1(dir: &Path, controllers: &[Controller], limits: &Limits) -> Result<()> {
    for controller in controllers {
        match controller {
            Controller::Cpu => apply_v1_cpu(dir, limits)?,
            Controller::Memory => apply_v1_memory(dir, limits)?,
            Controller::Pids => apply_pids(dir, limits)?,
            Controller::Devices => apply_v1_devices(dir, &limits.devices)?,
            Controller::Cpuacct | Controller::Freezer => {}
        }
    }
    Ok(())
}

fn apply_v1_cpu(dir: &Path, limits: &Limits) -> Result<()> {
    if let Some(shares) = limits.cpu_shares {
        file::write(&dir.join("cpu.shares"), &shares.clamp(2, 262_144).to_string())?;
    }
    let period = |us: u64| file::write_if_offered(&dir.join("cpu.cfs_period_us"), &us.to_string());
    let quota = |us: i64| file::write_if_offered(&dir.join("cpu.cfs_quota_us"), &us.max(-1).to_string());
    match (limits.cpu_period_us, limits.cpu_quota_us) {
        // The kernel checks quota/period against the parent's at each write, so one of the two orders is right.
        (Some(p), Some(q)) => period(p).and_then(|()| quota(q)).or_else(|_| quota(q).and_then(|()| period(p))),
        (Some(p), None) => period(p),
        (None, Some(q)) => quota(q),
        (None, None) => Ok(()),
    }
}

fn apply_v1_memory(dir: &Path, limits: &Limits) -> Result<()> {
    let Some(bytes) = limits.memory_bytes else { return Ok(()) };
    let value = bytes.max(-1).to_string();
    let (memory, swap) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    // memory+swap is never below memory: a higher limit goes through when swap is first, a lower one when it is last.
    if file::write_if_offered(&swap, &value).is_ok() {
        return file::write(&memory, &value);
    }
    file::write(&memory, &value)?;
    file::write_if_offered(&swap, &value)
}

fn apply_pids(dir: &Path, limits: &Limits) -> Result<()> {
    let Some(pids) = limits.pids else { return Ok(()) };
    file::write(&dir.join("pids.max"), &max_or(pids))
}

fn apply_v1_devices(dir: &Path, policy: &DevicePolicy) -> Result<()> {
    match policy {
        DevicePolicy::Unchanged => Ok(()),
        DevicePolicy::AllowAll => file::write(&dir.join("devices.allow"), "a"),
        DevicePolicy::Default(extra) => {
            file::write(&dir.join("devices.deny"), "a")?;
            let allow = dir.join("devices.allow");
            devices::default_rules(extra).iter().try_for_each(|rule| file::write(&allow, &devices::v1_line(rule)))
        }
    }
}

pub(crate) fn apply_v2(dir: &Path, limits: &Limits) -> Result<()> {
    for (name, value) in v2_values(limits) {
        file::write(&dir.join(name), &value)?;
    }
    if limits.memory_bytes.is_some_and(|bytes| bytes >= 0) {
        file::write_if_offered(&dir.join("memory.swap.max"), "0")?;
    }
    if limits.oom_group {
        file::write_if_offered(&dir.join("memory.oom.group"), "1")?;
    }
    apply_v2_devices(dir, &limits.devices)
}

fn v2_values(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut values = Vec::new();
    values.extend(limits.cpu_shares.map(|shares| ("cpu.weight", cpu_weight(shares).to_string())));
    if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
        let quota = limits.cpu_quota_us.map_or_else(|| "max".to_owned(), max_or);
        values.push(("cpu.max", format!("{quota} {}", limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US))));
    }
    values.extend(limits.memory_bytes.map(|bytes| ("memory.max", max_or(bytes))));
    values.extend(limits.pids.map(|pids| ("pids.max", max_or(pids))));
    values
}

fn max_or(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn apply_v2_devices(dir: &Path, policy: &DevicePolicy) -> Result<()> {
    let failed = |step| move |source: io::Error| Error::DeviceProgram { path: dir.into(), step, source };
    let open = || File::open(dir).map_err(failed("open the group"));
    match policy {
        DevicePolicy::Unchanged => Ok(()),
        DevicePolicy::AllowAll => sys::detach_device_program(open()?).map_err(failed("detach the program")),
        DevicePolicy::Default(extra) => {
            let code = devices::program(&devices::default_rules(extra));
            let program = sys::load_device_program(&code).map_err(failed("load the program"))?;
            sys::attach_device_program(open()?, program).map_err(failed("attach the program"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_weight_meets_its_fixed_points() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert!((2..262_144).step_by(97).all(|shares| cpu_weight(shares) <= cpu_weight(shares + 97)));
    }

    #[test]
    fn v2_values_are_the_kernels_form() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(-1),
            memory_bytes: Some(1 << 20),
            pids: Some(-1),
            ..Limits::default()
        };
        let expected =
            [("cpu.weight", "100"), ("cpu.max", "max 100000"), ("memory.max", "1048576"), ("pids.max", "max")];
        assert_eq!(v2_values(&limits), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(v2_values(&Limits::default()), []);
        let quota = Limits { cpu_quota_us: Some(5000), cpu_period_us: Some(20_000), ..Limits::default() };
        assert_eq!(v2_values(&quota), [("cpu.max", "5000 20000".to_owned())]);
    }
}
