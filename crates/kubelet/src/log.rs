//! The daemon's log: lines on standard error, and whether they arrive.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing_subscriber::fmt::MakeWriter;

/// The rooms whose lines follow `--v`; libraries speak only when they are in trouble.
const ROOMS: [&str; 10] =
    ["kubelet", "agent", "cri", "docker", "engine", "image", "server", "lifecycle", "node", "cgroup"];

/// Starts the log. What it returns tells whether the last line could be written.
pub(crate) fn start(verbosity: u8) -> LogOutput {
    let level = match verbosity {
        0..=2 => "info",
        3..=5 => "debug",
        _ => "trace",
    };
    let filter: Vec<String> = ROOMS.iter().map(|room| format!("{room}={level}")).chain(["warn".to_owned()]).collect();
    let output = LogOutput::default();
    tracing_subscriber::fmt()
        .with_env_filter(filter.join(","))
        .with_writer(output.clone())
        // They would go to standard error themselves, and a failure there ends the thread.
        .log_internal_errors(false)
        .init();
    output
}

/// Standard error as the log's target.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogOutput {
    failed: Arc<AtomicBool>,
}

impl LogOutput {
    /// Whether the last line arrived: a full disk or a closed pipe loses them.
    pub(crate) fn is_well(&self) -> bool {
        !self.failed.load(Ordering::Relaxed)
    }

    fn noted<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        self.failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }
}

impl Write for LogOutput {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.noted(io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.noted(io::stderr().flush())
    }
}

impl<'a> MakeWriter<'a> for LogOutput {
    type Writer = LogOutput;

    fn make_writer(&'a self) -> LogOutput {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_decides() {
        let output = LogOutput::default();
        assert!(output.is_well());
        assert!(output.noted::<()>(Err(io::ErrorKind::StorageFull.into())).is_err());
        assert!(!output.is_well());
        assert!(output.noted(Ok(())).is_ok());
        assert!(output.is_well());
    }
}
