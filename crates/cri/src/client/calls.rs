//! The calls of [`Runtime`] as they go over the wire.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use super::Client;
use super::answer::{driver_shown, driver_told, ended, error_of, fits, limits_shown, reserved, spoken, within};
use super::streaming::{self, OpenError, Transport, Wanted, Whose};
use crate::attach::Terms;
use crate::settling::may_change;
use crate::turns::Turns;
use crate::{ByteStream, Code, Error, ExecSession, LogRotation, Runtime, v1};

/// Events that wait for their reader; who falls behind further subscribes anew and relists.
const EVENTS: usize = 1024;
/// Events whose statuses are completed at one time: those of one pod one after the other, as they came, and a pod whose
/// answer hangs holds up no other.
const COMPLETED_AT_ONCE: usize = 64;
const EVENTS_CALL: &str = "get_container_events";
/// A runtime that has no events says so at once.
const REFUSAL_WITHIN: Duration = Duration::from_millis(50);
/// Beyond the time that a call is to wait by its nature.
const SLACK: Duration = Duration::from_secs(2);

/// A call with its limit told to the runtime too, so that it need not go on for nobody.
fn request<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// One call to the service `$service` within `$limit`.
macro_rules! call {
    ($self:ident.$service:ident.$method:ident($message:expr), $limit:expr) => {{
        let limit: Duration = $limit;
        // Ours comes a little later than the runtime's, which can say what it was doing.
        within(stringify!($method), limit + SLACK, $self.$service.clone().$method(request($message, limit))).await
    }};
    ($self:ident.$service:ident.$method:ident($message:expr)) => {
        call!($self.$service.$method($message), $self.call_within)
    };
}

/// Whose streams are asked for.
#[derive(Clone)]
enum Ask {
    Exec(v1::ExecRequest),
    Attach(v1::AttachRequest, Terms),
}

impl Ask {
    fn call(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(..) => "attach",
        }
    }

    fn wanted(&self) -> Wanted {
        match self {
            Self::Exec(v1::ExecRequest { stdin, stdout, stderr, tty, .. }) => Wanted {
                whose: Whose::Command,
                stdin: *stdin,
                stdin_ends: true,
                stdout: *stdout,
                stderr: *stderr,
                tty: *tty,
            },
            Self::Attach(v1::AttachRequest { stdin, stdout, stderr, tty, .. }, terms) => Wanted {
                whose: Whose::Container,
                stdin: *stdin,
                stdin_ends: terms.stdin_once && !*tty,
                stdout: *stdout,
                stderr: *stderr,
                tty: *tty,
            },
        }
    }
}

impl Client {
    /// Opens streams. SPDY is tried first, and WebSocket where that is refused.
    async fn session(&self, ask: Ask, window: Option<(u16, u16)>) -> Result<ExecSession, Error> {
        for transport in [Transport::Spdy, Transport::WebSocket] {
            // An address is good for one try.
            let url = match ask.clone() {
                Ask::Exec(request) => call!(self.runtime.exec(request))?.url,
                Ask::Attach(request, _) => call!(self.runtime.attach(request))?.url,
            };
            let opening = streaming::open(&url, transport, (ask.wanted(), window));
            if let Some(session) = self.opened((ask.call(), transport), opening).await? {
                return Ok(session);
            }
        }
        Err(Error::internal(format!("{}: the runtime opens no streams", ask.call())))
    }

    /// How long to wait before the runtime is asked anew about a container of which it said this.
    async fn unsettled_for(&self, status: &v1::ContainerStatus) -> Result<Option<Duration>, Error> {
        if status.resources.is_some() || !may_change(status, SystemTime::now()) {
            return Ok(self.settling.pause(status));
        }
        let request = v1::ContainerStatusRequest { container_id: status.id.clone(), verbose: true };
        let limits = limits_shown(&call!(self.runtime.container_status(request))?);
        Ok(self.settling.pause(&v1::ContainerStatus { resources: Some(limits), ..status.clone() }))
    }

    /// Asks again for those of which the runtime may have said too little. One that is gone was as it was.
    async fn settle(&self, statuses: &mut [v1::ContainerStatus]) {
        // All of them count from now, and not each from when the one before is settled.
        for status in statuses.iter().filter(|status| may_change(status, SystemTime::now())) {
            self.settling.begin(&status.id);
        }
        for status in statuses.iter_mut().filter(|status| may_change(status, SystemTime::now())) {
            let request = v1::ContainerStatusRequest { container_id: status.id.clone(), verbose: false };
            if let Ok(v1::ContainerStatusResponse { status: Some(told), .. }) = self.container_status(request).await {
                *status = told;
            }
        }
    }

    /// Until the stream ends, or its reader goes or falls behind: the channel's end tells him.
    async fn pass_on(
        &self,
        events: Streaming<v1::ContainerEventResponse>,
        to: mpsc::Sender<v1::ContainerEventResponse>,
    ) -> Result<(), Status> {
        let turns = Turns::default();
        let completed = events.map(async |event| {
            let mut event: v1::ContainerEventResponse = event?;
            let _turn = turns.of(event.pod_sandbox_status.as_ref().map_or("", |sandbox| &sandbox.id)).await;
            self.settle(&mut event.containers_statuses).await;
            Ok::<_, Status>(event)
        });
        let mut completed = pin!(completed.buffer_unordered(COMPLETED_AT_ONCE));
        loop {
            let event = tokio::select! {
                () = to.closed() => return Ok(()),
                event = completed.next() => event.transpose()?,
            };
            let Some(event) = event else { return Ok(()) };
            if to.try_send(event).is_err() {
                return Ok(());
            }
        }
    }

    /// What is being opened; none where the runtime refuses this way of carrying it and there is another.
    async fn opened<T>(
        &self,
        (call, transport): (&str, Transport),
        opening: impl Future<Output = Result<T, OpenError>>,
    ) -> Result<Option<T>, Error> {
        let told = |error: Error| Error::new(error.code, format!("{call}: {}", error.message));
        match tokio::time::timeout(self.call_within, opening).await {
            Ok(Ok(opened)) => Ok(Some(opened)),
            Ok(Err(OpenError::Refused(error))) if transport == Transport::Spdy => {
                tracing::debug!(call, %error, "trying WebSocket");
                Ok(None)
            }
            Ok(Err(OpenError::Refused(error) | OpenError::Failed(error))) => Err(told(error)),
            Err(_) => {
                let limit = self.call_within.as_secs();
                Err(Error::deadline_exceeded(format!("{call}: the runtime opened no streams within {limit} s")))
            }
        }
    }
}

#[async_trait]
impl Runtime for Client {
    /// Answers once the runtime is known to fit: it speaks version 1 of the protocol, and names control groups by path.
    async fn version(&self, request: v1::VersionRequest) -> Result<v1::VersionResponse, Error> {
        let version = spoken(call!(self.runtime.version(request)))?;
        let driver = match call!(self.runtime.runtime_config(v1::RuntimeConfigRequest {})) {
            Ok(config) => driver_told(&config),
            Err(error) if error.code == Code::Unimplemented => {
                driver_shown(&call!(self.runtime.status(v1::StatusRequest { verbose: true }))?)
            }
            Err(error) => return Err(error),
        };
        fits(&version, driver)?;
        Ok(version)
    }

    async fn status(&self, request: v1::StatusRequest) -> Result<v1::StatusResponse, Error> {
        call!(self.runtime.status(request))
    }

    async fn run_pod_sandbox(&self, request: v1::RunPodSandboxRequest) -> Result<v1::RunPodSandboxResponse, Error> {
        // Network plugins may be slow; upstream doubles the limit for them.
        reserved(call!(self.runtime.run_pod_sandbox(request), self.call_within * 2))
    }

    async fn stop_pod_sandbox(&self, request: v1::StopPodSandboxRequest) -> Result<v1::StopPodSandboxResponse, Error> {
        ended(call!(self.runtime.stop_pod_sandbox(request)))
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Error> {
        ended(call!(self.runtime.remove_pod_sandbox(request)))
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Error> {
        let mut answer = call!(self.runtime.pod_sandbox_status(request))?;
        self.settle(&mut answer.containers_statuses).await;
        Ok(answer)
    }

    async fn list_pod_sandbox(&self, request: v1::ListPodSandboxRequest) -> Result<v1::ListPodSandboxResponse, Error> {
        call!(self.runtime.list_pod_sandbox(request))
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Error> {
        reserved(call!(self.runtime.create_container(request)))
    }

    async fn start_container(&self, request: v1::StartContainerRequest) -> Result<v1::StartContainerResponse, Error> {
        call!(self.runtime.start_container(request))
    }

    async fn stop_container(&self, request: v1::StopContainerRequest) -> Result<v1::StopContainerResponse, Error> {
        self.settling.begin(&request.container_id);
        let limit = self.call_within + seconds(request.timeout);
        ended(call!(self.runtime.stop_container(request), limit))
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Error> {
        ended(call!(self.runtime.remove_container(request)))
    }

    async fn list_containers(&self, request: v1::ListContainersRequest) -> Result<v1::ListContainersResponse, Error> {
        call!(self.runtime.list_containers(request))
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Error> {
        loop {
            let answer = call!(self.runtime.container_status(request.clone()))?;
            let Some(status) = &answer.status else { return Ok(answer) };
            let Some(pause) = self.unsettled_for(status).await? else { return Ok(answer) };
            tokio::time::sleep(pause).await;
        }
    }

    fn log_rotation(&self) -> LogRotation {
        LogRotation::Kubelet
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Error> {
        call!(self.runtime.reopen_container_log(request))
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Error> {
        call!(self.runtime.list_container_stats(request))
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse, Error> {
        let limit = match request.timeout {
            ..=0 => self.call_within,
            timeout => seconds(timeout) + self.call_within,
        };
        call!(self.runtime.exec_sync(request), limit)
    }

    async fn exec(&self, request: v1::ExecRequest, window: Option<(u16, u16)>) -> Result<ExecSession, Error> {
        self.session(Ask::Exec(request), window).await
    }

    async fn attach(&self, request: v1::AttachRequest, terms: Terms) -> Result<ExecSession, Error> {
        let v1::AttachRequest { stdin, stdout, stderr, tty, .. } = request;
        if !(stdin && stdout && stderr && !tty) {
            return self.session(Ask::Attach(request, terms), terms.window).await;
        }
        // containerd takes the end of one output for the input's, and the input's for the other output's, whose last words
        // would be lost. Of a session without input it hears both outputs to their ends.
        let listening = v1::AttachRequest { stdin: false, ..request.clone() };
        let outputs = self.session(Ask::Attach(listening, terms), None).await?;
        let typing = v1::AttachRequest { stdout: false, stderr: false, ..request };
        let input = self.session(Ask::Attach(typing, terms), None).await?;
        Ok(streaming::as_one(outputs, input))
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>, Error> {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod_sandbox_id.to_owned(), port: vec![port.into()] };
        for transport in [Transport::Spdy, Transport::WebSocket] {
            let url = call!(self.runtime.port_forward(request.clone()))?.url;
            let opening = streaming::forward(&url, transport, port);
            if let Some(stream) = self.opened(("port_forward", transport), opening).await? {
                return Ok(Box::new(stream));
            }
        }
        Err(Error::internal("port_forward: the runtime opens no streams"))
    }

    async fn list_images(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Error> {
        call!(self.images.list_images(request))
    }

    async fn image_status(&self, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse, Error> {
        call!(self.images.image_status(request))
    }

    async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, Error> {
        call!(self.images.pull_image(request), self.pull_within)
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse, Error> {
        ended(call!(self.images.remove_image(request)))
    }

    async fn image_fs_info(&self, request: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse, Error> {
        call!(self.images.image_fs_info(request))
    }

    async fn events(&self) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
        let mut runtime = self.runtime.clone();
        let mut opening = Box::pin(async move { runtime.get_container_events(v1::GetEventsRequest {}).await });
        // Some runtimes say nothing before there is a first event. What was asked later and is answered tells that this
        // was heard, and who has no events has said so by then.
        let heard = async {
            let heard = call!(self.runtime.version(v1::VersionRequest::default()));
            tokio::time::sleep(REFUSAL_WITHIN).await;
            heard
        };
        let opened = tokio::select! {
            biased;
            answer = &mut opening => Some(answer.map_err(|status| error_of(EVENTS_CALL, &status))?),
            heard = heard => {
                heard?;
                None
            }
        };
        let (sender, receiver) = mpsc::channel(EVENTS);
        let client = self.clone();
        tokio::spawn(async move {
            let opened = match opened {
                Some(opened) => Ok(opened),
                None => tokio::select! {
                    () = sender.closed() => return,
                    answer = opening => answer,
                },
            };
            let passed = match opened {
                Ok(opened) => client.pass_on(opened.into_inner(), sender).await,
                Err(status) => Err(status),
            };
            if let Err(status) = passed {
                let error = error_of(EVENTS_CALL, &status);
                tracing::debug!(%error, "the runtime's events broke off");
            }
        });
        Ok(receiver)
    }
}
