//! Masquerade of what pods send out of their range: one nf_tables table with one rule, written over netlink.
//!
//! In the words of nft(8): `table ip NAME { chain postrouting { type nat hook postrouting priority srcnat;
//! ip saddr RANGE ip daddr != RANGE masquerade; } }`.

use std::io;

use super::netlink::{Family, Netlink};
use crate::Cidr;

const CHAIN: &str = "postrouting";

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
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;

/// Offsets in the IPv4 header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

const NEST: u16 = 0x8000;

/// Makes the table anew, whatever it held, in one transaction.
pub(crate) fn install(table: &str, cidr: Cidr) -> io::Result<()> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let mut batch = Batch::new(&mut socket);
    // The kernel deletes only what exists, so it is made first.
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    batch.add(DEL_TABLE, 0, &table_body(table));
    batch.add(NEW_TABLE, CREATE, &table_body(table));
    batch.add(NEW_CHAIN, CREATE, &chain_body(table));
    batch.add(NEW_RULE, CREATE | APPEND, &rule_body(table, cidr));
    batch.commit()
}

/// Whether the rule is there; `false` too when table or chain are gone.
pub(crate) fn installed(table: &str) -> io::Result<bool> {
    let mut socket = Netlink::open(Family::Netfilter)?;
    let seq = socket.next_seq();
    let mut body = Vec::new();
    text(&mut body, 1, table);
    text(&mut body, 2, CHAIN);
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

fn chain_body(table: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, 1, table);
    text(&mut body, 3, CHAIN);
    nest(&mut body, 4, |hook| {
        number(hook, 1, HOOK_POSTROUTING);
        number(hook, 2, PRIORITY_SRCNAT);
    });
    text(&mut body, 7, "nat");
    body
}

fn rule_body(table: &str, cidr: Cidr) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, 1, table);
    text(&mut body, 2, CHAIN);
    nest(&mut body, 4, |list| {
        within(list, (SOURCE, Compare::Equal), cidr);
        within(list, (DESTINATION, Compare::NotEqual), cidr);
        expression(list, "masq", |_| {});
    });
    body
}

#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// Loads an address of the header, masks it and compares it with the range's.
fn within(list: &mut Vec<u8>, (offset, compare): (u32, Compare), cidr: Cidr) {
    const NETWORK_HEADER: u32 = 1;
    const REGISTER: u32 = 1;
    const ADDRESS_BYTES: u32 = 4;
    expression(list, "payload", |data| {
        number(data, 1, REGISTER);
        number(data, 2, NETWORK_HEADER);
        number(data, 3, offset);
        number(data, 4, ADDRESS_BYTES);
    });
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER);
        number(data, 2, REGISTER);
        number(data, 3, ADDRESS_BYTES);
        nest(data, 4, |value| attribute(value, 1, &cidr.mask().octets()));
        nest(data, 5, |value| attribute(value, 1, &[0; 4]));
    });
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER);
        number(data, 2, compare as u32);
        nest(data, 3, |value| attribute(value, 1, &cidr.network().octets()));
    });
}

fn expression(list: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        text(element, 1, name);
        nest(element, 2, fill);
    });
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

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// nf_tables wants its numbers in network order.
fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    attribute(bytes, kind, &value);
}

fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(bytes, kind | NEST, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut bytes = Vec::new();
        nest(&mut bytes, 4, |inner| text(inner, 1, "ab"));
        let (outer, inner) = (12u16.to_ne_bytes(), 7u16.to_ne_bytes());
        let (four, one) = ((4 | NEST).to_ne_bytes(), 1u16.to_ne_bytes());
        assert_eq!(bytes, [&outer[..], &four, &inner, &one, b"ab\0\0"].concat());
    }

    #[test]
    fn numbers_are_in_network_order() {
        let mut bytes = Vec::new();
        number(&mut bytes, 2, 100);
        assert_eq!(&bytes[4..], [0, 0, 0, 100]);
    }
}
