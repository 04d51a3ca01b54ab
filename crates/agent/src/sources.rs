//! Where pods come from: each source reports the whole set of its files, whenever it changes, to the loop.

pub(crate) mod files;
pub(crate) mod last_good;
pub(crate) mod mux;
pub(crate) mod text;
pub(crate) mod url;
pub(crate) mod watch;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod::PullSecret;

/// All that one source knows, at one moment.
#[derive(Debug, Clone)]
pub struct SourceReport {
    /// Position of the source in the configuration.
    pub source: usize,
    pub files: Vec<FileReport>,
}

/// One file or URL of a source.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// Path or URL.
    pub name: Arc<str>,
    /// The pods in force: of this version of the file or, while it has a problem, of its last good one.
    pub pods: Vec<Arc<Pod>>,
    /// Likewise.
    pub secrets: Vec<Arc<PullSecret>>,
    pub problem: Option<Problem>,
    /// Not looked at because of its name or kind.
    pub ignored: bool,
    /// When this came to be so.
    pub since: Timestamp,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
}
