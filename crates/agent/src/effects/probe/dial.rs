//! Connections to containers, and what there is to say when there is none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that leaves nothing behind: a thousand probes must not fill the machine with sockets in TIME_WAIT for a
/// minute, each holding a local port. It says FIN and then resets: the server reads an orderly end (Linux keeps the FIN
/// that came first), and this side does not wait for stray packets.
#[derive(Debug)]
pub(super) struct Line(TcpStream);

impl Drop for Line {
    fn drop(&mut self) {
        // Refused where the server was quicker to close.
        let _ = shutdown(&self.0, Shutdown::Write);
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connects to the first of the host's addresses that answers.
pub(super) async fn dial(host: &str, port: u16) -> Result<Line, String> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("dial tcp: lookup {host}: {}", words(&error)))?;
    let mut refused = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A socket that lingers is a cost, not a fault.
                let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
                let _ = stream.set_nodelay(true);
                return Ok(Line(stream));
            }
            Err(error) => refused = format!("dial tcp {address}: connect: {}", words(&error)),
        }
    }
    Err(refused)
}

/// `host:port`, with brackets around an IPv6 address.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The system's words for an error, as they read after a colon.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
