//! Sandboxes and containers as the CRI tells of them.

use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum as ListedState, HostConfig, MountPoint,
};
use cri::v1;

use crate::core::labels_of;
use crate::facts::{End, Life, life, started_ns, time_ns};
use crate::spec::signals;
use crate::{labels, names};

/// A sandbox in full.
pub(crate) fn sandbox(container: &ContainerInspectResponse) -> v1::PodSandboxStatus {
    let (labels, annotations) = labels::split(labels_of(container));
    v1::PodSandboxStatus {
        id: container.id.clone().unwrap_or_default(),
        metadata: names::parse(container.name.as_deref().unwrap_or_default()).map(|parts| parts.pod),
        state: sandbox_state(life(container) == Life::Running).into(),
        created_at: time_ns(container.created.as_deref()),
        network: Some(network(container)),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(namespaces(container)) }),
        labels,
        annotations,
        runtime_handler: String::new(),
    }
}

/// Ready means that it holds the namespaces.
pub(crate) fn sandbox_state(running: bool) -> v1::PodSandboxState {
    if running { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

/// The addresses; none on the machine's network.
fn network(container: &ContainerInspectResponse) -> v1::PodSandboxNetworkStatus {
    let networks = container.network_settings.iter().flat_map(|settings| settings.networks.iter().flatten());
    let mut ips = networks.flat_map(|(_, endpoint)| [&endpoint.ip_address, &endpoint.global_ipv6_address]).flatten();
    let mut ips = std::iter::from_fn(|| ips.next()).filter(|ip| !ip.is_empty());
    let ip = ips.next().cloned().unwrap_or_default();
    v1::PodSandboxNetworkStatus { ip, additional_ips: ips.map(|ip| v1::PodIp { ip: ip.clone() }).collect() }
}

fn namespaces(container: &ContainerInspectResponse) -> v1::Namespace {
    let host = container.host_config.clone().unwrap_or_default();
    let mode = |mode: Option<String>, own: v1::NamespaceMode| {
        if mode.as_deref() == Some("host") { v1::NamespaceMode::Node } else { own }.into()
    };
    let options = v1::NamespaceOption {
        network: mode(host.network_mode, v1::NamespaceMode::Pod),
        ipc: mode(host.ipc_mode, v1::NamespaceMode::Pod),
        pid: mode(host.pid_mode, v1::NamespaceMode::Container),
        ..Default::default()
    };
    v1::Namespace { options: Some(options) }
}

/// A sandbox in a list.
pub(crate) fn listed_sandbox(listed: ContainerSummary) -> Option<v1::PodSandbox> {
    let all = listed.labels.unwrap_or_default();
    if !labels::is_sandbox(&all) {
        return None;
    }
    let (labels, annotations) = labels::split(&all);
    Some(v1::PodSandbox {
        id: listed.id.unwrap_or_default(),
        metadata: Some(names::parse(listed.names?.first()?)?.pod),
        state: sandbox_state(listed.state == Some(ListedState::RUNNING)).into(),
        created_at: listed.created.unwrap_or(0).saturating_mul(1_000_000_000),
        labels,
        annotations,
        runtime_handler: String::new(),
    })
}

/// A container in a list. One that was created and one that failed to start look alike in Docker's own list.
pub(crate) fn listed_container(listed: ContainerSummary) -> Option<v1::Container> {
    let all = listed.labels.unwrap_or_default();
    if !labels::is_container(&all) {
        return None;
    }
    let parts = names::parse(listed.names?.first()?)?;
    let state = match listed.state {
        Some(ListedState::CREATED) | None => v1::ContainerState::ContainerCreated,
        Some(ListedState::RUNNING | ListedState::PAUSED | ListedState::RESTARTING | ListedState::STOPPING) => {
            v1::ContainerState::ContainerRunning
        }
        Some(ListedState::EXITED | ListedState::DEAD | ListedState::REMOVING | ListedState::EMPTY) => {
            v1::ContainerState::ContainerExited
        }
    };
    let (labels, annotations) = labels::split(&all);
    let image_id = listed.image_id.unwrap_or_default();
    Some(v1::Container {
        id: listed.id.unwrap_or_default(),
        pod_sandbox_id: labels::text(&all, labels::SANDBOX_ID).to_owned(),
        metadata: Some(v1::ContainerMetadata { name: parts.container, attempt: parts.attempt }),
        image: Some(image_spec(&image_id, labels::text(&all, labels::IMAGE))),
        image_ref: labels::text(&all, labels::IMAGE_REF).to_owned(),
        state: state.into(),
        created_at: listed.created.unwrap_or(0).saturating_mul(1_000_000_000),
        labels,
        annotations,
        image_id,
    })
}

fn image_spec(id: &str, user_specified: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: id.to_owned(), user_specified_image: user_specified.to_owned(), ..Default::default() }
}

/// A container's state.
pub(crate) fn container_state(life: &Life) -> v1::ContainerState {
    match life {
        Life::Created => v1::ContainerState::ContainerCreated,
        Life::Running => v1::ContainerState::ContainerRunning,
        Life::Ended(_) => v1::ContainerState::ContainerExited,
    }
}

/// A container in full.
pub(crate) fn container(container: &ContainerInspectResponse) -> v1::ContainerStatus {
    let all = labels_of(container);
    let (labels, annotations) = labels::split(all);
    let life = life(container);
    let state = container_state(&life);
    let End { code, finished_at_ns, reason, message } = match life {
        Life::Ended(end) => end,
        Life::Created | Life::Running => End { code: 0, finished_at_ns: 0, reason: "", message: String::new() },
    };
    let image_id = container.image.clone().unwrap_or_default();
    let metadata = names::parse(container.name.as_deref().unwrap_or_default())
        .map(|parts| v1::ContainerMetadata { name: parts.container, attempt: parts.attempt });
    let signal = container.config.as_ref().and_then(|config| config.stop_signal.as_deref());
    v1::ContainerStatus {
        id: container.id.clone().unwrap_or_default(),
        metadata,
        state: state.into(),
        created_at: time_ns(container.created.as_deref()),
        started_at: started_ns(container),
        finished_at: finished_at_ns,
        exit_code: code,
        image: Some(image_spec(&image_id, labels::text(all, labels::IMAGE))),
        image_ref: labels::text(all, labels::IMAGE_REF).to_owned(),
        reason: reason.to_owned(),
        message,
        labels,
        annotations,
        mounts: container.mounts.iter().flatten().filter_map(mount).collect(),
        log_path: labels::text(all, labels::LOG_PATH).to_owned(),
        resources: container.host_config.as_ref().map(resources),
        image_id,
        user: None,
        stop_signal: signals::protocol_name(signal).into(),
    }
}

fn mount(point: &MountPoint) -> Option<v1::Mount> {
    // A volume that the image wants is Docker's own affair.
    if point.typ.as_ref().map(ToString::to_string).as_deref() != Some("bind") {
        return None;
    }
    let propagation = match point.propagation.as_deref() {
        Some("rslave" | "slave") => v1::MountPropagation::PropagationHostToContainer,
        Some("rshared" | "shared") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    Some(v1::Mount {
        container_path: point.destination.clone()?,
        host_path: point.source.clone()?,
        readonly: point.rw == Some(false),
        propagation: propagation.into(),
        ..Default::default()
    })
}

fn resources(host: &HostConfig) -> v1::ContainerResources {
    let linux = v1::LinuxContainerResources {
        cpu_period: host.cpu_period.unwrap_or(0),
        cpu_quota: host.cpu_quota.unwrap_or(0),
        cpu_shares: host.cpu_shares.unwrap_or(0),
        memory_limit_in_bytes: host.memory.unwrap_or(0),
        oom_score_adj: host.oom_score_adj.unwrap_or(0),
        cpuset_cpus: host.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: host.cpuset_mems.clone().unwrap_or_default(),
        ..Default::default()
    };
    v1::ContainerResources { linux: Some(linux), windows: None }
}
