//! A pod's volumes: made before its sandbox, gone before the pod is.

pub(crate) mod host_path;
pub(crate) mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use pod::paths::{self, UnsafeName};
use pod::quantity::Amount;
use rustix::mount::MountFlags;

use host_path::HostPathError;

/// Pod directories are for the kubelet alone.
pub(crate) const POD_DIR_MODE: u32 = 0o750;
/// Log directories are for everyone who collects logs.
pub(crate) const LOG_DIR_MODE: u32 = 0o755;
/// Whatever user a container runs as may write to an emptyDir.
const EMPTY_DIR_MODE: u32 = 0o777;
pub(crate) const EMPTY_DIR: &str = "empty-dir";

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume:?}: {error}")]
    Name { volume: String, error: UnsafeName },
    #[error("volume {volume:?}: create {}: {error}", path.display())]
    Create { volume: String, path: PathBuf, error: io::Error },
    #[error("volume {volume:?}: mount tmpfs at {}: {errno}", path.display())]
    Mount { volume: String, path: PathBuf, errno: rustix::io::Errno },
    #[error("volume {volume:?}: {error}")]
    HostPath { volume: String, error: HostPathError },
    #[error("volume {volume:?}: of a kind that is not supported yet")]
    Unsupported { volume: String },
}

/// Makes every volume of the pod; those that exist already are left as they are. `memory_max_bytes` bounds what a
/// volume in memory may hold where neither it nor the pod says.
pub(crate) fn set_up(root_dir: &Path, pod: &Pod, memory_max_bytes: u64) -> Result<(), VolumeError> {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        if let Some(empty) = &volume.empty_dir {
            let path = empty_dir_path(root_dir, pod, volume)?;
            let limit = tmpfs_limit_bytes(pod, empty, memory_max_bytes);
            let in_memory = empty.medium.as_deref() == Some("Memory");
            set_up_empty_dir(&volume.name, &path, in_memory.then_some(limit))?;
        } else if let Some(host) = &volume.host_path {
            host_path::resolve(Path::new(&host.path), host.type_.as_deref().unwrap_or_default())
                .map_err(|error| VolumeError::HostPath { volume: volume.name.clone(), error })?;
        } else {
            return Err(VolumeError::Unsupported { volume: volume.name.clone() });
        }
    }
    Ok(())
}

/// Where each volume's content is on this machine, links resolved, by the volume's name.
pub(crate) fn sources(root_dir: &Path, pod: &Pod) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let volumes = pod::spec(pod).volumes.iter().flatten().map(|volume| {
        let path = match &volume.host_path {
            Some(host) => host_path::resolve(Path::new(&host.path), host.type_.as_deref().unwrap_or_default())
                .map_err(|error| VolumeError::HostPath { volume: volume.name.clone(), error })?,
            None => empty_dir_path(root_dir, pod, volume)?,
        };
        Ok((volume.name.clone(), path))
    });
    volumes.collect()
}

fn empty_dir_path(root_dir: &Path, pod: &Pod, volume: &Volume) -> Result<PathBuf, VolumeError> {
    paths::volume_dir(root_dir, pod, EMPTY_DIR, &volume.name)
        .map_err(|error| VolumeError::Name { volume: volume.name.clone(), error })
}

fn set_up_empty_dir(volume: &str, path: &Path, tmpfs_bytes: Option<u64>) -> Result<(), VolumeError> {
    let failed = |error| VolumeError::Create { volume: volume.to_owned(), path: path.to_owned(), error };
    let made = match make_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().ok_or(io::ErrorKind::InvalidInput.into()).map_err(failed)?;
            fs::DirBuilder::new().recursive(true).mode(POD_DIR_MODE).create(above).map_err(failed)?;
            make_dir(path).map_err(failed)?;
            true
        }
        Err(error) => return Err(failed(error)),
    };
    let Some(bytes) = tmpfs_bytes else {
        // The mode of an existing one may be the pod's own doing.
        return if made { allow_all(path).map_err(failed) } else { Ok(()) };
    };
    if is_mount_point(path).map_err(failed)? {
        return Ok(());
    }
    mount_tmpfs(path, bytes).map_err(|errno| VolumeError::Mount {
        volume: volume.to_owned(),
        path: path.to_owned(),
        errno,
    })
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(EMPTY_DIR_MODE).create(path)
}

/// Past the umask.
fn allow_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(EMPTY_DIR_MODE))
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let above = path.parent().map(fs::symlink_metadata).transpose()?;
    Ok(above.is_some_and(|above| fs::symlink_metadata(path).is_ok_and(|here| here.dev() != above.dev())))
}

fn mount_tmpfs(path: &Path, bytes: u64) -> Result<(), rustix::io::Errno> {
    let options = |more: &str| std::ffi::CString::new(format!("size={bytes},mode=0777{more}")).unwrap_or_default();
    let mount =
        |more: &str| rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options(more).as_c_str());
    // What is asked to be in memory stays out of swap where the kernel can promise it (6.4).
    mount(",noswap").or_else(|_| mount(""))
}

/// The least of what the volume, the pod's memory limit and the node allow.
fn tmpfs_limit_bytes(pod: &Pod, empty: &EmptyDirVolumeSource, node_bytes: u64) -> u64 {
    let own = empty.size_limit.as_ref().and_then(|limit| Amount::parse(&limit.0).ok()).map(Amount::units);
    let of_pod = pod::resources::pod(pod).memory_limit_bytes;
    let limits = [own, of_pod].into_iter().flatten().filter_map(|bytes| u64::try_from(bytes).ok());
    limits.filter(|bytes| *bytes > 0).fold(node_bytes, u64::min)
}
