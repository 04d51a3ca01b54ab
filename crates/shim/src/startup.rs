//! A child between clone3(2) and execve(2), seen from the shim.

use crate::failure::{Failure, failure};
use crate::wire::{self, Buffer, Received};
use serde::{Deserialize, Serialize};
use shim::protocol::{ExitStatus, FailureKind};
use std::os::fd::OwnedFd;

/// What a child says while it sets itself up. The channel closes by itself when the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromChild {
    /// Comes with the master of the terminal it opened.
    Terminal,
    /// Everything is done but execve(2): a channel that closes after this means that the program runs, one that closes
    /// before means that the child died.
    Ready,
    Failed(Failure),
}

/// Who waits for the child.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) connection: u32,
    pub(crate) seq: u64,
}

pub(crate) struct Startup {
    /// `None` when it is closed.
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) reply: Reply,
    pub(crate) terminal: Option<OwnedFd>,
    ready: bool,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Pending,
    /// The program runs, or ran already.
    Executed,
    /// The child ends, or ended already, without having run the program.
    Failed,
}

impl Startup {
    pub(crate) fn new(channel: OwnedFd, reply: Reply) -> Startup {
        Startup { channel: Some(channel), reply, terminal: None, ready: false, failure: None }
    }

    /// Reads what the child said.
    pub(crate) fn pump(&mut self, buffer: &mut Buffer) -> Progress {
        while let Some(channel) = &self.channel {
            match wire::receive(channel, buffer) {
                Received::Message(FromChild::Terminal, mut fds) => self.terminal = fds.pop(),
                Received::Message(FromChild::Ready, _) => self.ready = true,
                Received::Message(FromChild::Failed(failure), _) => self.failure = Some(failure),
                Received::Nothing => return Progress::Pending,
                Received::Closed | Received::Malformed => break,
            }
        }
        if self.ready && self.failure.is_none() { Progress::Executed } else { Progress::Failed }
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Why it failed, once the child is gone.
    pub(crate) fn into_failure(self, exit: ExitStatus) -> Failure {
        self.failure.unwrap_or_else(|| {
            let detail = match exit {
                ExitStatus::Code(code) => format!("the process that was to become it ended with code {code}"),
                ExitStatus::Signal(signal) => format!("the process that was to become it died of signal {signal}"),
            };
            failure(FailureKind::System, "set the process up", detail)
        })
    }
}
