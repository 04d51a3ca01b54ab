//! What the server asks of the process it stands in.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use crate::logs::{LogOptions, LogSource};
use crate::stats::Summary;
use crate::{ErrorBody, HostError};
use cri::channel::Resize;

/// The facts and acts behind the API. Every method may be called at any time and many at once.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// The active pods with their live status.
    async fn pods(&self) -> List<Pod>;

    /// The machine this runs on.
    async fn machine_info(&self) -> node::MachineInfo;

    /// What the machine and its pods use right now.
    async fn stats(&self) -> Result<Summary, HostError>;

    /// Whether one part of the kubelet is well; the text says what is wrong (a pod, a call).
    async fn health(&self, check: HealthCheck) -> Result<(), String>;

    /// What happened to pods lately, oldest first.
    async fn events(&self, of: EventFilter) -> List<Event>;

    /// What became of every manifest file and URL.
    async fn manifests(&self) -> Vec<ManifestStatus>;

    /// Where the log of a container is, with upstream's error texts where there is none.
    async fn logs(&self, request: LogRequest) -> Result<LogSource, HostError>;

    /// Starts a command in a running container.
    async fn exec(&self, request: ExecRequest) -> Result<cri::ExecSession, HostError>;

    /// Attaches to a running container. Whether it has a terminal is the container's affair, not the request's.
    async fn attach(&self, request: AttachRequest) -> Result<cri::ExecSession, HostError>;

    /// The sandbox of a running pod, to whose ports connections can be made.
    async fn sandbox(&self, pod: &PodRef) -> Result<String, HostError>;

    /// Connects to a port of a sandbox, as [`cri::Runtime::port_forward`] does.
    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn cri::ByteStream>, HostError>;

    /// The images in the store.
    async fn images(&self) -> Result<Vec<ImageSummary>, HostError>;

    /// Imports an archive from this machine's file system.
    async fn image_import(&self, request: ImportRequest) -> Result<Vec<ImportedImage>, HostError>;

    /// Removes an image by name or id.
    async fn image_remove(&self, reference: &str) -> Result<(), HostError>;

    /// Makes an image present as its registry has it now; the reference is a full one. Dropping the future gives it up,
    /// unless others wait for the same image.
    async fn image_pull(&self, reference: &str) -> Result<PulledImage, HostError>;

    /// The images that are being pulled, for whomever.
    async fn image_pulls(&self) -> Vec<ImagePull>;

    /// Removes the images that nobody uses.
    async fn image_prune(&self) -> Result<Pruned, HostError>;
}

/// A health check that the host answers; `ping` the server answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck {
    /// Log lines are still written.
    Log,
    /// The decision loop turned lately, and the runtime answers what it is asked.
    SyncLoop,
}

/// A container by the names in its pod's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod, as `/pods` shows it.
    pub pod: String,
    /// Name of the container.
    pub container: String,
}

/// A pod by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name, as `/pods` shows it.
    pub pod: String,
}

/// Whose events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventFilter {
    /// Everybody's.
    All,
    /// Of the pods of one namespace.
    Namespace { namespace: String },
    /// Of one pod, by its name as `/pods` shows it.
    Pod { namespace: String, pod: String },
}

/// Which log is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// Whose log.
    pub container: ContainerRef,
    /// How much of it and of which attempt ([`LogOptions::previous`]); the server applies the rest.
    pub options: LogOptions,
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Where to run it.
    pub container: ContainerRef,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Its streams.
    pub streams: StreamOptions,
}

/// A session on a container's own streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Which container.
    pub container: ContainerRef,
    /// Its streams.
    pub streams: StreamOptions,
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Attach standard input.
    pub stdin: bool,
    /// Attach standard output.
    pub stdout: bool,
    /// Attach standard error; never together with `tty`.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
    /// The terminal's first size; none without a terminal.
    pub window: Option<Resize>,
}

/// What became of one manifest file or URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestStatus {
    /// Path or URL.
    pub file: String,
    /// Why it was refused or ignored; none when it is in force.
    pub error: Option<String>,
    /// Not looked at because of its name.
    pub ignored: bool,
    /// When it came to be so.
    pub since: Time,
    /// Pods of an earlier version of it are still wanted.
    pub keeps_last_good: bool,
    /// How many pods of it are wanted.
    pub pods: usize,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// `sha256:<hex>` of its configuration.
    pub id: String,
    /// Names with tags.
    pub references: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Unpacked size of its layers.
    pub size_bytes: u64,
    /// Never collected.
    pub pinned: bool,
    /// A container has it, running or not.
    pub in_use: bool,
}

/// The body of `POST /images/import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportRequest {
    /// The archive; absolute.
    pub path: PathBuf,
    /// Keep the images from being collected.
    #[serde(default)]
    pub pinned: bool,
}

/// An image that an import made known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportedImage {
    /// The name it got; the id for an image without a name.
    pub reference: String,
    /// `sha256:<hex>` of its configuration.
    pub id: String,
}

/// The body of `POST /images/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullRequest {
    /// As people write it: `busybox`, `registry.example.com:5000/team/tool@sha256:…`.
    pub reference: String,
}

/// A line of the answer to `POST /images/pull`. The last one is not progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PullLine {
    /// How far it is.
    Progress(ImagePull),
    /// It is there.
    Pulled(PulledImage),
    /// It could not be had.
    Failed(ErrorBody),
}

/// An image that is present now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PulledImage {
    /// Its full name.
    pub reference: String,
    /// The runtime's, `sha256:<hex>` of the configuration for the embedded engine.
    pub id: String,
}

/// An image that is being pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagePull {
    /// Its full name.
    pub reference: String,
    /// Compressed, as they come over the network.
    pub done_bytes: u64,
    /// Not known before the manifest is read.
    pub total_bytes: Option<u64>,
    /// The lowest first; none before the manifest is read.
    pub layers: Vec<LayerPull>,
}

impl ImagePull {
    /// How much of it has come, of a hundred; none where it is not known how much there is, or where nothing is to come.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        Some(self.done_bytes.min(total).saturating_mul(100) / total)
    }
}

/// A layer of an image that is being pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerPull {
    /// Of its blob.
    pub digest: String,
    /// Compressed.
    pub done_bytes: u64,
    /// Compressed.
    pub total_bytes: u64,
    /// How it stands.
    pub state: LayerState,
}

/// How a layer of an image that is being pulled stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    /// On its way.
    Fetching,
    /// It was there before; nothing is fetched.
    Present,
    /// Fetched, verified and unpacked.
    Done,
}

/// The answer to `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// What is gone.
    pub removed: Vec<PrunedImage>,
    /// What should be gone and is not.
    pub failed: Vec<PruneFailure>,
    /// By how much the images' file system has grown emptier.
    pub freed_bytes: u64,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunedImage {
    /// The runtime's.
    pub id: String,
    /// Tags and digests it was known by.
    pub names: Vec<String>,
    /// What it held, content shared with other images included.
    pub size_bytes: u64,
}

/// An image that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneFailure {
    /// The runtime's.
    pub id: String,
    /// Tags and digests it is known by.
    pub names: Vec<String>,
    /// What kept it.
    pub error: String,
}
