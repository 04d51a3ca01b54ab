//! Files that the kubelet gives to containers.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use pod::{HostsFacts, paths};
use rustix::fs::OFlags;

use super::super::{World, sandbox};
use crate::messages;

const ETC_HOSTS: &str = "/etc/hosts";
const HOSTS_MODE: u32 = 0o644;
/// More of the node's own file is not copied into pods.
const NODE_HOSTS_MAX_BYTES: u64 = 1 << 20;

/// The pod's hosts file, unless the container has its own, or the pod no address to write into it.
pub(super) fn hosts_mount(
    world: &World,
    (pod, ips): (&Pod, &[String]),
    others: &[v1::Mount],
) -> Result<Option<v1::Mount>, String> {
    if others.iter().any(|mount| mount.container_path == ETC_HOSTS) {
        return Ok(None);
    }
    let text = if pod::host_network(pod) {
        pod::etc_hosts_of_host_network(pod, &node_hosts()?)
    } else if ips.is_empty() {
        return Ok(None);
    } else {
        let domain = Some(world.config.dns.cluster_domain.as_str()).filter(|domain| !domain.is_empty());
        pod::etc_hosts(pod, HostsFacts { pod_ips: ips, cluster_domain: domain })
    };
    let path = hosts_path(&world.config.root_dir, pod)?;
    write_hosts(&path, &text).map_err(|error| format!("write {}: {error}", path.display()))?;
    mount(ETC_HOSTS, &path).map(Some)
}

fn node_hosts() -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(ETC_HOSTS).and_then(|file| file.take(NODE_HOSTS_MAX_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("read {ETC_HOSTS}: {error}")),
    }
}

/// Where the container leaves its last message.
pub(super) fn message_mount(
    world: &World,
    pod: &Pod,
    (container, attempt): (&Container, u32),
) -> Result<Option<v1::Mount>, String> {
    let Some(inside) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let dir = paths::container_dir(&world.config.root_dir, pod, &container.name).map_err(|error| error.to_string())?;
    mount(inside, &messages::make(&dir, attempt)?).map(Some)
}

/// Removes the logs of attempts before the last: a container that crashes for a year must not fill the disk.
pub(super) fn remove_older_logs(log_dir: &Path, pod: &Pod, (container, attempt): (&Container, u32)) {
    let Some(keep_from) = attempt.checked_sub(1).filter(|keep_from| *keep_from > 0) else { return };
    let Ok(dir) = paths::log_dir(log_dir, pod).map(|dir| dir.join(&container.name)) else { return };
    // `<attempt>.log`, and with the time of its rotation behind that.
    let attempt_of = |name: &std::ffi::OsString| name.to_str()?.split_once(".log")?.0.parse::<u32>().ok();
    let names = std::fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    for name in names.filter(|name| attempt_of(name).is_some_and(|attempt| attempt < keep_from)) {
        // One that stays goes with the pod.
        let _stays = std::fs::remove_file(dir.join(name));
    }
}

fn mount(inside: &str, outside: &Path) -> Result<v1::Mount, String> {
    Ok(v1::Mount { container_path: inside.to_owned(), host_path: sandbox::text_of(outside)?, ..Default::default() })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn of_a_container_that_crashes_for_ever_the_last_logs_are_kept() {
        let dir = TempDir::new();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
            "spec": {"containers": [{"name": "app"}]}
        }))
        .unwrap();
        let container = &pod::spec(&pod).containers[0];
        let logs = paths::log_dir(dir.path(), &pod).unwrap().join("app");
        std::fs::create_dir_all(&logs).unwrap();
        for name in ["0.log", "8.log", "8.log.20260102-150405", "9.log", "10.log", "notes.txt"] {
            std::fs::write(logs.join(name), "").unwrap();
        }
        for (attempt, left) in [(0, 6), (1, 6), (10, 3)] {
            remove_older_logs(dir.path(), &pod, (container, attempt));
            assert_eq!(std::fs::read_dir(&logs).unwrap().count(), left, "{attempt}");
        }
        assert!(logs.join("9.log").exists() && logs.join("10.log").exists() && logs.join("notes.txt").exists());
    }
}
