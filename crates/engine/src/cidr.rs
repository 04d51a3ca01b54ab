use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses for pods: `10.88.0.0/16`. Its first address is the bridge's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// A text that is not a usable range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{text:?} is not an IPv4 range: expected ADDRESS/PREFIX, as in 10.88.0.0/16")]
    Syntax { text: String },
    #[error("{text:?} has prefix length {prefix}: expected 8 to 29, so that it holds at least 5 pods")]
    Prefix { text: String, prefix: u8 },
    #[error("{text:?} has bits set beyond its prefix: did you mean {network}/{prefix}?")]
    HostBits { text: String, network: Ipv4Addr, prefix: u8 },
}

impl Cidr {
    /// The machine's own addresses; no range for pods.
    pub(crate) const LOOPBACK: Cidr = Cidr { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

    /// The range's own name, never given to a pod.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Length of the prefix in bits, 8 to 29.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's address, which is the pods' default gateway.
    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1)
    }

    /// The mask as an address: `255.255.0.0`.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(!0 << (32 - self.prefix))
    }

    /// Number of addresses, with network, gateway and broadcast.
    pub(crate) fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    pub(crate) fn nth(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + offset)
    }

    pub(crate) fn offset_of(self, address: Ipv4Addr) -> Option<u32> {
        let offset = address.to_bits().checked_sub(self.network.to_bits())?;
        (offset < self.size()).then_some(offset)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let syntax = || CidrError::Syntax { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        if !(8..=29).contains(&prefix) {
            return Err(CidrError::Prefix { text: text.to_owned(), prefix });
        }
        let cidr = Cidr { network: Ipv4Addr::from_bits(address.to_bits() & (!0 << (32 - prefix))), prefix };
        if cidr.network != address {
            return Err(CidrError::HostBits { text: text.to_owned(), network: cidr.network, prefix });
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        let cidr: Cidr = "10.190.4.0/26".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.190.4.0/26");
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 190, 4, 1));
        assert_eq!(cidr.mask(), Ipv4Addr::new(255, 255, 255, 192));
        assert_eq!(cidr.offset_of(Ipv4Addr::new(10, 190, 4, 63)), Some(63));
        assert_eq!(cidr.offset_of(Ipv4Addr::new(10, 190, 4, 64)), None);
        assert_eq!(cidr.offset_of(Ipv4Addr::new(10, 190, 3, 255)), None);
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_was_expected() {
        for (text, part) in [
            ("", "ADDRESS/PREFIX"),
            ("10.0.0.0", "ADDRESS/PREFIX"),
            ("10.0.0/24", "ADDRESS/PREFIX"),
            ("10.0.0.0/x", "ADDRESS/PREFIX"),
            ("fd00::/64", "ADDRESS/PREFIX"),
            ("10.0.0.0/30", "8 to 29"),
            ("0.0.0.0/0", "8 to 29"),
            ("10.0.0.7/24", "did you mean 10.0.0.0/24"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
