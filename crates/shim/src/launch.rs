//! Starting children: the parent's half.

use crate::failure::{Result, Step, refused};
use crate::setup::{self, Channel, ContainerJob, ExecJob, Stdio};
use crate::sys::{self, Cloned};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use shim::protocol::{ContainerSpec, Process, records};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A child that is setting itself up.
pub(crate) struct Launched {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    /// Reading ends of its output; none where it has a terminal or nobody reads.
    pub(crate) output: Option<[OwnedFd; 2]>,
    /// The writing end of its input; none where it has a terminal or reads nothing.
    pub(crate) input: Option<OwnedFd>,
}

/// In which pid namespace a process is born.
pub(crate) enum Birthplace<'a> {
    /// The shim's own.
    Here,
    New,
    /// That of `init`; `own` is the shim's, where it has to come back to.
    Pod {
        init: &'a OwnedFd,
        own: &'a OwnedFd,
    },
}

/// Clones the init of a container whose directory is `dir`.
pub(crate) fn container(spec: &ContainerSpec, dir: &Path, birthplace: Birthplace<'_>) -> Result<Launched> {
    let (stdin, input) = match spec.stdin {
        Some(_) if !spec.process.terminal => pipe(Ours::Writer).map(|(reader, writer)| (reader, Some(writer)))?,
        _ => (null()?, None),
    };
    let (stdio, output) = if spec.process.terminal {
        (Stdio::Terminal, None)
    } else if spec.log.is_some() {
        let (out_reader, out_writer) = pipe(Ours::Reader)?;
        let (err_reader, err_writer) = pipe(Ours::Reader)?;
        (Stdio::Descriptors([stdin, out_writer, err_writer]), Some([out_reader, err_reader]))
    } else {
        (Stdio::Descriptors([stdin, null()?, null()?]), None)
    };
    let (ours, theirs) = channel()?;
    let cloned = match birthplace {
        Birthplace::Here => sys::clone_process(libc::CLONE_NEWNS),
        Birthplace::New => sys::clone_process(libc::CLONE_NEWNS | libc::CLONE_NEWPID),
        Birthplace::Pod { init, own } => clone_in(init, own, libc::CLONE_NEWNS)?,
    };
    match cloned.step(|| "clone the container's init".into())? {
        Cloned::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, channel: ours, output, input }),
        Cloned::Child => setup::run_container(ContainerJob {
            spec,
            root_dir: dir.join(records::ROOT),
            stdio,
            channel: Channel(theirs),
        }),
    }
}

/// What an exec needs to know of its container.
pub(crate) struct Target<'a> {
    pub(crate) init: &'a OwnedFd,
    pub(crate) cgroups: &'a [PathBuf],
    /// The shim's own pid namespace, where it has to come back to.
    pub(crate) own_pid_namespace: &'a OwnedFd,
}

/// Clones another process of a running container.
pub(crate) fn exec(process: &Process, target: &Target<'_>, fds: Vec<OwnedFd>) -> Result<Launched> {
    let stdio = match (process.terminal, <[OwnedFd; 3]>::try_from(fds)) {
        (true, _) => Stdio::Terminal,
        (false, Ok(fds)) => Stdio::Descriptors(fds),
        (false, Err(fds)) => {
            let detail = format!("it comes with {} descriptors, without a terminal it takes 3", fds.len());
            return Err(refused("start an exec", detail));
        }
    };
    let init = target.init.try_clone().step(|| "keep the container's init at hand".into())?;
    let (ours, theirs) = channel()?;
    match clone_in(target.init, target.own_pid_namespace, 0)?.step(|| "clone the exec".into())? {
        Cloned::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, channel: ours, output: None, input: None }),
        Cloned::Child => {
            setup::run_exec(ExecJob { process, cgroups: target.cgroups, init, stdio, channel: Channel(theirs) })
        }
    }
}

/// Clones a child into the pid namespace of `init`. The child is the shim's own, so that its end is seen here: setns(2)
/// puts the children, not the caller, there.
fn clone_in(init: &OwnedFd, own: &OwnedFd, flags: i32) -> Result<rustix::io::Result<Cloned>> {
    let enter = || "enter the pid namespace".to_owned();
    move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID).step(enter)?;
    let cloned = sys::clone_process(flags);
    if !matches!(cloned, Ok(Cloned::Child)) {
        // The way back to an ancestor is always open; were it not, the next child would be born in the wrong place.
        leave_pid_namespace(own.as_fd())?;
    }
    Ok(cloned)
}

fn leave_pid_namespace(own: BorrowedFd<'_>) -> Result<()> {
    move_into_link_name_space(own, Some(LinkNameSpaceType::ProcessID)).step(|| "return to our pid namespace".into())
}

pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .step(|| "make a channel to the new process".into())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours {
    Reader,
    Writer,
}

/// Both ends, the reading one first. Ours does not block; the container's does, as programs expect.
fn pipe(ours: Ours) -> Result<(OwnedFd, OwnedFd)> {
    let step = || "make a pipe".to_owned();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).step(step)?;
    rustix::io::ioctl_fionbio(if ours == Ours::Reader { &reader } else { &writer }, true).step(step)?;
    Ok((reader, writer))
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step(|| "open /dev/null".into())
}
