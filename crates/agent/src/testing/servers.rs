//! Servers on the loopback that say what a test wants them to.

use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;

type Requests = Arc<Mutex<Vec<String>>>;

/// A server at 127.0.0.1, gone when it is dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    requests: Requests,
    connections: AsyncMutex<mpsc::UnboundedReceiver<TcpStream>>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A connection that a silent server holds.
pub(crate) struct Connection(TcpStream);

impl Connection {
    /// Returns when the client has closed it, which it must do in good order.
    pub(crate) async fn ended(&mut self) {
        while self.0.read(&mut [0; 1024]).await.unwrap() > 0 {}
    }
}

impl Server {
    /// Answers every request with the text that `answer` makes of it, and closes.
    pub(crate) async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
        let answer = Arc::new(answer);
        Self::serving(move |stream, requests| serve(stream, answer.clone(), requests)).await
    }

    /// Accepts and says nothing.
    pub(crate) async fn silent() -> Server {
        let (sender, connections) = mpsc::unbounded_channel();
        let server = Self::serving(move |stream, _| {
            let _ = sender.send(stream);
            async {}
        })
        .await;
        *server.connections.lock().await = connections;
        server
    }

    async fn serving<F>(serve: impl Fn(TcpStream, Requests) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Requests::default();
        let seen = requests.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone()));
            }
        });
        let connections = AsyncMutex::new(mpsc::unbounded_channel().1);
        Server { port, requests, connections, accepting }
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The next connection to a silent server.
    pub(crate) async fn connection(&self) -> Connection {
        Connection(self.connections.lock().await.recv().await.unwrap())
    }
}

/// An HTTP answer of a status (`200 OK`), more header lines, and a body.
pub(crate) fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

/// The same with TLS, under a certificate of that name signed by itself.
pub(crate) async fn tls(name: &str, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key.into()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let answer = Arc::new(answer);
    Server::serving(move |stream, requests| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, answer, requests).await;
            }
        }
    })
    .await
}

async fn serve<S>(mut stream: S, answer: Arc<impl Fn(&str) -> String>, requests: Requests)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Room for all that comes: what is left unread when a socket is closed takes the answer back with it.
    let mut head = Vec::with_capacity(64 << 10);
    // A client that begins TLS is told at once, in plain text, that this is not it.
    let whole = |head: &[u8]| head.windows(4).any(|end| end == b"\r\n\r\n") || head.first() == Some(&0x16);
    while !whole(&head) {
        match stream.read_buf(&mut head).await {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let text = answer(&head);
    requests.lock().unwrap().push(head);
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrpcStatus {
    pub(crate) code: u32,
    pub(crate) message: &'static str,
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A gRPC server whose every call tells the health that `health` gives the service asked for.
pub(crate) async fn grpc(health: impl Fn(&str) -> Result<i32, GrpcStatus> + Send + Sync + Clone + 'static) -> Server {
    Server::serving(move |stream, requests| {
        let health = health.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(grpc_call(request, respond, (health.clone(), requests.clone())));
            }
        }
    })
    .await
}

async fn grpc_call(
    request: hyper::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    (health, requests): (impl Fn(&str) -> Result<i32, GrpcStatus>, Requests),
) {
    requests.lock().unwrap().push(format!("{} {:?}", request.uri(), request.headers()));
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        bytes.extend_from_slice(&data);
    }
    let asked = Asked::decode(&bytes[5..]).unwrap();
    let head = hyper::Response::builder().header("content-type", "application/grpc");
    match health(&asked.service) {
        Ok(status) => {
            let message = Told { status }.encode_to_vec();
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap());
            framed.put_slice(&message);
            let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
            stream.send_data(framed.freeze(), false).unwrap();
            let trailers = [("grpc-status", "0")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            stream.send_trailers(trailers.into_iter().collect()).unwrap();
        }
        Err(GrpcStatus { code, message }) => {
            let head = head.header("grpc-status", code).header("grpc-message", message);
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        }
    }
}
