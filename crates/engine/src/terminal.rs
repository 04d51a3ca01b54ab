//! The master side of a pseudo terminal as two streams.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::sys;

/// New sizes that wait.
const SIZES: usize = 16;

/// When its last holder is gone the terminal hangs up.
pub(crate) struct Terminal {
    fd: AsyncFd<OwnedFd>,
}

pub(crate) struct TerminalReader(pub(crate) Arc<Terminal>);
pub(crate) struct TerminalWriter(pub(crate) Arc<Terminal>);

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> io::Result<Arc<Self>> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Arc::new(Self { fd: sys::register(master)? }))
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.fd, size)?)
    }

    /// Takes new sizes as (columns, rows), without keeping the terminal from hanging up.
    pub(crate) fn resizer(terminal: &Arc<Self>) -> mpsc::Sender<(u16, u16)> {
        let (resize, mut sizes) = mpsc::channel(SIZES);
        let resized = Arc::downgrade(terminal);
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                let Some(terminal) = resized.upgrade() else { break };
                if let Err(error) = terminal.resize(columns, rows) {
                    tracing::debug!(%error, columns, rows, "a terminal refuses a size");
                }
            }
        });
        resize
    }
}

impl AsyncRead for TerminalReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.fd.poll_read_ready(cx))?;
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd, buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // So the kernel says that nobody has the other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.fd.poll_write_ready(cx))?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
