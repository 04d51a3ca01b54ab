//! Sandboxes and containers as the CRI tells of them.

use cri::v1;

use crate::record::Phase;
use crate::spec;
use crate::state::{Container, Sandbox, SandboxState};

/// A sandbox and its containers, as of one moment.
pub(crate) fn pod(sandbox: &Sandbox) -> (v1::PodSandboxStatus, Vec<v1::ContainerStatus>) {
    let state = sandbox.state();
    (sandbox_status(sandbox, &state), state.containers.values().map(container_status).collect())
}

fn sandbox_status(sandbox: &Sandbox, state: &SandboxState) -> v1::PodSandboxStatus {
    let ip = state.address.map(|address| address.to_string()).unwrap_or_default();
    v1::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(state).into(),
        created_at: sandbox.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(namespaces(sandbox)) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: String::new(),
    }
}

fn namespaces(sandbox: &Sandbox) -> v1::Namespace {
    let security = sandbox.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    v1::Namespace { options: security.and_then(|security| security.namespace_options.clone()) }
}

fn sandbox_state(state: &SandboxState) -> v1::PodSandboxState {
    match state.phase {
        Phase::Ready => v1::PodSandboxState::SandboxReady,
        Phase::Creating | Phase::NotReady | Phase::Stopped | Phase::Removed => v1::PodSandboxState::SandboxNotready,
    }
}

/// A sandbox in a list.
pub(crate) fn listed_sandbox(sandbox: &Sandbox) -> v1::PodSandbox {
    v1::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(&sandbox.state()).into(),
        created_at: sandbox.created_at_ns,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: String::new(),
    }
}

fn container_state(container: &Container) -> v1::ContainerState {
    match (container.started.is_some(), container.end.borrow().is_some()) {
        (_, true) => v1::ContainerState::ContainerExited,
        (true, false) => v1::ContainerState::ContainerRunning,
        (false, false) => v1::ContainerState::ContainerCreated,
    }
}

/// A container in a list.
pub(crate) fn listed_container(sandbox: &Sandbox, container: &Container) -> v1::Container {
    let config = container.record.config.as_ref();
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: sandbox.id.clone(),
        metadata: config.and_then(|config| config.metadata.clone()),
        image: config.and_then(|config| config.image.clone()),
        image_ref: container.record.image_ref.clone(),
        state: container_state(container).into(),
        created_at: container.record.created_at_ns,
        labels: config.map(|config| config.labels.clone()).unwrap_or_default(),
        annotations: config.map(|config| config.annotations.clone()).unwrap_or_default(),
        image_id: container.record.image_id.clone(),
    }
}

/// A container in full.
pub(crate) fn container_status(container: &Container) -> v1::ContainerStatus {
    let config = container.record.config.clone().unwrap_or_default();
    let end = container.end.borrow().clone();
    let (exit_code, finished_at, reason, message) =
        end.map(|end| (end.code, end.finished_at_ns, end.reason, end.message)).unwrap_or_default();
    let linux = config.linux.and_then(|linux| linux.resources);
    v1::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata,
        state: container_state(container).into(),
        created_at: container.record.created_at_ns,
        started_at: container.started.as_ref().map_or(0, |started| started.started_at_ns),
        finished_at,
        exit_code,
        image: config.image,
        image_ref: container.record.image_ref.clone(),
        reason,
        message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: container.record.log_path.clone(),
        resources: linux.map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        image_id: container.record.image_id.clone(),
        user: None,
        stop_signal: spec::protocol_name(container.record.stop_signal).into(),
    }
}
