//! Removing images that nobody uses.

/// What a removal of unused images came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: Vec<PrunedImage>,
    /// Images that were to be removed and could not be.
    pub failed: Vec<PruneFailure>,
    /// By how much the images' file system has grown emptier, as the file system says.
    pub freed_bytes: u64,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedImage {
    /// The runtime's.
    pub id: String,
    /// Tags and digests it was known by; none of an image that had lost its names.
    pub names: Vec<String>,
    /// As the runtime counts it, content shared with other images included.
    pub size_bytes: u64,
}

/// An image that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneFailure {
    pub id: String,
    pub names: Vec<String>,
    pub error: String,
}

/// Why no image was removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PruneError {
    #[error(
        "the kubelet is not ready: not every source of pods has reported, so that it is not known which images are wanted; try again in a moment"
    )]
    NotReady,
    #[error("{what}: {error}")]
    Runtime { what: &'static str, error: cri::Error },
    #[error("the kubelet is shutting down")]
    Closed,
}
