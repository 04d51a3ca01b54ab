//! Sessions on containers' own streams.

use crate::faults::shim_pid;
use crate::world::{World, eventually, shell, with_world};
use cri::attach::Terms;
use cri::{Code, ExecSession, Runtime, v1};
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

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
    world.engine().attach(request(id, streams), Terms::default()).await.unwrap()
}

/// Creates and starts a container with an input.
async fn run(world: &World, name: &str, script: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> String {
    let sandbox = world.sandbox(name).await;
    let mut config = shell("app", script);
    config.stdin = true;
    change(&mut config);
    let id = world.create(&sandbox, config).await.unwrap();
    world.start(&id).await.unwrap();
    id
}

async fn all(stream: Reading) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn read(stream: &mut Reading, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.as_mut().unwrap().read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn input_goes_in_and_output_comes_out_until_the_container_ends() {
    with_world(|world| async move {
        let script = "while read line; do echo got $line; echo err >&2; test $line = end && exit 7; done";
        let id = run(&world, "talk", script, |_| {}).await;
        let mut first = attach(&world, &id, "ioe").await;
        first.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
        assert_eq!(read(&mut first.stdout, 8).await, "got one\n");
        assert_eq!(read(&mut first.stderr, 4).await, "err\n");
        // Its end is not the input's: the next one finds it open.
        drop(first);
        let listener = attach(&world, &id, "oe").await;
        let mut second = attach(&world, &id, "io").await;
        assert!(second.stderr.is_none());
        second.stdin.take().unwrap().write_all(b"two\nend\n").await.unwrap();
        assert_eq!(all(second.stdout).await, b"got two\ngot end\n");
        assert_eq!(second.exit.await.unwrap(), Ok(0), "it ended, whatever its code");
        assert_eq!(all(listener.stdout).await, b"got two\ngot end\n");
        assert_eq!(all(listener.stderr).await, b"err\nerr\n");
        assert_eq!(world.exited(&id).await.exit_code, 7);
        assert_eq!(world.log("talk", "app").lines().count(), 6);
        world
    });
}

#[test]
fn an_input_for_once_ends_with_the_first_session() {
    with_world(|world| async move {
        let id = run(&world, "once", "cat; echo eof; exec sleep 1000", |config| config.stdin_once = true).await;
        let mut first = attach(&world, &id, "io").await;
        first.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
        assert_eq!(read(&mut first.stdout, 10).await, "hello\neof\n");
        let error = world.engine().attach(request(&id, "io"), Terms::default()).await.err().unwrap();
        assert!(error.message.contains("ended with the first session"), "{error}");
        attach(&world, &id, "o").await;
        world
    });
}

#[test]
fn a_terminal_is_attached_to_and_outlives_the_session() {
    with_world(|world| async move {
        let script = "while read line; do stty size; done";
        let id = run(&world, "tty", script, |config| config.tty = true).await;
        let mut session = world
            .engine()
            .attach(request(&id, "iot"), Terms { window: Some((77, 33)), stdin_once: false })
            .await
            .unwrap();
        session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(read(&mut session.stdout, 9).await, "\r\n33 77\r\n");
        drop(session);
        let mut session = attach(&world, &id, "iot").await;
        session.resize.send((99, 44)).await.unwrap();
        // The size is set by a task that the send has only woken.
        eventually("the new size", || async {
            let (out, _) = world.exec(&id, "stty size < /dev/console").await;
            (out == "44 99\n").then_some(())
        })
        .await;
        session.stdin.as_mut().unwrap().write_all(b"\x04").await.unwrap();
        assert_eq!(all(session.stdout).await, b"");
        assert_eq!(session.exit.await.unwrap(), Ok(0));
        world
    });
}

#[test]
fn f_e04_s_f04_who_reads_has_every_byte_and_who_does_not_holds_nobody_up() {
    with_world(|world| async move {
        let script = "read go; dd if=/dev/urandom of=/tmp/x bs=1M count=10 2>/dev/null; busybox md5sum < /tmp/x >&2; \
                      for time in 1 2; do exec 3</tmp/x; n=0; while [ $n -lt 160 ]; do read go; \
                      dd bs=64k count=1 <&3 2>/dev/null; n=$((n+1)); done; done; exit 3";
        let id = run(&world, "flood", script, |_| {}).await;
        let deaf = attach(&world, &id, "o").await;
        let mut reader = attach(&world, &id, "ioe").await;
        let (mut input, mut stdout) = (reader.stdin.take().unwrap(), reader.stdout.take().unwrap());
        input.write_all(b"\n").await.unwrap();
        let mut out = vec![0; 20 << 20];
        // There is never more on its way than a pipe holds: who asks for the next piece is not behind, however slow.
        for piece in out.chunks_mut(64 << 10) {
            input.write_all(b"\n").await.unwrap();
            stdout.read_exact(piece).await.unwrap();
        }
        let (rest, sum) = tokio::join!(all(Some(stdout)), all(reader.stderr));
        assert_eq!((reader.exit.await.unwrap(), rest.len()), (Ok(0), 0));
        assert_eq!(world.exited(&id).await.exit_code, 3);
        assert!(out[..10 << 20] == out[10 << 20..], "what was written twice came differently");
        assert_eq!(sum.len(), "d41d8cd98f00b204e9800998ecf8427e  -\n".len());
        let error = deaf.exit.await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert_eq!(
            error.message,
            "attach: the reader is more than 16 MiB behind and was cut off; the container runs on"
        );
        let kept = all(deaf.stdout).await.len();
        assert!(kept <= 16 << 20 && kept > 1 << 20, "{kept} bytes");
        world
    });
}

#[test]
fn s_f10_wrong_requests_get_typed_errors() {
    with_world(|world| async move {
        let sandbox = world.sandbox("wrong").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let ended = world.run(&sandbox, "ended", "true").await;
        world.exited(&ended).await;
        for (id, streams, code) in [
            ("nobody", "o", Code::NotFound),
            (&ended, "o", Code::FailedPrecondition),
            (&id, "", Code::InvalidArgument),
            (&id, "ot", Code::InvalidArgument),
            (&id, "io", Code::FailedPrecondition),
        ] {
            let error = world.engine().attach(request(id, streams), Terms::default()).await.err();
            assert_eq!(error.map(|error| error.code), Some(code), "{streams}");
        }
        world
    });
}

#[test]
fn a_container_that_was_found_again_is_attached_to_as_before() {
    with_world(|mut world| async move {
        let id = run(&world, "found", "read line; echo got $line; read more; exit 5", |_| {}).await;
        let cut = attach(&world, &id, "ioe").await;
        world.reopen().await;
        let mut session = attach(&world, &id, "ioe").await;
        session.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
        assert_eq!(read(&mut session.stdout, 7).await, "got it\n");
        drop(cut);
        session.stdin.take().unwrap().write_all(b"\n").await.unwrap();
        assert_eq!(session.exit.await.unwrap(), Ok(0));
        assert_eq!(world.exited(&id).await.exit_code, 5);
        world
    });
}

#[test]
fn f_g05_a_killed_shim_is_no_success_of_those_who_were_attached() {
    with_world(|world| async move {
        let sandbox = world.sandbox("orphan").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let session = attach(&world, &id, "oe").await;
        kill_process(shim_pid(&world, &sandbox), Signal::KILL).unwrap();
        assert_eq!(all(session.stdout).await, b"");
        let error = session.exit.await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains("how the container ended is not known"), "{error}");
        world
    });
}
