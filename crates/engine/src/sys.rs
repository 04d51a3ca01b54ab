//! The few system calls that have no safe form.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::thread::UnshareFlags;
use tokio::io::unix::AsyncFd;

/// The descriptor on which a shim finds its listening socket.
const SHIM_SOCKET_FD: RawFd = 3;

/// Gives the calling thread those of network, IPC and UTS namespaces of its own that `flags` name; others are left out.
pub(crate) fn unshare_pod_namespaces(flags: UnshareFlags) -> io::Result<()> {
    let flags = flags & (UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS);
    // SAFETY: the descriptor table stays shared (no CLONE_FILES), and these namespaces are a thread's own affair.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Makes a descriptor's readiness known to the runtime, in which this is to be called.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open and stays the same one for as long as the AsyncFd has it.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// A shim that is to be started.
pub(crate) struct ShimCommand<'a> {
    /// The sealed file that holds the program.
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) sandbox_dir: &'a Path,
    /// `SHIM_CGROUP=…`, the only variable of its environment.
    pub(crate) environment: &'a OsStr,
    /// Takes what the shim writes to its standard error, which is only what it cannot say otherwise.
    pub(crate) log: &'a Path,
}

/// Starts a shim in a session of its own and returns its pid. posix_spawn(3) does not copy the page tables of a large
/// parent, as fork would, and runs no code of ours in the child.
pub(crate) fn spawn_shim(command: &ShimCommand<'_>) -> io::Result<i32> {
    let program = CString::new(format!("/proc/self/fd/{}", command.program.as_raw_fd()))?;
    let sandbox_dir = CString::new(command.sandbox_dir.as_os_str().as_bytes())?;
    let environment = CString::new(command.environment.as_bytes())?;
    let log = CString::new(command.log.as_os_str().as_bytes())?;
    let argv = [c"kubelet-shim".as_ptr().cast_mut(), sandbox_dir.as_ptr().cast_mut(), ptr::null_mut()];
    let envp = [environment.as_ptr().cast_mut(), ptr::null_mut()];
    let mut actions = FileActions::new()?;
    actions.open(libc::STDIN_FILENO, c"/dev/null", libc::O_RDONLY)?;
    actions.open(libc::STDOUT_FILENO, c"/dev/null", libc::O_WRONLY)?;
    actions.open(libc::STDERR_FILENO, &log, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND)?;
    actions.duplicate(command.socket.as_raw_fd(), SHIM_SOCKET_FD)?;
    let attributes = Attributes::new_session()?;
    let mut pid = 0;
    // SAFETY: all strings, arrays, actions and attributes live until the call returns, which is after the exec.
    check(unsafe {
        libc::posix_spawn(&mut pid, program.as_ptr(), &actions.0, &attributes.0, argv.as_ptr(), envp.as_ptr())
    })?;
    Ok(pid)
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = std::mem::MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, or fails.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: the call succeeded.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open(&mut self, fd: RawFd, path: &CStr, flags: i32) -> io::Result<()> {
        // SAFETY: initialised in `new`; glibc copies the path.
        check(unsafe { libc::posix_spawn_file_actions_addopen(&mut self.0, fd, path.as_ptr(), flags, 0o600) })
    }

    /// Where both are the same descriptor glibc clears its close-on-exec flag, which is what is wanted.
    fn duplicate(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: initialised in `new`.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A session of its own, so that a Ctrl-C at the daemon's terminal is not the pods' end; no signal blocked or
    /// ignored, whatever the daemon does with its own.
    fn new_session() -> io::Result<Self> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the call initialises what it is given, or fails.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: the call succeeded.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let (mut none, mut all) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
        // SAFETY: both calls initialise what they are given and cannot fail for a valid pointer.
        let (none, all) = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            (none.assume_init(), all.assume_init())
        };
        let signals = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(signals).map_err(io::Error::other)? | libc::POSIX_SPAWN_SETSID;
        // SAFETY: initialised above; the sets are copied.
        unsafe {
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, &none))?;
            check(libc::posix_spawnattr_setsigdefault(&mut attributes.0, &all))?;
            check(libc::posix_spawnattr_setflags(&mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new_session`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// These functions return the error number instead of setting `errno`.
fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
