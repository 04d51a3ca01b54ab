//! The host of the tests.

use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Container, Event, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Time};
use server::logs::LogSource;
use server::stats::{NodeStats, Summary};
use server::{
    AttachRequest, EventFilter, ExecRequest, HealthCheck, Host, HostError, ImagePull, ImageSummary, ImportRequest,
    ImportedImage, LogRequest, ManifestStatus, PodRef, Pruned, PulledImage,
};
use tokio::sync::oneshot;

#[derive(Default)]
pub(crate) struct FakeHost {
    /// What is wrong, by check.
    pub(crate) ill: Option<(HealthCheck, String)>,
    pub(crate) log_root: PathBuf,
    /// Taken by the first who asks for a log; without it the container has exited.
    pub(crate) log_end: Mutex<Option<oneshot::Receiver<()>>>,
    pub(crate) imported: Mutex<Vec<ImportRequest>>,
    pub(crate) exec: super::exec::Script,
    pub(crate) pulls: super::images::Script,
}

#[async_trait]
impl Host for FakeHost {
    async fn pods(&self) -> List<Pod> {
        let metadata = ObjectMeta { name: Some("nginx-here".into()), ..ObjectMeta::default() };
        let containers = vec![Container { name: "nginx".into(), ..Container::default() }];
        let spec = Some(PodSpec { containers, ..PodSpec::default() });
        List { items: vec![Pod { metadata, spec, status: None }], metadata: ListMeta::default() }
    }

    async fn machine_info(&self) -> node::MachineInfo {
        node::MachineInfo { num_cores: 7, ..node::MachineInfo::default() }
    }

    async fn stats(&self) -> Result<Summary, HostError> {
        let node = NodeStats { node_name: "n1".into(), start_time: None, cpu: None, memory: None };
        Ok(Summary { node, pods: Vec::new() })
    }

    async fn health(&self, check: HealthCheck) -> Result<(), String> {
        match &self.ill {
            Some((ill, reason)) if *ill == check => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    async fn events(&self, of: EventFilter) -> List<Event> {
        // The reason is the question, so that tests can see what arrived.
        let event = Event { reason: Some(format!("{of:?}")), ..Event::default() };
        List { items: vec![event], metadata: ListMeta::default() }
    }

    async fn manifests(&self) -> Vec<ManifestStatus> {
        vec![ManifestStatus {
            file: "/m/a.yaml".into(),
            error: Some("spec.containers: required".into()),
            ignored: false,
            since: Time("2026-01-02T03:04:05Z".parse().unwrap()),
            keeps_last_good: true,
            pods: 1,
        }]
    }

    async fn logs(&self, request: LogRequest) -> Result<LogSource, HostError> {
        let container = request.container;
        if container.pod != "p" {
            return Err(HostError::not_found(format!("pod {:?} not found", container.pod)));
        }
        let attempt = if request.options.previous { 0 } else { 1 };
        let end = self.log_end.lock().unwrap().take();
        let path = format!("{}_p_uid/{}/{attempt}.log", container.namespace, container.container).into();
        let ended = Box::pin(async move {
            if let Some(end) = end {
                let _ = end.await;
            }
        });
        Ok(LogSource { root: self.log_root.clone(), path, ended })
    }

    async fn exec(&self, request: ExecRequest) -> Result<cri::ExecSession, HostError> {
        self.exec.start(request)
    }

    async fn attach(&self, request: AttachRequest) -> Result<cri::ExecSession, HostError> {
        // What the container runs.
        let command = vec![request.container.container.clone(), "5".into()];
        self.exec.start(ExecRequest { container: request.container, command, streams: request.streams })
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<String, HostError> {
        match (&*pod.namespace, &*pod.pod) {
            ("ns", "p") => Ok("s1".into()),
            _ => Err(HostError::not_found(format!("pod {:?} not found", pod.pod))),
        }
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<Box<dyn cri::ByteStream>, HostError> {
        super::port_forward::connect(sandbox, port)
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, HostError> {
        Ok(vec![ImageSummary {
            id: "sha256:1".into(),
            references: vec!["docker.io/library/nginx:latest".into()],
            digests: Vec::new(),
            size_bytes: 5,
            pinned: true,
            in_use: false,
        }])
    }

    async fn image_import(&self, request: ImportRequest) -> Result<Vec<ImportedImage>, HostError> {
        self.imported.lock().unwrap().push(request);
        Ok(vec![ImportedImage { reference: "docker.io/library/x:latest".into(), id: "sha256:2".into() }])
    }

    async fn image_remove(&self, reference: &str) -> Result<(), HostError> {
        match reference {
            "nginx" => Ok(()),
            "busy" => Err(cri::Error::failed_precondition("image busy is in use by pod p").into()),
            _ => Err(HostError::not_found(format!("image {reference} not found"))),
        }
    }

    async fn image_pull(&self, reference: &str) -> Result<PulledImage, HostError> {
        self.pulls.pull(reference).await
    }

    async fn image_pulls(&self) -> Vec<ImagePull> {
        self.pulls.under_way()
    }

    async fn image_prune(&self) -> Result<Pruned, HostError> {
        super::images::pruned()
    }
}
