//! Those who listen to a container beside its log. None of them can hold it up: one whose pipe stays full is cut off, and
//! told so.

use super::{Supervisor, Token};
use crate::container::{Phase, known};
use crate::failure::{Result, Step, not_found, refused};
use crate::startup::Reply;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use shim::protocol::{FromShim, Response, Stdin};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Of all containers; each is a descriptor.
const MAX_ATTACHMENTS: usize = 64;
/// The engine reads as fast as it can, whoever it reads for. This is for a machine too busy to let it: how long it may be
/// behind without once catching up.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most that one wait can cost of it. A machine that stands still, as a guest does while its host saves it, lets the
/// clock run on and nobody read: that is one wait, however long, and the reader has the others.
const WAIT: Duration = Duration::from_millis(50);

/// One stream that is passed on.
pub(super) struct Attachment {
    key: u32,
    /// Who asked; both streams of a session have one.
    id: String,
    /// Key of the container, and which of its outputs.
    of: (u32, usize),
    pipe: OwnedFd,
    /// What is left of it.
    patience: Duration,
}

/// What an attaching session wants.
pub(super) struct Wanted {
    pub(super) stdin: bool,
    /// Standard output and standard error.
    pub(super) output: [bool; 2],
}

impl Attachment {
    /// Writes all of it, waiting for room as long as there is patience.
    fn write(&mut self, mut bytes: &[u8]) -> rustix::io::Result<()> {
        let mut waited = false;
        loop {
            match rustix::io::write(&self.pipe, bytes) {
                Ok(count) if count == bytes.len() => break,
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN) if !self.patience.is_zero() => {
                    waited = true;
                    self.wait();
                }
                Err(errno) => return Err(errno),
            }
        }
        if !waited {
            self.patience = PATIENCE;
        }
        Ok(())
    }

    fn wait(&mut self) {
        let began = Instant::now();
        let limit = Timespec { tv_sec: 0, tv_nsec: self.patience.min(WAIT).subsec_nanos().into() };
        // Whatever ended it, the next write tells how things are.
        poll(&mut [PollFd::new(&self.pipe, PollFlags::OUT)], Some(&limit)).ok();
        self.patience = left(self.patience, began.elapsed());
    }
}

/// What is left of a patience after one wait.
fn left(patience: Duration, waited: Duration) -> Duration {
    patience.saturating_sub(waited.min(WAIT))
}

impl Supervisor {
    pub(super) fn attach(
        &mut self,
        (id, container): (String, &str),
        wanted: Wanted,
        fds: Vec<OwnedFd>,
        reply: Reply,
    ) -> Result<()> {
        let step = || format!("attach to the container {container}");
        let streams: Vec<usize> = (0..2).filter(|stream| wanted.output[*stream]).collect();
        if fds.len() != streams.len() {
            let detail = format!("{} descriptors come along for {} streams", fds.len(), streams.len());
            return Err(refused(step(), detail));
        }
        if self.attachments.len() + streams.len() > MAX_ATTACHMENTS {
            return Err(refused(step(), format!("{MAX_ATTACHMENTS} streams are passed on already")));
        }
        let at = self.containers.iter().position(|found| found.id == container);
        let at = known(at, "container", container)?;
        let Phase::Running(_) = self.containers[at].phase else { return Err(not_found(step(), "it is not running")) };
        let input = self.input(at, &wanted)?;
        let container_key = self.containers[at].key;
        for (stream, pipe) in streams.into_iter().zip(fds) {
            // One that has ended is passed on as it is: the pipe closes.
            if self.containers[at].output[stream].is_none() {
                continue;
            }
            rustix::io::ioctl_fionbio(&pipe, true).step(step)?;
            let key = self.new_key();
            // Of a pipe's writing end, an error is told whether it was asked for or not: that nobody reads any more.
            let data = EventData::new_u64(Token::Attachment(key).pack());
            epoll::add(&self.epoll, &pipe, data, EventFlags::empty()).step(step)?;
            self.attachments.push(Attachment {
                key,
                id: id.clone(),
                of: (container_key, stream),
                pipe,
                patience: PATIENCE,
            });
        }
        self.answer(reply, Response::Attached, input.as_ref());
        Ok(())
    }

    /// The container's end of what a session writes.
    fn input(&mut self, at: usize, wanted: &Wanted) -> Result<Option<OwnedFd>> {
        let container = &mut self.containers[at];
        let step = || format!("attach to the input of the container {}", container.id);
        if container.terminal {
            let terminal = container.output[0].as_ref().map(|output| output.fd.try_clone());
            return terminal.transpose().step(step);
        }
        match &container.input {
            _ if !wanted.stdin => Ok(None),
            Some((pipe, Stdin::Kept)) => Ok(Some(pipe.try_clone().step(step)?)),
            Some((_, Stdin::Once)) => Ok(container.input.take().map(|(pipe, _)| pipe)),
            None => Err(refused(step(), "it has none, or it ended with the first session that attached to it")),
        }
    }

    /// Passes on what stands at the buffer's beginning.
    pub(super) fn pass_on(&mut self, of: (u32, usize), count: usize) {
        let mut gone = Vec::new();
        let mut full = Vec::new();
        for attachment in self.attachments.iter_mut().filter(|attachment| attachment.of == of) {
            match attachment.write(&self.buffer[..count]) {
                Ok(()) => {}
                // It comes with an event of its own as well.
                Err(Errno::PIPE) => gone.push(attachment.key),
                Err(_) => full.push(attachment.id.clone()),
            }
        }
        gone.into_iter().for_each(|key| self.end_attachment(key));
        for attach in full {
            // With one stream lost the session is: the other one alone would look like all there was.
            self.end_attachments_that(|attachment| attachment.id == attach);
            self.broadcast(&FromShim::CutOff { attach });
        }
    }

    pub(super) fn end_attachment(&mut self, key: u32) {
        if let Some(at) = self.attachments.iter().position(|attachment| attachment.key == key) {
            let attachment = self.attachments.swap_remove(at);
            self.unwatch(&attachment.pipe);
        }
    }

    /// A stream of the container has ended.
    pub(super) fn end_attached_stream(&mut self, of: (u32, usize)) {
        self.end_attachments_that(|attachment| attachment.of == of);
    }

    /// The container has ended.
    pub(super) fn end_attachments(&mut self, container: u32) {
        self.end_attachments_that(|attachment| attachment.of.0 == container);
    }

    fn end_attachments_that(&mut self, ended: impl Fn(&Attachment) -> bool) {
        while let Some(key) = self.attachments.iter().find(|attachment| ended(attachment)).map(|found| found.key) {
            self.end_attachment(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_e04_a_machine_that_stood_still_costs_who_reads_one_wait() {
        let hour = Duration::from_secs(3600);
        assert_eq!(left(PATIENCE, hour), PATIENCE - WAIT);
        assert_eq!(left(PATIENCE, Duration::from_millis(1)), PATIENCE - Duration::from_millis(1));
        let waits = std::iter::successors(Some(PATIENCE), |patience| Some(left(*patience, hour)));
        assert_eq!(waits.take_while(|patience| !patience.is_zero()).count(), 10, "who never reads is cut off");
    }
}
