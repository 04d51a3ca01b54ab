//! The few facts about the machine that a container's specification depends on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use shim::protocol::Device;

/// More device nodes than this are not looked at.
const MAX_DEVICES: usize = 4096;
/// Mounts of their own below `/dev`, and what every container has of its own.
const NOT_SHARED: [&str; 11] =
    ["pts", "shm", "mqueue", "console", "ptmx", "tty", "null", "zero", "full", "random", "urandom"];

/// The machine's device nodes, for containers that may use them all.
pub(crate) fn host_devices() -> Vec<Device> {
    devices_in(Path::new("/dev"))
}

fn devices_in(dev: &Path) -> Vec<Device> {
    let mut devices = Vec::new();
    let mut dirs = vec![dev.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if devices.len() >= MAX_DEVICES {
                return devices;
            }
            if dir == dev && NOT_SHARED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            // Not followed: a link to a device is made by whoever wants it.
            let Ok(data) = entry.metadata() else { continue };
            let kind = data.file_type();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if let (true, Some(path)) = (kind.is_char_device() || kind.is_block_device(), entry.path().to_str())
            {
                devices.push(Device {
                    path: path.to_owned(),
                    major: rustix::fs::major(data.rdev()),
                    minor: rustix::fs::minor(data.rdev()),
                    block: kind.is_block_device(),
                    mode: data.mode() & 0o7777,
                });
            }
        }
    }
    devices
}

/// The machine's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

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
    fn devices_are_found_and_nothing_else_is() {
        for device in host_devices() {
            assert!(device.path.starts_with("/dev/") && !device.path.starts_with("/dev/pts/"), "{device:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        assert_eq!(devices_in(dir.path()), []);
    }

    #[test]
    fn cpus_are_counted() {
        for (text, count) in [("0-1\n", 2), ("0", 1), ("0-3,8-11", 12), ("", 0), ("x", 0), ("0-99999", 256)] {
            assert_eq!(cpu_count(text), count, "{text:?}");
        }
    }
}
