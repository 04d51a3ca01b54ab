//! The subcommands; each is a client of the running kubelet, but `check`, which needs none.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod describe;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod port_forward;
pub(crate) mod ps;
mod session;
mod summary;
pub(crate) mod top;

use crate::cli::ContainerArgs;
use crate::client::Client;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;

/// Annotation: the container that a person means who names none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

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

/// Every container's name, in the order in which they start.
fn container_names(pod: &Pod) -> Vec<&str> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).map(|container| container.name.as_str()).collect()
}

/// Finds a pod by its name, with or without the `-<node>` at its end, and one of its containers.
async fn find(client: &Client, of: &ContainerArgs) -> Result<(String, String)> {
    let pods = pods(client).await?;
    let pod = choose_pod(&pods, &of.namespace, &of.pod)?;
    let container = choose_container(pod, of.container.as_deref())?;
    tell_default(pod, container, of);
    Ok((pod_name(pod).to_owned(), container.to_owned()))
}

/// Says which container it is, where none was named and there are several.
fn tell_default(pod: &Pod, container: &str, of: &ContainerArgs) {
    if of.container.is_none() && container_names(pod).len() > 1 {
        eprintln!("Defaulted container {container:?} out of: {}", with_kinds(pod));
    }
}

fn choose_pod<'a>(pods: &'a [Pod], namespace: &str, name: &str) -> Result<&'a Pod> {
    let in_namespace: Vec<&Pod> = pods.iter().filter(|pod| pod_namespace(pod) == namespace).collect();
    let without_node = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        pod_name(pod).strip_suffix(node).and_then(|short| short.strip_suffix('-')).map(str::to_owned)
    };
    let exact = in_namespace.iter().find(|pod| pod_name(pod) == name);
    if let Some(pod) = exact.or_else(|| in_namespace.iter().find(|pod| without_node(pod).as_deref() == Some(name))) {
        return Ok(pod);
    }
    let known: Vec<&str> = in_namespace.iter().map(|pod| pod_name(pod)).collect();
    match known.is_empty() {
        true => bail!("pod {name:?} not found: namespace {namespace:?} has no pods"),
        false => bail!("pod {name:?} not found in namespace {namespace:?}; it has: {}", known.join(", ")),
    }
}

/// The container that is asked for; else the one that the pod's annotation names, else the first regular one.
fn choose_container<'a>(pod: &'a Pod, asked: Option<&'a str>) -> Result<&'a str> {
    let names = container_names(pod);
    if let Some(asked) = asked {
        return match names.contains(&asked) {
            true => Ok(asked),
            false => {
                bail!("container {asked:?} not found in pod {:?}; it has: {}", pod_name(pod), with_kinds(pod))
            }
        };
    }
    let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CONTAINER));
    let annotated = annotation.map(String::as_str).filter(|name| names.contains(name));
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.as_str());
    annotated.or(first).with_context(|| format!("pod {:?} has no containers", pod_name(pod)))
}

/// The containers of a pod as a choice: regular ones first, the others marked.
fn with_kinds(pod: &Pod) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let regular = spec.containers.iter().map(|container| container.name.clone());
    let init = spec.init_containers.iter().flatten().map(|container| format!("{} (init)", container.name));
    regular.chain(init).collect::<Vec<_>>().join(", ")
}

/// Text that came from a manifest or an image, safe to print on a terminal: control characters are shown, not sent.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns as wide as their widest cell so far, three blanks between.
#[derive(Debug, Default)]
struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    fn table(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in rows {
            let line: String = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
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
        let found = |namespace, name| choose_pod(&pods, namespace, name).map(pod_name).map_err(|e| e.to_string());
        assert_eq!(found("default", "web"), Ok("web-n1"));
        assert_eq!(found("default", "web-n1"), Ok("web-n1"));
        assert!(found("default", "none").unwrap_err().contains("it has: web-n1, two-n1"));
        assert!(found("other", "web").unwrap_err().contains("has no pods"));
    }

    #[test]
    fn the_container_that_is_meant_is_named_annotated_or_the_first_regular_one() {
        let mut pod = pod("two-n1", "n1", &["a", "b"]);
        let init = k8s_openapi::api::core::v1::Container { name: "setup".into(), ..Default::default() };
        pod.spec.as_mut().unwrap().init_containers = Some(vec![init]);
        let chosen = |pod: &Pod, asked| choose_container(pod, asked).map(str::to_owned).map_err(|e| e.to_string());
        assert_eq!(chosen(&pod, None), Ok("a".into()));
        assert_eq!(chosen(&pod, Some("setup")), Ok("setup".into()));
        assert!(chosen(&pod, Some("x")).unwrap_err().contains("it has: a, b, setup (init)"));
        for (annotated, expected) in [("b", "b"), ("setup", "setup"), ("gone", "a")] {
            pod.metadata.annotations = Some([(DEFAULT_CONTAINER.to_owned(), annotated.to_owned())].into());
            assert_eq!(chosen(&pod, None), Ok(expected.into()), "{annotated}");
        }
        pod.spec.as_mut().unwrap().containers.clear();
        assert!(chosen(&pod, None).unwrap_err().contains("has no containers"));
    }

    #[test]
    fn columns_only_grow() {
        let row = |cells: [&str; 2]| vec![cells.map(String::from).to_vec()];
        let mut columns = Columns::default();
        assert_eq!(columns.table(&row(["abc", "d"])), "abc   d\n");
        assert_eq!(columns.table(&row(["a", "b"])), "a     b\n");
    }

    #[test]
    fn s_c11_control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb"), "a\u{fffd}[31mb");
    }
}
