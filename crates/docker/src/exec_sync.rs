//! Running a command in a container for its output.

use std::sync::Arc;
use std::time::Duration;

use cri::{Code, Error, v1};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::call::internal;
use crate::core::Core;
use crate::exec::{Ended, Wanted};
use crate::session::Outputs;

/// Of each stream; the rest is read and dropped, so that the command is not held up.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
const PIPE_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 16 << 10;
/// A command that was killed is gone at once.
const KILLED: Duration = Duration::from_secs(10);

impl Core {
    /// Runs a command and returns its output and exit code. When its time is over, or nobody waits for it any more
    /// (`caller` closes), it is killed.
    pub(crate) async fn exec_sync(
        self: &Arc<Self>,
        request: v1::ExecSyncRequest,
        caller: oneshot::Receiver<()>,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let v1::ExecSyncRequest { container_id, cmd, timeout } = request;
        let limit = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let late = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(late);
        let wanted = Wanted { stdin: false, stdout: true, stderr: true, terminal: None };
        let running = self.start_exec((&container_id, cmd), wanted).await?;
        let exec = running.exec.clone();
        let (our_stdout, stdout) = tokio::io::duplex(PIPE_BYTES);
        let (our_stderr, stderr) = tokio::io::duplex(PIPE_BYTES);
        let (stdout, stderr) = (tokio::spawn(collect(stdout)), tokio::spawn(collect(stderr)));
        let outputs = Outputs::new(Some(our_stdout), Some(our_stderr));
        let why = tokio::select! {
            ended = self.converse(running, None, outputs) => return response(ended?, stdout, stderr).await,
            () = &mut late => {
                let seconds = limit.map_or(0, |limit| limit.as_secs());
                Error::deadline_exceeded(format!("exec: the command did not end within {seconds} s and was killed"))
            }
            _ = caller => Error::new(Code::Unknown, "exec: nobody waited for the command any more and it was killed"),
        };
        if !self.kill_exec(&exec, &container_id).await {
            tracing::warn!(
                container = container_id,
                "a command in a container cannot be killed: docker runs it out of reach"
            );
        }
        Err(why)
    }

    /// Kills a command and waits for its end. False where its process is not to be found.
    async fn kill_exec(&self, exec: &str, container: &str) -> bool {
        let found = self.signal_exec(exec, container, Signal::KILL).await;
        // Its end is wanted, not its code.
        let ended = tokio::time::timeout(KILLED, self.exec_end(exec)).await;
        found || ended.is_ok()
    }
}

async fn response(
    ended: Ended,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
) -> Result<v1::ExecSyncResponse, Error> {
    let stdout = stdout.await.map_err(internal("read the command's output"))?;
    let stderr = stderr.await.map_err(internal("read the command's errors"))?;
    if !ended.ran {
        // Docker says why in the command's stead.
        let said = [stdout, stderr].concat();
        return Err(Error::internal(format!("exec: {}", String::from_utf8_lossy(&said).trim())));
    }
    Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: ended.code })
}

async fn collect(mut stream: DuplexStream) -> Vec<u8> {
    let mut output = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = MAX_OUTPUT_BYTES - output.len();
        output.extend_from_slice(&chunk[..length.min(room)]);
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn s_f03_output_is_cut_at_its_limit_and_read_to_its_end() {
        let (mut writer, reader) = tokio::io::duplex(PIPE_BYTES);
        let collecting = tokio::spawn(collect(reader));
        let block = vec![b'x'; 1 << 20];
        for _ in 0..(MAX_OUTPUT_BYTES >> 20) + 2 {
            writer.write_all(&block).await.unwrap();
        }
        drop(writer);
        assert_eq!(collecting.await.unwrap().len(), MAX_OUTPUT_BYTES);
    }
}
