//! The engine's end of a conversation with a shim.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use shim::protocol::{ExitRecord, ExitStatus, Failure, FromEngine, FromShim, MAX_MESSAGE_BYTES, Request, Response};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tracing::error;

use crate::state::lock;
use crate::sys;

/// At most the three descriptors of an exec travel with a message.
const MAX_FDS: usize = 3;

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("the sandbox's shim is gone")]
    Gone,
    #[error("the sandbox's shim did not answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("the request is {bytes} bytes long, more than {MAX_MESSAGE_BYTES}")]
    TooLarge { bytes: usize },
    #[error("talk to the sandbox's shim: {source}")]
    Socket { source: io::Error },
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What a shim says unasked.
pub(crate) struct Exited {
    pub(crate) container: String,
    pub(crate) record: ExitRecord,
}

pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The master of an exec's terminal, the input of an attached container.
    pub(crate) fd: Option<OwnedFd>,
}

/// Applied by the reader before it goes on to the next message, whether or not the asker still waits.
pub(crate) type Apply = Box<dyn FnOnce(&Response) + Send>;

struct Waiter {
    apply: Option<Apply>,
    answer: oneshot::Sender<Answer>,
}

/// `None` once the shim is gone: nobody may begin to wait then.
type Waiters<K, V> = Mutex<Option<HashMap<K, V>>>;

pub(crate) struct ShimLink {
    socket: AsyncFd<OwnedFd>,
    seq: AtomicU64,
    waiters: Waiters<u64, Waiter>,
    execs: Waiters<String, oneshot::Sender<ExitStatus>>,
    attached: Waiters<String, oneshot::Sender<()>>,
}

impl ShimLink {
    /// Takes a connected, non-blocking socket. To be called within the runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            socket: sys::register(socket)?,
            seq: AtomicU64::new(1),
            waiters: Mutex::new(Some(HashMap::new())),
            execs: Mutex::new(Some(HashMap::new())),
            attached: Mutex::new(Some(HashMap::new())),
        }))
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call(&self, request: Request, timeout: Duration) -> Result<Response, ShimError> {
        let answer = self.ask(request, &[], None).await?;
        Ok(wait(answer, timeout).await?.response)
    }

    /// Asks with something to be done when the answer comes, even if the asker is gone by then.
    pub(crate) async fn call_applied(
        &self,
        request: Request,
        timeout: Duration,
        apply: Apply,
    ) -> Result<Response, ShimError> {
        let answer = self.ask(request, &[], Some(apply)).await?;
        Ok(wait(answer, timeout).await?.response)
    }

    /// Asks with descriptors; the answer may bring one.
    pub(crate) async fn call_with_fds(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Answer, ShimError> {
        let answer = self.ask(request, fds, None).await?;
        wait(answer, timeout).await
    }

    /// How an exec ends; to be asked for before the exec is started. An error of the receiver means that the shim is gone.
    pub(crate) fn exec_exit(&self, exec: &str) -> Result<oneshot::Receiver<ExitStatus>, ShimError> {
        expect(&self.execs, exec)
    }

    /// When an attached session is cut off; to be asked for before it is attached. An error of the receiver means that
    /// the shim is gone.
    pub(crate) fn cut_off(&self, attach: &str) -> Result<oneshot::Receiver<()>, ShimError> {
        expect(&self.attached, attach)
    }

    async fn ask(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        apply: Option<Apply>,
    ) -> Result<oneshot::Receiver<Answer>, ShimError> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let message = FromEngine { seq, request };
        let bytes = postcard::to_allocvec(&message)
            .map_err(|error| ShimError::Socket { source: io::Error::new(io::ErrorKind::InvalidData, error) })?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(ShimError::TooLarge { bytes: bytes.len() });
        }
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiters).as_mut().ok_or(ShimError::Gone)?.insert(seq, Waiter { apply, answer: sender });
        if let Err(source) = self.socket.async_io(Interest::WRITABLE, |socket| send(socket, &bytes, fds)).await {
            if let Some(waiters) = lock(&self.waiters).as_mut() {
                waiters.remove(&seq);
            }
            return Err(match source.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ShimError::Gone,
                _ => ShimError::Socket { source },
            });
        }
        Ok(receiver)
    }

    /// Reads until the shim is gone; one task of each shim's.
    pub(crate) async fn read(&self, on_exit: impl Fn(Exited)) {
        loop {
            match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(Some((bytes, fd))) => match postcard::from_bytes(&bytes) {
                    Ok(message) => self.handle(message, fd, &on_exit),
                    Err(error) => error!(%error, "a shim's message cannot be read and is dropped"),
                },
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => {
                    error!(%error, "a shim's socket cannot be read");
                    break;
                }
            }
        }
        // Dropping the senders tells all who wait.
        lock(&self.waiters).take();
        lock(&self.execs).take();
        lock(&self.attached).take();
    }

    fn handle(&self, message: FromShim, fd: Option<OwnedFd>, on_exit: &impl Fn(Exited)) {
        match message {
            FromShim::Answer { seq, response } => {
                let waiter = lock(&self.waiters).as_mut().and_then(|waiters| waiters.remove(&seq));
                let Some(Waiter { apply, answer }) = waiter else { return };
                if let Some(apply) = apply {
                    apply(&response);
                }
                let _ = answer.send(Answer { response, fd });
            }
            FromShim::Exited { container, record } => on_exit(Exited { container, record }),
            FromShim::CutOff { attach } => {
                let waiter = lock(&self.attached).as_mut().and_then(|attached| attached.remove(&attach));
                if let Some(waiter) = waiter {
                    let _ = waiter.send(());
                }
            }
            FromShim::ExecExited { exec, exit } => {
                let waiter = lock(&self.execs).as_mut().and_then(|execs| execs.remove(&exec));
                if let Some(waiter) = waiter {
                    let _ = waiter.send(exit);
                }
            }
        }
    }
}

fn expect<T>(waiters: &Waiters<String, oneshot::Sender<T>>, of: &str) -> Result<oneshot::Receiver<T>, ShimError> {
    let (sender, receiver) = oneshot::channel();
    let mut waiters = lock(waiters);
    let waiters = waiters.as_mut().ok_or(ShimError::Gone)?;
    // The shim may never speak of what was given up before it began, or was let go of.
    waiters.retain(|_, waiter| !waiter.is_closed());
    waiters.insert(of.to_owned(), sender);
    Ok(receiver)
}

async fn wait(answer: oneshot::Receiver<Answer>, timeout: Duration) -> Result<Answer, ShimError> {
    match tokio::time::timeout(timeout, answer).await {
        Err(_) => Err(ShimError::Timeout { seconds: timeout.as_secs() }),
        Ok(Err(_)) => Err(ShimError::Gone),
        Ok(Ok(Answer { response: Response::Failed(failure), .. })) => Err(failure.into()),
        Ok(Ok(answer)) => Ok(answer),
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// One datagram and its descriptor; `None` at the end.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    // Asking for the length first keeps a buffer of the largest size from standing idle for every shim.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (_, length) = rustix::net::recv(socket, &mut [0u8; 1][..], peek)?;
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; length.min(MAX_MESSAGE_BYTES)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    Ok(Some((bytes, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn say(socket: &OwnedFd, message: &FromShim) {
        send(socket, &postcard::to_allocvec(message).unwrap(), &[]).unwrap();
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn answers_find_their_askers_and_a_lost_shim_tells_all() {
        let (ours, theirs) = pair();
        let link = ShimLink::new(ours).unwrap();
        let reader = tokio::spawn({
            let link = link.clone();
            async move { link.read(|_| {}).await }
        });
        let exit = link.exec_exit("e1").unwrap();
        let lost = link.exec_exit("e2").unwrap();
        let first = link.ask(Request::List, &[], None).await.unwrap();
        let second = link.ask(Request::Shutdown, &[], None).await.unwrap();
        say(&theirs, &FromShim::Answer { seq: 2, response: Response::Done });
        say(&theirs, &FromShim::Answer { seq: 1, response: Response::Containers(vec![]) });
        say(&theirs, &FromShim::ExecExited { exec: "e1".into(), exit: ExitStatus::Code(3) });
        assert!(matches!(wait(first, LONG).await.unwrap().response, Response::Containers(_)));
        assert!(matches!(wait(second, LONG).await.unwrap().response, Response::Done));
        assert_eq!(exit.await.unwrap(), ExitStatus::Code(3));
        let third = link.ask(Request::List, &[], None).await.unwrap();
        drop(theirs);
        reader.await.unwrap();
        assert!(matches!(wait(third, LONG).await, Err(ShimError::Gone)));
        assert!(lost.await.is_err());
        assert!(matches!(link.call(Request::List, LONG).await, Err(ShimError::Gone)));
        assert!(link.exec_exit("e3").is_err());
    }

    #[tokio::test]
    async fn s_f04_those_who_wait_no_more_take_no_room() {
        let (ours, _theirs) = pair();
        let link = ShimLink::new(ours).unwrap();
        let waiting = (link.exec_exit("e").unwrap(), link.cut_off("a").unwrap());
        for number in 0..100 {
            link.exec_exit(&format!("e{number}")).unwrap();
            link.cut_off(&format!("a{number}")).unwrap();
        }
        let count = (lock(&link.execs).as_ref().unwrap().len(), lock(&link.attached).as_ref().unwrap().len());
        assert_eq!(count, (2, 2), "those who wait, and the last who was given up");
        drop(waiting);
    }

    #[tokio::test]
    async fn a_request_that_no_datagram_holds_is_refused() {
        let (ours, _theirs) = pair();
        let link = ShimLink::new(ours).unwrap();
        let request = Request::Start { container: "x".repeat(MAX_MESSAGE_BYTES) };
        assert!(matches!(link.call(request, LONG).await, Err(ShimError::TooLarge { .. })));
    }
}
