//! What containers use, where a runtime has to put it together by itself.

use crate::v1;

/// The containers whose usage is asked for: of those that match, the running ones.
pub fn wanted(filter: Option<v1::ContainerStatsFilter>) -> v1::ContainerFilter {
    let filter = filter.unwrap_or_default();
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    v1::ContainerFilter {
        id: filter.id,
        state: Some(running),
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
    }
}

/// What a container from a list uses, read at `at_ns`. `cpu_ns` is processor time since its start; times in `memory` are
/// set here.
pub fn told(
    container: v1::Container,
    at_ns: i64,
    cpu_ns: Option<u64>,
    memory: Option<v1::MemoryUsage>,
) -> v1::ContainerStats {
    let usage_core_nano_seconds = value(cpu_ns);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id,
            metadata: container.metadata,
            labels: container.labels,
            annotations: container.annotations,
        }),
        cpu: Some(v1::CpuUsage { timestamp: at_ns, usage_core_nano_seconds, ..Default::default() }),
        memory: memory.map(|memory| v1::MemoryUsage { timestamp: at_ns, ..memory }),
        ..Default::default()
    }
}

/// A number that may be unknown, as the protocol has it.
pub fn value(value: Option<u64>) -> Option<v1::UInt64Value> {
    value.map(|value| v1::UInt64Value { value })
}
