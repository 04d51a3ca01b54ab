//! What can go wrong with images, with the facts a person needs to act on it.

use crate::pull::PullError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of every fallible operation on the store.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of the image store. Messages fit after "failed to …:".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on one of the store's own files failed.
    #[error("cannot {doing} {path:?}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The text is not an image reference.
    #[error("invalid image reference {reference:?}: {reason}")]
    Reference { reference: String, reason: &'static str },
    /// The text is not a digest that this store accepts.
    #[error("invalid digest {digest:?}: expected \"sha256:\" and 64 lower-case hexadecimal digits")]
    Digest { digest: String },
    /// An id prefix matches more than one image.
    #[error("image id {prefix:?} is ambiguous: it matches {matches} images; give more digits")]
    AmbiguousId { prefix: String, matches: usize },
    /// No such image.
    #[error("no image {reference:?} in the store")]
    NotFound { reference: String },
    /// A container uses the image.
    #[error("image {reference:?} ({id}) is used by a container; remove the container first")]
    InUse { reference: String, id: String },
    /// The image is pinned.
    #[error("image {reference:?} ({id}) is pinned: {pinned_by}")]
    Pinned { reference: String, id: String, pinned_by: String },
    /// Another process has the store open.
    #[error("image store {path:?} is in use by another process")]
    Locked { path: PathBuf },
    /// A layer was refused.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Digest of the blob, or the diff id where the archive names no blob digest.
        layer: String,
        source: LayerError,
    },
    /// An image archive was refused.
    #[error("image archive {path:?}: {source}")]
    Archive { path: PathBuf, source: ArchiveError },
    /// An image could not be pulled. Those who waited for the same pull are told the same.
    #[error("cannot pull {reference}: {source}")]
    Pull { reference: String, source: Arc<PullError> },
}

impl Error {
    /// True when the image file system has no room, or no quota, left for what was to be kept.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Layer { source: LayerError::DiskFull { .. }, .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.as_ref().to_owned(), source: source.into() }
    }
}

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Something is larger than this store takes.
    #[error("{what} is over the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    /// The tar stream is malformed.
    #[error("malformed tar archive: {reason}")]
    Tar { reason: &'static str },
    /// An entry is malformed or not allowed.
    #[error("entry {path:?}: {reason}")]
    Entry { path: String, reason: &'static str },
    /// A system call on an entry failed.
    #[error("entry {path:?}: cannot {doing}: {source}")]
    EntryIo { path: String, doing: &'static str, source: io::Error },
    /// The compression is none of gzip, zstd and plain.
    #[error("unsupported compression {format}: expected gzip, zstd or none")]
    Compression { format: &'static str },
    /// The content is not what its digest says.
    #[error("{what} is {found}, expected {expected}")]
    Mismatch { what: &'static str, expected: String, found: String },
    /// The file system has no room for the layer.
    #[error("not enough {what} left on the image file system")]
    DiskFull { what: &'static str },
    /// Whoever brought it gave up.
    #[error("it was given up")]
    Abandoned,
    /// The stream broke off, is corrupt, or could not be read.
    #[error("cannot read the layer: {source}")]
    Read { source: io::Error },
}

impl LayerError {
    /// What a failed read means: readers of ours put their own refusal inside the error.
    pub(crate) fn from_read(source: io::Error) -> Self {
        match source.downcast::<LayerError>() {
            Ok(refusal) => refusal,
            Err(source) => LayerError::Read { source },
        }
    }
}

/// Why an image archive was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Neither an OCI layout nor a Docker archive.
    #[error(
        "neither index.json nor manifest.json found: expected an OCI image layout or the output of \"docker save\""
    )]
    NotAnImage,
    /// The tar framing or the compression of the archive itself.
    #[error("{source}")]
    Framing {
        #[from]
        source: LayerError,
    },
    /// A file that another one names is not there.
    #[error("{name:?} is missing")]
    Missing { name: String },
    /// A JSON document is malformed, ambiguous or lacks something.
    #[error("{name:?}: {reason}")]
    Document { name: String, reason: String },
    /// A document is larger than this store takes.
    #[error("{name:?} is {size} bytes long; the limit is {limit}")]
    TooLarge { name: String, size: u64, limit: u64 },
    /// A file's content is not what its name or descriptor says.
    #[error("{name:?} has {what} {found}, expected {expected}")]
    Mismatch { name: String, what: &'static str, expected: String, found: String },
    /// There are images, but none for this machine.
    #[error("no image for {wanted}; the archive has {found}")]
    Platform { wanted: String, found: String },
    /// The archive file could not be read.
    #[error("cannot read: {source}")]
    Read { source: io::Error },
}
