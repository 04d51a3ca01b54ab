//! Device nodes.

use super::beneath::{self, Kind};
use crate::failure::{Result, Step, refused};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, makedev, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;
use shim::protocol::Device;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Name and minor number of the memory devices (major 1).
const MEMORY_DEVICES: [(&str, u32); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills a fresh /dev.
pub(crate) fn populate(dev: &OwnedFd, extra: &[Device]) -> Result<()> {
    for (name, minor) in MEMORY_DEVICES {
        make(dev, name, FileType::CharacterDevice, (1, minor, 0o666))?;
    }
    make(dev, "tty", FileType::CharacterDevice, (5, 0, 0o666))?;
    for (name, target) in LINKS {
        symlinkat(target, dev, name).step(|| format!("make the link /dev/{name}"))?;
    }
    extra.iter().try_for_each(|device| make_extra(dev, device))
}

fn make(dev: &OwnedFd, name: &str, kind: FileType, (major, minor, mode): (u32, u32, u32)) -> Result<()> {
    mknodat(dev, name, kind, Mode::from_raw_mode(mode), makedev(major, minor))
        .step(|| format!("make the device /dev/{name}"))
}

fn make_extra(dev: &OwnedFd, device: &Device) -> Result<()> {
    let step = || format!("make the device {}", device.path);
    let relative = Path::new(&device.path).strip_prefix("/dev").ok().and_then(Path::to_str);
    let Some((parent, name)) = relative.map(|path| path.rsplit_once('/').unwrap_or(("", path))) else {
        return Err(refused(step(), "a device lies below /dev"));
    };
    if matches!(name, "" | "." | "..") {
        return Err(refused(step(), "it has no name"));
    }
    // /dev is new and ours alone, so what is in it is known; it serves as the root of its own paths.
    let made;
    let parent = if parent.is_empty() {
        dev
    } else {
        made = beneath::ensure(dev, parent, Kind::Directory)?;
        &made
    };
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).step(step),
    }
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    make(parent, name, kind, (device.major, device.minor, device.mode & 0o7777)).map_err(|failure| {
        // The name alone does not tell which device it is.
        crate::failure::Failure { step: step(), ..failure }
    })
}

/// The host's /dev/null, verified: what masks a path must be the device and no link to something else (CVE-2025-31133).
pub(crate) fn host_null() -> Result<OwnedFd> {
    let step = || "open the host's /dev/null".to_owned();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty()).step(step)?;
    if is_device(&fstat(&null).step(step)?, makedev(1, 3)) {
        Ok(null)
    } else {
        Err(refused(step(), "it is not the null device"))
    }
}

pub(crate) fn is_device(stat: &Stat, number: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == number
}
