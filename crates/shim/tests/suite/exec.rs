//! Further processes in a running container.

use crate::harness::{Sandbox, sandbox, shell, wait_for_log, wait_readable};
use cgroup::Limits;
use rustix::io::Errno;
use shim::protocol::{ExitStatus, FailureKind, Process, Request, Response};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

fn running(sandbox: &mut Sandbox) {
    let mut spec = sandbox.spec("c", "echo ready; exec sleep 600");
    sandbox.limit(&mut spec, Limits::default());
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "ready");
}

#[test]
fn an_exec_runs_in_the_container_and_its_end_is_told() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    for (script, exit, output) in [
        ("echo hello; exit 7", ExitStatus::Code(7), "hello\n"),
        ("echo to stderr >&2", ExitStatus::Code(0), "to stderr\n"),
        ("kill -9 $$", ExitStatus::Signal(9), ""),
        ("kill -15 $$", ExitStatus::Signal(15), ""),
        ("readlink /proc/1/exe; test $$ -ne 1", ExitStatus::Code(0), "/bin/busybox\n"),
        (
            "for n in mnt pid net ipc uts cgroup; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done",
            ExitStatus::Code(0),
            "",
        ),
        (
            "cd /proc/self; for f in /proc/1/cgroup; do test \"$(cat $f)\" = \"$(cat cgroup)\" && echo same; done",
            ExitStatus::Code(0),
            "same\n",
        ),
    ] {
        assert_eq!(sandbox.client.exec("c", shell(script)).unwrap(), (exit, output.to_owned()), "{script}");
    }
    let user =
        Process { user: shim::protocol::User { name: "app".into(), ..shell("").user }, ..shell("id; pwd; echo $HOME") };
    let (_, output) = sandbox.client.exec("c", user).unwrap();
    assert_eq!(output, "uid=1000(app) gid=1001(app) groups=29(audio),1001(app)\n/\n/home/app\n");
}

#[test]
fn s_c06_an_exec_sees_no_descriptor_but_its_own() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let (_, output) = sandbox.client.exec("c", shell("ls /proc/self/fd")).unwrap();
    // The fourth is that of the directory ls itself reads.
    assert_eq!(output, "0\n1\n2\n3\n");
    let (_, output) = sandbox.client.exec("c", shell("env")).unwrap();
    assert!(!output.contains("CANARY"), "{output}");
    for cwd in ["/proc/self/fd/7", "/proc/1/cwd", "/proc/self/root", "/none", "/etc/passwd"] {
        let process = Process { cwd: cwd.into(), ..shell("pwd") };
        let result = sandbox.client.exec("c", process);
        assert!(result.is_err(), "{cwd}: {result:?}");
    }
}

#[test]
fn execs_that_cannot_run_are_answered_with_the_reason() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let with = |args: &[&str]| Process { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..shell("") };
    for (container, process, kind) in [
        ("none", shell("true"), FailureKind::NotFound),
        ("c", with(&["none"]), FailureKind::Entrypoint),
        ("c", with(&["/none"]), FailureKind::Entrypoint),
        ("c", with(&[]), FailureKind::Entrypoint),
        (
            "c",
            Process { user: shim::protocol::User { name: "nobody".into(), ..shell("").user }, ..shell("") },
            FailureKind::Refused,
        ),
    ] {
        assert_eq!(sandbox.client.exec(container, process).unwrap_err().kind, kind);
    }
    let request = Request::Exec { exec: "e".into(), container: "c".into(), process: shell("true") };
    let Response::Failed(failure) = sandbox.client.ask(request) else { panic!("it has no descriptors") };
    assert_eq!(failure.kind, FailureKind::Refused);
    sandbox.client.ask(Request::Stop { container: "c".into(), signal: 9, grace_ms: 0 });
    sandbox.client.exited("c");
    assert_eq!(sandbox.client.exec("c", shell("true")).unwrap_err().kind, FailureKind::NotFound);
}

fn start_exec(sandbox: &mut Sandbox, id: &str, process: Process) -> OwnedFd {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let request = Request::Exec { exec: id.into(), container: "c".into(), process };
    let (response, _) = sandbox.client.ask_with(request, &[null.as_fd(), writer.as_fd(), writer.as_fd()]);
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    reader
}

#[test]
fn f_e02_killing_an_exec_kills_its_whole_group() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let reader = start_exec(&mut sandbox, "e", shell("sleep 601 & sleep 602 & echo ready; wait"));
    wait_readable(&reader);
    assert!(matches!(sandbox.client.ask(Request::KillExec { exec: "e".into() }), Response::Done));
    assert_eq!(sandbox.client.exec_exited("e"), ExitStatus::Signal(9));
    // The pipe ends when the last one that had it is gone.
    assert_eq!(std::io::read_to_string(fs::File::from(reader)).unwrap(), "ready\n");
}

#[test]
fn f_e03_the_end_of_the_container_is_the_end_of_its_execs() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let reader = start_exec(&mut sandbox, "e", shell("echo ready; sleep 600"));
    wait_readable(&reader);
    sandbox.client.ask(Request::Stop { container: "c".into(), signal: 9, grace_ms: 0 });
    assert_eq!(sandbox.client.exec_exited("e"), ExitStatus::Signal(9));
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Signal(9));
}

fn read_terminal(master: &OwnedFd) -> String {
    let mut text = Vec::new();
    loop {
        wait_readable(master);
        let mut buffer = [0; 4096];
        match rustix::io::read(master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => return String::from_utf8(text).unwrap(),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn an_exec_with_a_terminal_has_a_real_one() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let process = Process {
        terminal: true,
        window: Some((101, 37)),
        user: shim::protocol::User { name: "app".into(), ..shell("").user },
        ..shell("tty; stty size; stat -c '%u %g %a' $(tty); echo $TERM; read line; echo got $line; exit 5")
    };
    let request = Request::Exec { exec: "e".into(), container: "c".into(), process };
    let (response, mut fds) = sandbox.client.ask_with(request, &[]);
    assert!(matches!(response, Response::ExecStarted { .. }), "{response:?}");
    let master = fds.pop().expect("the terminal's master");
    rustix::io::write(&master, b"input\n").unwrap();
    let output = read_terminal(&master);
    for expected in ["/dev/pts/0\r\n", "37 101\r\n", "1000 5 620\r\n", "xterm\r\n", "got input\r\n"] {
        assert!(output.contains(expected), "{expected:?} in {output:?}");
    }
    assert_eq!(sandbox.client.exec_exited("e"), ExitStatus::Code(5));
}

#[test]
fn f_e02_a_terminal_that_is_closed_hangs_up() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox);
    let process = Process { terminal: true, ..shell("echo ready; sleep 600") };
    let request = Request::Exec { exec: "e".into(), container: "c".into(), process };
    let (_, fds) = sandbox.client.ask_with(request, &[]);
    wait_readable(&fds[0]);
    drop(fds);
    assert_eq!(sandbox.client.exec_exited("e"), ExitStatus::Signal(1));
}

#[test]
fn a_container_with_a_terminal_is_logged_and_has_a_console() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("t", "tty; echo x > /dev/console; ls -l /dev/console | head -c 1; stty size; exit 4");
    spec.process.terminal = true;
    spec.process.window = Some((80, 25));
    let (exit, output) = sandbox.run(&spec);
    assert_eq!((exit, output.as_str()), (ExitStatus::Code(4), "/dev/pts/0\r\nx\r\nc25 80\r\n"));
}
