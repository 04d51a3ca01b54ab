//! What cannot change while this process lives: read once.

use std::sync::OnceLock;

use crate::cpu;
use crate::source::Tree;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) vendor_id: String,
    pub(crate) cpu_frequency_khz: u64,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
}

/// Of this machine.
pub(crate) fn live() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| read(&Tree::live()))
}

pub(crate) fn read(tree: &Tree) -> Identity {
    let cpuinfo = tree.text("proc/cpuinfo").unwrap_or_default();
    let first = |paths: &[&str]| paths.iter().find_map(|path| tree.line(path)).unwrap_or_default();
    Identity {
        vendor_id: cpu::vendor(&cpuinfo),
        cpu_frequency_khz: tree
            .number("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
            .or_else(|| cpu::frequency_khz(&cpuinfo))
            .unwrap_or(0),
        machine_id: first(&["etc/machine-id", "var/lib/dbus/machine-id"]),
        system_uuid: first(&[
            "sys/class/dmi/id/product_uuid",
            "proc/device-tree/system-id",
            "proc/device-tree/vm,uuid",
        ]),
        boot_id: first(&["proc/sys/kernel/random/boot_id"]),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::at(dir.path());
        (dir, tree)
    }

    #[test]
    fn sources_in_their_order() {
        let (_dir, server) = tree(&[
            ("proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu MHz\t: 2000.5\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3500000\n"),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("sys/class/dmi/id/product_uuid", "4c4c4544-0051\n"),
            ("proc/sys/kernel/random/boot_id", "f00d\n"),
        ]);
        let expected = Identity {
            vendor_id: "AuthenticAMD".into(),
            cpu_frequency_khz: 3_500_000,
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            system_uuid: "4c4c4544-0051".into(),
            boot_id: "f00d".into(),
        };
        assert_eq!(read(&server), expected);

        let (_dir, board) = tree(&[
            ("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\n"),
            ("etc/machine-id", "\n"),
            ("var/lib/dbus/machine-id", "dbus\n"),
            ("proc/device-tree/system-id", "board-7\0"),
        ]);
        let expected = Identity {
            vendor_id: "0x41".into(),
            machine_id: "dbus".into(),
            system_uuid: "board-7".into(),
            ..Identity::default()
        };
        assert_eq!(read(&board), expected);

        let (_dir, bare) = tree(&[]);
        assert_eq!(read(&bare), Identity::default());
    }
}
