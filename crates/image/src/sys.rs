//! The one place with `unsafe`.

use inotify::Inotify;
use std::io;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for an inotify instance.
pub(crate) fn readable(inotify: Inotify) -> io::Result<AsyncFd<Inotify>> {
    // SAFETY: `AsyncFd` requires that the descriptor which its value gives stays the same and open for as long as it
    // holds the value. `Inotify` owns its descriptor, gives always the same one, and closes it only when it is dropped
    // (`Inotify::close` takes it by value, and nothing takes it out of the `AsyncFd`).
    unsafe { AsyncFd::register(inotify) }.map_err(Into::into)
}
