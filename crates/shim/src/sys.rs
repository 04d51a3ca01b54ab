//! System calls that no safe crate offers. All `unsafe` of this crate is here.

use crate::wire::Buffer;
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Which side of [`clone_process`] this is.
pub(crate) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// clone3(2) like fork(2), into the new namespaces that `flags` (`CLONE_NEW…`) name.
///
/// The child has a copy of everything. It may allocate and do as it likes only because the shim is single-threaded: no
/// other thread can have held a lock while the copy was made.
pub(crate) fn clone_process(flags: i32) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: a plain structure of integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (flags | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack given the child goes on with a copy of this stack, as after fork(2);
    // the process is single-threaded, which `daemon::become_daemon` asserts.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Cloned::Child),
        1.. => {
            // SAFETY: the kernel stored a new descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: libc::c_long) -> Result<()> {
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

/// Ends the process without running anything of the parent's that was copied along.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// How far a change of mount attributes reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    TopMount,
    WholeTree,
}

/// mount_setattr(2) on a mount by descriptor: attributes to set (`MOUNT_ATTR_…`) and the propagation (`MS_…`, 0 keeps).
pub(crate) fn mount_setattr(mount: impl AsFd, reach: Reach, set: u64, propagation: u64) -> Result<()> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attributes = Attributes { set, clear: 0, propagation, userns_fd: 0 };
    let recursive = if reach == Reach::WholeTree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is `struct mount_attr` as of its first version, whose size is passed along; the descriptor
    // and the empty path live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })
}

/// unshare(2) of the control group namespace, which shares nothing with other threads' view of memory or descriptors.
pub(crate) fn unshare_cgroup_namespace() -> Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into())
}

/// pidfd_send_signal(2) with any number, real-time signals included.
pub(crate) fn signal_pidfd(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in its own, as kill(2) does.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, no_info, 0) })
}

/// A buffer for the life of the process, of which only what is used takes memory. The allocator would fill a zeroed one
/// of this size with zeros in its heap, which for a process this small is a third of all it has.
pub(crate) fn lasting_buffer() -> Result<&'static mut Buffer> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new private mapping at an address of the kernel's choice touches no other memory.
    let pages = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Buffer>(), protection, MapFlags::PRIVATE)? };
    // SAFETY: it is page-aligned, as long as the buffer, filled with zeros, never unmapped, and nobody else has it.
    Ok(unsafe { &mut *pages.cast::<Buffer>() })
}

/// Lets the process outlive a signal.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Waits until one of these signals is sent. They are blocked from then on: one that comes before is not missed, and PID 1,
/// to which the kernel delivers nothing that it has no handler for, gets them too.
pub(crate) fn await_signal(signals: &[i32]) -> Result<i32> {
    // SAFETY: a plain set of bits, which sigemptyset fills.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut received = 0;
    // SAFETY: the set is ours and lives through the calls.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()).into())?;
        loop {
            // sigwait(3) returns its error; only an interruption is possible here.
            if libc::sigwait(&raw const set, &raw mut received) == 0 {
                return Ok(received);
            }
        }
    }
}

/// Gives every signal its default effect and blocks none: what was ignored stays ignored across execve(2) otherwise.
///
/// By the system calls themselves, because the C library keeps two signals to itself that a parent may have ignored.
pub(crate) fn reset_signals() {
    /// `struct sigaction` and the signal set as the kernel has them; all zero is `SIG_DFL` and the empty set.
    const DEFAULT_ACTION: [u64; 4] = [0; 4];
    const NO_SIGNALS: [u64; 1] = [0];
    let set_bytes = size_of::<u64>();
    for signal in 1..=64 {
        let old = ptr::null_mut::<u64>();
        // SAFETY: the action lives through the call and runs no code of ours; the two signals whose action cannot be
        // changed are refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT_ACTION.as_ptr(), old, set_bytes) };
    }
    let old = ptr::null_mut::<u64>();
    // SAFETY: the set lives through the call.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, NO_SIGNALS.as_ptr(), old, set_bytes) };
}

/// setrlimit(2) by the resource's number.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call; an unknown resource is refused by the kernel.
    check(unsafe { libc::setrlimit(resource as _, &raw const limit) }.into())
}

/// Closes every descriptor above 2 that is not in `keep`.
pub(crate) fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from = 3_u32;
    for fd in keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32) {
        if fd > from {
            close_range(from, fd - 1, 0);
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX, 0);
}

/// Lets no descriptor above 2 through execve(2).
pub(crate) fn close_all_on_exec() {
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
}

fn close_range(first: u32, last: u32, flags: u32) {
    // SAFETY: used in a child that replaces or ends itself and in `main` before anything is opened: no live owner of a
    // descriptor in the range uses it afterwards. It fails for bad arguments only.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Takes over a descriptor that this process was started with.
pub(crate) fn inherited_fd(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_GETFD only looks whether it is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) }.into())?;
    // SAFETY: it is open, and `main` takes each inherited number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// execve(2); it returns only when it failed.
pub(crate) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and point to strings that live through the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}
