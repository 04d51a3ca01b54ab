//! The end of a pod's things: done only when they are seen to be gone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use cri::keys::PodKey;
use lifecycle::{Done, Outcome};
use pod::paths;
use pod::qos::Qos;
use pod::reasons::FAILED_KILL_POD;

use super::{World, blocking, retry};
use crate::deletion::remove_tree;
use crate::volumes::mounts::unmount_volumes;

/// The classes whose groups may hold a pod's: of an orphan nobody knows the class.
const CLASSES: [Qos; 3] = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];

pub(super) async fn tear_down(world: Arc<World>, key: PodKey) -> Outcome {
    blocking(FAILED_KILL_POD, move || match remove(&world, &key) {
        Ok(()) => Outcome::Ok(Done::Nothing),
        Err(message) => retry(FAILED_KILL_POD, message),
    })
    .await
}

fn remove(world: &World, key: &PodKey) -> Result<(), String> {
    let uid = component(&key.uid)?;
    let pod_dir = pods_dir(&world.config.root_dir).join(uid);
    unmount_volumes(&pod_dir).map_err(|error| error.to_string())?;
    for group in pod_cgroups(world, uid).filter(cgroup::Group::exists) {
        // Whatever joined the group by itself goes with it.
        group.kill().and_then(|()| group.remove_everywhere()).map_err(|error| error.to_string())?;
    }
    for logs in log_dirs(&world.config.log_dir, key)? {
        remove_tree(&logs).map_err(|error| error.to_string())?;
    }
    // Last, for it is what a kubelet that was killed meanwhile finds the rest by.
    remove_tree(&pod_dir).map_err(|error| error.to_string())
}

pub(crate) fn pods_dir(root_dir: &Path) -> PathBuf {
    root_dir.join("pods")
}

fn pod_cgroups(world: &World, uid: &str) -> impl Iterator<Item = cgroup::Group> {
    let root = world.config.cgroup_root.clone();
    let layout = world.cgroups.clone();
    let name = format!("pod{uid}");
    CLASSES.into_iter().filter_map(move |class| {
        let path = format!("{}/{name}", paths::qos_cgroup(&root, class));
        layout.as_ref().map(|layout| layout.group(&path))
    })
}

/// The pod's log directory; of an orphan without a name the one that ends in its UID.
fn log_dirs(log_dir: &Path, key: &PodKey) -> Result<Vec<PathBuf>, String> {
    if !key.name.is_empty() {
        let dir = cri::names::log_directory(log_dir, key);
        let file_name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
        component(file_name)?;
        return Ok(vec![dir]);
    }
    let suffix = format!("_{}", key.uid);
    let Ok(entries) = std::fs::read_dir(log_dir) else { return Ok(Vec::new()) };
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    Ok(names.filter(|name| name.as_bytes().ends_with(suffix.as_bytes())).map(|name| log_dir.join(name)).collect())
}

/// UIDs of orphans come from outside; none may name a path of its own.
pub(crate) fn component(name: &str) -> Result<&str, String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(name),
        _ => Err(format!("{name:?} cannot be part of a path")),
    }
}

/// UIDs of pods that left something in the file system or among the control groups.
pub(crate) fn leftovers(world: &World) -> Vec<String> {
    let mut uids: Vec<String> = Vec::new();
    let dirs = std::fs::read_dir(pods_dir(&world.config.root_dir)).into_iter().flatten();
    uids.extend(dirs.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    if let Some(layout) = &world.cgroups {
        for class in CLASSES {
            let groups = layout.group(&paths::qos_cgroup(&world.config.cgroup_root, class)).children();
            uids.extend(groups.iter().filter_map(|name| name.strip_prefix("pod").map(str::to_owned)));
        }
    }
    uids.sort();
    uids.dedup();
    uids
}

/// Removes the groups above all pods when no pod is left in them.
pub(crate) fn remove_empty_qos_cgroups(world: &World) {
    let Some(layout) = &world.cgroups else { return };
    for class in [Qos::BestEffort, Qos::Burstable, Qos::Guaranteed] {
        let group = layout.group(&paths::qos_cgroup(&world.config.cgroup_root, class));
        if group.exists()
            && group.children().is_empty()
            && group.procs().is_empty()
            && let Err(error) = group.remove_everywhere()
        {
            tracing::warn!(%error, "an empty control group is left");
        }
    }
}
