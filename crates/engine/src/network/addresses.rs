//! Which address a pod gets. Pure: the live sandboxes' records are the only memory.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::Cidr;

/// The addresses of a range that are in use, and where to look for the next one.
#[derive(Debug)]
pub(crate) struct Addresses {
    cidr: Cidr,
    used: BTreeSet<u32>,
    next: u32,
}

/// Network, gateway.
const FIRST: u32 = 2;

impl Addresses {
    pub(crate) fn new(cidr: Cidr) -> Self {
        Self { cidr, used: BTreeSet::new(), next: FIRST }
    }

    /// The next free address, round robin: an address that was just given back is the last to be used again, so that
    /// neighbours' ARP entries and connection tracking have forgotten it. `None` when all are in use.
    pub(crate) fn allocate(&mut self) -> Option<Ipv4Addr> {
        let end = self.cidr.size() - 1;
        let offset = (self.next..end).chain(FIRST..self.next).find(|offset| !self.used.contains(offset))?;
        self.used.insert(offset);
        self.next = if offset + 1 < end { offset + 1 } else { FIRST };
        Some(self.cidr.nth(offset))
    }

    /// Marks an address that a live sandbox has. One outside the range (the range was changed) needs no mark.
    pub(crate) fn reserve(&mut self, address: Ipv4Addr) {
        let end = self.cidr.size() - 1;
        if let Some(offset) = self.cidr.offset_of(address).filter(|offset| (FIRST..end).contains(offset)) {
            self.used.insert(offset);
            if offset >= self.next {
                self.next = if offset + 1 < end { offset + 1 } else { FIRST };
            }
        }
    }

    /// Gives an address back. One that is not in use stays so.
    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.cidr.offset_of(address) {
            self.used.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> Cidr {
        "10.190.1.0/26".parse().unwrap()
    }

    #[test]
    fn f_d01_all_but_three_addresses_of_a_range_can_live_at_once() {
        let mut addresses = Addresses::new(small());
        let given: BTreeSet<_> = std::iter::from_fn(|| addresses.allocate()).collect();
        assert_eq!(given.len(), 61);
        for reserved in [0, 1, 63] {
            assert!(!given.contains(&small().nth(reserved)));
        }
        addresses.release(small().nth(17));
        assert_eq!(addresses.allocate(), Some(small().nth(17)));
        assert_eq!(addresses.allocate(), None);
    }

    #[test]
    fn an_address_given_back_is_the_last_to_be_used_again() {
        let mut addresses = Addresses::new(small());
        let first = addresses.allocate().unwrap();
        addresses.release(first);
        let following: Vec<_> = (0..61).map(|_| addresses.allocate().unwrap()).collect();
        assert_eq!(following.last(), Some(&first));
    }

    #[test]
    fn foreign_addresses_are_ignored() {
        let mut addresses = Addresses::new(small());
        for foreign in [Ipv4Addr::new(10, 0, 0, 1), small().gateway(), small().nth(63)] {
            addresses.reserve(foreign);
            addresses.release(foreign);
        }
        assert_eq!(std::iter::from_fn(|| addresses.allocate()).count(), 61);
    }

    proptest! {
        #[test]
        fn f_d01_no_address_is_lost_or_given_twice(
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2_000),
            restart_every in 1usize..200,
        ) {
            let mut addresses = Addresses::new(small());
            let mut live: Vec<Ipv4Addr> = Vec::new();
            for (step, (create, which)) in steps.into_iter().enumerate() {
                if step % restart_every == 0 {
                    addresses = Addresses::new(small());
                    live.iter().for_each(|address| addresses.reserve(*address));
                }
                if create || live.is_empty() {
                    match addresses.allocate() {
                        Some(address) => {
                            prop_assert!(!live.contains(&address));
                            live.push(address);
                        }
                        None => prop_assert_eq!(live.len(), 61),
                    }
                } else {
                    addresses.release(live.swap_remove(which.index(live.len())));
                }
            }
        }
    }
}
