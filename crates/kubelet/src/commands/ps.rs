//! `kubelet ps`: pods, their containers, and manifests that are wrong.

use super::{pod_name, pod_namespace, printable, table};
use crate::cli::PsArgs;
use crate::client::Client;
use crate::duration::human_age;
use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

const HEAD: [&str; 8] = ["NAMESPACE", "POD", "CONTAINER", "STATE", "RESTARTS", "AGE", "IP", "IMAGE"];

pub(crate) async fn run(args: PsArgs) -> Result<u8> {
    let client = Client::new(&args.target.run_dir);
    let pods = super::pods(&client).await?;
    let manifests: Vec<server::ManifestStatus> = client.get_json("/manifests").await?;
    let wanted = |pod: &&Pod| args.namespace.as_deref().is_none_or(|namespace| namespace == pod_namespace(pod));
    let pods: Vec<&Pod> = pods.iter().filter(wanted).collect();
    print!("{}", render(&pods, &manifests, Timestamp::now()));
    Ok(0)
}

fn render(pods: &[&Pod], manifests: &[server::ManifestStatus], now: Timestamp) -> String {
    let mut rows = vec![HEAD.map(String::from).to_vec()];
    for pod in pods {
        rows.extend(pod_rows(pod, now));
    }
    let mut out = match rows.len() {
        1 => "no pods\n".to_owned(),
        _ => table(&rows),
    };
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

fn pod_rows(pod: &Pod, now: Timestamp) -> Vec<Vec<String>> {
    let status = pod.status.as_ref();
    let ip = status.and_then(|status| status.pod_ip.as_deref()).unwrap_or("-");
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| {
            let found = status
                .and_then(|status| status.container_statuses.as_ref())
                .and_then(|statuses| statuses.iter().find(|status| status.name == container.name));
            [
                pod_namespace(pod).to_owned(),
                pod_name(pod).to_owned(),
                container.name.clone(),
                found.map_or_else(|| "Waiting".to_owned(), state),
                found.map_or(0, |status| status.restart_count).to_string(),
                age(pod, found, now),
                ip.to_owned(),
                container.image.clone().unwrap_or_default(),
            ]
            .map(|cell| printable(&cell))
            .to_vec()
        })
        .collect()
}

fn state(status: &ContainerStatus) -> String {
    let Some(state) = &status.state else { return "Waiting".into() };
    if state.running.is_some() {
        return "Running".into();
    }
    if let Some(terminated) = &state.terminated {
        let reason = terminated.reason.as_deref().unwrap_or("Exited");
        return format!("{reason} ({})", terminated.exit_code);
    }
    state.waiting.as_ref().and_then(|waiting| waiting.reason.clone()).unwrap_or_else(|| "Waiting".into())
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

    fn pod(state: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-n1", "namespace": "default"},
            "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
            "status": {"podIP": "10.83.0.2", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                {"name": "nginx", "image": "nginx", "imageID": "", "ready": true, "restartCount": 3, "state": state}]}}))
        .unwrap()
    }

    #[test]
    fn every_column_is_filled() {
        let now: Timestamp = "2026-01-01T00:01:40Z".parse().unwrap();
        let running = pod(serde_json::json!({"running": {"startedAt": "2026-01-01T00:00:40Z"}}));
        let out = render(&[&running], &[], now);
        let cells: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["default", "web-n1", "nginx", "Running", "3", "60s", "10.83.0.2", "nginx"]);
    }

    #[test]
    fn states_say_why() {
        let now = Timestamp::UNIX_EPOCH;
        let waiting = pod(serde_json::json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        assert!(render(&[&waiting], &[], now).contains("CrashLoopBackOff"));
        let terminated = pod(serde_json::json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        assert!(render(&[&terminated], &[], now).contains("OOMKilled (137)"));
        assert_eq!(render(&[], &[], now), "no pods\n");
    }
}
