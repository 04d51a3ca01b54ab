//! A blocking netlink socket: a request is answered before the next one is made.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel answers at once, except while another holder of the network's lock deletes a link.
const ANSWER_SECS: u64 = 10;

/// The socket stays in the network namespace in which it was opened, wherever the thread goes afterwards.
pub(crate) struct Netlink {
    fd: OwnedFd,
    seq: u32,
}

/// Which part of the kernel is spoken to.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// One message the kernel sent back.
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) seq: u32,
    body: Vec<u8>,
}

impl Answer {
    /// The error number of an acknowledgement, 0 for success; `None` for any other message.
    fn errno(&self) -> Option<i32> {
        let code = self.body.get(..4).filter(|_| self.kind == NLMSG_ERROR)?;
        Some(-i32::from_ne_bytes(code.try_into().ok()?))
    }
}

impl Netlink {
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            // Number 0, which rustix writes as no protocol.
            Family::Route => None,
            Family::Netfilter => Some(NETFILTER),
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(Duration::from_secs(ANSWER_SECS)))?;
        Ok(Self { fd, seq: 0 })
    }

    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq += 1;
        self.seq
    }

    /// Sends `bytes`, which hold whole messages, and waits for the acknowledgement of each of `seqs`.
    ///
    /// # Errors
    /// The first error number the kernel answers, or that of the socket.
    pub(crate) fn transact(&mut self, bytes: &[u8], seqs: &[u32]) -> io::Result<()> {
        let sent = rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        debug_assert_eq!(sent, bytes.len(), "netlink sends datagrams");
        let mut left = seqs.to_vec();
        let mut failure = None;
        while !left.is_empty() {
            for answer in self.receive()? {
                let Some(errno) = answer.errno() else { continue };
                if let Some(at) = left.iter().position(|seq| *seq == answer.seq) {
                    left.swap_remove(at);
                    if errno != 0 {
                        failure.get_or_insert(errno);
                    }
                }
            }
        }
        failure.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Sends a dump request and counts the objects of `kind` in the answer.
    pub(crate) fn count(&mut self, bytes: &[u8], seq: u32, kind: u16) -> io::Result<usize> {
        rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        let mut count = 0;
        loop {
            for answer in self.receive()?.iter().filter(|answer| answer.seq == seq) {
                match (answer.kind, answer.errno()) {
                    (_, Some(0)) | (NLMSG_DONE, _) => return Ok(count),
                    (_, Some(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                    (found, None) => count += usize::from(found == kind),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<Answer>> {
        let mut space = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        let ((bytes, _), _) = rustix::net::recv(&self.fd, &mut space, RecvFlags::empty())?;
        Ok(split(bytes))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Cuts a datagram into its messages; what is cut short at the end is left out.
fn split(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.get(..HEADER_BYTES) {
        let field = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = field(0) as usize;
        let Some(body) = bytes.get(HEADER_BYTES..length) else { break };
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        answers.push(Answer { kind, seq: field(8), body: body.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, seq: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(seq.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn datagrams_are_cut_into_messages_however_damaged() {
        let mut bytes = message(16, 1, b"abcde");
        bytes.extend(message(NLMSG_ERROR, 2, &(-17i32).to_ne_bytes()));
        let answers = split(&bytes);
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].kind, answers[0].seq, answers[0].errno()), (16, 1, None));
        assert_eq!((answers[1].seq, answers[1].errno()), (2, Some(17)));
        for length in 0..bytes.len() {
            assert!(split(&bytes[..length]).len() <= 2);
        }
        assert!(split(&[0; 64]).is_empty(), "a length of 0 ends the datagram");
    }
}
