//! The containers on a pod's page: what they are asked to be, and what they are.

use super::page::Page;
use super::{or_none, time};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStatus, EnvVar, Lifecycle, LifecycleHandler, Probe,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(super) fn section(page: &mut Page, title: &str, of: (&[Container], &[ContainerStatus])) {
    let (containers, statuses) = of;
    if containers.is_empty() {
        return;
    }
    page.row(0, &[title]);
    for container in containers {
        let status = statuses.iter().find(|status| status.name == container.name);
        page.row(1, &[&format!("{}:", container.name)]);
        identity(page, container, status);
        if let Some(status) = status {
            life(page, status);
        }
        if let Some(policy) = &container.restart_policy {
            page.row(2, &["Restart Policy:", policy]);
        }
        resources(page, 2, container.resources.as_ref());
        for (name, probe) in [
            ("Liveness:", &container.liveness_probe),
            ("Readiness:", &container.readiness_probe),
            ("Startup:", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                page.row(2, &[name, &probe_text(probe)]);
            }
        }
        hooks(page, container.lifecycle.as_ref());
        environment(page, container.env.as_deref().unwrap_or_default());
        mounts(page, container);
    }
}

fn identity(page: &mut Page, container: &Container, status: Option<&ContainerStatus>) {
    if let Some(status) = status {
        page.row(2, &["Container ID:", status.container_id.as_deref().unwrap_or_default()]);
    }
    page.row(2, &["Image:", container.image.as_deref().unwrap_or_default()]);
    if let Some(status) = status {
        page.row(2, &["Image ID:", &status.image_id]);
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    let list = |number: fn(&ContainerPort) -> i32| {
        let text = |port: &ContainerPort| format!("{}/{}", number(port), port.protocol.as_deref().unwrap_or("TCP"));
        ports.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    let (port, host_port) = if ports.len() > 1 { ("Ports:", "Host Ports:") } else { ("Port:", "Host Port:") };
    page.row(2, &[port, or_none(&list(|port| port.container_port))]);
    page.row(2, &[host_port, or_none(&list(|port| port.host_port.unwrap_or(0)))]);
    for (title, words) in [("Command:", &container.command), ("Args:", &container.args)] {
        if let Some(words) = words.as_deref().filter(|words| !words.is_empty()) {
            page.row(2, &[title]);
            words.iter().for_each(|word| page.lines(3, "", word));
        }
    }
}

fn life(page: &mut Page, status: &ContainerStatus) {
    state(page, "State:", status.state.as_ref());
    if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
        state(page, "Last State:", status.last_state.as_ref());
    }
    page.row(2, &["Ready:", if status.ready { "True" } else { "False" }]);
    page.row(2, &["Restart Count:", &status.restart_count.to_string()]);
}

fn state(page: &mut Page, title: &str, state: Option<&ContainerState>) {
    if let Some(running) = state.and_then(|state| state.running.as_ref()) {
        page.row(2, &[title, "Running"]);
        page.row(3, &["Started:", &time(running.started_at.as_ref())]);
        return;
    }
    let Some(ended) = state.and_then(|state| state.terminated.as_ref()) else {
        page.row(2, &[title, "Waiting"]);
        let waiting = state.and_then(|state| state.waiting.as_ref());
        facts(page, waiting.and_then(|w| w.reason.as_deref()), waiting.and_then(|w| w.message.as_deref()));
        return;
    };
    page.row(2, &[title, "Terminated"]);
    facts(page, ended.reason.as_deref(), ended.message.as_deref());
    page.row(3, &["Exit Code:", &ended.exit_code.to_string()]);
    if let Some(signal) = ended.signal.filter(|signal| *signal > 0) {
        page.row(3, &["Signal:", &signal.to_string()]);
    }
    page.row(3, &["Started:", &time(ended.started_at.as_ref())]);
    page.row(3, &["Finished:", &time(ended.finished_at.as_ref())]);
}

fn facts(page: &mut Page, reason: Option<&str>, message: Option<&str>) {
    for (title, text) in [("Reason:", reason), ("Message:", message)] {
        if let Some(text) = text.map(str::trim_end).filter(|text| !text.is_empty()) {
            page.lines(3, title, text);
        }
    }
}

/// Limits and requests of a container, or of a pod as a whole.
pub(super) fn resources(page: &mut Page, level: usize, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    for (title, amounts) in [("Limits:", &resources.limits), ("Requests:", &resources.requests)] {
        let Some(amounts) = amounts.as_ref().filter(|amounts| !amounts.is_empty()) else { continue };
        page.row(level, &[title]);
        for (name, amount) in amounts {
            page.row(level + 1, &[&format!("{name}:"), &amount.0]);
        }
    }
}

/// A probe in one line, e.g. `http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3`.
pub(super) fn probe_text(probe: &Probe) -> String {
    let Probe { exec, http_get, tcp_socket, .. } = probe;
    let handler = LifecycleHandler {
        exec: exec.clone(),
        http_get: http_get.clone(),
        tcp_socket: tcp_socket.clone(),
        ..LifecycleHandler::default()
    };
    let what = match &probe.grpc {
        Some(grpc) => format!("grpc <pod>:{} {}", grpc.port, grpc.service.as_deref().unwrap_or_default()),
        None => handler_text(&handler),
    };
    format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        what.trim_end(),
        probe.initial_delay_seconds.unwrap_or(0),
        probe.timeout_seconds.unwrap_or(1),
        probe.period_seconds.unwrap_or(10),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3),
    )
}

fn handler_text(handler: &LifecycleHandler) -> String {
    if let Some(exec) = &handler.exec {
        return format!("exec [{}]", exec.command.as_deref().unwrap_or_default().join(" "));
    }
    if let Some(http) = &handler.http_get {
        let scheme = http.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let host = http.host.as_deref().unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let path = http.path.as_deref().unwrap_or_default();
        return format!("http-get {scheme}://{host}:{}{path}", port_text(&http.port));
    }
    if let Some(tcp) = &handler.tcp_socket {
        return format!("tcp-socket {}:{}", tcp.host.as_deref().unwrap_or_default(), port_text(&tcp.port));
    }
    match &handler.sleep {
        Some(sleep) => format!("sleep {}s", sleep.seconds),
        None => "unknown".to_owned(),
    }
}

fn port_text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn hooks(page: &mut Page, lifecycle: Option<&Lifecycle>) {
    let Some(lifecycle) = lifecycle else { return };
    for (title, hook) in [("Post Start:", &lifecycle.post_start), ("Pre Stop:", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            page.row(2, &[title, &handler_text(hook)]);
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        page.row(2, &["Stop Signal:", signal]);
    }
}

fn environment(page: &mut Page, variables: &[EnvVar]) {
    if variables.is_empty() {
        return page.row(2, &["Environment:", "<none>"]);
    }
    page.row(2, &["Environment:"]);
    for variable in variables {
        let name = format!("{}:", variable.name);
        let source = variable.value_from.as_ref();
        if let Some(field) = source.and_then(|source| source.field_ref.as_ref()) {
            let version = field.api_version.as_deref().unwrap_or("v1");
            page.row(3, &[&name, &format!(" ({version}:{})", field.field_path)]);
        } else if let Some(resource) = source.and_then(|source| source.resource_field_ref.as_ref()) {
            page.row(3, &[&name, &format!(" ({})", resource.resource)]);
        } else {
            page.lines(3, &name, variable.value.as_deref().unwrap_or_default());
        }
    }
}

fn mounts(page: &mut Page, container: &Container) {
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    if mounts.is_empty() {
        return page.row(2, &["Mounts:", "<none>"]);
    }
    mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    page.row(2, &["Mounts:"]);
    for mount in mounts {
        let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
        let sub = mount.sub_path.as_deref().filter(|path| !path.is_empty());
        let sub = sub.map_or_else(String::new, |path| format!(",path={path:?}"));
        page.row(3, &[&format!("{} from {} ({mode}{sub})", mount.mount_path, mount.name)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_read_as_kubectl_writes_them() {
        let numbers = "delay=0s timeout=1s period=10s #success=1 #failure=3";
        let cases = [
            (r#"{"httpGet": {"port": 8080, "path": "/healthz"}}"#, format!("http-get http://:8080/healthz {numbers}")),
            (
                r#"{"httpGet": {"port": "web", "scheme": "HTTPS", "host": "::1", "path": "/"}, "initialDelaySeconds": 5}"#,
                format!("http-get https://[::1]:web/ {}", numbers.replace("delay=0s", "delay=5s")),
            ),
            (r#"{"exec": {"command": ["cat", "/x"]}}"#, format!("exec [cat /x] {numbers}")),
            (
                r#"{"tcpSocket": {"port": 1}, "timeoutSeconds": 2, "periodSeconds": 3, "successThreshold": 4, "failureThreshold": 5}"#,
                "tcp-socket :1 delay=0s timeout=2s period=3s #success=4 #failure=5".to_owned(),
            ),
            (r#"{"grpc": {"port": 9, "service": "db"}}"#, format!("grpc <pod>:9 db {numbers}")),
            (r#"{"grpc": {"port": 9}}"#, format!("grpc <pod>:9 {numbers}")),
        ];
        for (json, text) in cases {
            assert_eq!(probe_text(&serde_json::from_str(json).unwrap()), text);
        }
    }
}
