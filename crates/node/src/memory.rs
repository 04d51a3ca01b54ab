//! Memory, swap and huge pages.

use std::collections::BTreeMap;

use crate::machine::{HugePages, MemoryType};
use crate::source::Tree;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) memory_bytes: u64,
    pub(crate) swap_bytes: u64,
}

/// A value of `/proc/meminfo` or of a node's `meminfo` (`Node 0 MemTotal: 1 kB`), in bytes.
pub(crate) fn value_bytes(meminfo: &str, key: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.rsplit(' ').next()? != key {
            return None;
        }
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    })
}

/// From `/proc/meminfo`.
pub(crate) fn totals(meminfo: &str) -> Totals {
    Totals {
        memory_bytes: value_bytes(meminfo, "MemTotal").unwrap_or(0),
        swap_bytes: value_bytes(meminfo, "SwapTotal").unwrap_or(0),
    }
}

/// Huge pages of every size in a `hugepages` directory, smallest first.
pub(crate) fn hugepages(tree: &Tree, directory: &str) -> Vec<HugePages> {
    let mut found: Vec<HugePages> = tree
        .names(directory)
        .iter()
        .filter_map(|name| {
            let page_size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let num_pages = tree.number(&format!("{directory}/{name}/nr_hugepages"))?;
            Some(HugePages { page_size, num_pages })
        })
        .collect();
    found.sort_by_key(|pages| pages.page_size);
    found
}

/// Memory modules as the memory controllers' drivers (EDAC) report them; their sizes are in MiB.
pub(crate) fn by_type(tree: &Tree) -> BTreeMap<String, MemoryType> {
    const CONTROLLERS: &str = "sys/devices/system/edac/mc";
    let mut types: BTreeMap<String, MemoryType> = BTreeMap::new();
    for controller in tree.names(CONTROLLERS).iter().filter(|name| name.starts_with("mc")) {
        for dimm in tree.names(&format!("{CONTROLLERS}/{controller}")) {
            if !dimm.starts_with("dimm") && !dimm.starts_with("rank") {
                continue;
            }
            let at = format!("{CONTROLLERS}/{controller}/{dimm}");
            let kind = tree.line(&format!("{at}/dimm_mem_type"));
            let size_mib = tree.number::<u64>(&format!("{at}/size"));
            if let (Some(kind), Some(size_mib)) = (kind, size_mib) {
                let entry = types.entry(kind).or_default();
                entry.capacity = entry.capacity.saturating_add(size_mib.saturating_mul(1024 * 1024));
                entry.dimm_count += 1;
            }
        }
    }
    types
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn meminfo() {
        let cases = [
            (
                "MemTotal:       24684084 kB\nMemFree: 1 kB\nSwapTotal:  1048576 kB\n",
                24_684_084 * 1024,
                1_048_576 * 1024,
            ),
            ("Node 0 MemTotal:  8192 kB\nNode 0 MemFree: 1 kB\n", 8192 * 1024, 0),
            ("MemTotal: 5\nSwapTotal: x kB\n", 0, 0),
            ("MemTotal: 18446744073709551615 kB\n", 0, 0),
            ("", 0, 0),
        ];
        for (text, memory_bytes, swap_bytes) in cases {
            assert_eq!(totals(text), Totals { memory_bytes, swap_bytes }, "{text}");
        }
    }

    #[test]
    fn huge_pages_and_modules() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("huge/hugepages-1048576kB/nr_hugepages", "2\n");
        write("huge/hugepages-2048kB/nr_hugepages", "512\n");
        write("huge/hugepages-odd/nr_hugepages", "1\n");
        for (dimm, kind, size) in [("dimm0", "Registered-DDR4", "16384"), ("dimm1", "Registered-DDR4", "16384")] {
            write(&format!("sys/devices/system/edac/mc/mc0/{dimm}/dimm_mem_type"), kind);
            write(&format!("sys/devices/system/edac/mc/mc0/{dimm}/size"), size);
        }
        let tree = Tree::at(dir.path());
        let sizes: Vec<_> = hugepages(&tree, "huge").iter().map(|p| (p.page_size, p.num_pages)).collect();
        assert_eq!(sizes, [(2048, 512), (1_048_576, 2)]);
        assert!(hugepages(&tree, "absent").is_empty());
        let expected = MemoryType { capacity: 32 << 30, dimm_count: 2 };
        assert_eq!(by_type(&tree).get("Registered-DDR4"), Some(&expected));
    }
}
