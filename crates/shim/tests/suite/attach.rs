//! Sessions on a container's own streams.

use crate::harness::{Sandbox, sandbox, wait_for_log, wait_readable};
use rustix::pipe::{PipeFlags, pipe_with};
use shim::protocol::{ExitStatus, Failure, FailureKind, Request, Response, Stdin};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A session's ends: what the container says on either stream, and its input or terminal.
struct Session {
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    input: Option<OwnedFd>,
}

fn try_attach(
    sandbox: &mut Sandbox,
    id: &str,
    (stdin, stdout, stderr): (bool, bool, bool),
) -> Result<Session, Failure> {
    let pipe = |wanted: bool| wanted.then(|| pipe_with(PipeFlags::CLOEXEC).unwrap()).unzip();
    let ((out, their_out), (err, their_err)) = (pipe(stdout), pipe(stderr));
    let request = Request::Attach { attach: id.into(), container: "c".into(), stdin, stdout, stderr };
    let fds: Vec<BorrowedFd<'_>> = [&their_out, &their_err].into_iter().flatten().map(AsFd::as_fd).collect();
    match sandbox.client.ask_with(request, &fds) {
        (Response::Attached, mut fds) => Ok(Session { out, err, input: fds.pop() }),
        (Response::Failed(failure), _) => Err(failure),
        (other, _) => panic!("{other:?}"),
    }
}

fn attach(sandbox: &mut Sandbox, id: &str, wanted: (bool, bool, bool)) -> Session {
    try_attach(sandbox, id, wanted).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A container that runs, and has said so.
fn running(sandbox: &mut Sandbox, script: &str, stdin: Option<Stdin>) {
    let mut spec = sandbox.spec("c", &format!("echo ready; {script}"));
    spec.stdin = stdin;
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "ready");
}

fn read(fd: &OwnedFd, length: usize) -> String {
    let mut text = Vec::new();
    while text.len() < length {
        wait_readable(fd);
        let mut buffer = [0; 4096];
        let count = rustix::io::read(fd, &mut buffer).unwrap();
        assert_ne!(count, 0, "it ended after {text:?}");
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

fn read_all(fd: Option<OwnedFd>) -> String {
    std::io::read_to_string(fs::File::from(fd.unwrap())).unwrap()
}

#[test]
fn output_is_had_from_the_moment_of_attaching_and_the_log_has_all() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox, "read line; echo got $line; echo oops >&2; exit 3", Some(Stdin::Kept));
    let session = attach(&mut sandbox, "a", (true, true, true));
    let listener = attach(&mut sandbox, "b", (false, true, false));
    assert!(listener.err.is_none() && listener.input.is_none());
    rustix::io::write(session.input.unwrap(), b"hello\n").unwrap();
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Code(3));
    assert_eq!(read_all(session.out), "got hello\n");
    assert_eq!(read_all(session.err), "oops\n");
    assert_eq!(read_all(listener.out), "got hello\n");
    assert_eq!(sandbox.output("c"), "ready\ngot hello\noops\n");
    assert_eq!(try_attach(&mut sandbox, "c", (false, true, false)).err().map(|f| f.kind), Some(FailureKind::NotFound));
}

#[test]
fn an_input_stays_open_for_the_next_or_ends_with_the_first() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox, "cat", Some(Stdin::Kept));
    for text in ["one\n", "two\n"] {
        let session = attach(&mut sandbox, text, (true, true, false));
        rustix::io::write(session.input.as_ref().unwrap(), text.as_bytes()).unwrap();
        assert_eq!(read(session.out.as_ref().unwrap(), text.len()), text);
    }
    sandbox.client.ask(Request::Stop { container: "c".into(), signal: 9, grace_ms: 0 });
    sandbox.client.exited("c");
    sandbox.forget("c");

    running(&mut sandbox, "cat; echo eof; sleep 600", Some(Stdin::Once));
    let session = attach(&mut sandbox, "first", (true, true, false));
    drop(session.input);
    assert_eq!(read(session.out.as_ref().unwrap(), 4), "eof\n");
    let failure = try_attach(&mut sandbox, "second", (true, true, false)).err().unwrap();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.detail.contains("ended with the first session"), "{failure}");
    attach(&mut sandbox, "third", (false, true, false));
}

#[test]
fn s_f04_who_does_not_read_is_cut_off_and_holds_nobody_up() {
    let Some(mut sandbox) = sandbox() else { return };
    let script = "read go; yes 0123456789 | head -c 3000008; echo err >&2; exit 4";
    running(&mut sandbox, script, Some(Stdin::Kept));
    let deaf = attach(&mut sandbox, "deaf", (true, true, true));
    let listener = attach(&mut sandbox, "listener", (false, false, true));
    rustix::io::write(deaf.input.as_ref().unwrap(), b"\n").unwrap();
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Code(4));
    sandbox.client.cut_off("deaf");
    assert_eq!(read_all(listener.err), "err\n");
    assert_eq!(read_all(deaf.err), "", "its other stream ended with the first");
    assert_eq!(sandbox.output("c").len(), "ready\nerr\n".len() + 3_000_008);
}

#[test]
fn s_f04_who_hangs_up_leaves_nothing_even_where_nothing_is_said() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox, "exec sleep 600", Some(Stdin::Kept));
    let pid = sandbox.shim_pid();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = descriptors();
    for _ in 0..1000 {
        attach(&mut sandbox, "a", (true, true, true));
    }
    // The end of the last ones may still be on its way; a further request is answered after it.
    sandbox.client.ask(Request::List);
    sandbox.client.ask(Request::List);
    assert_eq!(descriptors(), before);

    let held: Vec<Session> = (0..32).map(|_| attach(&mut sandbox, "a", (false, true, true))).collect();
    let failure = try_attach(&mut sandbox, "b", (false, true, false)).err().unwrap();
    assert!(failure.detail.contains("64 streams"), "{failure}");
    drop(held);
    sandbox.client.ask(Request::List);
    attach(&mut sandbox, "b", (false, true, false));
}

#[test]
fn a_terminal_is_attached_to_with_its_master() {
    let Some(mut sandbox) = sandbox() else { return };
    let mut spec = sandbox.spec("c", "echo ready; read line; stty size; echo got $line; exit 5");
    spec.process.terminal = true;
    spec.stdin = Some(Stdin::Kept);
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "ready");
    let session = attach(&mut sandbox, "a", (true, true, false));
    let master = session.input.unwrap();
    let size = rustix::termios::Winsize { ws_row: 31, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    rustix::io::write(&master, b"hello\n").unwrap();
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Code(5));
    assert_eq!(read_all(session.out), "hello\r\n31 99\r\ngot hello\r\n");
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let Some(mut sandbox) = sandbox() else { return };
    running(&mut sandbox, "exec sleep 600", None);
    let failure = try_attach(&mut sandbox, "a", (true, true, false)).err().unwrap();
    assert!(failure.detail.contains("it has none"), "{failure}");
    let request = |container: &str| Request::Attach {
        attach: "a".into(),
        container: container.into(),
        stdin: false,
        stdout: true,
        stderr: false,
    };
    let Response::Failed(failure) = sandbox.client.ask(request("c")) else { panic!("no descriptor came along") };
    assert_eq!(failure.kind, FailureKind::Refused);
    let null = fs::File::open("/dev/null").unwrap();
    let (Response::Failed(failure), _) = sandbox.client.ask_with(request("none"), &[null.as_fd()]) else { panic!() };
    assert_eq!(failure.kind, FailureKind::NotFound);
}
