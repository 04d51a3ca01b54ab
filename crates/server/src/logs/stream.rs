//! A log as a stream of bytes that is read as fast as its reader takes it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use tokio::time;

use super::files::{Directory, LogFile};
use super::record::{Renderer, Times};
use super::watch::{Subscription, Watches};
use super::{LogError, LogOptions, LogSource, tail};

/// Read of a file at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Between looks at the directory when the kernel does not tell of changes.
const POLL: Duration = Duration::from_millis(500);
/// Between looks when it does, should it ever forget to.
const REPAIR: Duration = Duration::from_secs(20);

/// The text of a log. An error ends it.
pub type LogStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Opens a log; what is wrong from the beginning is said before any of it is sent.
pub async fn open(source: LogSource, options: LogOptions, watches: &Watches) -> Result<LogStream, LogError> {
    let LogSource { root, path, ended } = source;
    let reading = blocking(move || Reading::open(Directory::open(&root, &path)?, &options)).await?;
    let subscription = if reading.follows { watches.subscribe(reading.directory.fd.as_fd()) } else { None };
    Ok(start(Follower { reading, subscription, ended, has_ended: false }))
}

fn start(follower: Follower) -> LogStream {
    Box::pin(stream::try_unfold(follower, Follower::next))
}

/// Work on files may wait for a disk, so it is done off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Not aborted by anybody, so it panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Reading in the order of files, and where it has got to.
struct Reading {
    directory: Directory,
    /// Still to be read, oldest first. While following the last one stays, at its end.
    files: VecDeque<LogFile>,
    renderer: Renderer,
    /// Bytes of answer left.
    limit: Option<u64>,
    follows: bool,
}

enum Step {
    /// Perhaps nothing, where all that was read is not wanted.
    Text(Bytes),
    /// Everything that is there has been read, and more may come.
    CaughtUp,
    End,
}

impl Reading {
    fn open(directory: Directory, options: &LogOptions) -> Result<Self, LogError> {
        let mut files = directory.snapshot()?;
        if let Some(lines) = options.tail_lines {
            let (first, offset) = tail::start(files.make_contiguous(), lines, directory.format)
                .map_err(|source| directory.error(source))?;
            files.drain(..first);
            if let Some(file) = files.front_mut() {
                file.offset = offset;
            }
        }
        if !options.follow
            && let Some(last) = files.back_mut()
        {
            // Else a container that writes faster than its reader would be followed without being asked to.
            last.end = Some(last.file.metadata().map_err(|source| directory.error(source))?.len());
        }
        let times = if options.timestamps { Times::Shown } else { Times::Hidden };
        let renderer = Renderer::new(options.since, times, directory.format);
        Ok(Self { directory, files, renderer, limit: options.limit_bytes, follows: options.follow })
    }

    /// Reads once; blocks for a disk at most.
    fn step(&mut self) -> Result<Step, LogError> {
        loop {
            if self.limit == Some(0) {
                return Ok(Step::End);
            }
            if let Some(file) = self.files.front_mut() {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = file.read(&mut chunk).map_err(|source| self.directory.error(source))?;
                if read > 0 {
                    return Ok(Step::Text(self.render(&chunk[..read])));
                }
                if file.was_cut().map_err(|source| self.directory.error(source))? {
                    self.renderer.next_file();
                    continue;
                }
            }
            if self.files.len() > 1 {
                self.files.pop_front();
                self.renderer.next_file();
                continue;
            }
            if !self.follows {
                return Ok(Step::End);
            }
            match self.directory.successor(self.files.front())? {
                // What was written to the old file before the new one was begun may have come after our last read of
                // it: it is read once more before it goes.
                Some(next) => self.files.push_back(next),
                None => return Ok(Step::CaughtUp),
            }
        }
    }

    fn render(&mut self, chunk: &[u8]) -> Bytes {
        let mut text = Vec::with_capacity(chunk.len());
        self.renderer.feed(chunk, &mut text);
        if let Some(limit) = &mut self.limit {
            text.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
            *limit -= text.len() as u64;
        }
        text.into()
    }
}

impl LogFile {
    /// Reads on; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.offset));
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = loop {
            match self.file.read_at(&mut buffer[..length], self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.offset += read as u64;
        Ok(read)
    }

    /// Whether somebody emptied the file while it was followed; it is then read from its beginning.
    fn was_cut(&mut self) -> io::Result<bool> {
        let cut = self.end.is_none() && self.file.metadata()?.len() < self.offset;
        if cut {
            self.offset = 0;
        }
        Ok(cut)
    }
}

/// A reading, and what it waits for.
struct Follower {
    reading: Reading,
    subscription: Option<Subscription>,
    ended: BoxFuture<'static, ()>,
    has_ended: bool,
}

impl Follower {
    /// The next text, or `None` at the end of the log.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            if let Some(subscription) = &mut self.subscription {
                // Before reading: what changes from here on wakes the wait below.
                subscription.changes.borrow_and_update();
            }
            let mut reading = self.reading;
            let step;
            (reading, step) = blocking(move || {
                let step = reading.step();
                (reading, step)
            })
            .await;
            self.reading = reading;
            match step? {
                Step::Text(text) if text.is_empty() => {}
                Step::Text(text) => return Ok(Some((text, self))),
                Step::End => return Ok(None),
                // The container had exited before this last look.
                Step::CaughtUp if self.has_ended => return Ok(None),
                Step::CaughtUp => self.wait().await,
            }
        }
    }

    async fn wait(&mut self) {
        let changed = async {
            match &mut self.subscription {
                Some(subscription) => {
                    if time::timeout(REPAIR, subscription.changes.changed()).await.is_ok_and(|alive| alive.is_err()) {
                        // The instance broke; from now on we look ourselves.
                        self.subscription = None;
                    }
                }
                None => time::sleep(POLL).await,
            }
        };
        tokio::select! {
            biased;
            () = &mut self.ended => self.has_ended = true,
            () = changed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use futures_util::StreamExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn without_inotify_the_directory_is_polled() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("c")).unwrap();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let directory = Directory::open(root.path(), Path::new("c/0.log")).unwrap();
        let reading = Reading::open(directory, &options).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let ended = Box::pin(async move { ended.await.unwrap_or(()) });
        let mut stream = start(Follower { reading, subscription: None, ended, has_ended: false });
        fs::write(root.path().join("c/0.log"), "2026-01-01T00:00:01Z stdout F late\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "late\n");
        drop(end);
        assert!(stream.next().await.is_none());
    }
}
