//! For tests: a runtime's socket with faults in front of it.
//!
//! [`FaultyProxy`] listens on a socket of its own and passes calls on to a real runtime, as they are, without knowing
//! their messages. Calls that a [`Rule`] names fail in one of the ways that runtimes fail in.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tonic::codegen::http::{Request, Response};

/// No message through here is larger.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with an error, and nothing is done.
    Error,
    /// It is taken and never answered, and nothing is done.
    Hang,
    /// It is done, and the answer is lost.
    ReplyLost,
    /// It is done, and the answer comes this much later.
    Late(Duration),
}

impl Fault {
    /// What kind it is, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Hang => "hang",
            Self::ReplyLost => "lost",
            Self::Late(_) => "late",
        }
    }
}

/// How often each call failed in each way: by its name and the fault's.
pub type Delivered = BTreeMap<(String, &'static str), u32>;

/// Which calls fail.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The method by the name that the protocol gives it: `RunPodSandbox`.
    pub call: String,
    /// Text in the request, such as a pod's name or a container's id; empty for every request.
    pub containing: String,
    pub fault: Fault,
    /// Requests that fail; those after them pass.
    pub times: u32,
}

/// The proxy. It runs in a thread of its own until it is dropped, and its socket goes with it.
#[derive(Debug)]
pub struct FaultyProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    asked: BTreeMap<String, u32>,
    delivered: Delivered,
}

impl FaultyProxy {
    /// Listens on `socket` for calls to the runtime at `upstream`, which may come and go.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(socket: &Path, upstream: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), state: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _within = runtime.enter();
            UnixListener::bind(socket)?
        };
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("faulty-proxy".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { socket: socket.to_owned(), shared, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on calls fail by this rule; the first that fits counts.
    pub fn inject(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// From now on all calls pass. Those that hang go on hanging.
    pub fn heal(&self) {
        self.shared.state().rules.clear();
    }

    /// How often each method was asked for.
    pub fn asked(&self) -> BTreeMap<String, u32> {
        self.shared.state().asked.clone()
    }

    /// The faults that happened. One of an answer has happened when there was an answer to lose or to keep back.
    pub fn delivered(&self) -> Delivered {
        self.shared.state().delivered.clone()
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed there.
            let _ended = thread.join();
        }
        let _gone = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, call: &str, request: &[u8]) -> Option<Fault> {
        let mut state = self.state();
        *state.asked.entry(call.to_owned()).or_default() += 1;
        let fits = |rule: &&mut Rule| {
            let text = rule.containing.as_bytes();
            rule.times > 0
                && rule.call == call
                && (text.is_empty() || request.windows(text.len()).any(|window| window == text))
        };
        let rule = state.rules.iter_mut().find(fits)?;
        rule.times -= 1;
        Some(rule.fault)
    }

    fn deliver(&self, call: &str, fault: Fault) {
        *self.state().delivered.entry((call.to_owned(), fault.name())).or_default() += 1;
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&shared)));
    }
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A peer that went away needs no answer.
            let _gone = call(request, respond, &shared).await;
        });
    }
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let body = collect(body).await?;
    let name = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let fault = shared.fault(&name, &body);
    if let Some(fault @ (Fault::Error | Fault::Hang)) = fault {
        shared.deliver(&name, fault);
        return match fault {
            Fault::Error => status(&mut respond, INTERNAL, "injected failure"),
            _ => poll_fn(|context| respond.poll_reset(context)).await.map(|_| ()),
        };
    }
    let answer = match forward(Request::from_parts(head, ()), body, &shared.upstream).await {
        Ok(answer) => answer,
        Err(error) => return status(&mut respond, UNAVAILABLE, &format!("the runtime behind the proxy: {error}")),
    };
    // An answer begins when the call is done; one that is a stream has no end that could be waited for.
    let (head, mut body) = answer.into_parts();
    if let Some(fault) = fault {
        shared.deliver(&name, fault);
        let Fault::Late(by) = fault else {
            respond.send_reset(Reason::CANCEL);
            return Ok(());
        };
        tokio::time::sleep(by).await;
    }
    if body.is_end_stream() {
        // An error: its head is all there is.
        return respond.send_response(Response::from_parts(head, ()), true).map(|_| ());
    }
    let mut send = respond.send_response(Response::from_parts(head, ()), false)?;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        send.send_data(chunk, false)?;
    }
    send.send_trailers(body.trailers().await?.unwrap_or_default())
}

/// A connection for each call: the runtime may have been restarted since the last one.
async fn forward(request: Request<()>, body: Bytes, upstream: &Path) -> Result<Response<RecvStream>, String> {
    let stream = UnixStream::connect(upstream).await.map_err(|error| error.to_string())?;
    let (client, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let mut client = client.ready().await.map_err(|error| error.to_string())?;
    let (answer, mut send) = client.send_request(request, false).map_err(|error| error.to_string())?;
    send.send_data(body, true).map_err(|error| error.to_string())?;
    answer.await.map_err(|error| error.to_string())
}

async fn collect(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MESSAGE_MAX_BYTES {
            return Err(Reason::ENHANCE_YOUR_CALM.into());
        }
    }
    Ok(bytes.freeze())
}

/// An answer that is only an error.
fn status(respond: &mut SendResponse<Bytes>, code: u8, message: &str) -> Result<(), h2::Error> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code.to_string())
        .header("grpc-message", message.replace(|c: char| !c.is_ascii_graphic(), " "))
        .body(());
    let head = head.map_err(|_| h2::Error::from(Reason::INTERNAL_ERROR))?;
    respond.send_response(head, true).map(|_| ())
}
