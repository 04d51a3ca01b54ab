use std::path::PathBuf;
use std::sync::Arc;

use crate::Cidr;

/// What an engine is given. Two engines on one machine differ in every path, the bridge, the range and the cgroup root.
#[derive(Clone)]
pub struct Config {
    /// Holds what containers write (`containers/<id>`); on a disk file system that overlayfs can write to.
    pub root_dir: PathBuf,
    /// Holds what is true until the next boot; on tmpfs.
    pub run_dir: PathBuf,
    /// Name of the bridge, at most 15 bytes. The nf_tables table is named after it.
    pub bridge: String,
    /// Where pods get their addresses from.
    pub pod_cidr: Cidr,
    /// Parent of the cgroup of a sandbox that names none.
    pub cgroup_root: String,
    /// The machine's resolver file, for sandboxes that come without one; `None` gives them an empty one.
    pub resolv_conf: Option<PathBuf>,
    /// Size at which a container's log is rotated.
    pub log_max_bytes: u64,
    /// Log files kept for each container, the current one counted.
    pub log_max_files: u32,
    /// Where images lie.
    pub image: Arc<image::Store>,
    /// Brings them there from registries.
    pub puller: Arc<image::Puller>,
}
