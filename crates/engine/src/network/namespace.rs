//! A sandbox's namespaces: made on a thread of their own, pinned by files, and given their link.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::links::Links;
use super::{Cidr, NetworkError, Ports, step};
use crate::spec::Scope;
use crate::sys;

/// The pod's end of its link.
const POD_LINK: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;
/// Shared memory of a pod, as Docker's and containerd's default.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// Where a sandbox's namespaces are pinned.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    sandbox: PathBuf,
}

impl Pins {
    pub(crate) fn new(sandbox_dir: &Path) -> Self {
        Self { sandbox: sandbox_dir.to_owned() }
    }

    pub(crate) fn net(&self) -> PathBuf {
        self.sandbox.join("ns/net")
    }

    pub(crate) fn ipc(&self) -> PathBuf {
        self.sandbox.join("ns/ipc")
    }

    pub(crate) fn uts(&self) -> PathBuf {
        self.sandbox.join("ns/uts")
    }

    /// The tmpfs that is the pod's `/dev/shm`.
    pub(crate) fn shm(&self) -> PathBuf {
        self.sandbox.join("shm")
    }

    /// Lets go of everything mounted. The link of the pod goes with its namespace, in the kernel's own time.
    ///
    /// # Errors
    /// The first path that could not be unmounted; the address must not be used again then.
    pub(crate) fn release(&self) -> Result<(), NetworkError> {
        for pin in [self.net(), self.ipc(), self.uts(), self.shm()] {
            unmount(&pin).map_err(step("unmount", pin.display()))?;
        }
        Ok(())
    }
}

/// What a sandbox's namespaces are to be.
pub(crate) struct Plan {
    pub(crate) pins: Pins,
    /// `None` for a pod on the machine's network, which has the machine's hostname too.
    pub(crate) connection: Option<Connection>,
    pub(crate) ipc: Scope,
}

/// A pod's own place on the network.
pub(crate) struct Connection {
    pub(crate) hostname: String,
    /// Name of the host's end of the link.
    pub(crate) link: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) cidr: Cidr,
    pub(crate) ports: Ports,
}

/// Does all of a plan; `bridge` is that of its connection. To be called on a thread that ends afterwards: it leaves its
/// namespaces for good.
pub(crate) fn set_up(plan: &Plan, bridge: Option<u32>) -> Result<(), NetworkError> {
    let connection = plan.connection.as_ref().zip(bridge);
    let host = open_namespace("/proc/thread-self/ns/net")?;
    let mut flags = UnshareFlags::empty();
    if connection.is_some() {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    if plan.ipc == Scope::Pod {
        flags |= UnshareFlags::NEWIPC;
    }
    if flags.is_empty() {
        return Ok(());
    }
    let host_links = connection.map(|_| Links::open()).transpose().map_err(step("open", "a netlink socket"))?;
    sys::unshare_pod_namespaces(flags).map_err(step("unshare", "the pod's namespaces"))?;
    if plan.ipc == Scope::Pod {
        pin("ipc", &plan.pins.ipc())?;
        mount_shm(&plan.pins.shm())?;
    }
    match (connection, host_links) {
        (Some((connection, bridge)), Some(links)) => connect(&plan.pins, connection, (links, host, bridge)),
        _ => Ok(()),
    }
}

/// Joins the calling thread's new network namespace to the bridge.
fn connect(
    pins: &Pins,
    connection: &Connection,
    (mut host_links, host, bridge): (Links, OwnedFd, u32),
) -> Result<(), NetworkError> {
    rustix::system::sethostname(connection.hostname.as_bytes())
        .map_err(|error| step("set the hostname to", &connection.hostname)(error.into()))?;
    // Pods have no IPv6 address, so nothing in them may take one from a neighbour's router advertisement.
    quiet_ipv6("default")?;
    pin("net", &pins.net())?;
    pin("uts", &pins.uts())?;
    let namespace = open_namespace("/proc/thread-self/ns/net")?;
    let mut pod_links = Links::open().map_err(step("open", "a netlink socket in the pod"))?;
    // /proc/sys/net is that of the reader's namespace, and the host's end of the link is configured there.
    rustix::thread::move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| step("return to", "the host's network namespace")(error.into()))?;
    let name = connection.link.as_str();
    host_links.add_veth(name, bridge, (POD_LINK, namespace.as_fd())).map_err(step("add link", name))?;
    quiet_ipv6(name)?;
    let link = host_links.index(name).map_err(step("find link", name))?;
    let link = link.ok_or_else(|| step("find link", name)(io::ErrorKind::NotFound.into()))?;
    host_links.up(link).map_err(step("set up link", name))?;
    configure_pod(&mut pod_links, connection).map_err(step("configure", POD_LINK))
}

fn configure_pod(links: &mut Links, connection: &Connection) -> io::Result<()> {
    links.up(LOOPBACK_INDEX)?;
    let link = links.index(POD_LINK)?.ok_or(io::ErrorKind::NotFound)?;
    links.add_address(link, connection.address, connection.cidr.prefix())?;
    links.up(link)?;
    links.add_default_route(connection.cidr.gateway())
}

fn pin(name: &str, path: &Path) -> Result<(), NetworkError> {
    File::create(path).map_err(step("create", path.display()))?;
    rustix::mount::mount_bind(format!("/proc/thread-self/ns/{name}"), path)
        .map_err(|error| step("pin a namespace on", path.display())(error.into()))
}

fn mount_shm(shm: &Path) -> Result<(), NetworkError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", shm, "tmpfs", flags, SHM_OPTIONS)
        .map_err(|error| step("mount tmpfs on", shm.display())(error.into()))
}

fn open_namespace(path: &str) -> Result<OwnedFd, NetworkError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| step("open", path)(error.into()))
}

/// Turns IPv6 off on a link of the calling thread's network namespace. A kernel without IPv6 has nothing to turn off.
pub(crate) fn quiet_ipv6(link: &str) -> Result<(), NetworkError> {
    for (name, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{link}/{name}");
        match fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(step("write", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts all that is mounted on a path; neither an absent path nor one without a mount is an error.
fn unmount(path: &Path) -> io::Result<()> {
    loop {
        // DETACH: a container's mount namespace may hold a copy for a moment longer, which must not block us.
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
