//! One layer: fetched, verified, decompressed and unpacked in one stream.
//!
//! A task asks the registry and hands what comes to a thread of the layer's own, which unpacks. When either of the two
//! ends, the other does.

use super::PullError;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::registry::{Blob, RegistryError, Session};
use crate::store::{LayerSource, Slot};
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Chunks that may wait to be unpacked. A chunk is what was read from a connection at once, at most some 100 KiB.
const CHUNKS: usize = 4;

/// A layer that is this pull's to bring.
pub(super) struct Task {
    pub(super) session: Arc<Session>,
    pub(super) slot: Slot,
    pub(super) layer: Descriptor,
    /// 0 is the lowest.
    pub(super) at: usize,
    pub(super) progress: Arc<Progress>,
    /// Given back when the layer is complete or has failed.
    pub(super) _turn: OwnedSemaphorePermit,
}

impl Task {
    /// Dropped before its end, it breaks the connection off, and the thread gives the layer up.
    pub(super) async fn bring(self) -> std::result::Result<(), PullError> {
        let Self { session, slot, layer, at, progress, _turn } = self;
        progress.fetching(at);
        let blob = session.blob(&layer.digest, layer.size).await?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let unpacked = unpack(slot, layer, Incoming { receiver, chunk: Bytes::new(), at_end: false })?;
        let fed = feed(blob, sender, |bytes| progress.fetched(at, bytes)).await;
        let unpacked = unpacked.await;
        // A stream that was broken off is no fault of the layer's.
        fed?;
        unpacked.map_err(|_| PullError::BrokenOff)??;
        progress.done(at);
        Ok(())
    }
}

/// Unpacks on a thread of its own: it may have to wait for layers below, which must not wait for its thread.
fn unpack(slot: Slot, layer: Descriptor, mut incoming: Incoming) -> Result<oneshot::Receiver<Result<()>>> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let source = LayerSource { reader: &mut incoming, size_bytes: layer.size, blob: Some(&layer.digest) };
        let filled = slot.fill(source);
        // Nobody may wait any more.
        tell.send(filled).ok();
    };
    let spawned = std::thread::Builder::new().name("layer".to_owned()).spawn(work);
    spawned.map(|_| told).map_err(|e| Error::io("start a thread for", "the layer", e))
}

/// Ends early, without an error, when nobody takes what comes.
async fn feed(
    mut blob: Blob,
    sender: mpsc::Sender<Option<Bytes>>,
    count: impl Fn(usize),
) -> std::result::Result<(), RegistryError> {
    loop {
        let chunk = tokio::select! {
            chunk = blob.next() => chunk?,
            () = sender.closed() => return Ok(()),
        };
        let len = chunk.as_ref().map(Bytes::len);
        if sender.send(chunk).await.is_err() {
            return Ok(());
        }
        match len {
            Some(len) => count(len),
            None => return Ok(()),
        }
    }
}

/// What a task fetches, as a thread reads it.
struct Incoming {
    /// `None` is the end; a channel that closes without it was broken off.
    receiver: mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    at_end: bool,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.at_end {
            match self.receiver.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk,
                Some(None) => self.at_end = true,
                None => return Err(io::Error::other("the download was broken off")),
            }
        }
        let len = buf.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(chunks: &[&[u8]], end: Option<()>) -> Incoming {
        let (sender, receiver) = mpsc::channel(chunks.len() + 1);
        for chunk in chunks {
            sender.try_send(Some(Bytes::copy_from_slice(chunk))).unwrap();
        }
        if end.is_some() {
            sender.try_send(None).unwrap();
        }
        Incoming { receiver, chunk: Bytes::new(), at_end: false }
    }

    #[test]
    fn only_what_was_sent_to_its_end_has_an_end() {
        let mut bytes = Vec::new();
        incoming(&[b"ab", b"", b"cde"], Some(())).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"abcde");
        incoming(&[], Some(())).read_to_end(&mut bytes).unwrap();
        for cut in [&[][..], &[&b"ab"[..]], &[b"ab", b"cde"]] {
            assert!(incoming(cut, None).read_to_end(&mut bytes).is_err(), "{cut:?}");
        }
        let mut ended = incoming(&[b"x"], Some(()));
        assert_eq!((ended.read(&mut [0; 4]).unwrap(), ended.read(&mut [0; 4]).unwrap()), (1, 0));
        assert_eq!(ended.read(&mut [0; 4]).unwrap(), 0, "the end stays the end");
    }
}
