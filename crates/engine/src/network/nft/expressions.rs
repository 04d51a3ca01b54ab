//! What rules are made of, as nf_tables reads it: attributes, and expressions that load into a register, compare and act.

use std::net::Ipv4Addr;

use crate::Cidr;

const NEST: u16 = 0x8000;
/// Sixteen bytes each.
const REGISTER: u32 = 1;
const SECOND_REGISTER: u32 = 2;
const VERDICT_REGISTER: u32 = 0;

/// Offsets in the IPv4 header.
pub(super) const SOURCE: u32 = 12;
pub(super) const DESTINATION: u32 = 16;
const ADDRESS_BYTES: u32 = 4;
/// Offset in the header of TCP, UDP and SCTP alike.
const DESTINATION_PORT: u32 = 2;
const PORT_BYTES: u32 = 2;

#[derive(Clone, Copy)]
pub(super) enum Compare {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// `ip saddr RANGE` or `ip daddr RANGE`, by its offset.
pub(super) fn within(list: &mut Vec<u8>, (offset, compare): (u32, Compare), cidr: Cidr) {
    load(list, Header::Network, (offset, ADDRESS_BYTES));
    mask(list, cidr.mask().octets());
    matches(list, compare, &cidr.network().octets());
}

/// `ip saddr ADDRESS` or `ip daddr ADDRESS`.
pub(super) fn address_is(list: &mut Vec<u8>, offset: u32, address: Ipv4Addr) {
    load(list, Header::Network, (offset, ADDRESS_BYTES));
    matches(list, Compare::Equal, &address.octets());
}

/// `fib daddr type local`: it is one of the machine's own addresses.
pub(super) fn is_for_this_machine(list: &mut Vec<u8>) {
    const ADDRESS_TYPE: u32 = 3;
    const BY_DESTINATION: u32 = 2;
    const LOCAL: u32 = 2;
    expression(list, "fib", |data| {
        number(data, 1, REGISTER);
        number(data, 2, ADDRESS_TYPE);
        number(data, 3, BY_DESTINATION);
    });
    matches(list, Compare::Equal, &LOCAL.to_ne_bytes());
}

/// `meta l4proto NUMBER`
pub(super) fn protocol_is(list: &mut Vec<u8>, protocol: u8) {
    const L4_PROTOCOL: u32 = 16;
    meta(list, L4_PROTOCOL);
    matches(list, Compare::Equal, &[protocol]);
}

/// `iifname NAME`
pub(super) fn came_by(list: &mut Vec<u8>, link: &str) {
    const INPUT_NAME: u32 = 6;
    let mut name = link.as_bytes().to_vec();
    name.resize(16, 0);
    meta(list, INPUT_NAME);
    matches(list, Compare::Equal, &name);
}

/// `th dport PORT`
pub(super) fn port_is(list: &mut Vec<u8>, port: u16) {
    load(list, Header::Transport, (DESTINATION_PORT, PORT_BYTES));
    matches(list, Compare::Equal, &port.to_be_bytes());
}

/// `ct status dnat`
pub(super) fn was_redirected(list: &mut Vec<u8>) {
    const STATUS: u32 = 2;
    const DESTINATION_NAT: u32 = 1 << 5;
    expression(list, "ct", |data| {
        number(data, 1, REGISTER);
        number(data, 2, STATUS);
    });
    mask(list, DESTINATION_NAT.to_ne_bytes());
    matches(list, Compare::NotEqual, &[0; 4]);
}

/// `dnat to ADDRESS:PORT`
pub(super) fn redirect(list: &mut Vec<u8>, address: Ipv4Addr, port: u16) {
    const TO_DESTINATION: u32 = 1;
    const IPV4: u32 = 2;
    for (register, value) in [(REGISTER, &address.octets()[..]), (SECOND_REGISTER, &port.to_be_bytes())] {
        expression(list, "immediate", |data| {
            number(data, 1, register);
            nest(data, 2, |data| attribute(data, 1, value));
        });
    }
    expression(list, "nat", |data| {
        number(data, 1, TO_DESTINATION);
        number(data, 2, IPV4);
        number(data, 3, REGISTER);
        number(data, 5, SECOND_REGISTER);
    });
}

pub(super) fn masquerade(list: &mut Vec<u8>) {
    expression(list, "masq", |_| {});
}

pub(super) fn drop_packet(list: &mut Vec<u8>) {
    const DROP: u32 = 0;
    expression(list, "immediate", |data| {
        number(data, 1, VERDICT_REGISTER);
        nest(data, 2, |data| nest(data, 2, |verdict| number(verdict, 1, DROP)));
    });
}

fn load(list: &mut Vec<u8>, header: Header, (offset, length): (u32, u32)) {
    expression(list, "payload", |data| {
        number(data, 1, REGISTER);
        number(data, 2, header as u32);
        number(data, 3, offset);
        number(data, 4, length);
    });
}

fn meta(list: &mut Vec<u8>, key: u32) {
    expression(list, "meta", |data| {
        number(data, 1, REGISTER);
        number(data, 2, key);
    });
}

fn mask(list: &mut Vec<u8>, mask: [u8; 4]) {
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER);
        number(data, 2, REGISTER);
        number(data, 3, 4);
        nest(data, 4, |value| attribute(value, 1, &mask));
        nest(data, 5, |value| attribute(value, 1, &[0; 4]));
    });
}

fn matches(list: &mut Vec<u8>, compare: Compare, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER);
        number(data, 2, compare as u32);
        nest(data, 3, |data| attribute(data, 1, value));
    });
}

fn expression(list: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        text(element, 1, name);
        nest(element, 2, fill);
    });
}

pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// nf_tables wants its numbers in network order.
pub(super) fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

pub(super) fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    attribute(bytes, kind, &value);
}

pub(super) fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
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
