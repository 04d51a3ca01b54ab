//! Nodes, cores and caches from `/sys/devices/system/{node,cpu}`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::machine::{Cache, Core, NumaNode};
use crate::memory;
use crate::source::Tree;

const CPUS: &str = "sys/devices/system/cpu";
const NODES: &str = "sys/devices/system/node";
/// More than the kernel supports anywhere (NR_CPUS).
const MAX_CPUS: u32 = 8192;

/// Totals over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) threads: usize,
    pub(crate) cores: usize,
    pub(crate) sockets: usize,
    pub(crate) books: usize,
    pub(crate) drawers: usize,
}

pub(crate) fn counts(nodes: &[NumaNode]) -> Counts {
    let cores = || nodes.iter().flat_map(|node| &node.cores);
    let distinct = |id: fn(&Core) -> &str| cores().map(id).filter(|id| !id.is_empty()).collect::<BTreeSet<_>>().len();
    Counts {
        threads: cores().map(|core| core.thread_ids.len()).sum(),
        cores: cores().count(),
        sockets: cores().map(|core| core.socket_id).collect::<BTreeSet<_>>().len(),
        books: distinct(|core| &core.book_id),
        drawers: distinct(|core| &core.drawer_id),
    }
}

/// Of this machine. Cores and caches change only when a processor goes on or off line, and cost some twenty files a
/// processor to read, so they are kept until then; memory and huge pages of a node are read anew.
pub(crate) fn live(tree: &Tree) -> Vec<NumaNode> {
    static KEPT: Mutex<Option<(Option<String>, Vec<NumaNode>)>> = Mutex::new(None);
    let online = tree.line(&format!("{CPUS}/online"));
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut nodes = match kept.as_ref() {
        Some((key, nodes)) if key.is_some() && *key == online => nodes.clone(),
        _ => {
            let nodes = processors(tree, online.as_deref());
            *kept = Some((online, nodes.clone()));
            nodes
        }
    };
    drop(kept);
    add_memory(tree, &mut nodes);
    nodes
}

/// Nodes with their cores and caches. A machine without NUMA directories is one node.
pub(crate) fn processors(tree: &Tree, online: Option<&str>) -> Vec<NumaNode> {
    let online: BTreeSet<u32> = match online {
        Some(list) => parse_list(list).into_iter().collect(),
        None => numbered(tree, CPUS, "cpu").into_iter().collect(),
    };
    let mut nodes: Vec<NumaNode> = numbered(tree, NODES, "node")
        .into_iter()
        .map(|node_id| {
            let cpus = tree.line(&format!("{NODES}/node{node_id}/cpulist")).unwrap_or_default();
            let cpus: Vec<u32> = parse_list(&cpus).into_iter().filter(|cpu| online.contains(cpu)).collect();
            NumaNode { node_id, cores: cores(tree, &cpus), ..NumaNode::default() }
        })
        .collect();
    if nodes.is_empty() {
        let cpus: Vec<u32> = online.into_iter().collect();
        nodes.push(NumaNode { cores: cores(tree, &cpus), ..NumaNode::default() });
    }
    for node in &mut nodes {
        add_caches(tree, node);
    }
    nodes
}

fn add_memory(tree: &Tree, nodes: &mut [NumaNode]) {
    for node in nodes {
        let at = format!("{NODES}/node{}", node.node_id);
        let meminfo = tree.text(&format!("{at}/meminfo")).or_else(|| tree.text("proc/meminfo"));
        node.memory = memory::totals(&meminfo.unwrap_or_default()).memory_bytes;
        node.hugepages = memory::hugepages(tree, &format!("{at}/hugepages"));
        let distances = tree.line(&format!("{at}/distance")).unwrap_or_default();
        node.distances = distances.split_whitespace().filter_map(|distance| distance.parse().ok()).collect();
    }
}

/// Hardware threads of one package and core id, as cores, in the order of their first thread.
fn cores(tree: &Tree, cpus: &[u32]) -> Vec<Core> {
    let mut found: BTreeMap<(u32, u32, u32), Core> = BTreeMap::new();
    for cpu in cpus {
        let at = format!("{CPUS}/cpu{cpu}/topology");
        // ARM boards answer -1 for a package they do not know; it is one package then.
        let number = |name: &str| tree.number::<u32>(&format!("{at}/{name}"));
        let socket_id = number("physical_package_id").unwrap_or(0);
        let core_id = number("core_id").unwrap_or(*cpu);
        // Core ids repeat between the dies, clusters and books of a package: siblings tell cores apart.
        let siblings = tree.line(&format!("{at}/thread_siblings_list")).map(|list| parse_list(&list));
        let first = siblings.and_then(|list| list.first().copied()).unwrap_or(*cpu);
        let text = |name: &str| tree.line(&format!("{at}/{name}")).unwrap_or_default();
        let core = found.entry((socket_id, first, core_id)).or_insert_with(|| Core {
            core_id,
            socket_id,
            book_id: text("book_id"),
            drawer_id: text("drawer_id"),
            ..Core::default()
        });
        core.thread_ids.push(*cpu);
    }
    let mut cores: Vec<Core> = found.into_values().collect();
    cores.sort_by_key(|core| core.thread_ids.first().copied());
    cores
}

/// A cache belongs to the core if the core's threads alone share it, to the node if all its threads do.
fn add_caches(tree: &Tree, node: &mut NumaNode) {
    let in_node: usize = node.cores.iter().map(|core| core.thread_ids.len()).sum();
    for core in &mut node.cores {
        let Some(thread) = core.thread_ids.first() else { continue };
        let at = format!("{CPUS}/cpu{thread}/cache");
        for index in numbered(tree, &at, "index") {
            let Some((cache, sharers)) = read_cache(tree, &format!("{at}/index{index}")) else { continue };
            if cache.level > 2 && sharers >= in_node {
                if !node.caches.contains(&cache) {
                    node.caches.push(cache);
                }
            } else if sharers <= core.thread_ids.len() {
                core.caches.push(cache);
            } else {
                core.uncore_caches.push(cache);
            }
        }
    }
}

/// A cache and how many processors share it.
fn read_cache(tree: &Tree, at: &str) -> Option<(Cache, usize)> {
    let cache = Cache {
        id: tree.number(&format!("{at}/id")).unwrap_or(0),
        size: parse_size(&tree.line(&format!("{at}/size"))?)?,
        kind: tree.line(&format!("{at}/type"))?,
        level: tree.number(&format!("{at}/level"))?,
    };
    let sharers = tree.line(&format!("{at}/shared_cpu_list")).map_or(1, |list| parse_list(&list).len());
    Some((cache, sharers))
}

/// Numbers of the entries `<prefix><number>` of a directory, ascending.
fn numbered(tree: &Tree, directory: &str, prefix: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> =
        tree.names(directory).iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// `0-3,8` as numbers; parts that make no sense are left out.
fn parse_list(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend(first..=last.min(MAX_CPUS));
        }
    }
    numbers.truncate(MAX_CPUS as usize);
    numbers
}

/// `512K` or `32M` in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'K') => (&text[..at], 1 << 10),
        (at, 'M') => (&text[..at], 1 << 20),
        (at, 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn lists_and_sizes() {
        let cases: [(&str, &[u32]); 6] = [
            ("0-3,8\n", &[0, 1, 2, 3, 8]),
            ("5", &[5]),
            ("", &[]),
            ("3-1", &[]),
            ("a-b,2", &[2]),
            ("4294967295-4294967295", &[]),
        ];
        for (text, numbers) in cases {
            assert_eq!(parse_list(text), numbers, "{text}");
        }
        assert_eq!(parse_list("0-4294967295,0-4294967295").len(), MAX_CPUS as usize);
        let cases = [("48K", Some(49152)), ("32M", Some(32 << 20)), ("7", Some(7)), ("", None), ("xK", None)];
        for (text, size) in cases {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Two sockets of two cores with two threads, each socket a node, as a server has them.
    fn server(root: &Path) {
        for cpu in 0..8u32 {
            let (socket, core) = ((cpu / 2) % 2, cpu % 2);
            let at = format!("{CPUS}/cpu{cpu}");
            write(root, &format!("{at}/topology/physical_package_id"), &format!("{socket}\n"));
            write(root, &format!("{at}/topology/core_id"), &format!("{core}\n"));
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            write(root, &format!("{at}/topology/thread_siblings_list"), &siblings);
            let node = if socket == 0 { "0-1,4-5\n" } else { "2-3,6-7\n" };
            let caches =
                [("Data", 1, "32K", &*siblings), ("Instruction", 1, "32K", &siblings), ("Unified", 3, "8M", node)];
            for (index, (kind, level, size, sharers)) in caches.into_iter().enumerate() {
                write(root, &format!("{at}/cache/index{index}/type"), kind);
                write(root, &format!("{at}/cache/index{index}/level"), &level.to_string());
                write(root, &format!("{at}/cache/index{index}/size"), size);
                write(root, &format!("{at}/cache/index{index}/id"), &socket.to_string());
                write(root, &format!("{at}/cache/index{index}/shared_cpu_list"), sharers);
            }
        }
        for (node, cpus) in [(0, "0-1,4-5\n"), (1, "2-3,6-7\n")] {
            write(root, &format!("{NODES}/node{node}/cpulist"), cpus);
            write(root, &format!("{NODES}/node{node}/meminfo"), "Node 0 MemTotal:   1024 kB\n");
            write(root, &format!("{NODES}/node{node}/distance"), "10 21\n");
        }
    }

    #[test]
    fn a_server_of_two_sockets() {
        let dir = tempfile::tempdir().unwrap();
        server(dir.path());
        let tree = Tree::at(dir.path());
        let mut nodes = processors(&tree, Some("0-7"));
        add_memory(&tree, &mut nodes);
        assert_eq!(counts(&nodes), Counts { threads: 8, cores: 4, sockets: 2, ..Counts::default() });
        assert_eq!(nodes[1].distances, [10, 21]);
        assert_eq!(nodes[1].memory, 1024 * 1024);
        assert_eq!(nodes[1].cores[0].thread_ids, [2, 6]);
        assert_eq!(nodes[0].cores[0].caches.len(), 2);
        assert_eq!(nodes[0].caches, [Cache { id: 0, size: 8 << 20, kind: "Unified".into(), level: 3 }]);

        let nodes = processors(&tree, Some("0-3"));
        assert_eq!(counts(&nodes), Counts { threads: 4, cores: 4, sockets: 2, ..Counts::default() });
    }

    #[test]
    fn a_board_with_clusters_and_no_node_directories() {
        let dir = tempfile::tempdir().unwrap();
        for cpu in 0..4u32 {
            let at = format!("{CPUS}/cpu{cpu}");
            write(dir.path(), &format!("{at}/topology/physical_package_id"), "-1\n");
            write(dir.path(), &format!("{at}/topology/core_id"), &format!("{}\n", cpu % 2));
            write(dir.path(), &format!("{at}/topology/thread_siblings_list"), &format!("{cpu}\n"));
            let cluster = if cpu < 2 { "0-1\n" } else { "2-3\n" };
            for (name, text) in [("type", "Unified"), ("level", "2"), ("size", "512K"), ("shared_cpu_list", cluster)] {
                write(dir.path(), &format!("{at}/cache/index0/{name}"), text);
            }
        }
        write(dir.path(), &format!("{CPUS}/cpufreq/boost"), "0");
        let nodes = processors(&Tree::at(dir.path()), None);
        assert_eq!(nodes.len(), 1);
        assert_eq!(counts(&nodes), Counts { threads: 4, cores: 4, sockets: 1, ..Counts::default() });
        assert_eq!(nodes[0].cores[3].uncore_caches.len(), 1);
        assert!(nodes[0].caches.is_empty());
    }

    #[test]
    fn a_machine_that_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = processors(&Tree::at(dir.path()), None);
        assert_eq!(counts(&nodes), Counts::default());
    }
}
