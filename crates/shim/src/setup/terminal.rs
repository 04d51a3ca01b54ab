//! A terminal in the container's own devpts.

use super::beneath::{self, Kind};
use super::{devices, mounts};
use crate::failure::{Result, Step, refused};
use rustix::fs::{OFlags, fstat, fstatfs, makedev};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use shim::protocol::ContainerSpec;
use std::os::fd::OwnedFd;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Opens a pair: master and slave. The slave comes from the master itself, never from a name (CVE-2025-52565).
pub(crate) fn open(root: &OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let step = || "open a terminal in /dev/pts of the container".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = beneath::open(root, "/dev/pts/ptmx", flags).step(step)?;
    let stat = fstat(&master).step(step)?;
    if fstatfs(&master).step(step)?.f_type != DEVPTS_SUPER_MAGIC || !devices::is_device(&stat, makedev(5, 2)) {
        return Err(refused(step(), "/dev/pts/ptmx is not the kernel's"));
    }
    unlockpt(&master).step(step)?;
    let slave =
        ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).step(step)?;
    Ok((master, slave))
}

/// /dev/console is the terminal of the container's init.
pub(crate) fn bind_console(root: &OwnedFd, slave: &OwnedFd, spec: &ContainerSpec) -> Result<()> {
    let step = || "make /dev/console of the container".to_owned();
    if let Some(window) = spec.process.window {
        set_window(slave, window)?;
    }
    // A /dev of the user's own stays as it is.
    if spec.mounts.iter().any(|mount| mount.destination.trim_end_matches('/') == "/dev") {
        return Ok(());
    }
    let place = beneath::ensure(root, "/dev/console", Kind::File)?;
    mounts::attach(mounts::copy(slave).step(step)?, place).step(step)
}

pub(crate) fn set_window(terminal: &OwnedFd, (columns, rows): (u16, u16)) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).step(|| format!("set the terminal's size to {columns}x{rows}"))
}
