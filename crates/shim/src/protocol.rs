//! What the engine and a pod's shim say to each other.
//!
//! One message is one datagram of a `SOCK_SEQPACKET` unix socket, encoded with postcard; descriptors travel beside it as
//! `SCM_RIGHTS`. A [`ContainerSpec`] may be larger than a datagram, so it lies in the container's directory
//! (`SPEC_FILE`) before `Start` names it. Everything the shim learns is on disk (see [`records`]) before it is said.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of every message and record below; a shim of another version is refused by name.
pub const VERSION: u32 = 2;
/// Largest datagram either side sends.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Names of the files in a sandbox directory and in `containers/<id>/` below it.
pub mod records {
    /// The shim's listening socket, in the sandbox directory. Bound by the engine and inherited by the shim as fd 3.
    pub const SOCKET: &str = "shim.sock";
    /// Holds the shim's pid and start time (`ShimRecord`), in the sandbox directory; written by the shim first of all.
    pub const SHIM: &str = "shim.pid";
    /// Directory of the containers' directories.
    pub const CONTAINERS: &str = "containers";
    /// `ContainerSpec`, written by the engine before `Start`.
    pub const SPEC: &str = "spec";
    /// `StartedRecord`, written by the shim before it answers `Started`.
    pub const STARTED: &str = "started";
    /// `ExitRecord`, written by the shim before it sends `Exited`; its presence is the container's end.
    pub const EXIT: &str = "exit";
    /// Empty directory on which the container's root is mounted, in the container's own mount namespace only.
    pub const ROOT: &str = "root";
}

/// Who the shim is: the pid alone could be another process's by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    pub version: u32,
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, clock ticks since boot.
    pub start_ticks: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    pub version: u32,
    /// Pid of the container's init as the host sees it.
    pub pid: i32,
    pub start_ticks: u64,
    /// Nanoseconds since the epoch.
    pub started_at_ns: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub version: u32,
    pub exit: ExitStatus,
    /// The kernel killed a process of the container for want of memory, and its init died by SIGKILL.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
}

/// How a process ended, as wait(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// The shell's and the CRI's single number: the code, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => i32::from(code),
            ExitStatus::Signal(signal) => 128 + i32::from(signal),
        }
    }
}

// One is built, sent and dropped at a time, so the largest variant costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Start the container whose spec lies in `containers/<container>/spec`.
    Start { container: String },
    /// Run another process in a running container. Without a terminal three descriptors come along: its stdin, stdout
    /// and stderr. With one the answer carries the terminal's master.
    Exec { exec: String, container: String, process: Process },
    /// Signal a container's init, and SIGKILL everything in it when the grace period ends. A later `Stop` can only
    /// shorten the time left. The shim keeps the deadline, so it holds whatever happens to the kubelet.
    Stop { container: String, signal: i32, grace_ms: u64 },
    /// Pass on a running container's output from now on: a pipe to write to comes along for each stream that is wanted,
    /// standard output first. One that stays full is given up: nothing waits for it. With `stdin` the answer carries the
    /// writing end of the container's input, with a terminal it always carries the master.
    Attach { attach: String, container: String, stdin: bool, stdout: bool, stderr: bool },
    /// SIGKILL the whole process group of an exec.
    KillExec { exec: String },
    /// Forget an exited container: close its log, drop its state.
    Forget { container: String },
    /// The state of every container the shim knows.
    List,
    /// End the shim. Refused while a container runs.
    Shutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Response {
    Started(StartedRecord),
    ExecStarted { pid: i32 },
    Attached,
    Containers(Vec<ContainerState>),
    Done,
    Failed(Failure),
}

/// Why a request failed: what was being done, and what the kernel answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {detail}")]
pub struct Failure {
    pub kind: FailureKind,
    /// What was being done, naming the path, mount or value: "mount overlay on /run/…".
    pub step: String,
    /// The reason in words; for a kernel error its text.
    pub detail: String,
    /// 0 when the kernel was not asked.
    pub errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such container or exec, or it is not in a state that allows the request.
    NotFound,
    /// The spec asks for what must be refused: a link in place of `/proc`, an unknown user, an outside working directory.
    Refused,
    /// The entrypoint does not exist or cannot be executed (the CRI's `StartError`, exit code 128).
    Entrypoint,
    /// The kernel refused a step of the set-up.
    System,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub container: String,
    pub started: Option<StartedRecord>,
    pub exit: Option<ExitRecord>,
}

/// Every message has a kind: answers carry the number of their request (0 is never used by a request).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FromEngine {
    pub seq: u64,
    pub request: Request,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromShim {
    Answer {
        seq: u64,
        response: Response,
    },
    /// Sent on every connection.
    Exited {
        container: String,
        record: ExitRecord,
    },
    ExecExited {
        exec: String,
        exit: ExitStatus,
    },
    /// A pipe of it was full, and output is lost to it. Sent on every connection.
    CutOff {
        attach: String,
    },
}

/// Everything the shim needs to make and run a container. No path in it is trusted to stay what it is once the
/// container runs: sources are opened first, targets are resolved inside the root by descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub version: u32,
    pub id: String,
    pub process: Process,
    pub root: Root,
    pub mounts: Vec<Mount>,
    /// Namespace files to join; `None` stays in the host's.
    pub net_ns: Option<PathBuf>,
    pub ipc_ns: Option<PathBuf>,
    pub uts_ns: Option<PathBuf>,
    pub pid_ns: PidNamespace,
    /// Directories of the container's control groups, one for each hierarchy; the process joins them all.
    pub cgroups: Vec<PathBuf>,
    /// Directory of the hierarchy that counts memory, to read OOM kills from; `None` where there is none.
    pub memory_cgroup: Option<PathBuf>,
    /// Paths in the container that read as empty.
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// All devices, writable /sys and /proc, nothing masked.
    pub privileged: bool,
    /// Character and block devices beside the default ones.
    pub devices: Vec<Device>,
    pub log: Option<Log>,
    /// An input that can be attached to; `None` reads as empty.
    pub stdin: Option<Stdin>,
}

/// How long a container's input stays open. A terminal's does as long as the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// For one who attaches after another.
    Kept,
    /// It ends with the first who attached.
    Once,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// Those of the machine.
    Host,
    /// Its own: its init is PID 1 and takes all others with it.
    Own,
    /// Those of all containers of the pod that ask for the same. The shim makes the namespace, with a PID 1 of its own
    /// that reaps, when the first of them starts; when that PID 1 ends, so do they all, and the shim after them.
    Pod,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Directory from which `lower` is named; kept short because mount(2) takes one page of options.
    pub layers_dir: PathBuf,
    /// Lower directories relative to `layers_dir`, topmost first.
    pub lower: Vec<String>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub read_only: bool,
}

/// A process of a container: its init or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    pub terminal: bool,
    /// Columns and rows of the terminal at start.
    pub window: Option<(u16, u16)>,
    pub capabilities: Capabilities,
    pub no_new_privs: bool,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
}

/// Who runs it. Names are looked up in the container's own `/etc/passwd` and `/etc/group`, by descriptor, at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// "", "uid", "name", "uid:gid", "name:group": the form of an image's `USER`.
    pub name: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub additional_gids: Vec<u32>,
    /// Refuse to run as uid 0.
    pub must_not_be_root: bool,
}

/// Bits are `1 << CAP_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_…` number.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute path in the container; resolved inside the root, made where missing.
    pub destination: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        path: PathBuf,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub path: String,
    pub major: u32,
    pub minor: u32,
    pub block: bool,
    pub mode: u32,
}

/// Where the container's output goes, in the CRI's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The current file; its directory exists.
    pub path: PathBuf,
    /// A file that grew past this is renamed to `<path>.<UTC time>` and a new one begun.
    pub max_bytes: u64,
    /// Files kept in all, the current one counted.
    pub max_files: u32,
}
