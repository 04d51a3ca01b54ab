use super::*;

fn answering(answer: Result<v1::ExecSyncResponse, Error>) -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    fake.answer_commands(answer);
    fake
}

fn exited(exit_code: i32, stdout: &[u8], stderr: &[u8]) -> Arc<Fake> {
    answering(Ok(v1::ExecSyncResponse { exit_code, stdout: stdout.to_vec(), stderr: stderr.to_vec() }))
}

fn cat() -> Value {
    json!({ "exec": { "command": ["cat", "$(FILE)", "$(OTHER)", "$$(FILE)"] }, "timeoutSeconds": 7 })
}

#[tokio::test]
async fn the_exit_code_decides() {
    let fake = exited(0, b"fine", b"");
    assert_eq!(run_with(fake.clone(), cat()).await, healthy());
    let command = fake.commands().pop().unwrap();
    assert_eq!((command.container_id.as_str(), command.timeout), ("id", 7));
    assert_eq!(command.cmd, ["cat", "/tmp/health", "$(OTHER)", "$(FILE)"], "variables of the manifest are expanded");
    assert_eq!(run_with(exited(1, b"out ", b"err"), cat()).await, unhealthy("out err"));
    assert_eq!(run_with(exited(137, b"", b""), cat()).await, unhealthy(""));
}

#[tokio::test]
async fn s_f03_the_output_is_bounded() {
    let fake = exited(1, &vec![b'x'; 16 << 20], &vec![b'y'; 16 << 20]);
    let Outcome::Ok(Done::Probe { healthy: false, output }) = run_with(fake, cat()).await else {
        panic!("a failure is expected");
    };
    assert_eq!(output.len(), 10 << 10);
}

#[tokio::test]
async fn a_command_that_takes_too_long_has_failed() {
    let fake = answering(Err(Error::new(Code::DeadlineExceeded, "killed")));
    let late = "command \"cat /tmp/health $(OTHER) $(FILE)\" timed out";
    assert_eq!(run_with(fake.clone(), cat()).await, unhealthy(late));
    assert_eq!(fake.commands().len(), 1);
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_tried_three_times_and_says_nothing() {
    let fake = answering(Err(Error::not_found("there is no container id")));
    assert_eq!(broken(&run_with(fake.clone(), cat()).await), "there is no container id");
    assert_eq!(fake.commands().len(), 3);
}
