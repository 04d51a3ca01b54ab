//! What a kubelet says of its node in a few words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::source::Tree;
use crate::{cpu, ids, memory, topology};

/// The node in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Lower case, as names of nodes are.
    pub hostname: String,
    /// Changes with every boot; empty if the kernel does not tell.
    pub boot_id: String,
    /// Release of the kernel.
    pub kernel: String,
    /// `PRETTY_NAME` of the installed system.
    pub os_image: String,
    /// As Kubernetes writes it: `amd64`, `arm64`, …
    pub arch: &'static str,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Processors that are online; at least 1.
    pub cores: usize,
}

/// Reads the facts; blocks for a few small files.
pub fn facts() -> Facts {
    let tree = Tree::live();
    let uname = rustix::system::uname();
    let os_release = tree.text("etc/os-release").or_else(|| tree.text("usr/lib/os-release")).unwrap_or_default();
    let threads = topology::counts(&topology::live(&tree)).threads;
    let listed = || cpu::count(&tree.text("proc/cpuinfo").unwrap_or_default());
    Facts {
        hostname: uname.nodename().to_string_lossy().trim().to_lowercase(),
        boot_id: ids::live().boot_id.clone(),
        kernel: uname.release().to_string_lossy().into_owned(),
        os_image: os_image(&os_release),
        arch: arch(std::env::consts::ARCH),
        memory_bytes: memory::totals(&tree.text("proc/meminfo").unwrap_or_default()).memory_bytes,
        cores: if threads > 0 { threads } else { listed().max(1) },
    }
}

/// `PRETTY_NAME` of os-release(5), quotes removed; `Linux` without one.
fn os_image(os_release: &str) -> String {
    let value = |key: &str| {
        let value = os_release.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "Linux".to_owned())
}

fn arch(rust_name: &'static str) -> &'static str {
    match rust_name {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The address that this machine has in the world: the source address of its default route, else of its first
/// connected network that is not a bridge. `None` if it has no network.
pub fn primary_ip() -> Option<IpAddr> {
    let tree = Tree::live();
    // TEST-NET-2 and the documentation prefix of IPv6: addresses that only a default route leads to.
    let far = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let near = connected(&tree.text("proc/net/route").unwrap_or_default())
        .into_iter()
        .filter(|(interface, _)| !tree.exists(&format!("sys/class/net/{interface}/bridge")))
        .map(|(_, address)| IpAddr::V4(address));
    far.into_iter().chain(near).find_map(source_address)
}

/// Connecting a UDP socket sends nothing; it makes the kernel choose a route and with it the source address.
fn source_address(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(target, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified() && !source.is_loopback()).then_some(source)
}

/// An address in each directly connected network of `/proc/net/route`, lowest metric first.
fn connected(routes: &str) -> Vec<(String, Ipv4Addr)> {
    const UP: u16 = 1;
    let mut found: Vec<(u32, String, Ipv4Addr)> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().take(8).collect();
            let [interface, destination, gateway, flags, _, _, metric, mask] = fields[..] else { return None };
            // The file shows addresses as the hexadecimal number that their four bytes are on this machine.
            let address = |text| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
            let (destination, gateway, mask) = (address(destination)?, address(gateway)?, address(mask)?);
            let up = u16::from_str_radix(flags, 16).ok()? & UP != 0;
            let usable = up && gateway.is_unspecified() && !mask.is_unspecified() && u32::from(mask) != u32::MAX;
            let inside = Ipv4Addr::from(u32::from(destination).checked_add(1)?);
            usable.then(|| (metric.parse().unwrap_or(u32::MAX), interface.to_owned(), inside))
        })
        .take(64)
        .collect();
    found.sort_by_key(|(metric, _, _)| *metric);
    found.into_iter().map(|(_, interface, address)| (interface, address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_systems() {
        let cases = [
            (
                "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
                "Debian GNU/Linux 12 (bookworm)",
            ),
            ("PRETTY_NAME='Alpine Linux v3.20'\n", "Alpine Linux v3.20"),
            ("NAME=Buildroot\nPRETTY_NAME=\n", "Buildroot"),
            ("", "Linux"),
        ];
        for (text, name) in cases {
            assert_eq!(os_image(text), name, "{text}");
        }
        assert_eq!((arch("x86_64"), arch("aarch64"), arch("riscv64")), ("amd64", "arm64", "riscv64"));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn connected_networks() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            down0\t0000000A\t00000000\t0000\t0\t0\t0\t000000FF\t0\t0\t0\n\
            odd\tzz\n";
        let expected = [("eth0", [192, 0, 2, 1]), ("wlan0", [192, 168, 1, 1])];
        let expected: Vec<_> = expected.into_iter().map(|(name, ip)| (name.to_owned(), Ipv4Addr::from(ip))).collect();
        assert_eq!(connected(routes), expected);
        assert!(connected("").is_empty());
    }
}
