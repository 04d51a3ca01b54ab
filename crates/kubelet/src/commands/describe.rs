//! `kubelet describe`: everything that is known of one pod, laid out as the users of `kubectl describe pod` know it.

mod containers;
mod page;

use super::{choose_pod, events, pod_name, pod_namespace, pods};
use crate::cli::DescribeArgs;
use crate::client::{Client, percent_encode};
use crate::duration::human_age;
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod, PodStatus, Toleration, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use page::Page;
use std::collections::BTreeMap;

/// A longer annotation stands on a line of its own, cut where it is longer still.
const ANNOTATION_CHARS: usize = 140;

pub(crate) async fn run(args: DescribeArgs) -> Result<u8> {
    let client = Client::new(&args.target.run_dir);
    let pods = pods(&client).await?;
    let pod = choose_pod(&pods, &args.namespace, &args.pod)?;
    let query = format!("?namespace={}&pod={}", percent_encode(pod_namespace(pod)), percent_encode(pod_name(pod)));
    let mut events = events::fetch(&client, &query).await?;
    // Another pod may have had the name before.
    events.retain(|event| event.involved_object.uid.is_none() || event.involved_object.uid == pod.metadata.uid);
    print!("{}", render(pod, &events, Timestamp::now()));
    Ok(0)
}

fn render(pod: &Pod, events: &[Event], now: Timestamp) -> String {
    let mut page = Page::default();
    let status = pod.status.clone().unwrap_or_default();
    head(&mut page, pod, &status);
    state(&mut page, pod, (&status, now));
    addresses(&mut page, &status);
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.resources.is_some() {
        page.row(0, &["Resources:"]);
        containers::resources(&mut page, 1, spec.resources.as_ref());
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let init_statuses = status.init_container_statuses.as_deref().unwrap_or_default();
    containers::section(&mut page, "Init Containers:", (init, init_statuses));
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    containers::section(&mut page, "Containers:", (&spec.containers, statuses));
    conditions(&mut page, &status);
    volumes(&mut page, spec.volumes.as_deref().unwrap_or_default());
    page.row(0, &["QoS Class:", status.qos_class.as_deref().unwrap_or_default()]);
    let pair = |(key, value): (&String, &String)| format!("{key}={value}");
    list(&mut page, "Node-Selectors:", spec.node_selector.iter().flatten().map(pair));
    list(&mut page, "Tolerations:", spec.tolerations.iter().flatten().map(toleration));
    page.render() + &event_table(events, now)
}

fn head(page: &mut Page, pod: &Pod, status: &PodStatus) {
    page.row(0, &["Name:", pod_name(pod)]);
    page.row(0, &["Namespace:", pod_namespace(pod)]);
    let spec = pod.spec.as_ref();
    if let Some(priority) = spec.and_then(|spec| spec.priority) {
        page.row(0, &["Priority:", &priority.to_string()]);
    }
    if let Some(class) = spec.and_then(|spec| spec.priority_class_name.as_deref()) {
        page.row(0, &["Priority Class Name:", class]);
    }
    let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("<none>");
    let node = status.host_ip.as_ref().map_or_else(|| node.to_owned(), |ip| format!("{node}/{ip}"));
    page.row(0, &["Node:", &node]);
    if let Some(start) = &status.start_time {
        page.row(0, &["Start Time:", &time(Some(start))]);
    }
    let labels = pod.metadata.labels.iter().flatten();
    list(page, "Labels:", labels.map(|(key, value)| format!("{key}={value}")));
    annotations(page, pod.metadata.annotations.as_ref());
}

/// `first` and the items, one on a line.
fn list(page: &mut Page, first: &str, items: impl Iterator<Item = String>) {
    let mut title = first;
    for item in items {
        page.row(0, &[title, &item]);
        title = "";
    }
    if title == first {
        page.row(0, &[first, "<none>"]);
    }
}

fn annotations(page: &mut Page, annotations: Option<&BTreeMap<String, String>>) {
    let mut lines = Vec::new();
    for (key, value) in annotations.into_iter().flatten() {
        let value = value.trim_end_matches('\n');
        if !value.contains('\n') && key.len() + 2 + value.len() <= ANNOTATION_CHARS {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        for line in value.split('\n') {
            let cut: String = line.chars().take(ANNOTATION_CHARS).collect();
            let more = if cut.len() < line.len() { "..." } else { "" };
            lines.push(format!("  {cut}{more}"));
        }
    }
    list(page, "Annotations:", lines.into_iter());
}

fn state(page: &mut Page, pod: &Pod, (status, now): (&PodStatus, Timestamp)) {
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    match &pod.metadata.deletion_timestamp {
        Some(since) if !matches!(phase, "Succeeded" | "Failed") => {
            let lasts = human_age(now.as_second() - since.0.as_second());
            page.row(0, &["Status:", &format!("Terminating (lasts {lasts})")]);
            if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
                page.row(0, &["Termination Grace Period:", &format!("{grace}s")]);
            }
        }
        _ => page.row(0, &["Status:", phase]),
    }
    for (title, text) in [("Reason:", &status.reason), ("Message:", &status.message)] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            page.lines(0, title, text);
        }
    }
}

fn addresses(page: &mut Page, status: &PodStatus) {
    page.row(0, &["IP:", status.pod_ip.as_deref().unwrap_or_default()]);
    let ips = status.pod_ips.as_deref().unwrap_or_default();
    if ips.is_empty() {
        return page.row(0, &["IPs:", "<none>"]);
    }
    page.row(0, &["IPs:"]);
    ips.iter().for_each(|ip| page.row(1, &["IP:", &ip.ip]));
}

fn conditions(page: &mut Page, status: &PodStatus) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.row(0, &["Conditions:"]);
    page.row(1, &["Type", "Status"]);
    conditions.iter().for_each(|condition| page.row(1, &[&condition.type_, &condition.status]));
}

fn volumes(page: &mut Page, volumes: &[Volume]) {
    if volumes.is_empty() {
        return page.row(0, &["Volumes:", "<none>"]);
    }
    page.row(0, &["Volumes:"]);
    for volume in volumes {
        page.row(1, &[&format!("{}:", volume.name)]);
        if let Some(host_path) = &volume.host_path {
            page.row(2, &["Type:", "HostPath (bare host directory volume)"]);
            page.row(2, &["Path:", &host_path.path]);
            page.row(2, &["HostPathType:", host_path.type_.as_deref().unwrap_or_default()]);
        } else if let Some(empty_dir) = &volume.empty_dir {
            page.row(2, &["Type:", "EmptyDir (a temporary directory that shares a pod's lifetime)"]);
            page.row(2, &["Medium:", empty_dir.medium.as_deref().unwrap_or_default()]);
            let limit = empty_dir.size_limit.as_ref().map_or("<unset>", |limit| &limit.0);
            page.row(2, &["SizeLimit:", limit]);
        } else {
            page.row(2, &["Type:", "<unknown>"]);
        }
    }
}

/// `key=value:Effect`, or `key:Effect op=Exists`; with how long it holds.
fn toleration(toleration: &Toleration) -> String {
    let part = |sign: &str, value: &Option<String>| {
        value.as_deref().filter(|value| !value.is_empty()).map_or_else(String::new, |value| format!("{sign}{value}"))
    };
    let key = toleration.key.as_deref().unwrap_or_default();
    let mut text = format!("{key}{}{}", part("=", &toleration.value), part(":", &toleration.effect));
    if toleration.operator.as_deref() == Some("Exists") && toleration.value.as_deref().unwrap_or_default().is_empty() {
        text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

fn event_table(list: &[Event], now: Timestamp) -> String {
    let mut page = Page::default();
    if list.is_empty() {
        page.row(0, &["Events:", "<none>"]);
        return page.render();
    }
    page.row(0, &["Events:"]);
    let heads = ["Type", "Reason", "Age", "From", "Message"];
    page.row(1, &heads);
    page.row(1, &heads.map(|head| "-".repeat(head.len())).each_ref().map(String::as_str));
    for event in list {
        let from = event.source.as_ref().and_then(|source| source.component.as_deref()).unwrap_or_default();
        let message = event.message.as_deref().unwrap_or_default().trim();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        page.row(1, &[&text(&event.type_), &text(&event.reason), &events::age(event, now), from, message]);
    }
    page.render()
}

fn time(time: Option<&Time>) -> String {
    time.map_or_else(String::new, |time| time.0.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

#[cfg(test)]
mod tests;
