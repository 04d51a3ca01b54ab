//! The answer of `/spec/`: names of fields are those of the last version that upstream served.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::source::Tree;
use crate::{cpu, disk, ids, memory, network, topology};

/// The hardware of the machine and what identifies it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// When this was read, RFC 3339.
    pub timestamp: String,
    /// Maker of the processor, e.g. `GenuineIntel`; its implementer's number on ARM.
    pub vendor_id: String,
    /// Processors that are online, hardware threads counted each.
    pub num_cores: usize,
    /// Cores, hardware threads not counted.
    pub num_physical_cores: usize,
    pub num_sockets: usize,
    /// On s390x only, else 0.
    pub num_books: usize,
    /// On s390x only, else 0.
    pub num_drawers: usize,
    /// Highest frequency in kHz; 0 where the machine does not tell.
    pub cpu_frequency_khz: u64,
    /// Bytes.
    pub memory_capacity: u64,
    /// Bytes.
    pub swap_capacity: u64,
    /// By the name that the memory controller gives, e.g. `Unbuffered-DDR4`.
    pub memory_by_type: BTreeMap<String, MemoryType>,
    pub nvm: Nvm,
    pub hugepages: Vec<HugePages>,
    /// Of the installed system.
    pub machine_id: String,
    /// Of the hardware; empty where the firmware gives none.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    pub filesystems: Vec<FsInfo>,
    /// By `major:minor`.
    pub disk_map: BTreeMap<String, DiskInfo>,
    pub network_devices: Vec<NetInfo>,
    pub topology: Vec<NumaNode>,
    pub cloud_provider: String,
    pub instance_type: String,
    pub instance_id: String,
}

/// Memory modules of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryType {
    /// Bytes.
    pub capacity: u64,
    pub dimm_count: usize,
}

/// Non-volatile memory; all zero without a vendor's library.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvm {
    pub memory_mode_capacity: u64,
    /// The space is part of the name as it was always served.
    #[serde(rename = "app direct_mode_capacity")]
    pub app_direct_mode_capacity: u64,
    pub avg_power_budget: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// KiB.
    pub page_size: u64,
    pub num_pages: u64,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsInfo {
    pub device: String,
    /// Bytes.
    pub capacity: u64,
    /// `vfs` for everything that statfs(2) measures.
    #[serde(rename = "type")]
    pub kind: String,
    pub inodes: u64,
    pub has_inodes: bool,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    pub name: String,
    pub major: u64,
    pub minor: u64,
    /// Bytes.
    pub size: u64,
    /// `none` where there is none.
    pub scheduler: String,
}

/// A network interface that is not a pod's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetInfo {
    pub name: String,
    pub mac_address: String,
    /// Mbit/s; 0 where the driver does not tell.
    pub speed: u64,
    /// Bytes.
    pub mtu: u64,
}

/// A memory node with the cores next to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    pub node_id: u32,
    /// Bytes.
    pub memory: u64,
    pub hugepages: Vec<HugePages>,
    /// To every node, in their order.
    pub distances: Vec<u64>,
    pub cores: Vec<Core>,
    /// Shared by all cores of the node.
    pub caches: Vec<Cache>,
}

/// A core with its hardware threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    pub core_id: u32,
    /// Numbers of the processors as the kernel counts them.
    pub thread_ids: Vec<u32>,
    /// Its own.
    pub caches: Vec<Cache>,
    /// Shared with some other cores of the node, not with all.
    pub uncore_caches: Vec<Cache>,
    pub socket_id: u32,
    pub book_id: String,
    pub drawer_id: String,
}

/// A processor cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub id: u32,
    /// Bytes.
    pub size: u64,
    /// `Data`, `Instruction` or `Unified`.
    #[serde(rename = "type")]
    pub kind: String,
    pub level: u32,
}

/// Reads everything; blocks for some milliseconds on a large machine, so call it off the event loop.
/// `root_dir` is the kubelet's: its file system is always among those reported.
pub fn machine_info(root_dir: &Path) -> MachineInfo {
    let tree = Tree::live();
    let identity = ids::live();
    let topology = topology::live(&tree);
    let counts = topology::counts(&topology);
    // The kernel samples every processor's frequency to write cpuinfo, so it is not read without need.
    let listed = || cpu::count(&tree.text("proc/cpuinfo").unwrap_or_default());
    let memory = memory::totals(&tree.text("proc/meminfo").unwrap_or_default());
    MachineInfo {
        timestamp: jiff::Timestamp::now().to_string(),
        vendor_id: identity.vendor_id.clone(),
        num_cores: if counts.threads > 0 { counts.threads } else { listed() },
        num_physical_cores: if counts.cores > 0 { counts.cores } else { listed() },
        num_sockets: counts.sockets.max(1),
        num_books: counts.books,
        num_drawers: counts.drawers,
        cpu_frequency_khz: identity.cpu_frequency_khz,
        memory_capacity: memory.memory_bytes,
        swap_capacity: memory.swap_bytes,
        memory_by_type: memory::by_type(&tree),
        nvm: Nvm::default(),
        hugepages: memory::hugepages(&tree, "sys/kernel/mm/hugepages"),
        machine_id: identity.machine_id.clone(),
        system_uuid: identity.system_uuid.clone(),
        boot_id: identity.boot_id.clone(),
        filesystems: disk::filesystems(&tree, root_dir),
        disk_map: disk::disks(&tree),
        network_devices: network::devices(&tree),
        topology,
        // Asking a cloud's metadata service is a network request; the kubelet makes none for this.
        cloud_provider: "Unknown".into(),
        instance_type: "Unknown".into(),
        instance_id: "None".into(),
    }
}
