//! Ports of the machine that lead into a pod. A table for each sandbox: it comes and goes with it.
//!
//! In the words of nft(8), for every port: `fib daddr type local [ip daddr HOST-IP] meta l4proto PROTOCOL th dport PORT
//! dnat to POD:PORT`, in chains that see what comes in and what the machine itself sends; and masquerade for what the pod
//! would answer past us: to the machine's loopback, and to pods on the same bridge.

use std::io;
use std::net::Ipv4Addr;

use super::expressions::{
    Compare, DESTINATION, SOURCE, address_is, is_for_this_machine, masquerade, port_is, protocol_is, redirect,
    was_redirected, within,
};
use super::{
    Batch, CHAIN_POSTROUTING, CREATE, Chain, DEL_TABLE, Family, NEW_TABLE, Netlink, POSTROUTING, has_rules, table_body,
};
use crate::Cidr;

const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const CHAIN_PREROUTING: Chain = Chain(PREROUTING, "nat", 0, -100);
const CHAIN_OUTPUT: Chain = Chain(OUTPUT, "nat", 3, -100);

/// One port of the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Of the IP header.
    pub(crate) protocol: u8,
    /// `None` is every address of the machine.
    pub(crate) host_ip: Option<Ipv4Addr>,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
}

/// Makes a sandbox's table anew.
pub(crate) fn install(table: &str, (pod, cidr): (Ipv4Addr, Cidr), ports: &[HostPort]) -> io::Result<()> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let mut batch = Batch::new(&mut socket);
    // The kernel deletes only what exists, so it is made first.
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    batch.add(DEL_TABLE, 0, &table_body(table));
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    for chain in [CHAIN_PREROUTING, CHAIN_OUTPUT, CHAIN_POSTROUTING] {
        batch.chain(table, chain);
    }
    for port in ports {
        for chain in [PREROUTING, OUTPUT] {
            batch.rule(table, chain, |list| {
                is_for_this_machine(list);
                if let Some(address) = port.host_ip {
                    address_is(list, DESTINATION, address);
                }
                protocol_is(list, port.protocol);
                port_is(list, port.host_port);
                redirect(list, pod, port.container_port);
            });
        }
    }
    for from in [Cidr::LOOPBACK, cidr] {
        batch.rule(table, POSTROUTING, |list| {
            within(list, (SOURCE, Compare::Equal), from);
            address_is(list, DESTINATION, pod);
            was_redirected(list);
            masquerade(list);
        });
    }
    batch.commit()
}

/// Whether a sandbox's rules are there.
pub(crate) fn installed(table: &str) -> io::Result<bool> {
    Ok(has_rules(table, PREROUTING)? && has_rules(table, OUTPUT)? && has_rules(table, POSTROUTING)?)
}
