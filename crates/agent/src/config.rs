//! What the agent is told at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifecycle::image_access::Verification;

use crate::credentials::Credentials;

/// Everything the agent needs to know of its node.
#[derive(Debug, Clone, Default)]
pub struct AgentConfig {
    /// Suffix of every static pod's name and part of its UID.
    pub node_name: String,
    /// Addresses of the node, the primary one first; reported as `hostIP` and `hostIPs`.
    pub node_ips: Vec<IpAddr>,
    /// Pod directories, last good manifests, records of finished pods.
    pub root_dir: PathBuf,
    /// Pod logs: `<log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
    /// Control group beneath which `kubepods` is made, e.g. `/`.
    pub cgroup_root: String,
    /// Nothing is cleaned before each of these has reported once.
    pub sources: Vec<SourceConfig>,
    pub dns: DnsConfig,
    /// Memory of the node, for the out-of-memory score of a container and `resourceFieldRef` without a limit.
    pub node_memory_bytes: u64,
    /// Processing power of the node in thousandths of a core.
    pub node_cpu_millis: u64,
    /// Room for what pods write; 0 where it is not known, and then nobody is refused for it.
    pub node_ephemeral_bytes: u64,
    /// What `nodeSelector` and node affinity are compared with, beside the labels that every node of this name, system
    /// and architecture has.
    pub node_labels: BTreeMap<String, String>,
    /// The longest a container that keeps failing waits for its restart; 0 for as long as every kubelet lets it.
    pub max_restart_delay_ms: u64,
    /// Pods that may run at once; 0 for as many as every kubelet allows, [`MAX_PODS`].
    pub max_pods: u32,
    /// A container's log that has grown beyond this is rotated, where the runtime does not do so by itself; 0 for never.
    pub log_max_bytes: u64,
    /// Files kept of a container's log, the one being written among them.
    pub log_max_files: u32,
    /// What a call to the runtime may take by the runtime's own measure; nothing for two minutes.
    pub call_within: Duration,
    pub images: ImagesConfig,
}

/// How images come and go.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// One pull at a time, on the whole node.
    pub serialize: bool,
    /// Pulls at a time where they are not serialized; none for any number.
    pub max_parallel: Option<u32>,
    /// Pulls that may begin each second in the long run; 0 for any number.
    pub qps: u32,
    /// Pulls that may begin at once after a calm; means nothing where `qps` is 0.
    pub burst: u32,
    /// A pull that takes longer gives its turn to the next, and goes on: for a runtime that does not tell whether its pulls
    /// get anywhere. None where the runtime itself gives up those that do not.
    pub turn_within: Option<Duration>,
    /// Who the kubelet is to registries.
    pub credentials: Arc<Credentials>,
    /// Of which images that are here already it is asked whether a pod may use them.
    pub verification: Verification,
    pub gc: ImageGcConfig,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            serialize: true,
            max_parallel: None,
            qps: 5,
            burst: 10,
            turn_within: None,
            credentials: Arc::default(),
            verification: Verification::default(),
            gc: ImageGcConfig::default(),
        }
    }
}

/// When images that nobody uses are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGcConfig {
    /// Images go when their file system is as full as this, in percent; never, if it is 100.
    pub high_percent: u8,
    /// They go until it is only as full as this.
    pub low_percent: u8,
    /// An image is not removed for want of room before it was known for so long.
    pub min_age: Duration,
    /// An image that was not used for so long is removed however much room there is; none for never.
    pub max_age: Option<Duration>,
}

impl Default for ImageGcConfig {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: None }
    }
}

/// What a call to the runtime may take where nothing else is said.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(120);

/// Pods on one node where nothing else is said.
pub const MAX_PODS: u32 = 110;

/// Name resolution in pods.
#[derive(Debug, Clone, Default)]
pub struct DnsConfig {
    /// The node's resolver file for `dnsPolicy: Default`; none gives pods an empty one.
    pub resolv_conf: Option<PathBuf>,
    /// Name servers of the cluster; none makes `ClusterFirst` mean `Default`.
    pub cluster_dns: Vec<String>,
    /// e.g. `cluster.local`; empty for none.
    pub cluster_domain: String,
}

/// Where pods come from.
#[derive(Debug, Clone)]
pub enum SourceConfig {
    /// A directory of manifests, or one manifest.
    Path { path: PathBuf, check_every: Duration },
    /// A URL that answers with manifests.
    Url { url: String, headers: Vec<(String, String)>, check_every: Duration },
}
