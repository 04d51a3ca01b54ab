//! A person at a container's own streams, and at a pod's ports.

use crate::together::{once, pod, sh};
use e2e::{Machine, PATIENCE, Runtime, await_some, await_true, http, machine};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A subcommand that goes on, ended at last.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn of(mut command: Command) -> Running {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("runs");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        // Who reads cannot be told how long to wait.
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines }
    }

    fn cli(machine: &Machine, subcommand: &str, rest: &[&str]) -> Running {
        let mut command = Command::new(machine::kubelet_binary());
        command.args([subcommand, &format!("--run-dir={}", machine.run_dir.display())]).args(rest);
        Running::of(command)
    }

    fn types(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("written");
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time, and before the end").trim_end().to_owned()
    }

    /// Waits for the line that holds this text.
    fn until(&self, text: &str) {
        while !self.line().contains(text) {}
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub(crate) fn attach_passes_input_output_and_a_terminal_through(machine: &Machine) {
    let script = "while read line; do echo got $line; test \"$line\" = end && exit 5; done";
    once(machine, "attach", sh("main", script, &json!({"stdin": true})));
    machine.await_running("attach", "main");
    let mut first = Running::cli(machine, "attach", &["-i", "attach"]);
    first.types("one\n");
    assert_eq!(first.line(), "got one");
    // Whoever attaches may die, and ours is not the end of the container's input.
    drop(first);
    let mut second = Running::cli(machine, "attach", &["-i", "attach"]);
    second.types("two\n");
    assert_eq!(second.line(), "got two");
    drop(second.child.stdin.take());
    let mut third = Running::cli(machine, "attach", &["-i", "attach"]);
    third.types("end\n");
    for mut running in [second, third] {
        assert_eq!(running.line(), "got end");
        assert!(running.child.wait().expect("ends").success(), "the container's code is not the session's");
    }
    machine.await_container("attach", "main", |status| status["state"]["terminated"]["exitCode"] == 5);
    assert_eq!(machine.cli(&["logs", "attach"]), "got one\ngot two\ngot end\n");

    // `script` gives us a terminal, which is the container's for the time being.
    // containerd takes sizes and input in on ways of their own.
    let size = match machine.runtime() {
        Runtime::Embedded | Runtime::Docker => "stty size",
        Runtime::Containerd | Runtime::ContainerdSid => "until stty size | grep '33 77'; do usleep 20000; done",
    };
    let script = format!("read line; {size}; echo got $line; exit 3");
    once(machine, "attach-tty", sh("main", &script, &json!({"stdin": true, "tty": true})));
    machine.await_running("attach-tty", "main");
    let inner = format!(
        "stty rows 33 cols 77; {} attach --run-dir={} -it attach-tty",
        machine::kubelet_binary().display(),
        machine.run_dir.display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]);
    let mut terminal = Running::of(command);
    terminal.until("try pressing enter");
    terminal.types("hello\n");
    terminal.until("33 77");
    terminal.until("got hello");
    assert!(terminal.child.wait().expect("ends").success());
    machine.await_container("attach-tty", "main", |status| status["state"]["terminated"]["exitCode"] == 3);

    once(machine, "attach-not", sh("main", "exec sleep 1000", &json!({})));
    machine.await_running("attach-not", "main");
    for (args, part) in [
        (&["-i", "attach-not"][..], "has no input: it is declared without `stdin: true`"),
        (&["-t", "attach-not"], "unable to use a TTY: container main did not allocate one"),
        (&["attach"], "has exited with code 5"),
        (&["nobody"], "pod \"nobody\" not found"),
    ] {
        let output = machine.try_cli(&[&["attach"], args].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(part), "{args:?}: {told}");
    }
    for pod in ["attach", "attach-tty", "attach-not"] {
        machine.await_end(pod);
    }
}

pub(crate) fn ports_of_ours_lead_to_ports_of_a_pod(machine: &Machine) {
    let script = "mkdir /tmp/www; echo hello > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    let ports = json!({"ports": [{"name": "web", "containerPort": 8080}]});
    let echo = sh("echo", "exec nc -ll -p 7 -e cat", &json!({}));
    pod(machine, "forward", &json!({"containers": [sh("main", script, &ports), echo]}));
    machine.await_running("forward", "main");
    machine.await_running("forward", "echo");
    let mut forward = Running::cli(machine, "port-forward", &["forward", ":web", ":7", ":81"]);
    let local: Vec<u16> = [8080, 7, 81]
        .iter()
        .map(|remote| {
            let line = forward.line();
            let told = line.strip_prefix("Forwarding from 127.0.0.1:").expect("the line");
            let (local, found) = told.split_once(" -> ").expect("both ports");
            assert_eq!(found, remote.to_string(), "{line}");
            local.parse().expect("a port")
        })
        .collect();
    let page = || http::get(HERE, local[0], "/index.html");
    await_some("the page", || page().and_then(|(status, body)| if status == 200 { Ok(body) } else { Err(body) }));
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert_eq!(page(), Ok((200, "hello\n".to_owned()))));
        }
    });
    // One after the other, for as long as it pleases.
    let mut talk = TcpStream::connect((HERE, local[1])).expect("connected");
    let mut word = [0; 100_000];
    for byte in [b'a', b'b'] {
        let copy = talk.try_clone().expect("cloned");
        let writing = std::thread::spawn(move || (&copy).write_all(&[byte; 100_000]).expect("written"));
        talk.read_exact(&mut word).expect("echoed");
        assert!(word.iter().all(|found| *found == byte));
        writing.join().expect("written");
    }
    // A failure is told, and the others go on.
    let mut refused = TcpStream::connect((HERE, local[2])).expect("connected");
    assert!(!matches!(refused.read(&mut word), Ok(1..)));
    let mut told = String::new();
    let mut stderr = BufReader::new(forward.child.stderr.take().expect("stderr"));
    while !told.contains("an error occurred forwarding") {
        told.clear();
        assert!(stderr.read_line(&mut told).expect("read") > 0, "nothing was told");
    }
    let begins = format!("an error occurred forwarding {} -> 81: error forwarding port 81 to pod ", local[2]);
    assert!(told.starts_with(&begins) && told.contains("refused"), "{told}");
    assert_eq!(page(), Ok((200, "hello\n".to_owned())));
    drop(talk);
    let pid = Pid::from_raw(i32::try_from(forward.child.id()).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::INT).expect("Ctrl-C");
    assert!(forward.child.wait().expect("ends").success());
    await_true("nobody listens any more", || TcpStream::connect((HERE, local[0])).is_err());
    machine.await_end("forward");
}
