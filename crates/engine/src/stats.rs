//! What containers use, read from their control groups.

use cri::{filter, v1};

use crate::state::{Core, now_ns};
use crate::status;

impl Core {
    /// Reads a few small files for each container.
    pub(crate) fn list_stats(&self, wanted: &v1::ContainerFilter) -> Vec<v1::ContainerStats> {
        let mut found = Vec::new();
        for sandbox in self.sandboxes() {
            let listed: Vec<v1::Container> = {
                let state = sandbox.state();
                let listed = state.containers.values().map(|container| status::listed_container(&sandbox, container));
                listed.filter(|item| filter::container(Some(wanted), item)).collect()
            };
            for item in listed {
                // Its group goes with it; then it has ended meanwhile.
                let Ok(usage) = self.container_group(&sandbox, &item.id).usage() else { continue };
                found.push(told(item, usage));
            }
        }
        found
    }
}

fn told(container: v1::Container, usage: cgroup::Usage) -> v1::ContainerStats {
    let value = |value| Some(v1::UInt64Value { value });
    let timestamp = now_ns();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id,
            metadata: container.metadata,
            labels: container.labels,
            annotations: container.annotations,
        }),
        cpu: Some(v1::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_ns), ..Default::default() }),
        memory: Some(v1::MemoryUsage {
            timestamp,
            working_set_bytes: value(usage.working_set_bytes),
            usage_bytes: value(usage.memory_bytes),
            rss_bytes: value(usage.rss_bytes),
            page_faults: value(usage.page_faults),
            major_page_faults: value(usage.major_page_faults),
            ..Default::default()
        }),
        ..Default::default()
    }
}
