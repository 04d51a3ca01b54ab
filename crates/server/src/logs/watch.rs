//! Changes in log directories, from one inotify instance for all followers: a user may have only 128 of them.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The watched directories. The instance exists while somebody follows.
#[derive(Debug, Clone, Default)]
pub struct Watches {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    instance: Option<Instance>,
    /// By watch descriptor; followers of one directory share one.
    directories: HashMap<i32, Watched>,
}

#[derive(Debug)]
struct Instance {
    fd: Arc<AsyncFd<OwnedFd>>,
    reader: AbortHandle,
}

#[derive(Debug)]
struct Watched {
    followers: usize,
    changes: watch::Sender<()>,
}

/// One follower's view of its directory.
#[derive(Debug)]
pub(super) struct Subscription {
    shared: Arc<Mutex<Shared>>,
    descriptor: i32,
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
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            let fd = Arc::new(AsyncFd::register(fd).ok()?);
            let reader = tokio::spawn(read(Arc::clone(&fd), Arc::downgrade(&self.shared))).abort_handle();
            shared.instance = Some(Instance { fd, reader });
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
    fn watch(&mut self, directory: BorrowedFd<'_>) -> Option<(i32, watch::Receiver<()>)> {
        let instance = self.instance.as_ref()?;
        // The directory itself, whatever its path leads to by now.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let events = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let descriptor = inotify::add_watch(instance.fd.get_ref(), path, events).ok()?;
        let new = || Watched { followers: 0, changes: watch::channel(()).0 };
        let watched = self.directories.entry(descriptor).or_insert_with(new);
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
            if let Some(instance) = &shared.instance {
                // Refused if the directory is gone, and its watch with it.
                let _ = inotify::remove_watch(instance.fd.get_ref(), self.descriptor);
            }
            shared.close_if_idle();
        }
    }
}

/// Passes events on until it is aborted.
async fn read(fd: Arc<AsyncFd<OwnedFd>>, shared: Weak<Mutex<Shared>>) {
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        let Some(shared) = shared.upgrade() else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(fd.get_ref(), &mut buffer);
        let failed = loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    lock(&shared).directories.values().for_each(|watched| _ = watched.changes.send(()));
                }
                Ok(event) => {
                    if let Some(watched) = lock(&shared).directories.get(&event.wd()) {
                        let _ = watched.changes.send(());
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break false,
                Err(_) => break true,
            }
        };
        if failed {
            return;
        }
        ready.clear_ready();
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
