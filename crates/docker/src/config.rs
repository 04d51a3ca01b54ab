use std::path::PathBuf;
use std::time::Duration;

/// What the adapter is given.
#[derive(Debug, Clone)]
pub struct Config {
    /// The daemon's socket, by default `/var/run/docker.sock`. It need not be there yet.
    pub endpoint: PathBuf,
    /// A static program that, called `pause`, waits until it is told to end: the only one in a pod's own container.
    pub pause: &'static [u8],
    /// For every call that does not wait for containers or registries by its nature.
    pub call_within: Duration,
    /// Size at which Docker rotates a container's log.
    pub log_max_bytes: u64,
    /// Log files that Docker keeps for each container, the current one counted.
    pub log_max_files: u32,
}
