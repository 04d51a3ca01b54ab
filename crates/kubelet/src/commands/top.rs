//! `kubelet top`: what the machine, its pods and their containers use.

use super::{Columns, printable};
use crate::cli::TopArgs;
use crate::client::Client;
use anyhow::Result;
use server::stats::{CpuStats, MemoryStats, Summary};
use std::time::Duration;

/// Between two looks, where the kubelet had nothing yet to compare with.
const BETWEEN: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: TopArgs) -> Result<u8> {
    let client = Client::new(&args.target.run_dir);
    let mut summary: Summary = client.get_json("/stats/summary").await?;
    if is_first_look(&summary) {
        tokio::time::sleep(BETWEEN).await;
        summary = client.get_json("/stats/summary").await?;
    }
    print!("{}", render(&summary, args.namespace.as_deref()));
    Ok(0)
}

fn is_first_look(summary: &Summary) -> bool {
    let containers = summary.pods.iter().flat_map(|pod| &pod.containers).map(|container| &container.cpu);
    let mut all = containers.chain([&summary.node.cpu]).flatten();
    all.any(|cpu| cpu.usage_nano_cores.is_none())
}

fn render(summary: &Summary, namespace: Option<&str>) -> String {
    let row = |names: [&str; 3], cpu: &Option<CpuStats>, memory: &Option<MemoryStats>| {
        let mut row: Vec<String> = names.iter().map(|name| printable(name)).collect();
        row.push(cores(cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores)));
        row.push(mebibytes(memory.as_ref().and_then(|memory| memory.working_set_bytes)));
        row
    };
    let mut rows = vec![["NAMESPACE", "POD", "CONTAINER", "CPU(cores)", "MEMORY(bytes)"].map(String::from).to_vec()];
    let pods = summary.pods.iter().filter(|pod| namespace.is_none_or(|wanted| wanted == pod.pod_ref.namespace));
    for pod in pods {
        let (namespace, name) = (pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str());
        rows.extend(pod.containers.iter().map(|c| row([namespace, name, &c.name], &c.cpu, &c.memory)));
    }
    let node = &summary.node;
    rows.push(row(["(node)", &node.node_name, "-"], &node.cpu, &node.memory));
    Columns::default().table(&rows)
}

/// In thousandths, as quantities of processing power are written.
fn cores(nano_cores: Option<u64>) -> String {
    nano_cores.map_or("-".to_owned(), |nano| format!("{}m", nano.div_ceil(1_000_000)))
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("-".to_owned(), |bytes| format!("{}Mi", bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(namespace: &str, nano_cores: Option<u64>) -> Summary {
        let time = "2026-01-01T00:00:00Z";
        let mut cpu = json!({"time": time, "usageCoreNanoSeconds": 5});
        if let Some(nano) = nano_cores {
            cpu["usageNanoCores"] = nano.into();
        }
        let memory = json!({"time": time, "workingSetBytes": 5_242_880});
        serde_json::from_value(json!({"node": {"nodeName": "n1", "cpu": cpu, "memory": memory},
            "pods": [{"podRef": {"name": "web-n1", "namespace": namespace, "uid": "u"},
                      "containers": [{"name": "app", "cpu": cpu, "memory": memory}]}]}))
        .unwrap()
    }

    #[test]
    fn every_running_container_has_a_row_and_the_node_the_last() {
        let out = render(&told("default", Some(1_500_000)), None);
        let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAMESPACE", "POD", "CONTAINER", "CPU(cores)", "MEMORY(bytes)"]);
        assert_eq!(rows[1], ["default", "web-n1", "app", "2m", "5Mi"]);
        assert_eq!(rows[2], ["(node)", "n1", "-", "2m", "5Mi"]);
        assert_eq!(render(&told("other", None), Some("default")).lines().count(), 2);
        assert!(render(&told("other", None), None).contains("app         -            5Mi"));
    }

    #[test]
    fn a_rate_needs_two_looks() {
        assert!(is_first_look(&told("a", None)));
        assert!(!is_first_look(&told("a", Some(0))));
    }
}
