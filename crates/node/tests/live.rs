//! This machine, whatever it is.

use std::path::Path;

#[test]
fn this_machine_is_described() {
    let info = node::machine_info(Path::new("/var/lib/kubelet"));
    assert!(info.num_cores >= 1);
    assert!(info.num_physical_cores >= 1 && info.num_physical_cores <= info.num_cores);
    assert!(info.num_sockets >= 1 && info.num_sockets <= info.num_physical_cores);
    assert!(info.memory_capacity > 1 << 20);
    assert_eq!(info.boot_id.len(), 36);
    assert!(info.filesystems.iter().all(|fs| fs.capacity > 0), "{:?}", info.filesystems);
    let threads: usize = info.topology.iter().flat_map(|n| &n.cores).map(|core| core.thread_ids.len()).sum();
    assert_eq!(threads, info.num_cores);
    assert!(info.network_devices.iter().all(|device| device.name != "lo"));

    let again = node::machine_info(Path::new("/var/lib/kubelet"));
    assert_eq!(again.topology.len(), info.topology.len());

    let facts = node::facts();
    assert_eq!(facts.cores, info.num_cores);
    assert_eq!(facts.memory_bytes, info.memory_capacity);
    assert_eq!(facts.boot_id, info.boot_id);
    assert!(!facts.hostname.is_empty() && !facts.kernel.is_empty() && !facts.os_image.is_empty());
    if let Some(ip) = node::primary_ip() {
        assert!(!ip.is_loopback() && !ip.is_unspecified());
    }
}

#[test]
fn the_answer_has_the_names_that_were_always_served() {
    let info = node::machine_info(Path::new("/"));
    let json = serde_json::to_value(&info).unwrap();
    for name in [
        "timestamp",
        "vendor_id",
        "num_cores",
        "num_physical_cores",
        "num_sockets",
        "num_books",
        "num_drawers",
        "cpu_frequency_khz",
        "memory_capacity",
        "swap_capacity",
        "memory_by_type",
        "nvm",
        "hugepages",
        "machine_id",
        "system_uuid",
        "boot_id",
        "filesystems",
        "disk_map",
        "network_devices",
        "topology",
        "cloud_provider",
        "instance_type",
        "instance_id",
    ] {
        assert!(json.get(name).is_some(), "{name}");
    }
    assert_eq!(json["nvm"]["app direct_mode_capacity"], 0);
    if let Some(fs) = json["filesystems"].get(0) {
        assert_eq!(fs["type"], "vfs");
    }
    let back: node::MachineInfo = serde_json::from_value(json).unwrap();
    assert_eq!(back, info);
}

#[test]
fn a_file_system_has_a_size() {
    assert!(node::capacity_bytes(Path::new("/")).is_some_and(|bytes| bytes > 1 << 20));
    // No file system to speak of, and none at all.
    assert_eq!(node::capacity_bytes(Path::new("/proc")), None);
    assert_eq!(node::capacity_bytes(Path::new("/nowhere")), None);
}
