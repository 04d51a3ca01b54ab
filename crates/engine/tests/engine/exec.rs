//! Commands in running containers.

use crate::world::{eventually, with_world, words};
use cri::{Code, Runtime, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn exec_sync(id: &str, script: &str, timeout: i64) -> v1::ExecSyncRequest {
    v1::ExecSyncRequest { container_id: id.into(), cmd: words(script), timeout }
}

#[test]
fn output_errors_and_exit_code_come_back() {
    with_world(|world| async move {
        let sandbox = world.sandbox("exec").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let response = world.engine().exec_sync(exec_sync(&id, "echo out; echo err >&2; exit 9", 0)).await.unwrap();
        assert_eq!((&response.stdout[..], &response.stderr[..], response.exit_code), (&b"out\n"[..], &b"err\n"[..], 9));
        let response = world.engine().exec_sync(exec_sync(&id, "kill -9 $$", 0)).await.unwrap();
        assert_eq!(response.exit_code, 137);
        world
    });
}

#[test]
fn f_e01_a_child_that_keeps_the_output_open_holds_nobody_up() {
    with_world(|world| async move {
        let sandbox = world.sandbox("child").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let response = world.engine().exec_sync(exec_sync(&id, "sleep 1000 & echo ok", 0)).await.unwrap();
        assert_eq!((&response.stdout[..], response.exit_code), (&b"ok\n"[..], 0));
        world
    });
}

#[test]
fn f_e02_a_command_that_takes_too_long_is_killed_with_its_children() {
    with_world(|world| async move {
        let sandbox = world.sandbox("slow").await;
        let id = world.run(&sandbox, "app", "while true; do sleep 0.05; done").await;
        let error = world.engine().exec_sync(exec_sync(&id, "sleep 4321; true", 1)).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        // They are killed with it; the kernel puts them away in its own time.
        eventually("the children's end", || async {
            let (out, _) = world.exec(&id, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '").await;
            (!out.contains("4321")).then_some(())
        })
        .await;
        world
    });
}

#[test]
fn s_f03_more_output_than_the_limit_is_read_and_dropped() {
    with_world(|world| async move {
        let sandbox = world.sandbox("flood").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let script = "dd if=/dev/zero bs=1M count=20 2>/dev/null; exit 5";
        let response = world.engine().exec_sync(exec_sync(&id, script, 0)).await.unwrap();
        assert_eq!((response.stdout.len(), response.exit_code), (16 << 20, 5));
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
        let engine = world.engine();
        let code = |result: Result<v1::ExecSyncResponse, cri::Error>| result.unwrap_err().code;
        assert_eq!(code(engine.exec_sync(exec_sync("nobody", "true", 0)).await), Code::NotFound);
        assert_eq!(code(engine.exec_sync(exec_sync(&ended, "true", 0)).await), Code::FailedPrecondition);
        let empty = v1::ExecSyncRequest { cmd: vec![], ..exec_sync(&id, "", 0) };
        assert_eq!(code(engine.exec_sync(empty).await), Code::InvalidArgument);
        let huge = v1::ExecSyncRequest { cmd: vec!["x".repeat(1 << 20)], ..exec_sync(&id, "", 0) };
        assert_eq!(code(engine.exec_sync(huge).await), Code::InvalidArgument);
        let missing = v1::ExecSyncRequest { cmd: vec!["/no/such".into()], ..exec_sync(&id, "", 0) };
        assert!(engine.exec_sync(missing).await.unwrap_err().message.contains("/no/such"));
        let both = v1::ExecRequest {
            container_id: id.clone(),
            cmd: words("true"),
            tty: true,
            stderr: true,
            ..Default::default()
        };
        assert_eq!(engine.exec(both, None).await.err().map(|error| error.code), Some(Code::InvalidArgument));
        world
    });
}

#[test]
fn streams_are_attached_and_end_of_input_is_seen() {
    with_world(|world| async move {
        let sandbox = world.sandbox("streams").await;
        let id = world.run(&sandbox, "app", "exec sleep 1000").await;
        let request = v1::ExecRequest {
            container_id: id.clone(),
            cmd: words("cat; echo done >&2; exit 6"),
            tty: false,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        let mut session = world.engine().exec(request, None).await.unwrap();
        let input = vec![b'x'; 1 << 20];
        let mut stdin = session.stdin.take().unwrap();
        let sent = input.clone();
        tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
        let (mut out, mut err) = (Vec::new(), String::new());
        session.stdout.take().unwrap().read_to_end(&mut out).await.unwrap();
        session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
        assert!(out == input, "{} bytes came back", out.len());
        assert_eq!(err, "done\n");
        assert_eq!(session.exit.await.unwrap(), Ok(6));
        world
    });
}

#[test]
fn a_terminal_has_a_size_signals_and_a_hang_up() {
    with_world(|world| async move {
        let sandbox = world.sandbox("tty").await;
        let id = world.run(&sandbox, "app", "while true; do sleep 0.05; done").await;
        let request = v1::ExecRequest {
            container_id: id.clone(),
            cmd: words(
                "read line; until [ \"$(stty size 2>/dev/null)\" = '43 132' ]; do sleep 0.01; done; stty size; \
                 echo got $line; sleep 4321; echo after",
            ),
            tty: true,
            stdin: true,
            stdout: true,
            stderr: false,
        };
        let mut session = world.engine().exec(request.clone(), None).await.unwrap();
        session.resize.send((132, 43)).await.unwrap();
        let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
        // The size is set by a task that the send has only woken: it is asked for until it is there.
        let mut text = String::new();
        let mut buffer = [0; 1024];
        stdin.write_all(b"hello\n").await.unwrap();
        while !text.contains("got hello") {
            let count = stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{text}");
            text += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert!(text.contains("43 132"), "{text}");
        stdin.write_all(b"\x03").await.unwrap();
        while stdout.read(&mut buffer).await.unwrap() > 0 {}
        assert_eq!(session.exit.await.unwrap(), Ok(130));

        // The first size is there before the command is.
        let sized = v1::ExecRequest { cmd: words("stty size"), ..request.clone() };
        let mut session = world.engine().exec(sized, Some((77, 33))).await.unwrap();
        let mut stdout = session.stdout.take().unwrap();
        let mut text = String::new();
        while let count @ 1.. = stdout.read(&mut buffer).await.unwrap_or(0) {
            text += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert_eq!((text.trim(), session.exit.await.unwrap()), ("33 77", Ok(0)));

        let mut session = world.engine().exec(request, None).await.unwrap();
        drop((session.stdin.take(), session.stdout.take()));
        assert_eq!(session.exit.await.unwrap(), Ok(129), "SIGHUP");
        world
    });
}
