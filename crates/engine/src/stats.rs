//! What containers use, read from their control groups.

use cri::{filter, stats, v1};

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
                found.push(stats::told(item, now_ns(), Some(usage.cpu_ns), Some(memory(usage))));
            }
        }
        found
    }
}

fn memory(usage: cgroup::Usage) -> v1::MemoryUsage {
    let value = |bytes| stats::value(Some(bytes));
    v1::MemoryUsage {
        working_set_bytes: value(usage.working_set_bytes),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        ..Default::default()
    }
}
