//! Output that never waits for its reader: what he has not read yet is kept for him, up to a limit.
//!
//! Who attaches to a container must not be able to hold it up by not reading. So whatever brings its output here always
//! finds room, and a reader who falls too far behind is cut off.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::Error;

/// How far a reader of an attached stream may be behind.
pub const BEHIND_MAX_BYTES: usize = 16 << 20;
/// Room that is kept once all was read.
const KEPT_BYTES: usize = 64 << 10;

/// The reader is too far behind: what was pushed is lost, and so is the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

impl From<Behind> for Error {
    fn from(_: Behind) -> Self {
        Error::resource_exhausted(format!(
            "attach: the reader is more than {} MiB behind and was cut off; the container runs on",
            BEHIND_MAX_BYTES >> 20
        ))
    }
}

/// The end that is written to. Dropping it is the end of the stream.
#[derive(Debug)]
pub struct Feed(Arc<Mutex<State>>);

/// The end that is read from.
#[derive(Debug)]
pub struct Backlog(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    limit_bytes: usize,
    ended: bool,
    /// Nobody will read what comes.
    abandoned: bool,
    reader: Option<Waker>,
}

/// The user's end of an output.
pub type Reading = Box<dyn AsyncRead + Send + Unpin>;

/// Where output is passed on to.
#[derive(Default)]
pub enum Sink {
    /// A reader for whom it waits.
    Pipe(Box<dyn AsyncWrite + Send + Unpin>),
    /// One for whom it does not.
    Backlog(Feed),
    /// Nobody: not asked for, or the reader has gone. That makes the rest of the stream worthless, not the session.
    #[default]
    Nobody,
}

impl Sink {
    /// Both ends of an attached container's output, for whose reader nothing waits.
    pub fn attached() -> (Reading, Self) {
        let (feed, backlog) = backlog(BEHIND_MAX_BYTES);
        (Box::new(backlog), Self::Backlog(feed))
    }

    /// Passes bytes on.
    ///
    /// # Errors
    /// The reader for whom nothing waits is too far behind.
    pub async fn pass(&mut self, bytes: &[u8]) -> Result<(), Behind> {
        let written = match self {
            Self::Pipe(writer) => writer.write_all(bytes).await,
            Self::Backlog(feed) => return feed.push(bytes),
            Self::Nobody => return Ok(()),
        };
        if written.is_err() {
            *self = Self::Nobody;
        }
        Ok(())
    }
}

/// A stream with room for `limit_bytes`; memory is taken as it is needed.
pub fn backlog(limit_bytes: usize) -> (Feed, Backlog) {
    let state = State { bytes: VecDeque::new(), limit_bytes, ended: false, abandoned: false, reader: None };
    let state = Arc::new(Mutex::new(state));
    (Feed(Arc::clone(&state)), Backlog(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Adds bytes, at once. Those that nobody will read are dropped.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn push(&self, bytes: &[u8]) -> Result<(), Behind> {
        let mut state = lock(&self.0);
        if state.abandoned {
            return Ok(());
        }
        if state.bytes.len() + bytes.len() > state.limit_bytes {
            return Err(Behind);
        }
        state.bytes.extend(bytes);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.abandoned = true;
        state.bytes = VecDeque::new();
    }
}

impl AsyncRead for Backlog {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0);
        let (front, _) = state.bytes.as_slices();
        let length = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..length]);
        state.bytes.drain(..length);
        if state.bytes.is_empty() && state.bytes.capacity() > KEPT_BYTES {
            state.bytes = VecDeque::new();
        }
        if length > 0 || state.ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_is_pushed_is_read_in_order_and_to_the_end() {
        let (feed, mut backlog) = backlog(100);
        feed.push(b"one ").unwrap();
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            backlog.read_to_string(&mut text).await.unwrap();
            text
        });
        tokio::task::yield_now().await;
        for part in ["two ", "", "three"] {
            feed.push(part.as_bytes()).unwrap();
            tokio::task::yield_now().await;
        }
        drop(feed);
        assert_eq!(reading.await.unwrap(), "one two three");
    }

    #[tokio::test]
    async fn s_f04_a_reader_who_does_not_read_is_cut_off_and_keeps_what_he_has() {
        let (feed, mut backlog) = backlog(10);
        feed.push(b"12345678").unwrap();
        assert_eq!(feed.push(b"abc"), Err(Behind));
        feed.push(b"90").unwrap();
        drop(feed);
        let mut text = String::new();
        backlog.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "1234567890");
    }

    #[tokio::test]
    async fn what_nobody_reads_takes_no_room() {
        let (feed, backlog) = backlog(3);
        drop(backlog);
        for _ in 0..10 {
            feed.push(b"abc").unwrap();
        }
    }
}
