//! `kubelet ps`: pods, their containers, and manifests that are wrong.

use super::summary::{Summary, is_sidecar, summary};
use super::{Columns, pod_name, pod_namespace, printable};
use crate::cli::{Output, PsArgs};
use crate::client::Client;
use crate::duration::human_age;
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use pod::reasons;
use serde_json::Value;
use std::collections::BTreeMap;

const HEAD: [&str; 10] =
    ["NAMESPACE", "POD", "READY", "STATUS", "CONTAINER", "STATE", "RESTARTS", "AGE", "IP", "IMAGE"];
/// Reasons of a container that waits and whose image may be what it waits for.
const MAY_WAIT_FOR_IMAGE: [&str; 6] = [
    reasons::CONTAINER_CREATING,
    reasons::POD_INITIALIZING,
    reasons::ERR_IMAGE_PULL,
    reasons::IMAGE_PULL_BACK_OFF,
    reasons::REGISTRY_UNAVAILABLE,
    "Waiting",
];
/// What `-o wide` adds.
const WIDE: [&str; 3] = ["TYPE", "CONTAINER ID", "POD UID"];

pub(crate) async fn run(args: PsArgs) -> Result<u8> {
    let client = Client::new(&args.target.run_dir);
    if args.output == Some(Output::Json) {
        let mut list: Value = client.get_json("/pods").await?;
        if let (Some(namespace), Some(items)) = (&args.namespace, list["items"].as_array_mut()) {
            items.retain(|pod| pod["metadata"]["namespace"] == namespace.as_str());
        }
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    let pods = super::pods(&client).await?;
    let manifests: Vec<server::ManifestStatus> = client.get_json("/manifests").await?;
    let pulls: Vec<server::ImagePull> = client.get_json("/images/pulls").await?;
    let wanted = |pod: &&Pod| args.namespace.as_deref().is_none_or(|namespace| namespace == pod_namespace(pod));
    let pods: Vec<&Pod> = pods.iter().filter(wanted).collect();
    print!("{}{}", render(&pods, args.output, &Moment::new(Timestamp::now(), &pulls)), complaints(&manifests));
    Ok(0)
}

/// What a pod's own words do not tell.
struct Moment {
    now: Timestamp,
    /// The images that are being pulled, by their full names, with how far they are.
    pulls: BTreeMap<String, String>,
}

impl Moment {
    fn new(now: Timestamp, pulls: &[server::ImagePull]) -> Self {
        let text = |pull: &server::ImagePull| match pull.percent() {
            Some(percent) => format!("pulling {percent} %"),
            None => "pulling".to_owned(),
        };
        Self { now, pulls: pulls.iter().map(|pull| (pull.reference.clone(), text(pull))).collect() }
    }
}

fn render(pods: &[&Pod], output: Option<Output>, moment: &Moment) -> String {
    if pods.is_empty() {
        return "no pods\n".to_owned();
    }
    let head: Vec<String> = HEAD.iter().chain(&WIDE).map(|title| (*title).to_owned()).collect();
    let mut rows = vec![head];
    rows.extend(pods.iter().flat_map(|pod| pod_rows(pod, moment)));
    if output != Some(Output::Wide) {
        rows.iter_mut().for_each(|row| row.truncate(HEAD.len()));
    }
    Columns::default().table(&rows)
}

/// What is wrong with manifests.
fn complaints(manifests: &[server::ManifestStatus]) -> String {
    let mut out = String::new();
    for manifest in manifests {
        if let Some(error) = &manifest.error {
            let kept = if manifest.keeps_last_good { " (its last good version keeps running)" } else { "" };
            out.push_str(&format!("\nmanifest {}{kept}:\n", printable(&manifest.file)));
            for line in error.lines() {
                out.push_str(&format!("  {}\n", printable(line)));
            }
        }
    }
    out
}

/// A row for each container, in the order in which they start.
fn pod_rows(pod: &Pod, moment: &Moment) -> Vec<Vec<String>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let status = pod.status.as_ref();
    let statuses = |init: bool| {
        let statuses =
            status.and_then(|s| if init { &s.init_container_statuses } else { &s.container_statuses }.as_ref());
        statuses.map(Vec::as_slice).unwrap_or_default()
    };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let kind = if is_sidecar(container) { "sidecar" } else { "init" };
        (container, kind, find(statuses(true), container))
    });
    let regular = spec.containers.iter().map(|container| (container, "regular", find(statuses(false), container)));
    let Summary { ready, total, status: text } = summary(pod);
    let ip = status.and_then(|status| status.pod_ip.as_deref()).unwrap_or("-");
    init.chain(regular)
        .map(|(container, kind, found)| {
            let id = found.and_then(|status| status.container_id.as_deref()).unwrap_or("-");
            [
                pod_namespace(pod),
                pod_name(pod),
                &format!("{ready}/{total}"),
                &text,
                &container.name,
                &state(container, found, moment),
                &found.map_or(0, |status| status.restart_count).to_string(),
                &age(pod, found, moment.now),
                ip,
                container.image.as_deref().unwrap_or_default(),
                kind,
                id,
                pod.metadata.uid.as_deref().unwrap_or_default(),
            ]
            .map(printable)
            .to_vec()
        })
        .collect()
}

fn find<'a>(statuses: &'a [ContainerStatus], container: &Container) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == container.name)
}

fn state(container: &Container, status: Option<&ContainerStatus>, moment: &Moment) -> String {
    let Some(state) = status.and_then(|status| status.state.as_ref()) else { return "Waiting".into() };
    if state.running.is_some() {
        return "Running".into();
    }
    if let Some(terminated) = &state.terminated {
        let reason = terminated.reason.as_deref().unwrap_or("Exited");
        return format!("{reason} ({})", terminated.exit_code);
    }
    let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()).unwrap_or("Waiting");
    let pull = container.image.as_deref().filter(|_| MAY_WAIT_FOR_IMAGE.contains(&reason)).and_then(|image| {
        let name = pod::image_name::normalize(image).ok()?;
        moment.pulls.get(&name).cloned()
    });
    pull.unwrap_or_else(|| reason.to_owned())
}

/// How long a running container runs; else how long the pod is known.
fn age(pod: &Pod, status: Option<&ContainerStatus>, now: Timestamp) -> String {
    let state = status.and_then(|status| status.state.as_ref());
    let running = state.and_then(|state| state.running.as_ref()).and_then(|running| running.started_at.as_ref());
    let since = running.or_else(|| pod.status.as_ref().and_then(|status| status.start_time.as_ref()));
    since.map_or_else(|| "-".into(), |since| human_age(now.as_second() - since.0.as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(state: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-n1", "namespace": "default", "uid": "u1"},
            "spec": {"initContainers": [{"name": "setup", "image": "tool"}, {"name": "proxy", "image": "p", "restartPolicy": "Always"}],
                "containers": [{"name": "nginx", "image": "nginx"}]},
            "status": {"phase": "Running", "podIP": "10.83.0.2", "startTime": "2026-01-01T00:00:00Z",
                "initContainerStatuses": [
                    {"name": "setup", "image": "tool", "imageID": "", "ready": true, "restartCount": 0, "containerID": "x://1",
                     "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "proxy", "image": "p", "imageID": "", "ready": true, "started": true, "restartCount": 0,
                     "state": {"running": {"startedAt": "2026-01-01T00:00:30Z"}}}],
                "containerStatuses": [
                    {"name": "nginx", "image": "nginx", "imageID": "", "ready": true, "restartCount": 3, "state": state}]}}))
        .unwrap()
    }

    fn cells(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
    }

    #[test]
    fn every_container_has_a_row_in_the_order_of_their_start() {
        let now = Moment::new("2026-01-01T00:01:40Z".parse().unwrap(), &[]);
        let running = pod(json!({"running": {"startedAt": "2026-01-01T00:00:40Z"}}));
        let out = render(&[&running], None, &now);
        let rows = cells(&out);
        assert_eq!(rows[0], HEAD);
        let of_pod = ["default", "web-n1", "2/2", "Running"];
        for (row, rest) in rows[1..].iter().zip([
            ["setup", "Completed (0)", "0", "100s", "10.83.0.2", "tool"],
            ["proxy", "Running", "0", "70s", "10.83.0.2", "p"],
            ["nginx", "Running", "3", "60s", "10.83.0.2", "nginx"],
        ]) {
            assert_eq!(*row, [&of_pod[..], &rest[..]].concat());
        }
        assert_eq!(rows.len(), 4);
        let out = render(&[&running], Some(Output::Wide), &now);
        let wide = cells(&out);
        assert_eq!(wide[1][10..], ["init", "x://1", "u1"]);
        assert_eq!(wide[2][10..], ["sidecar", "-", "u1"]);
        assert_eq!(wide[3][10], "regular");
    }

    #[test]
    fn states_say_why() {
        let now = &Moment::new(Timestamp::UNIX_EPOCH, &[]);
        let waiting = pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        assert!(render(&[&waiting], None, now).contains("CrashLoopBackOff   3"));
        let terminated = pod(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        assert!(render(&[&terminated], None, now).contains("OOMKilled (137)"));
        assert_eq!(render(&[], None, now), "no pods\n");
    }

    #[test]
    fn who_waits_for_an_image_sees_how_far_it_is() {
        let pull = |reference: &str, total_bytes| server::ImagePull {
            reference: format!("docker.io/library/{reference}"),
            done_bytes: 43,
            total_bytes,
            layers: Vec::new(),
        };
        let shown = |reason: &str, pulls: &[server::ImagePull]| {
            let pod = pod(json!({"waiting": {"reason": reason}}));
            let out = render(&[&pod], None, &Moment::new(Timestamp::UNIX_EPOCH, pulls));
            cells(&out)[3][5].to_owned()
        };
        let (known, unknown) = (pull("nginx:latest", Some(100)), pull("nginx:latest", None));
        for reason in ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"] {
            assert_eq!(shown(reason, &[pull("other:latest", None)]), reason);
            assert_eq!(shown(reason, std::slice::from_ref(&known)), "pulling 43 %");
            assert_eq!(shown(reason, std::slice::from_ref(&unknown)), "pulling");
        }
        assert_eq!(shown("CrashLoopBackOff", &[known]), "CrashLoopBackOff");
    }

    #[test]
    fn wrong_manifests_are_shown_below() {
        let manifest: server::ManifestStatus = serde_json::from_value(json!({"file": "/m/a.yaml", "error": "one\ntwo",
            "ignored": false, "since": "2026-01-01T00:00:00Z", "keepsLastGood": true, "pods": 1}))
        .unwrap();
        let expected = "\nmanifest /m/a.yaml (its last good version keeps running):\n  one\n  two\n";
        assert_eq!(complaints(&[manifest]), expected);
    }
}
