//! What containers use, as Docker tells it.

use std::collections::HashMap;

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptionsBuilder;
use cri::stats::{self, value};
use cri::{Error, filter, v1};
use futures_util::StreamExt;

use crate::call::{CONFLICT, NOT_FOUND};
use crate::core::Core;
use crate::facts::now_ns;
use crate::{labels, status};

/// Containers asked about at a time.
const AT_ONCE: usize = 8;

impl Core {
    /// Docker tells it for one container at a time.
    pub(crate) async fn list_stats(&self, wanted: &v1::ContainerFilter) -> Result<Vec<v1::ContainerStats>, Error> {
        let listed = self.list(&[(labels::TYPE, labels::TYPE_CONTAINER)]).await?;
        let listed = listed.into_iter().filter_map(status::listed_container);
        let asking = listed.filter(|item| filter::container(Some(wanted), item)).map(|item| self.stats_of(item));
        let mut asking = futures_util::stream::iter(asking).buffer_unordered(AT_ONCE);
        let mut found = Vec::new();
        while let Some(stats) = asking.next().await {
            found.extend(stats?);
        }
        Ok(found)
    }

    /// `None` for a container that has ended meanwhile.
    async fn stats_of(&self, container: v1::Container) -> Result<Option<v1::ContainerStats>, Error> {
        let id = container.id.clone();
        // Docker would wait for a second sample, to tell a rate.
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let action = format!("ask what container {id} uses");
        let asked =
            self.call(&action, |docker| async move { docker.stats(&id, Some(options)).next().await.transpose() });
        match asked.await {
            // Of one that does not run Docker tells zeros, at no time.
            Ok(stats) => Ok(stats.filter(is_of_running).map(|stats| told(container, &stats))),
            Err(failed) if matches!(failed.status, Some(NOT_FOUND | CONFLICT)) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }
}

fn is_of_running(stats: &ContainerStatsResponse) -> bool {
    stats.memory_stats.as_ref().is_some_and(|memory| memory.usage.is_some())
}

fn told(container: v1::Container, of: &ContainerStatsResponse) -> v1::ContainerStats {
    let cpu_ns = of.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    stats::told(container, now_ns(), cpu_ns, of.memory_stats.as_ref().map(memory))
}

/// The names are the kernel's: with `total_` where a group of version 1 counts those below it too.
fn memory(of: &ContainerMemoryStats) -> v1::MemoryUsage {
    let none = HashMap::new();
    let counters = of.stats.as_ref().unwrap_or(&none);
    let get = |names: [&str; 2]| names.iter().find_map(|name| counters.get(*name)).copied();
    let inactive = get(["total_inactive_file", "inactive_file"]).unwrap_or(0);
    v1::MemoryUsage {
        usage_bytes: value(of.usage),
        working_set_bytes: value(of.usage.map(|usage| usage.saturating_sub(inactive))),
        rss_bytes: value(get(["total_rss", "anon"])),
        page_faults: value(get(["total_pgfault", "pgfault"])),
        major_page_faults: value(get(["total_pgmajfault", "pgmajfault"])),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_either_version_of_control_groups() {
        let told = |counters: &[(&str, u64)]| {
            let stats = counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            memory(&ContainerMemoryStats { usage: Some(100), stats: Some(stats), ..Default::default() })
        };
        let v1 = told(&[("inactive_file", 1), ("total_inactive_file", 30), ("total_rss", 5), ("total_pgfault", 6)]);
        let v2 = told(&[("inactive_file", 30), ("anon", 5), ("pgfault", 6)]);
        assert_eq!(v1, v2);
        assert_eq!(v1.working_set_bytes, value(Some(70)));
        assert_eq!((v1.rss_bytes, v1.page_faults, v1.major_page_faults), (value(Some(5)), value(Some(6)), None));
        assert_eq!(told(&[("inactive_file", 300)]).working_set_bytes, value(Some(0)), "it never wraps");
    }
}
