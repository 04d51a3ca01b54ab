//! Links, addresses and routes, by rtnetlink messages.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::net::netdevice::name_to_index;

use super::netlink::{Family, Netlink};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The links of the network namespace in which it was opened.
pub(crate) struct Links {
    socket: Netlink,
}

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(Family::Route)? })
    }

    /// The index of the link of this name, if there is one.
    pub(crate) fn index(&self, name: &str) -> io::Result<Option<u32>> {
        match name_to_index(&self.socket, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewLink(LinkBridge::new(name).build()), NEW)
    }

    /// A pair of links: `name` here, a port of `bridge` that is still down, and `peer` in the namespace.
    /// The peer must not be created up: a link that comes up before it has its namespace is refused.
    pub(crate) fn add_veth(&mut self, name: &str, bridge: u32, peer: (&str, BorrowedFd<'_>)) -> io::Result<()> {
        let (peer_name, namespace) = peer;
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(peer_name).setns_by_fd(namespace.as_raw_fd()).build();
        let link = LinkVeth::new(name, peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .build();
        self.request(RouteNetlinkMessage::NewLink(link), NEW)
    }

    pub(crate) fn attach(&mut self, link: u32, bridge: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(link).controller(bridge).up().build();
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    pub(crate) fn up(&mut self, link: u32) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(link).up().build()), 0)
    }

    pub(crate) fn add_address(&mut self, link: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(address, prefix).build();
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(crate) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.request(RouteNetlinkMessage::NewRoute(message), NEW)
    }

    /// Deletes a link; blocks for tens of milliseconds, so it is not for the links of pods.
    pub(crate) fn delete(&mut self, link: u32) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(link).build()), 0)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = self.socket.next_seq();
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.transact(&bytes, &[message.header.sequence_number])
    }
}
