//! Connections to a pod's ports as its own processes would make them: to loopback, in its network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::Error;

/// Loopback answers at once; a server whose queue is full does not.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Whose network it is.
#[derive(Debug)]
pub enum Network {
    /// The machine's.
    Machine,
    /// A pod's own: its namespace.
    Pod(OwnedFd),
}

/// Connects to `port` of 127.0.0.1, or else of ::1, in that network. `name` names it in errors.
///
/// # Errors
/// Nobody listens there, or the namespace cannot be entered.
pub async fn connect(network: Network, name: &str, port: u16) -> Result<TcpStream, Error> {
    let failed = |what: String| {
        Error::failed_precondition(format!("failed to connect to localhost:{port} inside namespace {name:?}, {what}"))
    };
    let [v4, v6] = match network {
        Network::Machine => sockets(),
        Network::Pod(namespace) => {
            let made = inside(namespace).await;
            made.map_err(|error| failed(format!("which cannot be entered: {error}")))?
        }
    };
    let v4 = match to(v4, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let v6 = match to(v6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    Err(failed(format!("IPv4: {v4}, IPv6: {v6}")))
}

/// One socket for each version of IP.
type Sockets = [io::Result<OwnedFd>; 2];

/// A socket belongs for ever to the namespace in which it was made.
fn sockets() -> Sockets {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    [AddressFamily::INET, AddressFamily::INET6].map(|family| Ok(socket_with(family, SocketType::STREAM, flags, None)?))
}

/// Makes them in a namespace, on a thread that ends in it: none of ours may ever be there.
async fn inside(namespace: OwnedFd) -> io::Result<Sockets> {
    let (sender, made) = oneshot::channel();
    thread::Builder::new().name("port-forward".into()).spawn(move || {
        let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        // Who does not wait any more needs no socket.
        let _gone = sender.send(entered.map(|()| sockets()));
    })?;
    Ok(made.await.map_err(|_| io::Error::other("the thread that was to make sockets in it ended"))??)
}

async fn to(socket: io::Result<OwnedFd>, address: SocketAddr) -> Result<TcpStream, String> {
    let connecting = async { TcpSocket::from_std_stream(socket?.into()).connect(address).await };
    match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(Ok(stream)) => {
            // Keystrokes and questions are short; that this fails costs speed alone.
            let _slower = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(format!("connect to {address}: {}", error.kind())),
        Err(_) => Err(format!("connect to {address}: no answer within {} s", CONNECT_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn both_versions_of_ip_are_tried() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                eprintln!("skipped: {address} cannot be bound");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let mut ours = connect(Network::Machine, "host", port).await.unwrap();
            let (mut theirs, _) = listener.accept().await.unwrap();
            ours.write_all(b"ping").await.unwrap();
            ours.shutdown().await.unwrap();
            let mut text = String::new();
            theirs.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "ping");
        }
    }

    #[tokio::test]
    async fn s_f07_a_closed_port_is_told_with_both_reasons() {
        // Bound and not listening: it refuses, and nobody else can listen there.
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = closed.local_addr().unwrap().port();
        let error = connect(Network::Machine, "web", port).await.unwrap_err().message;
        let expected =
            format!("failed to connect to localhost:{port} inside namespace \"web\", IPv4: connect to 127.0.0.1:");
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains("connection refused") && error.contains("[::1]"), "{error}");
    }

    #[tokio::test]
    async fn s_f07_what_is_no_namespace_is_not_entered() {
        let other = std::fs::File::open("/dev/null").unwrap();
        let error = connect(Network::Pod(other.into()), "web", 1).await.unwrap_err().message;
        assert!(error.contains("cannot be entered"), "{error}");
    }
}
