//! What the engine and a pod's shim say to each other.
//!
//! One message is one datagram of a `SOCK_SEQPACKET` unix socket, encoded with postcard; descriptors travel beside it as
//! `SCM_RIGHTS`. A [`ContainerSpec`] may be larger than a datagram, so it lies in the container's directory
//! (`SPEC_FILE`) before `Start` names it. Everything the shim learns is on disk (see [`records`]) before it is said.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of every message and record below. A shim outlives the kubelet that started it, so either may be the older.
/// postcard writes a variant as its number, and fields one after the other, without names or lengths. Therefore:
///
/// - A new variant stands last in its enum, and goes only to a shim whose version knows it.
/// - A new field stands last in a struct that ends its message or its file: an older reader passes it over there. A newer
///   reader has to know the shorter form too, from the version or as [`SpecHead`] does.
/// - Any other struct ([`Process`], [`Mount`], [`Log`] and all that stand in a list or before another field) never changes.
pub const VERSION: u32 = 2;
/// Shims and records from this version on are taken over.
pub const OLDEST_VERSION: u32 = 1;
/// From this version on shims know of a container's input, and of those who attach to it.
pub const ATTACH_VERSION: u32 = 2;
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

/// Whether what bears this version can be understood.
pub fn is_known(version: u32) -> bool {
    (OLDEST_VERSION..=VERSION).contains(&version)
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
    /// SIGKILL the whole process group of an exec.
    KillExec { exec: String },
    /// Forget an exited container: close its log, drop its state.
    Forget { container: String },
    /// The state of every container the shim knows.
    List,
    /// End the shim. Refused while a container runs.
    Shutdown,
    /// Pass on a running container's output from now on: a pipe to write to comes along for each stream that is wanted,
    /// standard output first. One that stays full is given up: nothing waits for it. With `stdin` the answer carries the
    /// writing end of the container's input, with a terminal it always carries the master.
    Attach { attach: String, container: String, stdin: bool, stdout: bool, stderr: bool },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Response {
    Started(StartedRecord),
    ExecStarted { pid: i32 },
    Containers(Vec<ContainerState>),
    Done,
    Failed(Failure),
    Attached,
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

/// What a [`ContainerSpec`] of any version begins with: reading no more than that reads what older kubelets wrote.
#[derive(Debug, Clone, Deserialize)]
pub struct SpecHead {
    pub version: u32,
    pub id: String,
    pub process: Process,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes: the places in the enum, by which shims that are older than this kubelet know messages.
    fn places<T: Serialize>(messages: &[T]) -> Vec<u8> {
        messages.iter().map(|message| postcard::to_allocvec(message).unwrap()[0]).collect()
    }

    fn process() -> Process {
        Process {
            args: vec!["a".into()],
            env: vec!["b".into(), "c".into()],
            cwd: "/".into(),
            user: User { name: "d".into(), uid: Some(1), gid: None, additional_gids: vec![2], must_not_be_root: true },
            terminal: true,
            window: Some((3, 4)),
            capabilities: Capabilities { bounding: 5, effective: 6, permitted: 7, inheritable: 8, ambient: 9 },
            no_new_privs: false,
            rlimits: vec![Rlimit { resource: 10, soft: 11, hard: 12 }],
            oom_score_adj: Some(13),
        }
    }

    #[test]
    fn what_older_shims_hear_keeps_its_place() {
        let name = || "c".to_owned();
        let requests = [
            Request::Start { container: name() },
            Request::Exec { exec: name(), container: name(), process: process() },
            Request::Stop { container: name(), signal: 15, grace_ms: 0 },
            Request::KillExec { exec: name() },
            Request::Forget { container: name() },
            Request::List,
            Request::Shutdown,
            Request::Attach { attach: name(), container: name(), stdin: true, stdout: true, stderr: true },
        ];
        assert_eq!(places(&requests), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn what_older_shims_say_keeps_its_place() {
        let name = || "c".to_owned();
        let responses = [
            Response::Started(StartedRecord { version: 1, pid: 1, start_ticks: 1, started_at_ns: 1 }),
            Response::ExecStarted { pid: 1 },
            Response::Containers(Vec::new()),
            Response::Done,
            Response::Failed(Failure { kind: FailureKind::System, step: name(), detail: name(), errno: 0 }),
            Response::Attached,
        ];
        assert_eq!(places(&responses), [0, 1, 2, 3, 4, 5]);
        let exit = ExitStatus::Code(0);
        let messages = [
            FromShim::Answer { seq: 1, response: Response::Done },
            FromShim::Exited {
                container: name(),
                record: ExitRecord { version: 1, exit, oom_killed: false, finished_at_ns: 1 },
            },
            FromShim::ExecExited { exec: name(), exit },
            FromShim::CutOff { attach: name() },
        ];
        assert_eq!(places(&messages), [0, 1, 2, 3]);
    }

    /// Fields follow them, so a field more or less in them shifts all the rest.
    #[test]
    fn what_stands_in_the_middle_of_messages_keeps_its_form() {
        let user = [1, b'd', 1, 1, 0, 1, 2, 1];
        let words = [1, 1, b'a', 2, 1, b'b', 1, b'c', 1, b'/'];
        let rest = [1, 1, 3, 4, 5, 6, 7, 8, 9, 0, 1, 10, 11, 12, 1, 26];
        assert_eq!(postcard::to_allocvec(&process()).unwrap(), [&words[..], &user, &rest].concat());
        let mount = Mount {
            source: MountSource::Tmpfs { size_bytes: Some(1), mode: 2 },
            destination: "/m".into(),
            read_only: true,
            propagation: Propagation::Bidirectional,
        };
        assert_eq!(postcard::to_allocvec(&mount).unwrap(), [1, 1, 1, 2, 2, b'/', b'm', 1, 2]);
        let log = Log { path: "/l".into(), max_bytes: 1, max_files: 2 };
        assert_eq!(postcard::to_allocvec(&log).unwrap(), [2, b'/', b'l', 1, 2]);
    }

    #[test]
    fn what_follows_the_last_field_that_a_reader_knows_is_passed_over() {
        #[derive(Serialize)]
        struct Newer {
            record: ShimRecord,
            more: Option<String>,
        }
        let record = ShimRecord { version: 2, pid: 7, start_ticks: 300 };
        let newer = postcard::to_allocvec(&Newer { record: record.clone(), more: Some("more".into()) }).unwrap();
        assert_eq!(postcard::from_bytes::<ShimRecord>(&newer).unwrap(), record);
    }

    #[test]
    fn versions_from_the_oldest_to_this_one_are_known() {
        assert!(is_known(OLDEST_VERSION) && is_known(VERSION) && ATTACH_VERSION <= VERSION);
        assert!(!is_known(OLDEST_VERSION - 1) && !is_known(VERSION + 1));
    }
}
