//! Connections to containers, and what there is to say when there is none.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// Connects to the first of the host's addresses that answers. The connection is reset when it is closed: a thousand
/// probes must not leave a minute's worth of sockets in TIME_WAIT, each holding a local port.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("dial tcp: lookup {host}: {}", words(&error)))?;
    let mut refused = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A socket that lingers is a cost, not a fault.
                let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
                let _ = stream.set_nodelay(true);
                return Ok(stream);
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
