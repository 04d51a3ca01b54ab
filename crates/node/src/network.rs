//! Network interfaces of the machine.

use crate::machine::NetInfo;
use crate::source::Tree;

/// Interfaces but loopback and the machine's ends of pods' and containers' virtual links, which come and go.
pub(crate) fn devices(tree: &Tree) -> Vec<NetInfo> {
    const NET: &str = "sys/class/net";
    tree.names(NET)
        .into_iter()
        .filter(|name| name != "lo" && !is_pod_link(name))
        // `bonding_masters` is a plain file.
        .filter(|name| tree.exists(&format!("{NET}/{name}/mtu")))
        .map(|name| NetInfo {
            mac_address: tree.line(&format!("{NET}/{name}/address")).unwrap_or_default(),
            // -1 (unknown) does not parse and becomes 0.
            speed: tree.number(&format!("{NET}/{name}/speed")).unwrap_or(0),
            mtu: tree.number(&format!("{NET}/{name}/mtu")).unwrap_or(0),
            name,
        })
        .collect()
}

/// `kv` and eight hexadecimal digits is this kubelet's naming, `veth…` nearly everybody else's.
fn is_pod_link(name: &str) -> bool {
    let ours = |digits: &str| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.starts_with("veth") || name.strip_prefix("kv").is_some_and(ours)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn own_links_and_loopback_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for (name, speed) in
            [("eth0", "1000\n"), ("wlan0", "-1\n"), ("lo", ""), ("kv0a1b2c3d", ""), ("veth12", ""), ("kvm0", "10\n")]
        {
            let at = dir.path().join("sys/class/net").join(name);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("address"), "02:fc:00:00:00:05\n").unwrap();
            fs::write(at.join("mtu"), "1500\n").unwrap();
            fs::write(at.join("speed"), speed).unwrap();
        }
        fs::write(dir.path().join("sys/class/net/bonding_masters"), "\n").unwrap();
        let found: Vec<_> = devices(&Tree::at(dir.path())).into_iter().map(|d| (d.name, d.speed, d.mtu)).collect();
        assert_eq!(found, [("eth0".into(), 1000, 1500), ("kvm0".into(), 10, 1500), ("wlan0".into(), 0, 1500)]);
    }
}
