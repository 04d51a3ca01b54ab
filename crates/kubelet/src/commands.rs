//! The subcommands; each is a client of the running kubelet, but `check`, which needs none.

pub(crate) mod check;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod ps;

use crate::cli::ContainerArgs;
use crate::client::Client;
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;

/// The pods as `/pods` tells them.
#[derive(Debug, serde::Deserialize)]
struct PodItems {
    #[serde(default)]
    items: Vec<Pod>,
}

async fn pods(client: &Client) -> Result<Vec<Pod>> {
    Ok(client.get_json::<PodItems>("/pods").await?.items)
}

fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn pod_namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

fn container_names(pod: &Pod) -> Vec<&str> {
    pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect()
}

/// Finds a pod by its name, with or without the `-<node>` at its end, and one of its containers.
async fn find(client: &Client, of: &ContainerArgs) -> Result<(String, String)> {
    choose(&pods(client).await?, &of.namespace, &of.pod, of.container.as_deref())
}

fn choose(pods: &[Pod], namespace: &str, name: &str, container: Option<&str>) -> Result<(String, String)> {
    let in_namespace: Vec<&Pod> = pods.iter().filter(|pod| pod_namespace(pod) == namespace).collect();
    let without_node = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        pod_name(pod).strip_suffix(node).and_then(|short| short.strip_suffix('-')).map(str::to_owned)
    };
    let exact = in_namespace.iter().find(|pod| pod_name(pod) == name);
    let Some(pod) = exact.or_else(|| in_namespace.iter().find(|pod| without_node(pod).as_deref() == Some(name))) else {
        let known: Vec<&str> = in_namespace.iter().map(|pod| pod_name(pod)).collect();
        match known.is_empty() {
            true => bail!("pod {name:?} not found: namespace {namespace:?} has no pods"),
            false => bail!("pod {name:?} not found in namespace {namespace:?}; it has: {}", known.join(", ")),
        }
    };
    let names = container_names(pod);
    let container = match (container, names.as_slice()) {
        (Some(container), names) if names.contains(&container) => container,
        (Some(container), names) => {
            bail!("container {container:?} not found in pod {:?}; it has: {}", pod_name(pod), names.join(", "))
        }
        (None, [only]) => only,
        (None, names) => {
            bail!("pod {:?} has several containers; choose one with -c: {}", pod_name(pod), names.join(", "))
        }
    };
    Ok((pod_name(pod).to_owned(), container.to_owned()))
}

/// Text that came from a manifest or an image, safe to print on a terminal: control characters are shown, not sent.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Prints rows in columns as wide as their widest cell, three blanks between.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, containers: &[&str]) -> Pod {
        let containers: Vec<_> =
            containers.iter().map(|name| serde_json::json!({"name": name, "image": "i"})).collect();
        serde_json::from_value(serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node, "containers": containers}}))
        .unwrap()
    }

    #[test]
    fn pods_are_found_with_and_without_the_nodes_name() {
        let pods = [pod("web-n1", "n1", &["a"]), pod("two-n1", "n1", &["a", "b"])];
        let found = |name, container| choose(&pods, "default", name, container).map_err(|e| e.to_string());
        assert_eq!(found("web", None), Ok(("web-n1".into(), "a".into())));
        assert_eq!(found("web-n1", Some("a")), Ok(("web-n1".into(), "a".into())));
        assert!(found("two", None).unwrap_err().contains("choose one with -c: a, b"));
        assert!(found("two", Some("x")).unwrap_err().contains("it has: a, b"));
        assert!(found("none", None).unwrap_err().contains("it has: web-n1, two-n1"));
        assert!(choose(&pods, "other", "web", None).unwrap_err().to_string().contains("has no pods"));
    }

    #[test]
    fn s_c11_control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb"), "a\u{fffd}[31mb");
    }
}
