//! nf_tables tables, written over netlink: one for the bridge, and one for each sandbox with ports of the machine's.
//!
//! The bridge's in the words of nft(8): `table ip NAME { chain postrouting { type nat hook postrouting priority srcnat;
//! ip saddr RANGE ip daddr != RANGE masquerade; } chain guard { type filter hook prerouting priority raw;
//! iifname NAME ip daddr 127.0.0.0/8 drop; } }`.
//!
//! A drop in anybody's chain is final: where another table's forward chain drops what it does not know, as Docker's does,
//! nothing accepted here would help, and pods reach beyond the machine only by a rule there.

mod expressions;
pub(crate) mod host_ports;

use std::io;

use super::netlink::{Family, Netlink};
use crate::Cidr;
use expressions::{Compare, DESTINATION, SOURCE, came_by, drop_packet, masquerade, nest, number, text, within};

const POSTROUTING: &str = "postrouting";
const GUARD: &str = "guard";

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DEL_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;
/// A base chain: its name, type, hook and priority.
#[derive(Clone, Copy)]
struct Chain(&'static str, &'static str, u32, i32);

const CHAIN_POSTROUTING: Chain = Chain(POSTROUTING, "nat", 4, 100);
/// Before connection tracking, which gives answers to the machine's loopback their address back.
const CHAIN_GUARD: Chain = Chain(GUARD, "filter", 0, -300);

/// Makes the table anew, whatever it held, in one transaction.
pub(crate) fn install(table: &str, cidr: Cidr) -> io::Result<()> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let mut batch = Batch::new(&mut socket);
    // The kernel deletes only what exists, so it is made first.
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    batch.add(DEL_TABLE, 0, &table_body(table));
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    batch.chain(table, CHAIN_POSTROUTING);
    batch.rule(table, POSTROUTING, |list| {
        within(list, (SOURCE, Compare::Equal), cidr);
        within(list, (DESTINATION, Compare::NotEqual), cidr);
        masquerade(list);
    });
    batch.chain(table, CHAIN_GUARD);
    batch.rule(table, GUARD, |list| {
        // The bridge, after which the table is named, may lead to the machine's loopback for the sake of its ports
        // (route_localnet); pods must not get there by it (CVE-2020-8558).
        came_by(list, table);
        within(list, (DESTINATION, Compare::Equal), Cidr::LOOPBACK);
        drop_packet(list);
    });
    batch.commit()
}

/// Whether the bridge's rules are there; `false` too when table or chains are gone.
pub(crate) fn installed(table: &str) -> io::Result<bool> {
    Ok(has_rules(table, POSTROUTING)? && has_rules(table, GUARD)?)
}

fn has_rules(table: &str, chain: &str) -> io::Result<bool> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let seq = socket.next_seq();
    let mut body = Vec::new();
    text(&mut body, 1, table);
    text(&mut body, 2, chain);
    let mut bytes = Vec::new();
    message(&mut bytes, (GET_RULE, REQUEST | DUMP, seq), (NFPROTO_IPV4, 0), &body);
    match socket.count(&bytes, seq, NEW_RULE) {
        Ok(rules) => Ok(rules > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the table; one that is gone is removed already.
pub(crate) fn remove(table: &str) -> io::Result<()> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let mut batch = Batch::new(&mut socket);
    batch.add(DEL_TABLE, 0, &table_body(table));
    match batch.commit() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// nf_tables takes changes only between a begin and an end, and makes all of them or none.
struct Batch<'a> {
    socket: &'a mut Netlink,
    bytes: Vec<u8>,
    seqs: Vec<u32>,
}

impl<'a> Batch<'a> {
    fn new(socket: &'a mut Netlink) -> Self {
        let mut bytes = Vec::new();
        let seq = socket.next_seq();
        message(&mut bytes, (BATCH_BEGIN, REQUEST, seq), (NFPROTO_UNSPEC, SUBSYSTEM), &[]);
        Self { socket, bytes, seqs: Vec::new() }
    }

    fn add(&mut self, kind: u16, flags: u16, body: &[u8]) {
        let seq = self.socket.next_seq();
        message(&mut self.bytes, (kind, REQUEST | ACK | flags, seq), (NFPROTO_IPV4, 0), body);
        self.seqs.push(seq);
    }

    fn chain(&mut self, table: &str, Chain(name, kind, hook, priority): Chain) {
        let mut body = Vec::new();
        text(&mut body, 1, table);
        text(&mut body, 3, name);
        nest(&mut body, 4, |place| {
            number(place, 1, hook);
            number(place, 2, priority.cast_unsigned());
        });
        text(&mut body, 7, kind);
        self.add(NEW_CHAIN, CREATE, &body);
    }

    fn rule(&mut self, table: &str, chain: &str, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut body = Vec::new();
        text(&mut body, 1, table);
        text(&mut body, 2, chain);
        nest(&mut body, 4, fill);
        self.add(NEW_RULE, CREATE | APPEND, &body);
    }

    fn commit(mut self) -> io::Result<()> {
        let seq = self.socket.next_seq();
        message(&mut self.bytes, (BATCH_END, REQUEST, seq), (NFPROTO_UNSPEC, SUBSYSTEM), &[]);
        self.socket.transact(&self.bytes, &self.seqs)
    }
}

fn table_body(table: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, 1, table);
    body
}

fn message(bytes: &mut Vec<u8>, (kind, flags, seq): (u16, u16, u32), (family, resource): (u8, u16), body: &[u8]) {
    let length = 16 + 4 + body.len();
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
