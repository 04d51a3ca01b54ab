//! Listeners, and serving a router on them within limits.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What one listener allows its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, exec sessions among them; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Request line and headers together; also the size of the read buffer. At least 8,192.
    pub header_bytes: usize,
    /// From the opening of a connection, or from the end of an answer, to the end of the next headers.
    pub header_read_timeout: Duration,
    /// From the opening of a connection to its end; `None` where answers may be followed for days.
    pub connection_lifetime: Option<Duration>,
    /// What is left to open connections when the server stops, or when their lifetime is over.
    pub drain: Duration,
}

impl Limits {
    /// For ports that other machines can reach.
    pub const PUBLIC: Self = Self {
        connections: 256,
        header_bytes: 16 * 1024,
        header_read_timeout: Duration::from_secs(10),
        connection_lifetime: Some(Duration::from_secs(300)),
        drain: Duration::from_secs(5),
    };

    /// For the unix socket of the command line, whose exec requests carry whole commands in their URL.
    pub const LOCAL: Self = Self { header_bytes: 128 * 1024, connection_lifetime: None, ..Self::PUBLIC };
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {address}: {source}; is another kubelet running, or another port free?")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("make the directory {path} for the kubelet's socket: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "the directory {path} of the kubelet's socket may be written by others (owner {uid}, mode {mode:03o}); \
         it must belong to this user, with mode 0700 or 0755"
    )]
    OpenDirectory { path: PathBuf, uid: u32, mode: u32 },
    #[error("{path} exists and is not a socket; remove it or choose another path")]
    NotASocket { path: PathBuf },
    #[error("another kubelet answers at {path}; stop it or choose another run directory")]
    InUse { path: PathBuf },
    #[error("listen on the socket {path}: {source}")]
    Unix { path: PathBuf, source: io::Error },
}

/// A bound listener. A unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Bound {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// A socket in the file system, by the inode that was bound: a successor's socket at the same path is not ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// The address of a TCP listener, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        }
    }
}

/// Binds a TCP address. Call it on the runtime that will serve.
pub async fn bind_tcp(address: SocketAddr) -> Result<Bound, ListenError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })?;
    Ok(Bound { listener: Listener::Tcp(listener) })
}

/// Binds a unix socket with mode 0600, making its directory (0700) if need be. A socket that nobody listens on any
/// more is replaced; anything else at the path is left alone and refused.
pub fn bind_unix(path: &Path) -> Result<Bound, ListenError> {
    private_directory(path.parent().unwrap_or(Path::new("/")))?;
    remove_stale(path)?;
    let failed = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| failed(errno.into()))?;
    rustix::net::bind(&socket, &address).map_err(|errno| failed(errno.into()))?;
    // Nobody can connect before listen(2), so there is no moment at which the umask decides who may.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    let bound = fs::symlink_metadata(path).map_err(failed)?;
    rustix::net::listen(&socket, 128).map_err(|errno| failed(errno.into()))?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), inode: (bound.dev(), bound.ino()) };
    Ok(Bound { listener: Listener::Unix { listener, _file: file } })
}

fn private_directory(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let found = fs::metadata(path).map_err(failed)?;
    let writable_by_others = found.mode() & 0o022 != 0;
    if found.uid() != rustix::process::geteuid().as_raw() || writable_by_others {
        return Err(ListenError::OpenDirectory {
            path: path.to_owned(),
            uid: found.uid(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Unix { path: path.to_owned(), source };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    // Not blocking: a hung kubelet with a full queue answers EAGAIN instead of keeping this one waiting.
    let probe = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    match probe() {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse { path: path.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The connection that a request came by. What outlives the request (an exec session) holds it, so that it still
/// counts against [`Limits::connections`] and ends with the server.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    _permit: Arc<OwnedSemaphorePermit>,
    pub(crate) stop: CancellationToken,
}

/// Serves `router` until `stop`; then accepts nothing more, lets requests end for [`Limits::drain`] and cuts the rest.
pub async fn serve(bound: Bound, router: Router, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let served = router.clone();
    while let Some(permit) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await {
        let Ok(permit) = permit else { break };
        let connection = Connection { _permit: Arc::new(permit), stop: stop.clone() };
        let Some(accepted) = stop.run_until_cancelled(accept(&bound.listener)).await else { break };
        let cut = cut.clone();
        let router = served.clone();
        match accepted {
            Ok(Stream::Tcp(stream)) => {
                let _ = stream.set_nodelay(true);
                tracker
                    .spawn(async move { cut.run_until_cancelled(serve_one(stream, router, limits, connection)).await });
            }
            Ok(Stream::Unix(stream)) => {
                tracker
                    .spawn(async move { cut.run_until_cancelled(serve_one(stream, router, limits, connection)).await });
            }
            Err(error) => after_refusal(&error).await,
        }
    }
    drop(bound);
    tracker.close();
    if time::timeout(limits.drain, tracker.wait()).await.is_err() {
        cut.cancel();
        tracker.wait().await;
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Stream> {
    match listener {
        Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
        Listener::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
    }
}

/// accept(2) hands on errors of the connection, which concern nobody else; out of descriptors or memory it would
/// fail again at once, so it rests.
async fn after_refusal(error: &io::Error) {
    const REST: Duration = Duration::from_millis(100);
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "failed to accept a connection");
        time::sleep(REST).await;
    }
}

async fn serve_one<S>(stream: S, router: Router, limits: Limits, connection: Connection)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stop = connection.stop.clone();
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(served);
    let lifetime = async {
        match limits.connection_lifetime {
            Some(lifetime) => time::sleep(lifetime).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // Errors are the client's doing: it hung up, sent no HTTP, or was too slow.
        _ = &mut served => return,
        () = stop.cancelled() => {}
        () = lifetime => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = time::timeout(limits.drain, served).await;
}
