//! The shim as a process: its program, its start, its socket, its end.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use shim::protocol::{ShimRecord, VERSION, records};

use crate::sys;

static PROGRAM: &[u8] = include_bytes!(env!("SHIM_BINARY"));
/// One engine connects; a second connection comes when the next engine does.
const BACKLOG: i32 = 8;
/// A shim that was told to end has nothing left to do.
const END_SECS: i64 = 5;
/// What a failed shim wrote is shown up to this length.
const MAX_LOG_BYTES: usize = 1024;

/// Above the descriptors that a shim is given: one of those would take the program's place before it is executed.
const FIRST_FREE_FD: i32 = 10;

/// A static program that, called `pause`, waits until it is told to end and reaps what dies around it: what holds the
/// namespaces of a pod in an engine that needs a process for it.
pub fn pause_program() -> &'static [u8] {
    PROGRAM
}

/// The program in a file without a name that nobody can change, not even root in a container that reaches it through
/// `/proc/<pid>/exe`.
pub(crate) fn sealed_program() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| rustix::fs::memfd_create("kubelet-shim", flags);
    // Said aloud for machines where a file in memory is not executable unless it is to be (vm.memfd_noexec=1); kernels
    // before 6.3 do not know the flag.
    let fd = create(flags | MemfdFlags::EXEC).or_else(|error| match error {
        Errno::INVAL => create(flags),
        error => Err(error),
    })?;
    let mut file = fs::File::from(rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FREE_FD)?);
    file.write_all(PROGRAM)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Starts the shim of a sandbox and connects to it. The socket listens before the shim is there, so the connection
/// stands at once and requests wait for the shim.
pub(crate) fn start(program: &OwnedFd, sandbox_dir: &Path, cgroup_dirs: &[PathBuf]) -> io::Result<(i32, OwnedFd)> {
    let listener = socket(SocketFlags::CLOEXEC)?;
    with_address(sandbox_dir, |address| rustix::net::bind(&listener, address))?;
    rustix::fs::chmod(sandbox_dir.join(records::SOCKET), Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let connection = connect(sandbox_dir)?;
    let mut environment = OsString::from("SHIM_CGROUP=");
    for (index, dir) in cgroup_dirs.iter().enumerate() {
        environment.push(if index == 0 { "" } else { ":" });
        environment.push(dir);
    }
    let pid = sys::spawn_shim(&sys::ShimCommand {
        program: program.as_fd(),
        socket: listener.as_fd(),
        sandbox_dir,
        environment: &environment,
        log: &log_path(sandbox_dir),
    })?;
    Ok((pid, connection))
}

/// Connects to the shim of a sandbox.
///
/// # Errors
/// `ConnectionRefused` or `NotFound` where no shim listens.
pub(crate) fn connect(sandbox_dir: &Path) -> io::Result<OwnedFd> {
    let connection = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    with_address(sandbox_dir, |address| rustix::net::connect(&connection, address))?;
    Ok(connection)
}

/// What the shim wrote to its standard error, for a message to a person.
pub(crate) fn last_words(sandbox_dir: &Path) -> String {
    let text = fs::read(log_path(sandbox_dir)).unwrap_or_default();
    let tail = text.len().saturating_sub(MAX_LOG_BYTES);
    String::from_utf8_lossy(&text[tail..]).trim().to_owned()
}

/// Waits until the shim of a sandbox is gone, and kills it when it does not go by itself. Blocking, at most twice
/// [`END_SECS`]. `child` is its pid where this process started it and nobody has waited for it since.
pub(crate) fn end(sandbox_dir: &Path, child: Option<i32>) {
    let Some((pid, handle)) = open(sandbox_dir, child) else { return };
    if !is_gone_within(&handle, END_SECS) {
        let _ = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
        is_gone_within(&handle, END_SECS);
    }
    // One that is not this process's child has another parent to take its exit status.
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
}

/// Kills the shim of a sandbox.
pub(crate) fn kill(sandbox_dir: &Path, child: Option<i32>) {
    if let Some((_, handle)) = open(sandbox_dir, child) {
        let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
    }
    end(sandbox_dir, child);
}

/// A handle on the shim: a child that nobody waited for keeps its pid; any other is known by its start time.
fn open(sandbox_dir: &Path, child: Option<i32>) -> Option<(Pid, OwnedFd)> {
    let record = read_record(sandbox_dir);
    let pid = child.or(record.as_ref().map(|record| record.pid))?;
    let handle = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Compared after the descriptor was opened: from then on the pid cannot become another's unnoticed.
    let same = child.is_some() || start_ticks(pid) == record.map(|record| record.start_ticks);
    same.then_some((Pid::from_raw(pid)?, handle))
}

fn is_gone_within(handle: &OwnedFd, seconds: i64) -> bool {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1))
}

/// The version of a sandbox's shim; this kubelet's own where it has not told yet.
pub(crate) fn version(sandbox_dir: &Path) -> u32 {
    read_record(sandbox_dir).map_or(VERSION, |record| record.version)
}

fn read_record(sandbox_dir: &Path) -> Option<ShimRecord> {
    let bytes = fs::read(sandbox_dir.join(records::SHIM)).ok()?;
    postcard::from_bytes::<ShimRecord>(&bytes).ok().filter(|record| shim::protocol::is_known(record.version))
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold blanks and parentheses, so fields count from its end.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn log_path(sandbox_dir: &Path) -> PathBuf {
    sandbox_dir.join("shim.log")
}

fn socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A socket's address holds at most 107 bytes, a directory's path may be longer; so it is named by its descriptor.
fn with_address(dir: &Path, call: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    call(&SocketAddrUnix::new(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), records::SOCKET))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_d01_the_shims_program_cannot_be_changed() {
        let program = sealed_program().unwrap();
        assert!(program.as_raw_fd() >= FIRST_FREE_FD);
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        assert_eq!(fs::read(&path).unwrap(), PROGRAM);
        let seals = rustix::fs::fcntl_get_seals(&program).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        let opened = fs::OpenOptions::new().write(true).open(&path);
        assert!(opened.and_then(|mut file| file.write_all(b"#!/bin/sh")).is_err());
        assert_eq!(fs::read(&path).unwrap(), PROGRAM);
    }

    #[test]
    fn start_ticks_of_this_process_are_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_ticks(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(0), None);
    }
}
