//! One message is one datagram, with descriptors beside it: to the engine, and from a child that sets itself up.

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shim::protocol::MAX_MESSAGE_BYTES;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An exec brings three; what comes above this is closed by the kernel.
const MAX_FDS: usize = 4;

/// Room for one message of either direction.
pub(crate) type Buffer = [u8; MAX_MESSAGE_BYTES];

pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// Nothing waits.
    Nothing,
    Closed,
    /// Too long, or not one of our messages.
    Malformed,
}

pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd, buffer: &mut Buffer) -> Received<T> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(_) => return Received::Closed,
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Received::Closed;
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Received::Malformed;
    }
    match postcard::take_from_bytes(&buffer[..received.bytes]) {
        Ok((message, [])) => Received::Message(message, fds),
        _ => Received::Malformed,
    }
}

/// Sends without waiting.
///
/// # Errors
/// `MSGSIZE`: the message does not fit; `AGAIN`: the other side does not read; or it is gone.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fd: Option<BorrowedFd<'_>>,
    buffer: &mut Buffer,
) -> rustix::io::Result<()> {
    let bytes = postcard::to_slice(message, buffer).map_err(|_| Errno::MSGSIZE)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: &[BorrowedFd<'_>] = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use shim::protocol::{ExitStatus, FromShim};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptor() {
        let (a, b) = pair();
        let mut buffer = [0; MAX_MESSAGE_BYTES];
        let sent = FromShim::ExecExited { exec: "e".into(), exit: ExitStatus::Code(3) };
        send(&a, &sent, Some(a.as_fd()), &mut buffer).unwrap();
        let Received::Message(FromShim::ExecExited { exec, exit }, fds) = receive(&b, &mut buffer) else {
            panic!("not the message")
        };
        assert_eq!((exec.as_str(), exit, fds.len()), ("e", ExitStatus::Code(3), 1));
        assert!(matches!(receive::<FromShim>(&b, &mut buffer), Received::Nothing));
        drop((a, fds));
        assert!(matches!(receive::<FromShim>(&b, &mut buffer), Received::Closed));
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        let mut buffer = [0; MAX_MESSAGE_BYTES];
        let valid = postcard::to_stdvec(&FromShim::ExecExited { exec: "e".into(), exit: ExitStatus::Code(3) }).unwrap();
        let with_rest = [valid.as_slice(), &[0]].concat();
        let too_long = vec![0; MAX_MESSAGE_BYTES + 1];
        for bytes in [&[0xff; 40][..], &valid[..valid.len() - 1], &with_rest, &too_long] {
            let (a, b) = pair();
            rustix::io::write(&a, bytes).unwrap();
            assert!(matches!(receive::<FromShim>(&b, &mut buffer), Received::Malformed), "{} bytes", bytes.len());
        }
    }
}
