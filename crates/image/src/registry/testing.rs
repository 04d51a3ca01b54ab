//! A server that answers as a test says, well or badly.

use super::exchange::Pace;
use super::{Registry, RegistryError, Session};
use crate::{Digest, Login, Reference};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// The whole head.
    pub(super) head: String,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// First byte of the `Range` that is asked for.
    pub(super) fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What comes after the bytes of a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next request on this connection.
    Next,
    Close,
    /// Nothing, and the connection stays.
    Hang,
    /// A byte now and then, for ever.
    Trickle,
    /// Bytes as fast as they are taken, for ever.
    Flood,
}

/// An answer, byte by byte.
pub(super) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

impl Reply {
    pub(super) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Close }
    }

    /// A whole answer; `headers` are lines that end in `\r\n`.
    pub(super) fn new(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes =
            format!("HTTP/1.1 {status} Any\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, then: Then::Next }
    }

    pub(super) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new(200, "", body)
    }

    /// The head of an answer that says `length`, and then something else.
    pub(super) fn beginning(length: usize, body: impl AsRef<[u8]>) -> Self {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        bytes.extend_from_slice(body.as_ref());
        Self { bytes, then: Then::Close }
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self::new(307, &format!("Location: {to}\r\n"), "")
    }

    pub(super) fn challenge(challenge: &str) -> Self {
        Self::new(401, &format!("WWW-Authenticate: {challenge}\r\n"), r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    }

    pub(super) fn hang(mut self) -> Self {
        self.then = Then::Hang;
        self
    }

    pub(super) fn trickle(mut self) -> Self {
        self.then = Then::Trickle;
        self
    }

    pub(super) fn flood(mut self) -> Self {
        self.then = Then::Flood;
        self
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;
/// What a case of a table answers.
pub(super) type Answering = fn(&Seen) -> Reply;
/// Likewise, from a blob.
pub(super) type Giving = fn(&[u8], &Seen) -> Reply;
/// Whether an error is the right one.
pub(super) type IsRight = fn(&RegistryError) -> bool;

/// A server on loopback, as long as it lives.
pub(super) struct Server {
    pub(super) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(0, script).await
    }

    pub(super) async fn start_at(port: u16, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(port, None, script).await
    }

    pub(super) async fn start_tls(
        tls: rustls::ServerConfig,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(0, Some(TlsAcceptor::from(Arc::new(tls))), script).await
    }

    async fn start_with(
        port: u16,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (seen.clone(), Arc::new(script));
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, script, tls) = (log.clone(), script.clone(), tls.clone());
                tokio::spawn(async move {
                    // Clients that go away are what is tested.
                    let _ = match tls {
                        Some(tls) => match tls.accept(socket).await {
                            Ok(socket) => serve(socket, &log, &*script).await,
                            Err(_) => Ok(()),
                        },
                        None => serve(socket, &log, &*script).await,
                    };
                });
            }
        });
        Self { port, seen, accepting }
    }

    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Stops listening; who is connected stays so.
    pub(super) async fn stop(mut self) -> u16 {
        self.accepting.abort();
        // It was aborted: that is all it can say.
        let _ = (&mut self.accepting).await;
        self.port
    }

    /// The requests for targets that contain `part`.
    pub(super) fn seen_of(&self, part: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.target.contains(part)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<Seen>>,
    script: &Script,
) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let Some(seen) = read_request(&mut socket, &mut unread).await? else { return Ok(()) };
        log.lock().unwrap().push(seen.clone());
        let reply = script(&seen);
        // An answer to HEAD has no body.
        let head_end = reply.bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(reply.bytes.len(), |at| at + 4);
        let sent = if seen.method == "HEAD" { &reply.bytes[..head_end] } else { &reply.bytes[..] };
        socket.write_all(sent).await?;
        socket.flush().await?;
        match reply.then {
            Then::Next => {}
            Then::Close => return socket.shutdown().await,
            Then::Hang => std::future::pending().await,
            Then::Trickle => loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                socket.write_all(b"x").await?;
                socket.flush().await?;
            },
            Then::Flood => loop {
                socket.write_all(&[b'x'; 8192]).await?;
            },
        }
    }
}

async fn read_request(socket: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) -> io::Result<Option<Seen>> {
    let end = loop {
        if let Some(at) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        // A TLS handshake: most servers close at that.
        if socket.read_buf(unread).await? == 0 || unread[0] == 0x16 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&unread[..end]).into_owned();
    let mut words = head.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { method, target, head, body: String::new() };
    let length: usize = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while unread.len() < end + length {
        if socket.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
    seen.body = String::from_utf8_lossy(&unread[end..end + length]).into_owned();
    unread.drain(..end + length);
    Ok(Some(seen))
}

thread_local! {
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Everything that is logged on a test's thread, once the test asks for it.
struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.iter_mut().for_each(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on, what is logged on this thread is kept. A test's tasks all run on its one thread.
pub(super) fn begin_log() {
    LOG.set(Some(Vec::new()));
}

pub(super) fn end_log() -> String {
    String::from_utf8(LOG.take().unwrap()).unwrap()
}

/// A port of 127.0.0.1 on which nobody listens, nor can while the socket is held.
pub(super) fn dead_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A client with little patience.
pub(super) fn registry(hosts_dir: Option<&Path>, progress_within: Duration) -> Registry {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Another suite of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        // For the whole process: who is only of one test's thread may miss what another thread's test used first.
        tracing::subscriber::set_global_default(all.with_writer(|| ThreadLog).finish()).unwrap();
    });
    Registry::paced(hosts_dir.map(Into::into), Pace { progress_within, first_wait: Duration::from_millis(1) })
}

pub(super) const PATIENT: Duration = Duration::from_secs(20);
pub(super) const IMPATIENT: Duration = Duration::from_millis(200);

/// A session about `<server>/app:v1`.
pub(super) fn session(registry: &Registry, server: &Server, login: Option<Login>) -> Session {
    let reference = Reference::parse(&format!("{}/app:v1", server.host())).unwrap();
    registry.session(&reference, login).unwrap()
}

pub(super) fn basic(username: &str, password: &str) -> Option<Login> {
    Some(Login::Basic { username: username.into(), password: password.into() })
}

/// Writes the `hosts.toml` of `server`'s own name.
pub(super) fn write_hosts(dir: &Path, server: &Server, text: &str) {
    let dir = dir.join(server.host());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

/// All of a blob.
pub(super) async fn read(session: &Session, content: &[u8]) -> Result<Vec<u8>, RegistryError> {
    let mut blob = session.blob(&Digest::of(content), content.len() as u64).await?;
    let mut all = Vec::new();
    while let Some(bytes) = blob.next().await? {
        assert!(!bytes.is_empty(), "no empty piece is given");
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Content that differs at each place.
pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}
