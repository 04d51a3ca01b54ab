//! What pods use: the runtime's numbers under the pods' names.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use server::stats::{ContainerStats, CpuStats, MemoryStats, NodeStats, PodRef, PodStats, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cri::v1;

/// A sample is compared with an earlier one that is at least as old as this, where there is one.
const WINDOW_NS: i64 = 10_000_000_000;
/// The machine itself, among the samples.
const NODE: &str = "";

/// Earlier samples of processor time, which make a rate of the next one. One for each running container.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    samples: Mutex<BTreeMap<String, Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ns: i64,
    cpu_ns: u64,
}

impl Rates {
    /// Billionths of a processor since an earlier look; none at the first one.
    fn rate(&self, of: &str, at_ns: i64, cpu_ns: u64) -> Option<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Sample { at_ns, cpu_ns };
        let Some(earlier) = samples.get_mut(of) else {
            samples.insert(of.to_owned(), now);
            return None;
        };
        let window_ns = at_ns - earlier.at_ns;
        // A clock that was set back, or a group that was made anew.
        let began_again = window_ns <= 0 || cpu_ns < earlier.cpu_ns;
        let rate =
            u128::from(cpu_ns.saturating_sub(earlier.cpu_ns)) * 1_000_000_000 / window_ns.unsigned_abs().max(1) as u128;
        if began_again || window_ns >= WINDOW_NS {
            *earlier = now;
        }
        if began_again { None } else { u64::try_from(rate).ok() }
    }

    fn keep(&self, running: &BTreeSet<&str>) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|of, _| of == NODE || running.contains(of.as_str()));
    }
}

/// The summary of what the runtime and the machine told at `now_ns`.
pub(crate) fn summary(
    (node_name, node, now_ns): (&str, node::Usage, i64),
    pods: &[Pod],
    used: &[v1::ContainerStats],
    rates: &Rates,
) -> Summary {
    let id = |stats: &v1::ContainerStats| stats.attributes.as_ref().map(|of| of.id.clone()).unwrap_or_default();
    let by_id: BTreeMap<String, &v1::ContainerStats> = used.iter().map(|stats| (id(stats), stats)).collect();
    rates.keep(&by_id.keys().map(String::as_str).collect());
    let of_pods = pods.iter().map(|pod| pod_stats(pod, &by_id, rates)).filter(|pod| !pod.containers.is_empty());
    Summary { node: node_stats((node_name, node, now_ns), rates), pods: of_pods.collect() }
}

fn node_stats((name, node, now_ns): (&str, node::Usage, i64), rates: &Rates) -> NodeStats {
    let time = time(now_ns);
    NodeStats {
        node_name: name.to_owned(),
        start_time: (node.boot_s > 0).then(|| self::time(node.boot_s.saturating_mul(1_000_000_000))),
        cpu: Some(CpuStats {
            time: time.clone(),
            usage_nano_cores: rates.rate(NODE, now_ns, node.cpu_ns),
            usage_core_nano_seconds: Some(node.cpu_ns),
        }),
        memory: Some(MemoryStats {
            time,
            available_bytes: Some(node.available_bytes),
            usage_bytes: Some(node.memory_bytes),
            working_set_bytes: Some(node.working_set_bytes),
            rss_bytes: Some(node.rss_bytes),
            page_faults: None,
            major_page_faults: None,
        }),
    }
}

fn pod_stats(pod: &Pod, used: &BTreeMap<String, &v1::ContainerStats>, rates: &Rates) -> PodStats {
    let status = pod.status.as_ref();
    let statuses = status.into_iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    let containers: Vec<ContainerStats> = statuses.filter_map(|status| container_stats(status, used, rates)).collect();
    PodStats {
        pod_ref: PodRef {
            name: pod.metadata.name.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        },
        start_time: status.and_then(|status| status.start_time.clone()),
        cpu: sum_cpu(&containers),
        memory: sum_memory(&containers),
        containers,
    }
}

/// None for a container that does not run.
fn container_stats(
    status: &ContainerStatus,
    used: &BTreeMap<String, &v1::ContainerStats>,
    rates: &Rates,
) -> Option<ContainerStats> {
    // `<runtime>://<id>`
    let (_, id) = status.container_id.as_deref()?.split_once("://")?;
    let stats = used.get(id)?;
    let value = |value: &Option<v1::UInt64Value>| value.as_ref().map(|value| value.value);
    let cpu = stats.cpu.as_ref().map(|cpu| {
        let total = value(&cpu.usage_core_nano_seconds);
        let told = value(&cpu.usage_nano_cores).filter(|rate| *rate > 0);
        CpuStats {
            time: time(cpu.timestamp),
            usage_nano_cores: told.or_else(|| rates.rate(id, cpu.timestamp, total?)),
            usage_core_nano_seconds: total,
        }
    });
    let memory = stats.memory.as_ref().map(|memory| MemoryStats {
        time: time(memory.timestamp),
        available_bytes: value(&memory.available_bytes).filter(|bytes| *bytes > 0),
        usage_bytes: value(&memory.usage_bytes),
        working_set_bytes: value(&memory.working_set_bytes),
        rss_bytes: value(&memory.rss_bytes),
        page_faults: value(&memory.page_faults),
        major_page_faults: value(&memory.major_page_faults),
    });
    let running = status.state.as_ref().and_then(|state| state.running.as_ref());
    let start_time = running.and_then(|running| running.started_at.clone());
    Some(ContainerStats { name: status.name.clone(), start_time, cpu, memory })
}

fn sum_cpu(containers: &[ContainerStats]) -> Option<CpuStats> {
    let told = || containers.iter().filter_map(|container| container.cpu.as_ref());
    Some(CpuStats {
        time: told().map(|cpu| &cpu.time).max()?.clone(),
        usage_nano_cores: sum(told().map(|cpu| cpu.usage_nano_cores)),
        usage_core_nano_seconds: sum(told().map(|cpu| cpu.usage_core_nano_seconds)),
    })
}

fn sum_memory(containers: &[ContainerStats]) -> Option<MemoryStats> {
    let told = || containers.iter().filter_map(|container| container.memory.as_ref());
    Some(MemoryStats {
        time: told().map(|memory| &memory.time).max()?.clone(),
        available_bytes: None,
        usage_bytes: sum(told().map(|memory| memory.usage_bytes)),
        working_set_bytes: sum(told().map(|memory| memory.working_set_bytes)),
        rss_bytes: sum(told().map(|memory| memory.rss_bytes)),
        page_faults: sum(told().map(|memory| memory.page_faults)),
        major_page_faults: sum(told().map(|memory| memory.major_page_faults)),
    })
}

/// Unknown where one of them is: a sum of some would be taken for all.
fn sum(mut values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.try_fold(0_u64, |sum, value| Some(sum.saturating_add(value?)))
}

fn time(ns: i64) -> Time {
    Time(jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: i64 = 1_000_000_000;

    fn used(id: &str, at_ns: i64, cpu_ns: u64) -> v1::ContainerStats {
        let value = |value| Some(v1::UInt64Value { value });
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes { id: id.into(), ..Default::default() }),
            cpu: Some(v1::CpuUsage { timestamp: at_ns, usage_core_nano_seconds: value(cpu_ns), ..Default::default() }),
            memory: Some(v1::MemoryUsage { timestamp: at_ns, working_set_bytes: value(100), ..Default::default() }),
            ..Default::default()
        }
    }

    fn pod() -> Pod {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:40Z"}});
        let container = |name: &str, id: &str| {
            json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                   "containerID": format!("embedded://{id}"), "state": running})
        };
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-n1", "namespace": "default", "uid": "u1"},
            "status": {"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [container("a", "1"), container("b", "2")]}}))
        .unwrap()
    }

    fn at(rates: &Rates, seconds: i64, cpu_ns: [u64; 2]) -> PodStats {
        let used = [used("1", seconds * SECOND, cpu_ns[0]), used("2", seconds * SECOND, cpu_ns[1])];
        let mut summary = summary(("n1", node::Usage::default(), seconds * SECOND), &[pod()], &used, rates);
        summary.pods.remove(0)
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let rates = Rates::default();
        let first = at(&rates, 100, [5, 7]);
        assert_eq!(first.pod_ref.uid, "u1");
        assert_eq!(first.cpu.as_ref().unwrap().usage_core_nano_seconds, Some(12));
        assert_eq!(first.cpu.unwrap().usage_nano_cores, None, "nothing to compare with");
        assert_eq!(first.memory.unwrap().working_set_bytes, Some(200));
        assert_eq!(first.containers[0].start_time, Some(Time("2026-01-01T00:00:40Z".parse().unwrap())));

        let second = at(&rates, 101, [5 + 500_000_000, 7]);
        let cores: Vec<_> = second.containers.iter().map(|c| c.cpu.as_ref().unwrap().usage_nano_cores).collect();
        assert_eq!(cores, [Some(500_000_000), Some(0)]);
        assert_eq!(second.cpu.unwrap().usage_nano_cores, Some(500_000_000));
        let third = at(&rates, 110, [5 + 10 * 500_000_000, 7]);
        assert_eq!(third.cpu.unwrap().usage_nano_cores, Some(500_000_000), "over the ten seconds");
        let fourth = at(&rates, 111, [5 + 10 * 500_000_000, 7]);
        assert_eq!(fourth.cpu.unwrap().usage_nano_cores, Some(0), "since the newer sample");
        let again = at(&rates, 112, [1, 7]);
        assert_eq!(again.cpu.unwrap().usage_nano_cores, None, "one began anew");
    }

    #[test]
    fn what_does_not_run_is_not_told_and_not_remembered() {
        let rates = Rates::default();
        at(&rates, 1, [1, 1]);
        let summary = summary(("n1", node::Usage::default(), 2 * SECOND), &[pod()], &[], &rates);
        assert!(summary.pods.is_empty());
        assert_eq!(rates.samples.lock().unwrap().keys().collect::<Vec<_>>(), [NODE]);
    }

    #[test]
    fn a_rate_that_the_runtime_tells_is_taken() {
        let mut stats = used("1", SECOND, 5);
        stats.cpu.as_mut().unwrap().usage_nano_cores = Some(v1::UInt64Value { value: 42 });
        let summary = summary(("n1", node::Usage::default(), SECOND), &[pod()], &[stats], &Rates::default());
        assert_eq!(summary.pods[0].cpu.as_ref().unwrap().usage_nano_cores, Some(42));
        assert_eq!(summary.pods[0].containers.len(), 1);
    }
}
