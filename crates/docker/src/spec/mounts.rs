//! Files of the machine's in a container.

use bollard::models::{Mount, MountBindOptions, MountBindOptionsPropagationEnum as Propagation, MountType};
use cri::v1;
use std::path::{Component, Path};

use cri::Refused;

/// More mounts than this are no pod's.
const MAX_MOUNTS: usize = 1024;

/// Mounts of their own kind rather than binds in one text: a path may hold a colon, and one that is not there must not
/// be made.
///
/// # Errors
/// A mount that cannot be made.
pub(super) fn of(config: &v1::ContainerConfig) -> Result<Vec<Mount>, Refused> {
    if config.mounts.len() > MAX_MOUNTS {
        let fault = format!("{} mounts: at most {MAX_MOUNTS} are possible", config.mounts.len());
        return Err(Refused::new("mounts", fault));
    }
    config.mounts.iter().map(mount).collect()
}

fn mount(mount: &v1::Mount) -> Result<Mount, Refused> {
    let refused = |fault: String| Err(Refused::new("mounts", fault));
    let target = &mount.container_path;
    let above = Path::new(target).components().any(|part| part == Component::ParentDir);
    if !target.starts_with('/') || above || target.contains('\0') || Path::new(target).components().count() < 2 {
        return refused(format!("container path {target:?}: expected an absolute path below / without '..'"));
    }
    // What is there decides what a process believes of itself and of its masks.
    if Path::new(target).starts_with("/proc") {
        return refused(format!("container path {target:?}: nothing can be mounted over /proc"));
    }
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mount.image.is_some() || mount.recursive_read_only || mapped || mount.selinux_relabel {
        return refused(format!(
            "{target}: image volumes, recursive read-only, id mappings and relabelling are not supported yet"
        ));
    }
    if !mount.host_path.starts_with('/') || mount.host_path.contains('\0') {
        return refused(format!("{target}: host path {:?}: expected an absolute path", mount.host_path));
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::RPRIVATE,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::RSLAVE,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::RSHARED,
        Err(_) => return refused(format!("{target}: propagation {} is unknown", mount.propagation)),
    };
    Ok(Mount {
        target: Some(target.clone()),
        source: Some(mount.host_path.clone()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.readonly),
        bind_options: Some(MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    })
}
