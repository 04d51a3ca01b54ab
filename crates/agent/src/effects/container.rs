//! Creating and starting one attempt of a container.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::keys::{self, PodKey};
use cri::{Code, v1};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use lifecycle::{Done, Outcome};
use pod::env::{Allocatable, EnvFacts};
use pod::{HostsFacts, paths, reasons, resources};
use rustix::fs::OFlags;

use super::{Job, Performed, World, failed, image, retry, sandbox, security, wanted};
use crate::plan;
use crate::volumes;

const ETC_HOSTS: &str = "/etc/hosts";
const HOSTS_MODE: u32 = 0o644;

/// What is to be started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) container: String,
    pub(super) attempt: u32,
    pub(super) sandbox_id: String,
    pub(super) image_ref: String,
}

pub(super) async fn start(world: Arc<World>, job: Job, start: Start) -> Performed {
    Performed::new(run(world, job, start).await)
}

async fn run(world: Arc<World>, job: Job, start: Start) -> Outcome {
    let pod = match wanted(&job) {
        Ok(pod) => pod,
        Err(outcome) => return outcome,
    };
    let Some(container) = pod::container(&pod, &start.container).cloned() else {
        let message = format!("the pod has no container {:?}", start.container);
        return retry(reasons::CREATE_CONTAINER_CONFIG_ERROR, message);
    };
    if security::must_not_be_root(&pod, &container) {
        let user = match image::user_of(&world, &start.image_ref).await {
            Ok(user) => user,
            Err(error) => return failed(reasons::IMAGE_INSPECT_ERROR, &error),
        };
        if let Err(message) = security::verify_not_root(&pod, &container, &user) {
            return retry(reasons::CREATE_CONTAINER_CONFIG_ERROR, message);
        }
    }
    let request = {
        let (world, start) = (world.clone(), start.clone());
        tokio::task::spawn_blocking(move || request(&world, &job, (&pod, &container), &start)).await
    };
    let request = match request {
        Ok(Ok(request)) => request,
        Ok(Err(message)) => return retry(reasons::CREATE_CONTAINER_CONFIG_ERROR, message),
        Err(error) => return retry(reasons::CREATE_CONTAINER_CONFIG_ERROR, format!("file work broke off: {error}")),
    };
    create_and_start(&world, request, &start).await
}

async fn create_and_start(world: &World, request: v1::CreateContainerRequest, start: &Start) -> Outcome {
    let id = match world.runtime.create_container(request).await {
        Ok(response) => response.container_id,
        Err(error) if error.code == Code::AlreadyExists => match existing(world, start).await {
            Ok(Some((id, v1::ContainerState::ContainerCreated))) => id,
            Ok(Some((id, _))) => return Outcome::Ok(Done::Container { id }),
            Ok(None) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
            Err(error) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
        },
        Err(error) => return failed(reasons::CREATE_CONTAINER_ERROR, &error),
    };
    match world.runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await {
        Ok(_) => Outcome::Ok(Done::Container { id }),
        Err(error) => failed(reasons::RUN_CONTAINER_ERROR, &error),
    }
}

/// The attempt that an earlier call created whose answer was lost.
async fn existing(world: &World, start: &Start) -> Result<Option<(String, v1::ContainerState)>, cri::Error> {
    let filter = v1::ContainerFilter { pod_sandbox_id: start.sandbox_id.clone(), ..Default::default() };
    let listed = world.runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let same = |metadata: &v1::ContainerMetadata| metadata.name == start.container && metadata.attempt == start.attempt;
    let found = listed.containers.into_iter().find(|container| container.metadata.as_ref().is_some_and(same));
    Ok(found.map(|container| (container.id, cri::names::container_state(container.state))))
}

/// Blocking: checks host paths and writes the hosts file.
fn request(
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
            ephemeral_storage_bytes: 0,
        },
    };
    let env = pod::env::container_env(pod, container, &facts).map_err(|error| error.to_string())?;
    let mut mounts = volume_mounts(world, pod, container)?;
    if !mounts.iter().any(|mount| mount.container_path == ETC_HOSTS) && !job.ips.is_empty() {
        mounts.push(hosts_mount(world, pod, &job.ips)?);
    }
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
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(world, pod, container)),
            security_context: Some(security::of_container(pod, container)),
        }),
        ..Default::default()
    };
    Ok(v1::CreateContainerRequest {
        pod_sandbox_id: start.sandbox_id.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox::config(world, pod, job.sandbox_attempt)?),
    })
}

fn key_of(pod: &Pod) -> PodKey {
    PodKey { namespace: pod::namespace(pod).to_owned(), name: pod::name(pod).to_owned(), uid: pod::uid(pod).to_owned() }
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> keys::Map {
    let image = container.image.as_deref().unwrap_or_default();
    keys::Map::from([
        (keys::CONTAINER_HASH.to_owned(), plan::hash(&container.name, image)),
        (keys::CONTAINER_RESTART_COUNT.to_owned(), attempt.to_string()),
        (keys::POD_TERMINATION_GRACE_PERIOD.to_owned(), pod::grace_period_seconds(pod).to_string()),
    ])
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

fn hosts_mount(world: &World, pod: &Pod, ips: &[String]) -> Result<v1::Mount, String> {
    let domain = Some(world.config.dns.cluster_domain.as_str()).filter(|domain| !domain.is_empty());
    let text = pod::etc_hosts(pod, HostsFacts { pod_ips: ips, cluster_domain: domain });
    let path = hosts_path(&world.config.root_dir, pod)?;
    write_hosts(&path, &text).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(v1::Mount { container_path: ETC_HOSTS.to_owned(), host_path: sandbox::text_of(&path)?, ..Default::default() })
}

fn hosts_path(root_dir: &Path, pod: &Pod) -> Result<PathBuf, String> {
    Ok(paths::pod_dir(root_dir, pod).map_err(|error| error.to_string())?.join("etc-hosts"))
}

/// In place: containers of the pod that run have the file itself mounted, and a new one in its stead would not reach them.
fn write_hosts(path: &Path, text: &str) -> io::Result<()> {
    let same = |old: std::fs::Metadata| old.len() == text.len() as u64;
    if std::fs::symlink_metadata(path).is_ok_and(same) && std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(HOSTS_MODE);
    let mut file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
    // Past the umask: whatever user a container runs as reads it.
    file.set_permissions(std::fs::Permissions::from_mode(HOSTS_MODE))?;
    file.write_all(text.as_bytes())
}
