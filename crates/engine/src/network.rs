//! The pods' network: a bridge, an address for each sandbox, masquerade.

mod addresses;
mod links;
mod namespace;
mod netlink;
mod nft;

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::Cidr;
use crate::state::lock;
use addresses::Addresses;
use links::Links;
pub(crate) use namespace::{Connection, Pins, Plan};
pub(crate) use nft::host_ports::HostPort;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Beginning of the names of the hosts' ends of the pods' links.
const LINK_PREFIX: &str = "kv";

/// A step of the network's set-up that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}: {source}")]
pub struct NetworkError {
    action: &'static str,
    object: String,
    source: io::Error,
}

fn step(action: &'static str, object: impl Display) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError { action, object: object.to_string(), source }
}

/// The bridge and what hangs on it.
pub(crate) struct Network {
    bridge: String,
    cidr: Cidr,
    addresses: Mutex<Addresses>,
    /// Held while bridge or table are made or removed.
    making: Mutex<()>,
    /// Index of the bridge of which all was made; 0, which no link has, while none is known. One that was begun only, or
    /// that somebody else made in its place, has another.
    whole: AtomicU32,
    masquerade_refused: AtomicBool,
}

impl Network {
    pub(crate) fn new(bridge: String, cidr: Cidr) -> Self {
        let addresses = Mutex::new(Addresses::new(cidr));
        let (whole, masquerade_refused) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { bridge, cidr, addresses, making: Mutex::new(()), whole, masquerade_refused }
    }

    pub(crate) fn cidr(&self) -> Cidr {
        self.cidr
    }

    pub(crate) fn allocate(&self) -> Option<Ipv4Addr> {
        lock(&self.addresses).allocate()
    }

    pub(crate) fn reserve(&self, address: Ipv4Addr) {
        lock(&self.addresses).reserve(address);
    }

    pub(crate) fn release(&self, address: Ipv4Addr) {
        lock(&self.addresses).release(address);
    }

    /// Makes a sandbox's namespaces and connects them, on a thread of its own.
    pub(crate) async fn connect(self: &Arc<Self>, plan: Plan) -> Result<(), NetworkError> {
        let (done, result) = oneshot::channel();
        let network = Arc::clone(self);
        let work = move || {
            let bridge = plan.connection.as_ref().map(|_| network.ensure_bridge()).transpose();
            let connected = bridge.and_then(|bridge| namespace::set_up(&plan, bridge));
            let _ = done.send(connected.and_then(|()| match &plan.connection {
                Some(connection) => network.open_ports(&connection.ports),
                None => Ok(()),
            }));
        };
        let thread = std::thread::Builder::new().name("sandbox-net".into());
        thread.spawn(work).map_err(step("start", "a thread for the namespaces"))?;
        result.await.unwrap_or_else(|_| Err(step("set up", "the namespaces")(io::Error::other("the thread died"))))
    }

    /// The bridge's index. The common case, that it is there and whole, costs one system call.
    fn ensure_bridge(&self) -> Result<u32, NetworkError> {
        let mut links = Links::open().map_err(step("open", "a netlink socket"))?;
        if let Some(index) = self.whole_bridge(&links)? {
            return Ok(index);
        }
        let _making = lock(&self.making);
        // Another sandbox was first.
        if let Some(index) = self.whole_bridge(&links)? {
            return Ok(index);
        }
        let index = self.make_bridge(&mut links)?;
        self.whole.store(index, Ordering::Release);
        Ok(index)
    }

    /// The bridge's index, if it is there and known to be whole.
    fn whole_bridge(&self, links: &Links) -> Result<Option<u32>, NetworkError> {
        let index = links.index(&self.bridge).map_err(step("find bridge", &self.bridge))?;
        Ok(index.filter(|index| *index == self.whole.load(Ordering::Acquire)))
    }

    /// Every step may have been done before, by a kubelet that was killed or by an attempt that failed further on.
    fn make_bridge(&self, links: &mut Links) -> Result<u32, NetworkError> {
        let bridge = self.bridge.as_str();
        match links.add_bridge(bridge) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(step("add bridge", bridge))?,
        }
        // A link of this name that is something else is its owner's, and is not touched.
        let shown = Path::new("/sys/class/net").join(bridge);
        if shown.exists() && !shown.join("bridge").exists() {
            let other = io::Error::other("a link of this name exists and is no bridge: remove or rename it");
            return Err(step("add bridge", bridge)(other));
        }
        let index = links.index(bridge).map_err(step("find bridge", bridge))?;
        let index = index.ok_or_else(|| step("find bridge", bridge)(io::ErrorKind::NotFound.into()))?;
        namespace::quiet_ipv6(bridge)?;
        links
            .add_address(index, self.cidr.gateway(), self.cidr.prefix())
            .map_err(step("give an address to", bridge))?;
        links.up(index).map_err(step("set up", bridge))?;
        forward()?;
        self.ensure_masquerade();
        Ok(index)
    }

    /// A kernel without nf_tables, or without the right to use it, still has pods that reach each other and the host.
    fn ensure_masquerade(&self) {
        let present = nft::installed(&self.bridge).unwrap_or(false);
        if present {
            return;
        }
        match nft::install(&self.bridge, self.cidr) {
            Ok(()) => self.masquerade_refused.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.masquerade_refused.swap(true, Ordering::Relaxed) {
                    warn!(table = %self.bridge, %error, "no masquerade: pods do not reach beyond this machine");
                }
            }
        }
    }

    /// Leads ports of the machine into a pod. Blocking.
    fn open_ports(&self, ports: &Ports) -> Result<(), NetworkError> {
        if ports.list.is_empty() {
            return Ok(());
        }
        // Else the kernel takes what the machine sends to its own loopback for lost; a rule of the bridge's table keeps
        // pods from there.
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.bridge);
        fs::write(&path, "1").map_err(step("write", &path))?;
        // A pod that asks for its own port is answered through the link it asked by, which bridges do not do by default.
        let path = format!("/sys/class/net/{}/brport/hairpin_mode", ports.link);
        fs::write(&path, "1").map_err(step("write", &path))?;
        nft::host_ports::install(&ports.table, (ports.pod, self.cidr), &ports.list)
            .map_err(step("make table", &ports.table))
    }

    /// Undoes [`Network::open_ports`]. Blocking.
    pub(crate) fn close_ports(&self, ports: &Ports) -> Result<(), NetworkError> {
        match ports.list.is_empty() {
            true => Ok(()),
            false => nft::remove(&ports.table).map_err(step("delete table", &ports.table)),
        }
    }

    /// Whether nobody removed anything of the bridge and its table. Blocking.
    pub(crate) fn is_whole(&self) -> Result<bool, NetworkError> {
        let links = Links::open().map_err(step("open", "a netlink socket"))?;
        let refused = self.masquerade_refused.load(Ordering::Relaxed);
        Ok(self.whole_bridge(&links)?.is_some() && (refused || nft::installed(&self.bridge).unwrap_or(false)))
    }

    /// Puts back what someone else removed of these. Blocking.
    pub(crate) fn repair(&self) -> Result<(), NetworkError> {
        let links = Links::open().map_err(step("open", "a netlink socket"))?;
        let gone = links.index(&self.bridge).map_err(step("find bridge", &self.bridge))?.is_none();
        self.ensure_bridge()?;
        if gone {
            info!(bridge = %self.bridge, "the bridge was gone and is made anew");
        }
        if !self.masquerade_refused.load(Ordering::Relaxed) {
            let _making = lock(&self.making);
            self.ensure_masquerade();
        }
        Ok(())
    }

    /// Whether a pod's link is a port of the bridge, and the rules of its host ports are there. Blocking.
    pub(crate) fn is_connected(&self, ports: &Ports) -> Result<bool, NetworkError> {
        let shown = Path::new("/sys/class/net").join(&self.bridge).join("brif");
        // Where /sys is another network namespace's it says nothing of the bridge.
        let attached = !shown.exists() || shown.join(&ports.link).exists();
        let table = &ports.table;
        if !attached || ports.list.is_empty() {
            return Ok(attached);
        }
        nft::host_ports::installed(table).map_err(step("look at table", table))
    }

    /// Puts back what someone else removed of what [`Network::is_connected`] looks at. Blocking.
    pub(crate) fn reconnect(&self, ports: &Ports) -> Result<(), NetworkError> {
        let mut links = Links::open().map_err(step("open", "a netlink socket"))?;
        // The link itself is gone when its pod, which may be privileged, removed it.
        let Some(link) = links.index(&ports.link).map_err(step("find link", &ports.link))? else { return Ok(()) };
        links.attach(link, self.ensure_bridge()?).map_err(step("attach link", &ports.link))?;
        self.open_ports(ports)?;
        info!(link = %ports.link, "a pod was cut off from the bridge, or its host ports were, and is connected anew");
        Ok(())
    }

    /// Removes bridge and table. Blocking.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let _making = lock(&self.making);
        let mut links = Links::open().map_err(step("open", "a netlink socket"))?;
        if let Some(index) = links.index(&self.bridge).map_err(step("find bridge", &self.bridge))? {
            links.delete(index).map_err(step("delete bridge", &self.bridge))?;
            nft::remove(&self.bridge).map_err(step("delete table", &self.bridge))?;
        }
        Ok(())
    }
}

/// The machine's ports that lead into a pod.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    /// Name of the table that is theirs alone.
    pub(crate) table: String,
    /// Name of the host's end of the pod's link.
    pub(crate) link: String,
    pub(crate) pod: Ipv4Addr,
    pub(crate) list: Vec<HostPort>,
}

/// Name of the host's end of a sandbox's link: 10 bytes of the 15 that a name can have.
pub(crate) fn link_name(sandbox: &str) -> String {
    format!("{LINK_PREFIX}{}", sandbox.get(..8).unwrap_or(sandbox))
}

fn forward() -> Result<(), NetworkError> {
    let on = fs::read_to_string(IP_FORWARD).is_ok_and(|value| value.trim() == "1");
    if on { Ok(()) } else { fs::write(IP_FORWARD, "1").map_err(step("write", IP_FORWARD)) }
}
