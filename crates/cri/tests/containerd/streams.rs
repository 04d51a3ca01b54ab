use cri::attach::Terms;
use cri::{Code, ExecSession, Runtime, v1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::world::{PATIENCE, World, with_each};

type Reading = Option<Box<dyn AsyncRead + Send + Unpin>>;

async fn exec(world: &World, id: &str, script: &str, tty: bool) -> ExecSession {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    world.client.exec(request, Some((101, 37))).await.unwrap()
}

async fn all(stream: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.unwrap().read_to_end(&mut bytes)).await;
    reading.unwrap_or_else(|_| panic!("it does not end")).unwrap();
    bytes
}

#[test]
fn a_commands_input_ends_before_its_output() {
    with_each(|world| async move {
        let (sandbox, id) = world.container("input", "sleep 1000").await;
        let mut session = exec(&world, &id, "wc -c; echo e >&2; exit 9", false).await;
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(&[7; 300_000]).await.unwrap();
        drop(stdin);
        assert_eq!(all(session.stdout.take()).await, b"300000\n");
        assert_eq!(all(session.stderr.take()).await, b"e\n");
        assert_eq!(session.exit.await.unwrap(), Ok(9));
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn a_command_that_writes_while_it_reads_is_not_held_up() {
    with_each(|world| async move {
        let (sandbox, id) = world.container("both", "sleep 1000").await;
        let mut session = exec(&world, &id, "cat", false).await;
        let mut stdin = session.stdin.take().unwrap();
        let sent: Vec<u8> = (0..8_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            stdin.write_all(&copy).await.unwrap();
            drop(stdin);
        });
        assert!(all(session.stdout.take()).await == sent, "what came back is not what was sent");
        writing.await.unwrap();
        assert_eq!(session.exit.await.unwrap(), Ok(0));
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn a_terminal_has_its_size_and_learns_a_new_one() {
    with_each(|world| async move {
        let (sandbox, id) = world.container("terminal", "sleep 1000").await;
        let script = "until [ \"$(stty size)\" = '37 101' ]; do sleep 0.05; done; echo first; \
                      until [ \"$(stty size)\" = '38 102' ]; do sleep 0.05; done; exit 4";
        let mut session = exec(&world, &id, script, true).await;
        until(&mut session.stdout, "first").await;
        session.resize.send((102, 38)).await.unwrap();
        assert!(session.stderr.is_none());
        assert_eq!(session.exit.await.unwrap(), Ok(4));
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn a_command_that_does_not_exist_says_so() {
    with_each(|world| async move {
        let (sandbox, id) = world.container("absent", "sleep 1000").await;
        let request = v1::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["/no/such/program".into()],
            stdout: true,
            ..Default::default()
        };
        let error = match world.client.exec(request, None).await {
            Ok(session) => session.exit.await.unwrap().unwrap_err(),
            Err(error) => error,
        };
        assert!(error.message.contains("no such file"), "{error}");
        world.remove(&sandbox).await;
        world
    });
}

/// A running container with an input, in a sandbox of its own.
async fn interactive(world: &World, name: &str, script: &str, tty: bool) -> (String, String) {
    let sandbox = world.sandbox(name).await;
    let mut request = world.container_request((name, &sandbox), script);
    let config = request.config.as_mut().unwrap();
    (config.stdin, config.tty) = (true, tty);
    let id = world.client.create_container(request).await.unwrap().container_id;
    world.client.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    (sandbox, id)
}

async fn attach(world: &World, id: &str, streams: &str) -> ExecSession {
    let request = v1::AttachRequest {
        container_id: id.into(),
        stdin: streams.contains('i'),
        stdout: streams.contains('o'),
        stderr: streams.contains('e'),
        tty: streams.contains('t'),
    };
    world.client.attach(request, Terms { window: Some((77, 33)), stdin_once: false }).await.unwrap()
}

/// Reads until the text was there.
async fn until(stream: &mut Reading, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut bytes = [0; 100];
        let reading = stream.as_mut().unwrap().read(&mut bytes);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let length = read.unwrap_or_else(|_| panic!("no {text:?} after {seen:?}")).unwrap();
        assert!(length > 0, "it ended with {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
}

#[test]
fn a_container_is_attached_to_until_it_ends() {
    with_each(|world| async move {
        let script = "while read line; do echo got $line; echo err >&2; test $line = end && exit 7; done";
        let (sandbox, id) = interactive(&world, "attach", script, false).await;
        let mut first = attach(&world, &id, "ioe").await;
        first.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
        until(&mut first.stdout, "got one\n").await;
        // What it does not read, the next one may.
        until(&mut first.stderr, "err\n").await;
        // Its end is not the input's: the next one finds it open.
        drop(first);
        let mut second = attach(&world, &id, "ioe").await;
        second.stdin.as_mut().unwrap().write_all(b"two\n").await.unwrap();
        until(&mut second.stdout, "got two\n").await;
        until(&mut second.stderr, "err\n").await;
        second.stdin.as_mut().unwrap().write_all(b"end\n").await.unwrap();
        let (out, err) = tokio::join!(all(second.stdout), all(second.stderr));
        assert_eq!((out.as_slice(), err.as_slice()), (&b"got end\n"[..], &b"err\n"[..]));
        assert_eq!(second.exit.await.unwrap(), Ok(0), "it ended, whatever its code");
        assert_eq!(world.exited(&id).await.exit_code, 7);
        world.remove(&sandbox).await;
        world
    });
}

/// Of a session that has the input too, containerd ends both outputs when one of them has ended.
#[test]
fn the_last_words_of_both_outputs_are_heard() {
    with_each(|world| async move {
        let last_words = async |n: usize| {
            let script = "read line; echo out; echo err >&2";
            let (sandbox, id) = interactive(&world, &format!("last-{n}"), script, false).await;
            let mut session = attach(&world, &id, "ioe").await;
            session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
            let (out, err) = tokio::join!(all(session.stdout), all(session.stderr));
            assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
            assert_eq!(session.exit.await.unwrap(), Ok(0));
            world.remove(&sandbox).await;
        };
        futures_util::future::join_all((0..8).map(last_words)).await;
        world
    });
}

#[test]
fn the_end_of_what_is_typed_is_the_inputs_only_where_it_is_for_once() {
    with_each(|world| async move {
        let (sandbox, id) = interactive(&world, "kept", "read a; echo got $a; read b; echo got $b", false).await;
        let mut first = attach(&world, &id, "io").await;
        first.stdin.take().unwrap().write_all(b"one\n").await.unwrap();
        until(&mut first.stdout, "got one\n").await;
        let mut second = attach(&world, &id, "i").await;
        second.stdin.take().unwrap().write_all(b"two\n").await.unwrap();
        until(&mut first.stdout, "got two\n").await;
        assert_eq!(first.exit.await.unwrap(), Ok(0));
        world.remove(&sandbox).await;

        let sandbox = world.sandbox("once").await;
        let mut request = world.container_request(("once", &sandbox), "cat; echo eof");
        let config = request.config.as_mut().unwrap();
        (config.stdin, config.stdin_once) = (true, true);
        let id = world.client.create_container(request).await.unwrap().container_id;
        world.client.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
        let request = v1::AttachRequest { container_id: id, stdin: true, stdout: true, ..Default::default() };
        let terms = Terms { stdin_once: true, ..Terms::default() };
        let mut session = world.client.attach(request, terms).await.unwrap();
        session.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
        assert_eq!(all(session.stdout).await, b"hello\neof\n");
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn a_containers_terminal_is_attached_to() {
    with_each(|world| async move {
        let script = "while read line; do stty size; done";
        let (sandbox, id) = interactive(&world, "attach-tty", script, true).await;
        let mut session = attach(&world, &id, "iot").await;
        assert!(session.stderr.is_none());
        for size in ["33 77", "44 99"] {
            // Sizes are told apart from what is typed.
            while !exec_says(&world, &id, "stty size < /dev/console").await.contains(size) {}
            session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
            until(&mut session.stdout, size).await;
            session.resize.send((99, 44)).await.unwrap();
        }
        session.stdin.as_mut().unwrap().write_all(b"\x04").await.unwrap();
        assert_eq!(session.exit.await.unwrap(), Ok(0));
        world.remove(&sandbox).await;
        world
    });
}

async fn exec_says(world: &World, id: &str, script: &str) -> String {
    let cmd = ["/bin/sh", "-c", script].map(String::from).to_vec();
    let request = v1::ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
    String::from_utf8(world.client.exec_sync(request).await.unwrap().stdout).unwrap()
}

#[test]
fn s_f04_who_attaches_and_does_not_read_is_cut_off_and_holds_nobody_up() {
    with_each(|world| async move {
        let script = "read go; dd if=/dev/zero bs=1M count=20 2>/dev/null; exit 3";
        let (sandbox, id) = interactive(&world, "deaf", script, false).await;
        let mut deaf = attach(&world, &id, "io").await;
        deaf.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(world.exited(&id).await.exit_code, 3);
        let error = deaf.exit.await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
        world.remove(&sandbox).await;
        world
    });
}

#[test]
fn s_f07_ports_are_forwarded_and_what_fails_is_told() {
    with_each(|world| async move {
        let script = "exec nc -ll -p 7 -e cat";
        let (sandbox, _) = world.container("ports", script).await;
        let echo = async |text: &[u8]| {
            let mut stream = world.client.port_forward(&sandbox, 7).await.unwrap();
            stream.write_all(text).await?;
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).await?;
            std::io::Result::Ok(back)
        };
        // It may not listen yet.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = echo(b"x").await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
        }
        let sent: Vec<u8> = (0..60_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let (one, two) = tokio::join!(echo(&sent), echo(&sent[..1000]));
        assert!(one.unwrap() == sent && two.unwrap() == sent[..1000], "what came back is not what was sent");
        let mut closed = world.client.port_forward(&sandbox, 81).await.unwrap();
        let error = closed.read(&mut [0; 10]).await.unwrap_err().to_string();
        assert!(error.contains("81") && error.contains("refused"), "{error}");
        world.remove(&sandbox).await;
        let error = world.client.port_forward(&sandbox, 7).await.err().unwrap();
        assert_eq!(error.code, Code::NotFound, "{error}");
        world
    });
}
