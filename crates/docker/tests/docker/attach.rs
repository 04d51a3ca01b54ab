//! Sessions on containers' own streams, and connections to pods' ports.

use std::time::Duration;

use cri::attach::Terms;
use cri::{Code, ExecSession, Runtime, v1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::world::{PATIENCE, World};

type Reading = Option<Box<dyn AsyncRead + Send + Unpin>>;

fn request(id: &str, streams: &str) -> v1::AttachRequest {
    v1::AttachRequest {
        container_id: id.into(),
        stdin: streams.contains('i'),
        stdout: streams.contains('o'),
        stderr: streams.contains('e'),
        tty: streams.contains('t'),
    }
}

async fn attach(world: &World, id: &str, streams: &str) -> ExecSession {
    world.docker.attach(request(id, streams), Terms::default()).await.unwrap()
}

/// A running container with an input.
async fn run(world: &World, sandbox: &str, script: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> String {
    let mut config = world.container("app", script);
    config.stdin = true;
    change(&mut config);
    let id = world.create(sandbox, config).await.unwrap();
    world.start(&id).await.unwrap();
    id
}

async fn all(stream: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.unwrap().read_to_end(&mut bytes)).await.expect("it ends").unwrap();
    bytes
}

async fn read(stream: &mut Reading, length: usize) -> String {
    let mut bytes = vec![0; length];
    let reading = stream.as_mut().unwrap().read_exact(&mut bytes);
    tokio::time::timeout(PATIENCE, reading).await.expect("it comes").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Types until it is heard: Docker answers a moment before it listens to the container for whoever attaches.
async fn await_heard(listening: &mut Reading, typist: &mut ExecSession) {
    let listening = listening.as_mut().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        typist.stdin.as_mut().unwrap().write_all(b"again\n").await.unwrap();
        assert_eq!(read(&mut typist.stdout, 10).await, "got again\n");
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(50), listening.read_u8()).await {
            heard.unwrap();
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing is heard");
    }
}

#[tokio::test]
async fn input_goes_in_and_output_comes_out_until_the_container_ends() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let script = "while read line; do echo got $line; echo err >&2; test $line = end && exit 7; done";
    let id = run(&world, &sandbox, script, |_| {}).await;
    let mut first = attach(&world, &id, "ioe").await;
    first.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    assert_eq!(read(&mut first.stdout, 8).await, "got one\n");
    // What it does not read, the next one may.
    assert_eq!(read(&mut first.stderr, 4).await, "err\n");
    // Its end is not the input's: the next one finds it open.
    drop(first);
    let mut listener = attach(&world, &id, "oe").await;
    let mut second = attach(&world, &id, "io").await;
    assert!(second.stderr.is_none());
    await_heard(&mut listener.stdout, &mut second).await;
    await_heard(&mut listener.stderr, &mut second).await;
    second.stdin.take().unwrap().write_all(b"two\nend\n").await.unwrap();
    assert_eq!(all(second.stdout).await, b"got two\ngot end\n");
    assert_eq!(second.exit.await.unwrap(), Ok(0), "it ended, whatever its code");
    assert!(all(listener.stdout).await.ends_with(b"got again\ngot two\ngot end\n"));
    assert!(all(listener.stderr).await.ends_with(b"err\nerr\n"));
    assert_eq!(world.ended(&id).await.exit_code, 7);
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn an_input_for_once_ends_with_the_first_session() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = run(&world, &sandbox, "cat; echo eof; exec sleep 1000", |config| config.stdin_once = true).await;
    let mut first = attach(&world, &id, "io").await;
    first.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
    assert_eq!(read(&mut first.stdout, 10).await, "hello\neof\n");
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_attached_to_and_outlives_the_session() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = run(&world, &sandbox, "while read line; do stty size; done", |config| config.tty = true).await;
    let mut session =
        world.docker.attach(request(&id, "iot"), Terms { window: Some((77, 33)), stdin_once: false }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    assert_eq!(read(&mut session.stdout, 9).await, "\r\n33 77\r\n");
    drop(session);
    let mut session = attach(&world, &id, "iot").await;
    session.resize.send((99, 44)).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.says(&id, "stty size < /dev/console").await != "44 99" {
        assert!(tokio::time::Instant::now() < deadline, "no new size");
    }
    // The keys that usually leave a session are the container's.
    session.stdin.as_mut().unwrap().write_all(b"\x10\x11\n").await.unwrap();
    assert!(read(&mut session.stdout, 9).await.starts_with("^P"), "it goes on");
    session.stdin.as_mut().unwrap().write_all(b"\x04").await.unwrap();
    assert_eq!(session.exit.await.unwrap(), Ok(0));
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn f_e04_s_f04_who_reads_has_every_byte_and_who_does_not_holds_nobody_up() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let script = "while read line; test $line = again; do echo got $line; done; dd if=/dev/urandom of=/tmp/x bs=1M count=10 2>/dev/null; cat /tmp/x /tmp/x; exit 3";
    let id = run(&world, &sandbox, script, |_| {}).await;
    let mut deaf = attach(&world, &id, "o").await;
    let mut reader = attach(&world, &id, "io").await;
    await_heard(&mut deaf.stdout, &mut reader).await;
    reader.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let out = all(reader.stdout).await;
    assert_eq!(reader.exit.await.unwrap(), Ok(0));
    assert_eq!(world.ended(&id).await.exit_code, 3);
    assert_eq!(out.len(), 20 << 20);
    assert!(out[..10 << 20] == out[10 << 20..], "what was written twice came differently");
    let error = deaf.exit.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("more than 16 MiB behind"), "{error}");
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn s_f10_wrong_requests_get_typed_errors() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "exec sleep 1000").await;
    let ended = world.started(&sandbox, "ended", "true").await;
    world.ended(&ended).await;
    for (id, streams, code) in [
        ("nobody", "o", Code::NotFound),
        (&ended, "o", Code::FailedPrecondition),
        (&id, "", Code::InvalidArgument),
        (&id, "ot", Code::InvalidArgument),
        (&id, "io", Code::FailedPrecondition),
    ] {
        let error = world.docker.attach(request(id, streams), Terms::default()).await.err();
        assert_eq!(error.map(|error| error.code), Some(code), "{streams}");
    }
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn s_f07_ports_are_reached_in_the_pods_network_and_nowhere_else() {
    let Some(mut world) = World::new() else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let of_machine = listener.local_addr().unwrap().port();
    let sandbox = world.run().await.unwrap();
    world.started(&sandbox, "app", "exec nc -ll -p 7 -e cat").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut stream = loop {
        match world.docker.port_forward(&sandbox, 7).await {
            Ok(stream) => break stream,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    };
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "there and back");
    let error = world.docker.port_forward(&sandbox, of_machine).await.err().unwrap().message;
    let begins = format!("failed to connect to localhost:{of_machine} inside namespace \"{sandbox}\", IPv4: ");
    assert!(error.starts_with(&begins), "{error}");
    world.stop_sandbox(&sandbox).await.unwrap();
    let error = world.docker.port_forward(&sandbox, 7).await.err();
    assert_eq!(error.map(|error| error.code), Some(Code::FailedPrecondition));
    world.remove_sandbox(&sandbox).await.unwrap();
    let error = world.docker.port_forward(&sandbox, 7).await.err();
    assert_eq!(error.map(|error| error.code), Some(Code::NotFound));

    world.sharing(v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() });
    let sandbox = world.run().await.unwrap();
    let mut stream = world.docker.port_forward(&sandbox, of_machine).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    world.remove_sandbox(&sandbox).await.unwrap();
}
