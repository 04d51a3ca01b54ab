//! Turning into a process that nothing but `Shutdown` and SIGKILL ends.

use crate::failure::{Result, Step, refused};
use crate::{records as files, sys};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use shim::protocol::records;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The engine passes the listening socket as this descriptor.
const LISTENER_FD: i32 = 3;
/// Colon separated directories of the control groups to join.
const CGROUP_VARIABLE: &str = "SHIM_CGROUP";
/// Before every container and after the kubelet, should memory end.
const OOM_SCORE_ADJ: &str = "-998";

/// Becomes the supervisor of the sandbox in `dir` and returns the socket it is asked on.
pub(crate) fn become_daemon(dir: &Path) -> Result<OwnedFd> {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT] {
        sys::ignore_signal(signal);
    }
    // Executed by its descriptor, it would be called by that number.
    rustix::thread::set_name(c"kubelet-shim").step(|| "set the process's name".into())?;
    let listener = listener()?;
    assert_single_threaded()?;
    // EPERM: whoever started us made us the leader of a group already, which serves as well.
    rustix::process::setsid().ok();
    rustix::process::chdir("/").step(|| "enter /".into())?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step(|| "forbid to be traced".into())?;
    // A machine without CAP_SYS_RESOURCE refuses it; the kernel then picks by size, and this process is the smallest.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).ok();
    let dirs = std::env::var_os(CGROUP_VARIABLE).unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()).collect();
    cgroup::attach_self(&dirs).step(|| "join the shim's control groups".into())?;
    let step = || format!("write {} in {}", records::SHIM, dir.display());
    let record = files::shim_record().step(step)?;
    files::write(dir, records::SHIM, &record).step(step)?;
    silence()?;
    Ok(listener)
}

/// Takes the socket and closes everything else that was passed along.
fn listener() -> Result<OwnedFd> {
    let step = || format!("take the listening socket from descriptor {LISTENER_FD}");
    sys::close_all_but(&mut [LISTENER_FD]);
    let listener = sys::inherited_fd(LISTENER_FD).step(step)?;
    let is_ours =
        socket_type(&listener).step(step)? == SocketType::SEQPACKET && socket_acceptconn(&listener).step(step)?;
    if !is_ours {
        return Err(refused(step(), "it is no listening SOCK_SEQPACKET socket"));
    }
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC).step(step)?;
    rustix::io::ioctl_fionbio(&listener, true).step(step)?;
    Ok(listener)
}

/// clone3(2) copies one thread; a lock that another one held would stay locked in every child.
fn assert_single_threaded() -> Result<()> {
    let step = || "count our threads".to_owned();
    let threads = std::fs::read_dir("/proc/self/task").step(step)?.count();
    if threads == 1 { Ok(()) } else { Err(refused(step(), format!("there are {threads}, there must be one"))) }
}

/// From here on there is nobody to read what is printed.
fn silence() -> Result<()> {
    let step = || "let go of standard input and output".to_owned();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step(step)?;
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).step(step)
}
