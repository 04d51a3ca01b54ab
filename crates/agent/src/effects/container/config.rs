//! What the runtime is told of a container.

use cri::keys::{self, PodKey};
use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use pod::env::{Allocatable, EnvFacts};
use pod::{paths, resources};

use super::super::{Job, World, sandbox, security};
use super::{Start, files};
use crate::plan;
use crate::volumes;

/// Blocking: checks host paths, and writes the hosts file and the one for a last message.
///
/// # Errors
/// What is wrong with the container's configuration, for its status.
pub(super) fn request(
    world: &World,
    job: &Job,
    (pod, container): (&Pod, &Container),
    start: &Start,
) -> Result<v1::CreateContainerRequest, String> {
    let facts = EnvFacts {
        pod_ips: job.ips.clone(),
        host_ips: world.config.node_ips.iter().map(ToString::to_string).collect(),
        node_allocatable: Allocatable {
            cpu_millis: i64::try_from(world.config.node_cpu_millis).unwrap_or(i64::MAX),
            memory_bytes: i64::try_from(world.config.node_memory_bytes).unwrap_or(i64::MAX),
            ephemeral_storage_bytes: i64::try_from(world.config.node_ephemeral_bytes).unwrap_or(i64::MAX),
        },
    };
    let env = pod::env::container_env(pod, container, &facts).map_err(|error| error.to_string())?;
    let mut mounts = volume_mounts(world, pod, container)?;
    mounts.extend(files::hosts_mount(world, (pod, &job.ips), &mounts)?);
    mounts.extend(files::message_mount(world, pod, (container, start.attempt))?);
    files::remove_older_logs(&world.config.log_dir, pod, (container, start.attempt));
    let command = pod::env::expand_args(container.command.as_deref().unwrap_or_default(), &env);
    let args = pod::env::expand_args(container.args.as_deref().unwrap_or_default(), &env);
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: start.attempt }),
        image: Some(v1::ImageSpec {
            image: start.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        mounts,
        labels: keys::container_labels(&key_of(pod), &container.name),
        annotations: annotations(pod, container, start.attempt),
        log_path: paths::log_path(&container.name, start.attempt).map_err(|error| error.to_string())?,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        stop_signal: stop_signal(container) as i32,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(world, pod, container)),
            security_context: Some(security::of_container(pod, container)),
        }),
        ..Default::default()
    };
    Ok(v1::CreateContainerRequest {
        pod_sandbox_id: start.sandbox_id.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox::config(world, pod, job.sandbox_attempt)?.0),
    })
}

fn key_of(pod: &Pod) -> PodKey {
    PodKey { namespace: pod::namespace(pod).to_owned(), name: pod::name(pod).to_owned(), uid: pod::uid(pod).to_owned() }
}

/// What a later kubelet, or a person with the runtime's own tools, wants to know of the container.
fn annotations(pod: &Pod, container: &Container, attempt: u32) -> keys::Map {
    let image = container.image.as_deref().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut all = keys::Map::from([
        (keys::CONTAINER_HASH.to_owned(), plan::hash(&container.name, image)),
        (keys::CONTAINER_RESTART_COUNT.to_owned(), attempt.to_string()),
        (keys::CONTAINER_TERMINATION_MESSAGE_PATH.to_owned(), text(&container.termination_message_path)),
        (keys::CONTAINER_TERMINATION_MESSAGE_POLICY.to_owned(), text(&container.termination_message_policy)),
        (keys::POD_TERMINATION_GRACE_PERIOD.to_owned(), pod::grace_period_seconds(pod).to_string()),
    ]);
    // None of these values has a map with keys that are no text: they can be written as JSON.
    let pre_stop = container.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.as_ref());
    all.extend(pre_stop.and_then(|hook| json(keys::CONTAINER_PRE_STOP_HANDLER, hook)));
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    all.extend(ports.and_then(|ports| json(keys::CONTAINER_PORTS, ports)));
    all
}

fn json(key: &str, value: &impl serde::Serialize) -> Option<(String, String)> {
    Some((key.to_owned(), serde_json::to_string(value).ok()?))
}

/// The runtime's default where the pod asks for none.
fn stop_signal(container: &Container) -> v1::Signal {
    let asked = container.lifecycle.as_ref().and_then(|hooks| hooks.stop_signal.as_deref()).unwrap_or_default();
    // The protocol has no signs in its names.
    let name = asked.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault)
}

fn linux_resources(world: &World, pod: &Pod, container: &Container) -> v1::LinuxContainerResources {
    let figures = resources::container(pod, container);
    let memory = i64::try_from(world.config.node_memory_bytes).unwrap_or(i64::MAX);
    v1::LinuxContainerResources {
        cpu_period: i64::try_from(figures.cpu_period_us).unwrap_or(0),
        cpu_quota: figures.cpu_quota_us.unwrap_or(0),
        cpu_shares: i64::try_from(figures.cpu_shares).unwrap_or(0),
        memory_limit_in_bytes: figures.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: resources::oom_score_adj(pod, container, memory),
        ..Default::default()
    }
}

fn volume_mounts(world: &World, pod: &Pod, container: &Container) -> Result<Vec<v1::Mount>, String> {
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let sources = volumes::sources(&world.config.root_dir, pod).map_err(|error| error.to_string())?;
    let mount = |mount: &VolumeMount| {
        let source = sources.get(&mount.name).ok_or_else(|| format!("the pod has no volume {:?}", mount.name))?;
        Ok(v1::Mount {
            container_path: mount.mount_path.clone(),
            host_path: sandbox::text_of(source)?,
            readonly: mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            } as i32,
            ..Default::default()
        })
    };
    wanted.iter().map(mount).collect()
}

#[cfg(test)]
mod tests;
