//! What the child does between clone3(2) and execve(2): it makes a container of itself, or joins one.
//!
//! Everything here runs in a process of its own that ends in the container's program or in a [`Failure`] sent back.
//! Until the program runs the process cannot be traced or looked into from inside the container, because the shim is
//! not dumpable and its children inherit that (CVE-2016-9962).

use crate::failure::{Result, Step, refused};
use crate::startup::FromChild;
use crate::{sys, wire};
use rustix::fs::Mode;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use shim::protocol::{ContainerSpec, Failure, MAX_MESSAGE_BYTES, Process};
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub(crate) mod beneath;
mod caps;
mod cgroup_view;
mod devices;
mod filesystems;
mod masks;
pub(crate) mod mounts;
mod overlay;
mod process;
mod terminal;
mod user;

/// The exit status of a set-up that failed; nobody sees it, because the failure is told in words.
const FAILED: i32 = 127;

/// Where the new process's input and output go.
pub(crate) enum Stdio {
    Descriptors([OwnedFd; 3]),
    /// A terminal of the container's own, whose master is sent to the shim.
    Terminal,
}

/// The way back to the shim; it closes when the program runs.
pub(crate) struct Channel(pub(crate) OwnedFd);

impl Channel {
    fn send(&self, message: &FromChild, fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        wire::send(&self.0, message, fd, &mut [0; MAX_MESSAGE_BYTES])
    }
}

pub(crate) struct ContainerJob<'a> {
    pub(crate) spec: &'a ContainerSpec,
    /// Where the root is mounted, seen by nobody but this container.
    pub(crate) root_dir: PathBuf,
    pub(crate) stdio: Stdio,
    pub(crate) channel: Channel,
}

pub(crate) struct ExecJob<'a> {
    pub(crate) process: &'a Process,
    pub(crate) cgroups: &'a [PathBuf],
    /// The container's init.
    pub(crate) init: OwnedFd,
    pub(crate) stdio: Stdio,
    pub(crate) channel: Channel,
}

/// Becomes a container's init.
pub(crate) fn run_container(job: ContainerJob<'_>) -> ! {
    close_others(&job.channel, &job.stdio, None);
    let failure = match container(job.spec, &job) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    fail(&job.channel, failure)
}

/// Becomes one more process of a container.
pub(crate) fn run_exec(job: ExecJob<'_>) -> ! {
    close_others(&job.channel, &job.stdio, Some(&job.init));
    let failure = match exec(&job) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    fail(&job.channel, failure)
}

fn fail(channel: &Channel, failure: Failure) -> ! {
    // If the shim is gone there is nobody to tell.
    channel.send(&FromChild::Failed(failure), None).ok();
    sys::exit_now(FAILED)
}

fn close_others(channel: &Channel, stdio: &Stdio, init: Option<&OwnedFd>) {
    let mut keep = vec![channel.0.as_raw_fd()];
    keep.extend(init.map(AsRawFd::as_raw_fd));
    if let Stdio::Descriptors(fds) = stdio {
        keep.extend(fds.iter().map(AsRawFd::as_raw_fd));
    }
    sys::close_all_but(&mut keep);
}

fn container(spec: &ContainerSpec, job: &ContainerJob<'_>) -> Result<Infallible> {
    rustix::process::umask(Mode::empty());
    process::set_oom_score(spec.process.oom_score_adj)?;
    // Everything that is the host's is opened while the host's paths are all there is.
    let sources = mounts::open_sources(&spec.mounts)?;
    let null = devices::host_null()?;
    let views = cgroup_view::open(spec)?;
    cgroup::attach_self(&spec.cgroups).step(|| "join the container's control groups".into())?;
    join_namespaces(spec)?;
    // A slave still learns of the host's unmounts, so that this copy of the mount table pins nothing.
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", propagation).step(|| "make the mounts private to the container".into())?;

    let root = overlay::mount(&spec.root, &job.root_dir)?;
    filesystems::mount_defaults(&root, spec, views)?;
    mounts::attach_all(&root, &spec.mounts, sources)?;
    if !spec.privileged {
        masks::apply(&root, spec, &null)?;
    }
    let terminal = open_terminal(&root, &job.stdio, &job.channel)?;
    if let Some(slave) = &terminal {
        terminal::bind_console(&root, slave, spec)?;
    }
    let identity = user::resolve(&root, &spec.process.user)?;
    let cwd = beneath::ensure(&root, &spec.process.cwd, beneath::Kind::Directory)?;
    if spec.root.read_only {
        mounts::make_read_only(&root, "/")?;
    }
    pivot(&root)?;
    let stdio = process::Stdio::new(&job.stdio, terminal);
    process::execute(process::Program { process: &spec.process, identity, cwd, stdio, channel: &job.channel })
}

fn exec(job: &ExecJob<'_>) -> Result<Infallible> {
    process::set_oom_score(job.process.oom_score_adj)?;
    cgroup::attach_self(job.cgroups).step(|| "join the container's control groups".into())?;
    let namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(job.init.as_fd(), namespaces)
        .step(|| "enter the namespaces of the container".into())?;
    // setns(2) of a mount namespace made its root this process's root.
    let root = beneath::open_root("/".as_ref())?;
    let identity = user::resolve(&root, &job.process.user)?;
    let step = || format!("use {:?} as the working directory", job.process.cwd);
    let cwd = beneath::find(&root, &job.process.cwd)?.ok_or_else(|| refused(step(), "there is no such directory"))?;
    let terminal = open_terminal(&root, &job.stdio, &job.channel)?;
    if let (Some(slave), Some(window)) = (&terminal, job.process.window) {
        terminal::set_window(slave, window)?;
    }
    let stdio = process::Stdio::new(&job.stdio, terminal);
    process::execute(process::Program { process: job.process, identity, cwd, stdio, channel: &job.channel })
}

pub(crate) fn join_namespaces(spec: &ContainerSpec) -> Result<()> {
    for (path, kind) in [
        (&spec.net_ns, LinkNameSpaceType::Network),
        (&spec.ipc_ns, LinkNameSpaceType::InterProcessCommunication),
        (&spec.uts_ns, LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        let Some(path) = path else { continue };
        let step = || format!("join the namespace {}", path.display());
        let file = File::open(path).step(step)?;
        move_into_link_name_space(file.as_fd(), Some(kind)).step(step)?;
    }
    // Made after the control groups were joined, so that they are its root.
    sys::unshare_cgroup_namespace().step(|| "make a control group namespace".into())
}

fn open_terminal(root: &OwnedFd, stdio: &Stdio, channel: &Channel) -> Result<Option<OwnedFd>> {
    let Stdio::Terminal = stdio else { return Ok(None) };
    let (master, slave) = terminal::open(root)?;
    channel
        .send(&FromChild::Terminal, Some(master.as_fd()))
        .step(|| "hand the terminal's master to the shim".into())?;
    Ok(Some(slave))
}

/// Makes `root` the only root there is: the host's tree is stacked below it for a moment and then let go.
pub(crate) fn pivot(root: &OwnedFd) -> Result<()> {
    let step = || "make the container's root its root".to_owned();
    rustix::process::fchdir(root).step(step)?;
    rustix::process::pivot_root(".", ".").step(step)?;
    unmount(".", UnmountFlags::DETACH).step(|| "let go of the host's root".into())?;
    rustix::process::chdir("/").step(step)
}
