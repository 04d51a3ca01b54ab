//! Commands in containers.

use std::time::Duration;

use cri::{Code, ExecSession, Runtime, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn output_and_codes_come_back() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "sleep 1000").await;
    let answer = world.exec(&id, "echo out; echo err >&2; exit 3", 0).await.unwrap();
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(answer.exit_code, 3);
    let answer = world.exec(&id, "kill -KILL $$", 30).await.unwrap();
    assert_eq!(answer.exit_code, 137);
    let long = world.exec(&id, "yes | head -c 3000000", 0).await.unwrap();
    assert_eq!(long.stdout.len(), 3_000_000);
    assert_eq!(world.says(&id, "printf '\\001\\000\\000\\000ab' | wc -c").await, "6");
    let absent = v1::ExecSyncRequest { container_id: id.clone(), cmd: vec!["/no/such".into()], timeout: 0 };
    let error = world.docker.exec_sync(absent).await.unwrap_err();
    assert!(error.message.contains("/no/such"), "{error}");
    let none = v1::ExecSyncRequest { container_id: id.clone(), ..Default::default() };
    assert_eq!(world.docker.exec_sync(none).await.unwrap_err().code, Code::InvalidArgument);
    world.stop(&id, 0).await.unwrap();
    assert_eq!(world.exec(&id, "true", 0).await.unwrap_err().code, Code::FailedPrecondition);
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_command_is_killed_when_its_time_is_over_or_nobody_waits() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "sleep 1000").await;
    let error = world.exec(&id, "echo; sleep 4321 & sleep 4321", 1).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert_eq!(error.message, "exec: the command did not end within 1 s and was killed");
    nothing_left(&world, &id, "sleep 4321").await;
    {
        let waiting = world.exec(&id, "touch /tmp/began; sleep 5432", 0);
        tokio::pin!(waiting);
        tokio::select! {
            _ = &mut waiting => panic!("it does not end by itself"),
            () = async {
                while world.exec(&id, "test -e /tmp/began", 0).await.unwrap().exit_code != 0 {}
            } => {}
        }
    }
    nothing_left(&world, &id, "sleep 5432").await;
    world.remove_sandbox(&sandbox).await.unwrap();
}

/// Waits until no process in the container has this on its command line.
async fn nothing_left(world: &World, id: &str, command: &str) {
    let script = format!("ps -o args | grep -v grep | grep -q '^{command}'");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.exec(id, &script, 0).await.unwrap().exit_code == 0 {
        assert!(tokio::time::Instant::now() < deadline, "{command} is left");
    }
}

async fn exec(world: &World, id: &str, script: &str, tty: bool) -> ExecSession {
    let request = v1::ExecRequest {
        container_id: id.into(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    world.docker.exec(request, tty.then_some((91, 37))).await.unwrap()
}

async fn all(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn streams_are_attached_and_input_has_an_end() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "sleep 1000").await;
    let mut session = exec(&world, &id, "md5sum; echo err >&2; exit 5", false).await;
    let mut stdin = session.stdin.take().unwrap();
    let bytes = vec![0u8; 1 << 20];
    stdin.write_all(&bytes).await.unwrap();
    drop(stdin);
    let (stdout, stderr) = tokio::join!(all(session.stdout.take()), all(session.stderr.take()));
    assert_eq!(String::from_utf8_lossy(&stdout), "b6d81b360a5672d80c27430f39153e2c  -\n");
    assert_eq!(stderr, b"err\n");
    assert_eq!(session.exit.await.unwrap(), Ok(5));
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_terminal_has_a_size_passes_every_byte_and_hangs_up() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "sleep 1000").await;
    let script = "printf '\\001\\002ready\\n'; read x; stty size; tty; exit 6";
    let mut session = exec(&world, &id, script, true).await;
    assert!(session.stderr.is_none());
    let mut stdout = session.stdout.take().unwrap();
    let mut seen = [0; 9];
    stdout.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"\x01\x02ready\r\n");
    session.resize.send((101, 41)).await.unwrap();
    until_size(&world, &id, "41 101").await;
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let text = String::from_utf8(all(Some(stdout)).await).unwrap();
    assert!(text.contains("41 101") && text.contains("/dev/pts/"), "{text:?}");
    assert_eq!(session.exit.await.unwrap(), Ok(6));

    let mut session = exec(&world, &id, "echo ready; exec sleep 6543", true).await;
    let mut stdout = session.stdout.take().unwrap();
    stdout.read_exact(&mut seen[..5]).await.unwrap();
    drop((stdout, session.stdin.take()));
    assert_eq!(session.exit.await.unwrap(), Ok(129), "hung up");
    nothing_left(&world, &id, "sleep 6543").await;
    world.remove_sandbox(&sandbox).await.unwrap();
}

/// Waits until a terminal in the container has this size.
async fn until_size(world: &World, id: &str, size: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let script = "for t in /dev/pts/[0-9]*; do stty size < $t; done; true";
    while !world.says(id, script).await.contains(size) {
        assert!(tokio::time::Instant::now() < deadline, "no terminal of {size}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_first_size_is_passed_on() {
    let Some(world) = World::new() else { return };
    let sandbox = world.run().await.unwrap();
    let id = world.started(&sandbox, "app", "sleep 1000").await;
    let session = exec(&world, &id, "sleep 1000", true).await;
    until_size(&world, &id, "37 91").await;
    drop(session);
    nothing_left(&world, &id, "sleep 1000 ").await;
    world.remove_sandbox(&sandbox).await.unwrap();
}
