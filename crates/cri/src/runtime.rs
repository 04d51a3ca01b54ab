//! What the agent asks of anything that runs containers.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use crate::attach::Terms;
use crate::{Error, v1};

/// Who sees to it that the logs of running containers do not grow without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRotation {
    /// The runtime, by itself.
    Runtime,
    /// The kubelet: it renames a log that has grown and has the runtime reopen it.
    Kubelet,
}

/// A container runtime: the embedded engine, Docker, or a CRI runtime behind a socket.
///
/// Rules that hold for every implementation:
///
/// - Every method may be called at any time, from any task, and many at once.
/// - Stop and remove calls are idempotent: an unknown id, or an object already in the wanted state, is `Ok`.
/// - Create calls never make a second object with the same sandbox metadata, or the same (sandbox, container name,
///   attempt): while the first one exists they answer with it where it is as new (sandbox ready, container created), or
///   with [`Code::AlreadyExists`](crate::Code::AlreadyExists).
/// - Lists and states are what was observed, not what was asked for. List filters are combined with "and".
/// - Dropping a returned future abandons waiting, not the work: the caller looks at the state before it acts again.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version of the runtime and the version of the protocol it speaks.
    async fn version(&self, request: v1::VersionRequest) -> Result<v1::VersionResponse, Error>;

    /// The conditions `RuntimeReady` and `NetworkReady`, and the features offered.
    async fn status(&self, request: v1::StatusRequest) -> Result<v1::StatusResponse, Error>;

    /// Creates a pod's sandbox (namespaces, network, supervisor) and returns once it is ready.
    /// On failure nothing of it is left, or what is left shows in [`Runtime::list_pod_sandbox`] as not ready.
    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Error>;

    /// Kills whatever still runs in the sandbox and gives back its network. Its record stays. Unknown id: `Ok`.
    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Error>;

    /// Removes the sandbox with every container in it, stopping first what runs. Unknown id: `Ok`.
    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Error>;

    /// One sandbox, its addresses and the statuses of its containers. Unknown id: `NotFound`.
    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Error>;

    /// The sandboxes that match the filter, in no particular order.
    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Error>;

    /// Prepares a container in a ready sandbox, without running anything of it. The image must be present.
    async fn create_container(&self, request: v1::CreateContainerRequest)
    -> Result<v1::CreateContainerResponse, Error>;

    /// Starts a created container; `Ok` once its first instruction is certain to run, an error (and the container
    /// exited, with the reason in its status) if the program could not be executed.
    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Error>;

    /// Sends the stop signal, waits `timeout` seconds, then kills; returns when the container has exited.
    /// A timeout of 0 or less kills at once. A second call with a shorter timeout shortens the first one's.
    /// Unknown or exited: `Ok`.
    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Error>;

    /// Removes the container, killing it first if it runs; its log file stays. Unknown id: `Ok`.
    async fn remove_container(&self, request: v1::RemoveContainerRequest)
    -> Result<v1::RemoveContainerResponse, Error>;

    /// The containers that match the filter, in no particular order.
    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Error>;

    /// One container. An exit whose code is not known is reported as unknown, never as 0. Unknown id: `NotFound`.
    async fn container_status(&self, request: v1::ContainerStatusRequest)
    -> Result<v1::ContainerStatusResponse, Error>;

    /// What the running containers that match the filter use, in no particular order. One that ends meanwhile is left
    /// out. What a runtime does not tell is absent, not 0.
    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error>;

    /// Who rotates logs. Where it is the kubelet, [`Runtime::reopen_container_log`] is implemented too.
    fn log_rotation(&self) -> LogRotation {
        LogRotation::Runtime
    }

    /// Goes on writing a running container's log at the path of its making, as a new file if none is there; `Ok` once
    /// nothing more goes into the file that was renamed. Not running: an error.
    ///
    /// A runtime that rotates logs by itself is not asked and need not implement it.
    async fn reopen_container_log(
        &self,
        _request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Error> {
        Err(Error::unimplemented("reopen_container_log: the runtime rotates logs by itself"))
    }

    /// Runs a command in a running container and returns its output (cut at a limit) and exit code.
    /// `timeout` is in seconds, 0 is none; when it runs out the command is killed: `DeadlineExceeded`. It is killed too
    /// when the returned future is dropped: nobody could learn of its end.
    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Error>;

    /// Starts a command in a running container with its streams attached. `window` is the first size of its terminal,
    /// (columns, rows): the command finds it from its first instruction on. Without a TTY it means nothing.
    async fn exec(&self, request: v1::ExecRequest, window: Option<(u16, u16)>) -> Result<ExecSession, Error>;

    /// Attaches to a running container's own streams: to its output from now on, to its input if it was created with
    /// one. `tty` says whether the container has a terminal, which gets the size that `terms` names then.
    ///
    /// The session's exit is 0 once the container has ended and what it wrote is there to be read, an error where that
    /// was not seen. Letting go of the exit ends the session. Who reads too slowly never holds the container up: what he
    /// has not read is kept up to [`BEHIND_MAX_BYTES`](crate::backlog::BEHIND_MAX_BYTES), then the session is cut off
    /// with an error. Dropping the input is its end for the container only where it was created with `stdin_once`.
    async fn attach(&self, request: v1::AttachRequest, terms: Terms) -> Result<ExecSession, Error>;

    /// Connects to a port of a ready sandbox as its own processes would: to 127.0.0.1, or else to ::1, in its network.
    /// Shutting the stream down is end of file for the port's server.
    ///
    /// That nobody listens there is an error of this call, or of the first read where the runtime tells it only then.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error>;

    /// The images on this machine that match the filter, in no particular order.
    async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Error>;

    /// One image by reference or id. An absent image is `Ok` with no image in the response.
    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error>;

    /// Makes the image present and returns its id. Present and unchanged: `Ok` with no work done.
    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error>;

    /// Removes the image with all its names. In use: `FailedPrecondition`. Absent: `Ok`.
    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error>;

    /// The filesystems that hold images and writable layers, with what images use of them.
    async fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Error>;

    /// A stream of what happens to containers from now on. Each event carries the status of its sandbox and of every
    /// container in it, taken after the event.
    ///
    /// The channel is bounded; a reader that falls behind loses events and sees the channel close, subscribes anew and
    /// relists. `Unimplemented` where the runtime has no events: relisting alone is then the source of truth.
    async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error>;
}

/// A connection's bytes, both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A running command's streams. Dropping the session kills nothing; with a TTY, dropping its streams hangs it up.
pub struct ExecSession {
    /// Dropping it is end of file for the command. `None` where the request did not ask for it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Ends when the last holder of the stream has closed it. With a TTY it carries standard error too.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// `None` with a TTY or where the request did not ask for it.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// New sizes of the terminal as (columns, rows); without a TTY they are ignored.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit code, 128 + n for a death by signal n. Sent once, after the command has exited.
    pub exit: oneshot::Receiver<Result<i32, Error>>,
}
