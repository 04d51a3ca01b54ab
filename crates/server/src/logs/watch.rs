//! Changes in log directories, from one inotify instance for all followers: a user may have only 128 of them.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Room for some hundred events read at once.
const BUFFER_BYTES: usize = 4096;

/// The watched directories. The instance exists while somebody follows.
#[derive(Clone, Default)]
pub struct Watches {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    instance: Option<Instance>,
    /// Followers of one directory share its descriptor.
    directories: HashMap<WatchDescriptor, Watched>,
}

struct Instance {
    watches: inotify::Watches,
    reader: AbortHandle,
}

struct Watched {
    followers: usize,
    changes: watch::Sender<()>,
}

/// One follower's view of its directory.
pub(super) struct Subscription {
    shared: Arc<Mutex<Shared>>,
    descriptor: WatchDescriptor,
    pub(super) changes: watch::Receiver<()>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watches {
    /// `None` where the kernel's limits or a missing `/proc` forbid it: the follower then looks for itself.
    pub(super) fn subscribe(&self, directory: BorrowedFd<'_>) -> Option<Subscription> {
        let mut shared = lock(&self.shared);
        if shared.instance.is_none() {
            let events = Inotify::init().ok()?.into_event_stream(vec![0; BUFFER_BYTES]).ok()?;
            let watches = events.watches();
            let reader = tokio::spawn(read(events, Arc::downgrade(&self.shared))).abort_handle();
            shared.instance = Some(Instance { watches, reader });
        }
        let subscription = shared.watch(directory).map(|(descriptor, changes)| Subscription {
            shared: Arc::clone(&self.shared),
            descriptor,
            changes,
        });
        shared.close_if_idle();
        subscription
    }
}

impl Shared {
    fn watch(&mut self, directory: BorrowedFd<'_>) -> Option<(WatchDescriptor, watch::Receiver<()>)> {
        let instance = self.instance.as_mut()?;
        // The directory itself, whatever its path leads to by now.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let events = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        let descriptor = instance.watches.add(path, events).ok()?;
        let new = || Watched { followers: 0, changes: watch::channel(()).0 };
        let watched = self.directories.entry(descriptor.clone()).or_insert_with(new);
        watched.followers += 1;
        Some((descriptor, watched.changes.subscribe()))
    }

    fn close_if_idle(&mut self) {
        if self.directories.is_empty()
            && let Some(instance) = self.instance.take()
        {
            instance.reader.abort();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        let Some(watched) = shared.directories.get_mut(&self.descriptor) else { return };
        watched.followers -= 1;
        if watched.followers == 0 {
            shared.directories.remove(&self.descriptor);
            if let Some(instance) = &mut shared.instance {
                // Refused if the directory is gone, and its watch with it.
                let _ = instance.watches.remove(self.descriptor.clone());
            }
            shared.close_if_idle();
        }
    }
}

/// Passes events on until it is aborted, or the instance fails: followers then see their channel closed.
async fn read(mut events: EventStream<Vec<u8>>, shared: Weak<Mutex<Shared>>) {
    while let Some(Ok(event)) = events.next().await {
        let Some(shared) = shared.upgrade() else { return };
        let shared = lock(&shared);
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            shared.directories.values().for_each(|watched| _ = watched.changes.send(()));
        } else if let Some(watched) = shared.directories.get(&event.wd) {
            let _ = watched.changes.send(());
        }
    }
    if let Some(shared) = shared.upgrade() {
        let mut shared = lock(&shared);
        shared.directories.clear();
        shared.instance = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn followers_share_an_instance_that_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let opened = File::open(dir.path()).unwrap();
        let watches = Watches::default();
        let mut first = watches.subscribe(opened.as_fd()).unwrap();
        let mut second = watches.subscribe(opened.as_fd()).unwrap();
        assert_eq!(lock(&watches.shared).directories.len(), 1);
        fs::write(dir.path().join("0.log"), "x").unwrap();
        first.changes.changed().await.unwrap();
        second.changes.changed().await.unwrap();
        drop(first);
        assert!(lock(&watches.shared).instance.is_some());
        fs::write(dir.path().join("0.log"), "y").unwrap();
        second.changes.changed().await.unwrap();
        drop(second);
        assert!(lock(&watches.shared).instance.is_none());
        assert!(watches.subscribe(opened.as_fd()).is_some());
    }
}
