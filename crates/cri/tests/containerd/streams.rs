use cri::{ExecSession, Runtime, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, with_each};

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

async fn all(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.unwrap().read_to_end(&mut bytes).await.unwrap();
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
        let mut stdout = session.stdout.take().unwrap();
        let mut seen = String::new();
        while !seen.contains("first") {
            let mut bytes = [0; 100];
            let length = stdout.read(&mut bytes).await.unwrap();
            assert!(length > 0, "it ended with {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
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
