//! A pod's sandbox.

use std::path::Path;

use cri::keys::{self, PodKey};
use cri::{Code, v1};
use k8s_openapi::api::core::v1::Pod;
use lifecycle::{Done, Event, Outcome};
use pod::{paths, reasons};

use super::{Job, Performed, World, dns, failed, retry, security, wanted};
use crate::events::whole_warning;
use crate::observe;

const CREATE_FAILED: &str = "Failed to create pod sandbox: ";

pub(super) async fn run(world: &World, job: &Job, attempt: u32) -> Performed {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return Performed::new(outcome),
    };
    let (config, mut events) = match config(world, &pod, attempt) {
        Ok(made) => made,
        Err(message) => {
            let event = whole_warning(reasons::FAILED_CREATE_POD_SANDBOX, format!("{CREATE_FAILED}{message}"));
            return Performed::new(retry(reasons::CONFIG_POD_SANDBOX_ERROR, message)).telling(event);
        }
    };
    let outcome = make(world, job, (config, attempt)).await;
    if let Outcome::Failed(failure) = &outcome {
        events.push(match network_trouble(world, &pod).await {
            Some(message) => whole_warning(reasons::NETWORK_NOT_READY, format!("network is not ready: {message}")),
            None => whole_warning(reasons::FAILED_CREATE_POD_SANDBOX, format!("{CREATE_FAILED}{}", failure.message)),
        });
    }
    Performed { events, ..Performed::new(outcome) }
}

/// What the runtime has to say of its network, where that keeps pods from having one.
async fn network_trouble(world: &World, pod: &Pod) -> Option<String> {
    if pod::host_network(pod) {
        return None;
    }
    let conditions = world.runtime.status(v1::StatusRequest { verbose: false }).await.ok()?.status?.conditions;
    let network = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady")?;
    (!network.status).then(|| format!("runtime network not ready: {}: {}", network.reason, network.message))
}

async fn make(world: &World, job: &Job, (config, attempt): (v1::PodSandboxConfig, u32)) -> Outcome {
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let id = match world.runtime.run_pod_sandbox(request).await {
        Ok(response) => response.pod_sandbox_id,
        Err(error) if error.code == Code::AlreadyExists => match existing(world, &job.key, attempt).await {
            Ok(Some(id)) => id,
            Ok(None) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
            Err(error) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
        },
        Err(error) => return failed(reasons::CREATE_POD_SANDBOX_ERROR, &error),
    };
    let status =
        world.runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false });
    match status.await {
        Ok(status) => Outcome::Ok(Done::Sandbox { id, ips: observe::ips(status.status.and_then(|s| s.network)) }),
        // It was made; what became of it is for an inspection to say.
        Err(_) => Outcome::Unknown,
    }
}

/// The ready sandbox of that attempt, which an earlier call made whose answer was lost.
async fn existing(world: &World, key: &PodKey, attempt: u32) -> Result<Option<String>, cri::Error> {
    let filter = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 }),
        label_selector: keys::Map::from([(keys::POD_UID.to_owned(), key.uid.clone())]),
        ..Default::default()
    };
    let listed = world.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?;
    let same = |metadata: &v1::PodSandboxMetadata| metadata.attempt == attempt;
    Ok(listed.items.into_iter().find(|sandbox| sandbox.metadata.as_ref().is_some_and(same)).map(|sandbox| sandbox.id))
}

/// The sandbox's configuration; also what creating a container is given.
/// With what there is to tell of it.
pub(super) fn config(world: &World, pod: &Pod, attempt: u32) -> Result<(v1::PodSandboxConfig, Vec<Event>), String> {
    let config = &world.config;
    let key = PodKey {
        namespace: pod::namespace(pod).to_owned(),
        name: pod::name(pod).to_owned(),
        uid: pod::uid(pod).to_owned(),
    };
    let logs = paths::log_dir(&config.log_dir, pod).map_err(|error| error.to_string())?;
    let cgroup_parent = match &world.cgroups {
        Some(_) => paths::pod_cgroup(&config.cgroup_root, pod).map_err(|error| error.to_string())?,
        None => String::new(),
    };
    let host_network = pod::host_network(pod);
    let (dns_config, events) = dns::config(pod, &config.dns)?;
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: key.name.clone(),
            uid: key.uid.clone(),
            namespace: key.namespace.clone(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { pod::hostname(pod) },
        log_directory: text_of(&logs)?,
        dns_config: Some(dns_config),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels: keys::sandbox_labels(&key, &pod.metadata.labels.clone().unwrap_or_default()),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::of_sandbox(pod)),
            ..Default::default()
        }),
        ..Default::default()
    };
    Ok((sandbox, events))
}

pub(super) fn text_of(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{}: the path is not UTF-8", path.display()))
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let ports = pod::long_lived(pod).flat_map(|container| container.ports.iter().flatten());
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
