//! A v1 `PodStatus`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as V1State, ContainerStatus, Pod, PodCondition, PodStatus, VolumeMountStatus,
};
use lifecycle::{ContainerKind, ContainerReport, ContainerState, PodReport, Terminated};
use pod::status::{self, Exit, Why};

use super::{NodeFacts, Transitions, in_order};

/// Of the termination messages of one pod together, and of each of them.
const POD_MESSAGES_MAX_BYTES: usize = 12 << 10;
const MESSAGE_MAX_BYTES: usize = 4 << 10;

/// The status of a pod that a machine looks after.
pub(super) fn live_status(pod: &Pod, (report, since): (&PodReport, &Transitions), node: &NodeFacts) -> PodStatus {
    let generation = (report.observed_generation > 0).then_some(report.observed_generation);
    let conditions = in_order(&report.conditions).map(|(name, condition)| {
        let why = Why { reason: condition.reason.to_owned(), message: condition.message.clone() };
        let since = status::time_from_ns(since.since_ns(name)).map_or_else(Timestamp::now, |time| time.0);
        PodCondition { observed_generation: generation, ..status::condition(name, condition.status, why, since) }
    });
    let ips = if pod::host_network(pod) && report.observed { &node.host_ips } else { &report.ips };
    // What keeps it from its next step is told where there is no verdict.
    let problem = report.problem.as_ref().map(|problem| problem.message.clone());
    let (init, mut regular): (Vec<_>, Vec<_>) =
        report.containers.iter().partition(|container| container.kind != ContainerKind::Regular);
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    let message_max_bytes = MESSAGE_MAX_BYTES.min(POD_MESSAGES_MAX_BYTES / report.containers.len().max(1));
    let statuses = |reports: Vec<&ContainerReport>| -> Option<Vec<ContainerStatus>> {
        let of = |report: &ContainerReport| {
            let ended = |ended: &Terminated| terminated(ended, node, message_max_bytes);
            container_status(report, (pod::container(pod, &report.name), node), &ended)
        };
        (!reports.is_empty()).then(|| reports.into_iter().map(of).collect())
    };
    PodStatus {
        observed_generation: generation,
        phase: Some(report.phase.as_str().to_owned()),
        conditions: Some(conditions.collect()),
        reason: (!report.reason.is_empty()).then(|| report.reason.clone()),
        message: if report.message.is_empty() { problem } else { Some(report.message.clone()) },
        host_ip: node.host_ips.first().cloned(),
        host_ips: (!node.host_ips.is_empty()).then(|| status::host_ips(&node.host_ips)),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| status::pod_ips(ips)),
        start_time: status::time_from_ns(report.start_time_ns),
        init_container_statuses: statuses(init),
        container_statuses: statuses(regular),
        qos_class: qos_class(pod),
        ..PodStatus::default()
    }
}

/// The status of a pod that was refused: the verdict, and nothing of what never was.
pub(super) fn rejected_status(pod: &Pod, report: &PodReport) -> PodStatus {
    PodStatus {
        observed_generation: (report.observed_generation > 0).then_some(report.observed_generation),
        phase: Some(report.phase.as_str().to_owned()),
        reason: Some(report.reason.clone()),
        message: Some(report.message.clone()),
        start_time: status::time_from_ns(report.start_time_ns),
        qos_class: qos_class(pod),
        ..PodStatus::default()
    }
}

fn qos_class(pod: &Pod) -> Option<String> {
    Some(pod::qos::class(pod).as_str().to_owned())
}

fn container_status(
    report: &ContainerReport,
    (container, node): (Option<&Container>, &NodeFacts),
    terminated: &dyn Fn(&Terminated) -> V1State,
) -> ContainerStatus {
    let id = node.container_id(&report.container_id);
    let resources = container.map(|container| container.resources.clone().unwrap_or_default());
    ContainerStatus {
        name: report.name.clone(),
        image: report.image.clone(),
        image_id: report.image_ref.clone(),
        container_id: (!id.is_empty()).then_some(id),
        ready: report.ready,
        started: Some(report.started),
        restart_count: i32::try_from(report.restart_count).unwrap_or(i32::MAX),
        state: Some(match &report.state {
            ContainerState::Waiting { reason, message } => status::waiting(reason.as_str(), message),
            ContainerState::Running { started_at_ns } => status::running(*started_at_ns),
            ContainerState::Terminated(ended) => terminated(ended),
        }),
        // An empty object, as the API has it, where there was no run before.
        last_state: Some(report.last.as_ref().map(terminated).unwrap_or_default()),
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources,
        volume_mounts: container.and_then(volume_mounts),
        ..ContainerStatus::default()
    }
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_deref().filter(|mounts| !mounts.is_empty())?;
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = mount.read_only == Some(true);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        }
    };
    Some(mounts.iter().map(status).collect())
}

fn terminated(ended: &Terminated, node: &NodeFacts, message_max_bytes: usize) -> V1State {
    let mut message = ended.message.clone();
    message.truncate(message.floor_char_boundary(message_max_bytes));
    status::terminated(&Exit {
        exit_code: ended.exit_code,
        reason: ended.reason.clone(),
        message,
        started_at_ns: ended.started_at_ns,
        finished_at_ns: ended.finished_at_ns,
        container_id: node.container_id(&ended.container_id),
    })
}
