//! The loop: one thread, one epoll set, everything that happens is an event in it.

use crate::container::{Container, Exec, Phase};
use crate::failure::{Result, Step};
use crate::log::Batch;
use crate::pod_init::PodInit;
use crate::startup::Reply;
use crate::sys;
use crate::time;
use crate::wire::{self, Buffer, Received};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SocketFlags, accept_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use shim::protocol::{FromEngine, FromShim};
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

mod attach;
mod events;
mod requests;

const MAX_CONNECTIONS: usize = 8;
/// Containers of one pod, those that ended and are not forgotten included. Their states fit one message, and the
/// descriptors of all, up to six each, stay below the usual limit of 1,024 together with those of the execs.
const MAX_CONTAINERS: usize = 128;
const MAX_EXECS: usize = 64;
const EVENTS_PER_WAKE: usize = 32;

pub(crate) struct Supervisor {
    dir: PathBuf,
    epoll: OwnedFd,
    listener: OwnedFd,
    timer: OwnedFd,
    own_pid_namespace: OwnedFd,
    pod_init: PodInit,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<Exec>,
    attachments: Vec<attach::Attachment>,
    last_key: u32,
    /// One for all messages and all reading of output.
    buffer: &'static mut Buffer,
    batch: Batch,
}

struct Connection {
    key: u32,
    socket: OwnedFd,
}

/// What an event is about; the key tells which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Timer,
    Connection(u32),
    ContainerChannel(u32),
    ContainerExit(u32),
    Output(u32, usize),
    ExecChannel(u32),
    ExecExit(u32),
    PodInit,
    Attachment(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener => (0, 0),
            Token::Timer => (1, 0),
            Token::Connection(key) => (2, key),
            Token::ContainerChannel(key) => (3, key),
            Token::ContainerExit(key) => (4, key),
            Token::ExecChannel(key) => (5, key),
            Token::ExecExit(key) => (6, key),
            Token::PodInit => (7, 0),
            Token::Attachment(key) => (8, key),
            Token::Output(key, stream) => (9 + stream as u64, key),
        };
        kind << 32 | u64::from(key)
    }

    fn unpack(packed: u64) -> Token {
        let key = packed as u32;
        match packed >> 32 {
            0 => Token::Listener,
            1 => Token::Timer,
            2 => Token::Connection(key),
            3 => Token::ContainerChannel(key),
            4 => Token::ContainerExit(key),
            5 => Token::ExecChannel(key),
            6 => Token::ExecExit(key),
            7 => Token::PodInit,
            8 => Token::Attachment(key),
            stream => Token::Output(key, stream as usize - 9),
        }
    }
}

impl Supervisor {
    pub(crate) fn new(dir: PathBuf, listener: OwnedFd) -> Result<Supervisor> {
        let step = || "set the supervisor up".to_owned();
        let supervisor = Supervisor {
            dir,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).step(step)?,
            listener,
            timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
                .step(step)?,
            own_pid_namespace: std::fs::File::open("/proc/self/ns/pid").step(step)?.into(),
            pod_init: PodInit::None,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            attachments: Vec::new(),
            last_key: 0,
            buffer: sys::lasting_buffer().step(step)?,
            batch: Batch::new(),
        };
        supervisor.watch(supervisor.listener.as_fd(), Token::Listener).step(step)?;
        supervisor.watch(supervisor.timer.as_fd(), Token::Timer).step(step)?;
        Ok(supervisor)
    }

    /// Runs until it is told to end.
    pub(crate) fn run(mut self) -> Result<()> {
        loop {
            let mut space = [MaybeUninit::uninit(); EVENTS_PER_WAKE];
            let events = match epoll::wait(&self.epoll, &mut space, None) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).step(|| "wait for events".into()),
            };
            for event in events {
                if self.handle(Token::unpack(event.data.u64())).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn handle(&mut self, token: Token) -> ControlFlow<()> {
        match token {
            Token::Listener => self.accept(),
            Token::Timer => self.on_timer(),
            Token::Connection(key) => return self.on_message(key),
            Token::ContainerChannel(key) => self.on_container_channel(key),
            Token::ContainerExit(key) => self.on_container_exit(key),
            Token::Output(key, stream) => self.on_output(key, stream),
            Token::ExecChannel(key) => self.on_exec_channel(key),
            Token::ExecExit(key) => self.on_exec_exit(key),
            Token::PodInit => self.on_pod_init_exit(),
            Token::Attachment(key) => self.end_attachment(key),
        }
        self.go_on()
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN)
    }

    /// Before a descriptor is closed: a child in its set-up may still have a copy of it, and the set would go on
    /// reporting what is open there.
    fn unwatch(&self, fd: &OwnedFd) {
        epoll::delete(&self.epoll, fd).ok();
    }

    fn new_key(&mut self) -> u32 {
        self.last_key = self.last_key.wrapping_add(1);
        self.last_key
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(&self.listener, flags) else { return };
        let is_ours = socket_peercred(&socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        if !is_ours || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let key = self.new_key();
        if self.watch(socket.as_fd(), Token::Connection(key)).is_ok() {
            self.connections.push(Connection { key, socket });
        }
    }

    /// One message at a time, so that connections take turns.
    fn on_message(&mut self, key: u32) -> ControlFlow<()> {
        let Some(connection) = self.connections.iter().find(|connection| connection.key == key) else {
            return ControlFlow::Continue(());
        };
        match wire::receive(&connection.socket, self.buffer) {
            Received::Message(FromEngine { seq, request }, fds) => {
                self.answer_request(Reply { connection: key, seq }, request, fds)
            }
            Received::Nothing => ControlFlow::Continue(()),
            Received::Closed | Received::Malformed => {
                self.disconnect(key);
                ControlFlow::Continue(())
            }
        }
    }

    /// Changes nothing else: the engine may come back.
    fn disconnect(&mut self, key: u32) {
        let Some(at) = self.connections.iter().position(|connection| connection.key == key) else { return };
        let connection = self.connections.swap_remove(at);
        self.unwatch(&connection.socket);
        rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both).ok();
    }

    /// A connection that does not read is cut: whoever it is connects anew and lists.
    fn send(&mut self, key: u32, message: &FromShim, fd: Option<BorrowedFd<'_>>) {
        let Some(connection) = self.connections.iter().find(|connection| connection.key == key) else { return };
        if wire::send(&connection.socket, message, fd, self.buffer).is_err() {
            self.disconnect(key);
        }
    }

    fn broadcast(&mut self, message: &FromShim) {
        let keys: Vec<u32> = self.connections.iter().map(|connection| connection.key).collect();
        for key in keys {
            self.send(key, message, None);
        }
    }

    /// Sets the timer to the earliest deadline.
    fn arm_timer(&self) {
        let deadline_ms = self.containers.iter().filter_map(|container| container.deadline_ms).min();
        // A time of zero would switch the timer off, and one that has passed fires at once.
        let ms = deadline_ms.map_or(0, |ms| ms.max(1));
        let value = Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: never, it_value: value };
        // It fails only for values out of range, which these are not.
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec).ok();
    }

    fn on_timer(&mut self) {
        let mut expirations = [0; 8];
        rustix::io::read(&self.timer, &mut expirations).ok();
        let now = time::boot_ms();
        let mut ending = Vec::new();
        for container in &mut self.containers {
            if container.deadline_ms.is_some_and(|deadline| deadline <= now) {
                container.deadline_ms = None;
                match container.phase {
                    Phase::Ending(_) => ending.push(container.key),
                    _ => container.kill(),
                }
            }
        }
        for key in ending {
            self.sweep(key);
        }
        self.arm_timer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let mut packed = Vec::new();
        for token in [
            Token::Listener,
            Token::Timer,
            Token::Connection(1),
            Token::ContainerChannel(1),
            Token::ContainerExit(u32::MAX),
            Token::Output(1, 0),
            Token::Output(1, 1),
            Token::ExecChannel(1),
            Token::ExecExit(1),
            Token::PodInit,
            Token::Attachment(1),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
            packed.push(token.pack());
        }
        packed.dedup();
        assert_eq!(packed.len(), 11);
    }
}
