//! A sandbox directory, a shim in it, and the engine's end of its socket.

use cgroup::{DevicePolicy, Group, Layout, Limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, Signal, kill_process};
use shim::protocol::{
    Capabilities, ContainerSpec, ExitRecord, ExitStatus, Failure, FromEngine, FromShim, Log, MAX_MESSAGE_BYTES,
    PidNamespace, Process, Request, Response, Root, StartedRecord, User, VERSION, records,
};
use std::collections::VecDeque;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Nothing here takes a second; what takes longer than this hangs.
const TIMEOUT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 28] = [
    "sh", "cat", "echo", "id", "ls", "grep", "head", "tail", "sleep", "true", "mknod", "mount", "mkdir", "pwd", "stat",
    "readlink", "seq", "dd", "tty", "stty", "env", "kill", "test", "touch", "umount", "wc", "yes", "awk",
];
/// What a CRI runtime gives an ordinary container.
pub(crate) const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

pub(crate) struct Sandbox {
    pub(crate) dir: tempfile::TempDir,
    shim: Child,
    pub(crate) client: Client,
    groups: Vec<Group>,
    expect_alive: bool,
}

pub(crate) struct Client {
    socket: OwnedFd,
    seq: u64,
    events: VecDeque<FromShim>,
}

/// A sandbox, or `None` with a printed reason where the tests cannot run; in CI that is a failure.
pub(crate) fn sandbox() -> Option<Sandbox> {
    let missing = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !Path::new(BUSYBOX).exists() {
        "no /bin/busybox (package busybox-static)"
    } else {
        return Some(Sandbox::new());
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

impl Sandbox {
    fn new() -> Sandbox {
        let dir = tempfile::Builder::new().prefix("shim-test-").tempdir().expect("make a directory");
        fs::create_dir_all(dir.path().join(records::CONTAINERS)).expect("make the containers' directory");
        make_layer(&dir.path().join("layers/0"));
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("make a socket");
        let address = SocketAddrUnix::new(dir.path().join(records::SOCKET)).expect("a short path");
        rustix::net::bind(&listener, &address).expect("bind");
        rustix::net::listen(&listener, 8).expect("listen");
        let shim = spawn(dir.path(), &listener);
        let client = Client::connect(dir.path());
        Sandbox { dir, shim, client, groups: Vec::new(), expect_alive: true }
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        self.shim.id() as i32
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        self.path("layers/0").join(name)
    }

    /// A spec that runs a shell command with the rights of an ordinary container.
    pub(crate) fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        let own = self.path("own").join(id);
        ContainerSpec {
            version: VERSION,
            id: id.into(),
            process: shell(script),
            root: Root {
                layers_dir: self.path("layers"),
                lower: vec!["0".into()],
                upper: own.join("u"),
                work: own.join("w"),
                read_only: false,
            },
            mounts: vec![],
            net_ns: None,
            ipc_ns: None,
            uts_ns: None,
            pid_ns: PidNamespace::Own,
            cgroups: vec![],
            memory_cgroup: None,
            masked_paths: vec![],
            readonly_paths: vec![],
            privileged: false,
            devices: vec![],
            log: Some(Log { path: self.path(&format!("{id}.log")), max_bytes: 0, max_files: 3 }),
            stdin: None,
        }
    }

    /// Gives the container control groups of its own.
    pub(crate) fn limit(&mut self, spec: &mut ContainerSpec, limits: Limits) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::detect().expect("control groups");
        let group = layout.group(&format!("/kubelet-shim-test-{}-{number}", std::process::id()));
        group.create(&Limits { devices: DevicePolicy::Default(vec![]), ..limits }).expect("make a control group");
        spec.cgroups = group.dirs();
        spec.memory_cgroup = group.memory_dir();
        self.groups.push(group);
    }

    pub(crate) fn write_spec(&self, spec: &ContainerSpec) {
        for dir in [&spec.root.upper, &spec.root.work, &self.container_dir(&spec.id).join(records::ROOT)] {
            fs::create_dir_all(dir).expect("make a directory");
        }
        let bytes = postcard::to_stdvec(spec).expect("encode");
        fs::write(self.container_dir(&spec.id).join(records::SPEC), bytes).expect("write the spec");
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.path(records::CONTAINERS).join(id)
    }

    pub(crate) fn start(&mut self, spec: &ContainerSpec) -> Result<StartedRecord, Failure> {
        self.write_spec(spec);
        match self.client.ask(Request::Start { container: spec.id.clone() }) {
            Response::Started(started) => Ok(started),
            Response::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a container to its end: how it ended and what it printed on either stream.
    pub(crate) fn run(&mut self, spec: &ContainerSpec) -> (ExitStatus, String) {
        self.start(spec).unwrap_or_else(|failure| panic!("{failure}"));
        let record = self.client.exited(&spec.id);
        (record.exit, self.output(&spec.id))
    }

    /// What a script prints in an ordinary container; it must succeed.
    pub(crate) fn prints(&mut self, spec: &ContainerSpec) -> String {
        let (exit, output) = self.run(spec);
        assert_eq!(exit, ExitStatus::Code(0), "{output}");
        output
    }

    /// The contents of the log, joined to what the container wrote.
    pub(crate) fn output(&self, id: &str) -> String {
        let text = fs::read(self.path(&format!("{id}.log"))).expect("read the log");
        String::from_utf8_lossy(&contents(&text)).into_owned()
    }

    pub(crate) fn failure(&mut self, spec: &ContainerSpec) -> Failure {
        self.start(spec).expect_err("the start must fail")
    }

    pub(crate) fn forget(&mut self, id: &str) {
        let response = self.client.ask(Request::Forget { container: id.into() });
        assert!(matches!(response, Response::Done), "{response:?}");
    }

    pub(crate) fn kill_shim(&mut self) {
        self.shim.kill().expect("kill the shim");
        self.shim.wait().expect("wait for the shim");
        self.expect_alive = false;
    }

    /// What a failed test left running: containers outlive their shim.
    fn kill_containers(&self) {
        let dirs = fs::read_dir(self.path(records::CONTAINERS)).into_iter().flatten().flatten();
        for started in dirs.filter_map(|dir| fs::read(dir.path().join(records::STARTED)).ok()) {
            let Ok(started) = postcard::from_bytes::<StartedRecord>(&started) else { continue };
            let stat = fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap_or_default();
            let is_same = stat.split_whitespace().any(|field| field == started.start_ticks.to_string());
            if let (true, Some(pid)) = (is_same, Pid::from_raw(started.pid)) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }

    fn end(&mut self) {
        if self.expect_alive {
            let Response::Containers(list) = self.client.ask(Request::List) else { panic!("no list") };
            for state in list.iter().filter(|state| state.exit.is_none()) {
                self.client.ask(Request::Stop { container: state.container.clone(), signal: 9, grace_ms: 0 });
                self.client.exited(&state.container);
            }
            let response = self.client.ask(Request::Shutdown);
            assert!(matches!(response, Response::Done), "{response:?}");
            assert!(self.shim.wait().expect("wait for the shim").success());
        }
        for group in &self.groups {
            group.kill().expect("kill what is left");
            group.remove().expect("remove the control group");
        }
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
        let path = self.dir.path().to_str().expect("UTF-8");
        assert!(!table.contains(path), "mounts are left on the host:\n{table}");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shim.kill().ok();
            self.shim.wait().ok();
            self.kill_containers();
            for group in &self.groups {
                group.kill().and_then(|()| group.remove()).ok();
            }
        } else {
            self.end();
        }
    }
}

fn spawn(dir: &Path, listener: &OwnedFd) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shim"));
    command.arg(dir).env("CANARY_ENV", "leaked").stdin(Stdio::null()).stdout(Stdio::null());
    let fd = listener.as_raw_fd();
    // SAFETY: dup2(2) and fcntl(2) are async-signal-safe; the listener lives until spawn returns.
    unsafe {
        command.pre_exec(move || {
            let result = if fd == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(fd, 3) };
            if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    command.spawn().expect("spawn the shim")
}

fn make_layer(layer: &Path) {
    for dir in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(layer.join(dir)).expect("make a directory");
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).expect("copy busybox");
    for applet in APPLETS {
        symlink("busybox", layer.join("bin").join(applet)).expect("link an applet");
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        .expect("write passwd");
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\naudio:x:29:app\n").expect("write group");
}

pub(crate) fn shell(script: &str) -> Process {
    Process {
        args: vec!["sh".into(), "-c".into(), script.into()],
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        user: User { name: String::new(), uid: None, gid: None, additional_gids: vec![], must_not_be_root: false },
        terminal: false,
        window: None,
        capabilities: Capabilities {
            bounding: DEFAULT_CAPABILITIES,
            effective: DEFAULT_CAPABILITIES,
            permitted: DEFAULT_CAPABILITIES,
            inheritable: 0,
            ambient: 0,
        },
        no_new_privs: false,
        rlimits: vec![],
        oom_score_adj: None,
    }
}

/// What a container wrote, from its log records; each must have the format's form.
pub(crate) fn contents(log: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag) = (fields.next(), fields.next(), fields.next());
        let content = fields.next().expect("four fields");
        assert_eq!(time.map(<[u8]>::len), Some(30));
        assert!(matches!(stream, Some(b"stdout" | b"stderr")));
        let content = if tag == Some(b"P") { content.strip_suffix(b"\n").expect("a whole record") } else { content };
        out.extend_from_slice(content);
    }
    out
}

impl Client {
    pub(crate) fn connect(dir: &Path) -> Client {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("make a socket");
        let address = SocketAddrUnix::new(dir.join(records::SOCKET)).expect("a short path");
        rustix::net::connect(&socket, &address).expect("connect");
        Client { socket, seq: 0, events: VecDeque::new() }
    }

    pub(crate) fn ask(&mut self, request: Request) -> Response {
        self.ask_with(request, &[]).0
    }

    /// Sends a request with descriptors and waits for its answer; events meanwhile are kept.
    pub(crate) fn ask_with(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> (Response, Vec<OwnedFd>) {
        self.seq += 1;
        let bytes = postcard::to_stdvec(&FromEngine { seq: self.seq, request }).expect("encode");
        self.send_raw(&bytes, fds);
        loop {
            let (message, fds) = self.receive().expect("the shim hung up");
            match message {
                FromShim::Answer { seq, response } if seq == self.seq => return (response, fds),
                event => self.events.push_back(event),
            }
        }
    }

    pub(crate) fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("send");
    }

    /// The next message; `None` when the shim closed the connection.
    pub(crate) fn receive(&self) -> Option<(FromShim, Vec<OwnedFd>)> {
        wait_readable(&self.socket);
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let bytes = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags).ok()?.bytes;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if bytes == 0 { None } else { Some((postcard::from_bytes(&buffer[..bytes]).expect("decode"), fds)) }
    }

    /// Waits for the first event that `pick` wants; others are kept.
    fn event<T>(&mut self, pick: impl Fn(&FromShim) -> Option<T>) -> T {
        if let Some(at) = self.events.iter().position(|event| pick(event).is_some()) {
            let event = self.events.remove(at).expect("it was there");
            return pick(&event).expect("it was picked");
        }
        loop {
            let (message, _) = self.receive().expect("the shim hung up");
            if let Some(found) = pick(&message) {
                return found;
            }
            self.events.push_back(message);
        }
    }

    pub(crate) fn exited(&mut self, id: &str) -> ExitRecord {
        self.event(|event| match event {
            FromShim::Exited { container, record } if container == id => Some(record.clone()),
            _ => None,
        })
    }

    pub(crate) fn exec_exited(&mut self, id: &str) -> ExitStatus {
        self.event(|event| match event {
            FromShim::ExecExited { exec, exit } if exec == id => Some(*exit),
            _ => None,
        })
    }

    pub(crate) fn cut_off(&mut self, id: &str) {
        self.event(|event| matches!(event, FromShim::CutOff { attach } if attach == id).then_some(()));
    }

    /// Runs an exec to its end with pipes: how it ended and what it printed.
    pub(crate) fn exec(&mut self, container: &str, process: Process) -> Result<(ExitStatus, String), Failure> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("make a pipe");
        let null = fs::File::open("/dev/null").expect("open /dev/null");
        let id = format!("exec-{}", self.seq);
        let request = Request::Exec { exec: id.clone(), container: container.into(), process };
        let (response, _) = self.ask_with(request, &[null.as_fd(), writer.as_fd(), writer.as_fd()]);
        drop(writer);
        match response {
            Response::ExecStarted { .. } => {}
            Response::Failed(failure) => return Err(failure),
            other => panic!("{other:?}"),
        }
        let output = std::io::read_to_string(fs::File::from(reader)).expect("read its output");
        Ok((self.exec_exited(&id), output))
    }
}

pub(crate) fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_ne!(poll(&mut fds, Some(&TIMEOUT)).expect("poll"), 0, "nothing came in time");
}

/// Waits until a container said this in its log: inotify tells when it grew.
pub(crate) fn wait_for_log(path: &Path, text: &str) {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY).expect("watch the log");
    while !fs::read_to_string(path).expect("read the log").contains(text) {
        wait_readable(&watch);
        rustix::io::read(&watch, &mut [0; 4096]).expect("read the event");
    }
}
