//! What a pod needs on this machine before its sandbox.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use cgroup::Limits;
use k8s_openapi::api::core::v1::Pod;
use lifecycle::{Done, Outcome};
use pod::paths;
use pod::qos::{self, Qos};
use pod::{reasons, resources};

use super::{Job, Performed, World, retry, wanted};
use crate::events::whole_warning;
use crate::remembered;
use crate::volumes::{self, LOG_DIR_MODE, POD_DIR_MODE};

pub(super) async fn set_up(world: Arc<World>, job: Job) -> Performed {
    let pod = match wanted(&job) {
        Ok(pod) => pod,
        Err(outcome) => return Performed::new(outcome),
    };
    let done = tokio::task::spawn_blocking(move || make(&world, &pod, job.burstable_millis)).await;
    let done = done.unwrap_or_else(|error| {
        Err(Obstacle { reason: reasons::FAILED_MOUNT, message: format!("file work broke off: {error}") })
    });
    match done {
        Ok(()) => Performed::new(Outcome::Ok(Done::Nothing)),
        Err(Obstacle { reason, message }) => {
            Performed::new(retry(reason, &message)).telling(whole_warning(reason, message))
        }
    }
}

/// What a person is told when something cannot be made.
struct Obstacle {
    reason: &'static str,
    message: String,
}

fn make(world: &World, pod: &Pod, burstable_millis: i64) -> Result<(), Obstacle> {
    directories(world, pod).map_err(|error| Obstacle {
        reason: reasons::FAILED,
        message: format!("error making pod data directories: {error}"),
    })?;
    volumes::set_up(&world.config.root_dir, pod, world.config.node_memory_bytes).map_err(|error| {
        let text = error.to_string();
        let (volume, why) = text.split_once(": ").unwrap_or(("volume", &text));
        let message = format!("MountVolume.SetUp failed for {volume} : {why}");
        Obstacle { reason: reasons::FAILED_MOUNT, message }
    })?;
    cgroup_of(world, pod, burstable_millis).map_err(|error| Obstacle {
        reason: reasons::FAILED_CREATE_POD_CONTAINER,
        message: format!("unable to ensure pod container exists: {error}"),
    })
}

fn directories(world: &World, pod: &Pod) -> Result<(), String> {
    let config = &world.config;
    let pod_dir = paths::pod_dir(&config.root_dir, pod).map_err(|error| error.to_string())?;
    make_dir(&pod_dir, POD_DIR_MODE)?;
    // First of all: whatever is made of the pod, a later kubelet knows how to end it.
    remembered::save_pod(&pod_dir, pod).map_err(|error| format!("write to {}: {error}", pod_dir.display()))?;
    let logs = paths::log_dir(&config.log_dir, pod).map_err(|error| error.to_string())?;
    make_dir(&logs, LOG_DIR_MODE)?;
    for container in pod::containers_in_order(pod) {
        let dir = paths::log_path(&container.name, 0).map_err(|error| error.to_string())?;
        let dir = logs.join(dir);
        make_dir(dir.parent().unwrap_or(&logs), LOG_DIR_MODE)?;
    }
    Ok(())
}

/// One system call where the directory above exists, which is nearly always.
fn make_dir(path: &Path, mode: u32) -> Result<(), String> {
    let made = match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(mode).create(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    made.map_err(|error| format!("create {}: {error}", path.display()))
}

fn cgroup_of(world: &World, pod: &Pod, burstable_millis: i64) -> Result<(), String> {
    let Some(layout) = &world.cgroups else { return Ok(()) };
    let root = &world.config.cgroup_root;
    let path = paths::pod_cgroup(root, pod).map_err(|error| error.to_string())?;
    let class = qos::class(pod);
    if class == Qos::Burstable {
        let limits = shares(resources::cpu_shares(burstable_millis));
        layout.group(&paths::qos_cgroup(root, class)).create(&limits).map_err(|error| error.to_string())?;
    }
    let figures = resources::pod(pod);
    let limits = Limits {
        cpu_shares: Some(figures.cpu_shares),
        cpu_quota_us: figures.cpu_quota_us,
        cpu_period_us: figures.cpu_quota_us.map(|_| figures.cpu_period_us),
        memory_bytes: figures.memory_limit_bytes,
        ..Limits::default()
    };
    layout.group(&path).create(&limits).map_err(|error| error.to_string())
}

/// Makes the groups above all pods, so that a pod finds them.
pub(crate) fn qos_cgroups(world: &World) -> Result<(), cgroup::Error> {
    let Some(layout) = &world.cgroups else { return Ok(()) };
    let root = &world.config.cgroup_root;
    layout.group(&paths::qos_cgroup(root, Qos::Guaranteed)).create(&Limits::default())?;
    layout.group(&paths::qos_cgroup(root, Qos::Burstable)).create(&Limits::default())?;
    // Pods that request nothing together get what is left over.
    layout.group(&paths::qos_cgroup(root, Qos::BestEffort)).create(&shares(resources::cpu_shares(0)))
}

fn shares(cpu_shares: u64) -> Limits {
    Limits { cpu_shares: Some(cpu_shares), ..Limits::default() }
}
