//! PID 1 of a pod whose containers share their processes. It does nothing: the kernel reaps for it what dies there.
//!
//! It is a copy of the shim that nobody in the pod can use. Whoever may trace it (CAP_SYS_PTRACE is what debuggers ask
//! for) finds a process without rights, whose root is an empty directory.

use crate::failure::{Result, Step, failure};
use crate::launch;
use crate::setup::{self, beneath, mounts};
use crate::startup::FromChild;
use crate::sys::{self, Cloned};
use crate::wire::{self, Buffer, Received};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Uid};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use shim::protocol::{ContainerSpec, FailureKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// `nobody` and `nogroup` everywhere.
const NOBODY: u32 = 65_534;
/// It takes well under a millisecond; on a machine that thrashes, longer.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
const FAILED: i32 = 127;

/// The pod's PID 1, as the shim knows it.
pub(crate) enum PodInit {
    /// No container shares its processes.
    None,
    Running(OwnedFd),
    Ended,
}

impl PodInit {
    /// Kills and reaps it. Whoever calls this has no other child in its namespace, for which it would wait for ever.
    pub(crate) fn end(&mut self) {
        if let PodInit::Running(pidfd) = self {
            kill_and_reap(pidfd);
            *self = PodInit::Ended;
        }
    }
}

fn kill_and_reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;
    sys::signal_pidfd(pidfd, libc::SIGKILL).ok();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
}

/// Makes it, and the pid namespace with it. It is waited for: what runs in the namespace must find it without rights.
pub(crate) fn start(spec: &ContainerSpec, dir: &Path, buffer: &mut Buffer) -> Result<OwnedFd> {
    let step = || "make the pod's PID 1".to_owned();
    let (ours, theirs) = launch::channel()?;
    match sys::clone_process(libc::CLONE_NEWNS | libc::CLONE_NEWPID).step(step)? {
        Cloned::Child => run(spec, dir, theirs),
        Cloned::Parent { pidfd, .. } => {
            drop(theirs);
            poll(&mut [PollFd::new(&ours, PollFlags::IN)], Some(&PATIENCE)).step(step)?;
            let reason = match wire::receive(&ours, buffer) {
                Received::Message(FromChild::Ready, _) => return Ok(pidfd),
                Received::Message(FromChild::Failed(failure), _) => failure,
                _ => failure(FailureKind::System, step(), "it ended or hangs in its set-up"),
            };
            kill_and_reap(&pidfd);
            Err(reason)
        }
    }
}

fn run(spec: &ContainerSpec, dir: &Path, channel: OwnedFd) -> ! {
    sys::close_all_but(&mut [channel.as_raw_fd()]);
    let message = match retire(spec, dir) {
        Ok(()) => FromChild::Ready,
        Err(failure) => FromChild::Failed(failure),
    };
    // Not by way of a buffer for the largest message, which would be most of this process's memory.
    let told = postcard::to_stdvec(&message).ok().and_then(|bytes| rustix::io::write(&channel, &bytes).ok());
    if told.is_none() || matches!(message, FromChild::Failed(_)) {
        sys::exit_now(FAILED);
    }
    drop(channel);
    loop {
        poll(&mut [], None).ok();
    }
}

/// Leaves everything behind that could be of use to others.
fn retire(spec: &ContainerSpec, dir: &Path) -> Result<()> {
    let step = || "give up the rights of the pod's PID 1".to_owned();
    rustix::thread::set_name(c"pod-init").step(step)?;
    // A parent that ignores its children's end has them reaped by the kernel, adopted ones too (wait(2)).
    sys::ignore_signal(libc::SIGCHLD);
    setup::join_namespaces(spec)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).step(step)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = mounts::file_system("tmpfs", &[("mode", "555"), ("size", "4k"), ("nr_inodes", "1")], attributes)?;
    mounts::attach(&root, beneath::open_root(dir)?).step(step)?;
    setup::pivot(&root)?;
    drop(root);
    rustix::process::setsid().step(step)?;
    set_thread_groups(&[]).step(step)?;
    let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
    set_thread_res_gid(gid, gid, gid).step(step)?;
    // With the last id of root's go all capabilities (capabilities(7)).
    set_thread_res_uid(uid, uid, uid).step(step)?;
    set_no_new_privs(true).step(step)?;
    // A change of user resets both (prctl(2)).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step(step)?;
    set_parent_process_death_signal(Some(Signal::KILL)).step(step)
}
