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
use std::sync::atomic::{AtomicBool, Ordering};
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
    masquerade_refused: AtomicBool,
}

impl Network {
    pub(crate) fn new(bridge: String, cidr: Cidr) -> Self {
        let addresses = Mutex::new(Addresses::new(cidr));
        Self { bridge, cidr, addresses, making: Mutex::new(()), masquerade_refused: AtomicBool::new(false) }
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

    /// The bridge's index. The common case, that it is there, costs one system call.
    fn ensure_bridge(&self) -> Result<u32, NetworkError> {
        let bridge = self.bridge.as_str();
        let mut links = Links::open().map_err(step("open", "a netlink socket"))?;
        if let Some(index) = links.index(bridge).map_err(step("find bridge", bridge))? {
            return Ok(index);
        }
        let _making = lock(&self.making);
        match links.add_bridge(bridge) {
            // Another sandbox was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(step("add bridge", bridge))?,
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

    fn repair_ports(&self, ports: &Ports) -> Result<(), NetworkError> {
        let table = &ports.table;
        if ports.list.is_empty() || nft::host_ports::installed(table).map_err(step("look at table", table))? {
            return Ok(());
        }
        info!(%table, "the rules of a pod's host ports were gone and are made anew");
        self.open_ports(ports)
    }

    /// Puts back what someone else removed: the bridge with its ports, the tables. Blocking.
    pub(crate) fn repair(&self, sandboxes: &[(String, Ports)]) -> Result<(), NetworkError> {
        let bridge = self.repair_bridge(sandboxes)?;
        sandboxes.iter().try_for_each(|(_, ports)| match bridge {
            Found::Whole => self.repair_ports(ports),
            // What was set on the old one is gone with it.
            Found::Gone => self.open_ports(ports),
        })
    }

    fn repair_bridge(&self, sandboxes: &[(String, Ports)]) -> Result<Found, NetworkError> {
        let mut links = Links::open().map_err(step("open", "a netlink socket"))?;
        if links.index(&self.bridge).map_err(step("find bridge", &self.bridge))?.is_some() {
            if !self.masquerade_refused.load(Ordering::Relaxed) {
                let _making = lock(&self.making);
                self.ensure_masquerade();
            }
            return Ok(Found::Whole);
        }
        let bridge = self.ensure_bridge()?;
        info!(bridge = %self.bridge, sandboxes = sandboxes.len(), "the bridge was gone and is made anew");
        for name in sandboxes.iter().map(|(id, _)| link_name(id)) {
            if let Some(link) = links.index(&name).map_err(step("find link", &name))? {
                links.attach(link, bridge).map_err(step("attach link", &name))?;
            }
        }
        Ok(Found::Gone)
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

/// How a repair found the bridge.
#[derive(Clone, Copy)]
enum Found {
    Whole,
    Gone,
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
