//! A container's log where the kubelet looks for it: a link to the file that Docker writes.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use bollard::models::ContainerInspectResponse;

/// Log collectors look into it.
const DIR_MODE: u32 = 0o755;

/// The file that Docker will write a container's log to. Docker names it only after the start; but it names the sandbox's
/// resolver file, and each container has a directory of its own beside the others.
pub(crate) fn target(sandbox: &ContainerInspectResponse, id: &str) -> Option<PathBuf> {
    let resolver = sandbox.resolv_conf_path.as_deref().filter(|path| path.starts_with('/'))?;
    let of_sandbox = Path::new(resolver).parent()?;
    (of_sandbox.file_name()?.to_str() == sandbox.id.as_deref())
        .then(|| of_sandbox.with_file_name(id).join(file_name(id)))
}

fn file_name(id: &str) -> String {
    format!("{id}-json.log")
}

/// Links to the target; a link of that name that leads elsewhere is replaced, anything else is not.
///
/// # Errors
/// The file system's, with the path.
pub(crate) fn link(path: &Path, target: &Path) -> io::Result<()> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(explain)?;
    }
    match symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(explain),
    }
    match std::fs::read_link(path) {
        Ok(present) if present == target => Ok(()),
        Ok(_) => std::fs::remove_file(path).and_then(|()| symlink(target, path)).map_err(explain),
        Err(error) => Err(explain(error)),
    }
}

/// Removes the link, if it leads to this container's log.
pub(crate) fn unlink(path: &Path, id: &str) {
    let leads = |target: PathBuf| target.file_name().and_then(|name| name.to_str()) == Some(&file_name(id));
    if std::fs::read_link(path).is_ok_and(leads) {
        // One that stays goes with the pod's directory.
        let _stays = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_renewed_and_removed_and_a_file_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app/0.log");
        for target in ["/x/a-json.log", "/x/a-json.log", "/x/b-json.log"] {
            link(&path, Path::new(target)).unwrap();
            assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(target));
        }
        unlink(&path, "a");
        assert!(path.is_symlink());
        unlink(&path, "b");
        assert!(!path.is_symlink());
        std::fs::write(&path, "a log").unwrap();
        assert!(link(&path, Path::new("/x/a-json.log")).is_err());
        unlink(&path, "a");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a log");
    }

    #[test]
    fn the_log_lies_beside_the_sandbox() {
        let sandbox = |resolver: &str| ContainerInspectResponse {
            id: Some("s".into()),
            resolv_conf_path: Some(resolver.into()),
            ..Default::default()
        };
        assert_eq!(target(&sandbox("/d/containers/s/resolv.conf"), "c"), Some("/d/containers/c/c-json.log".into()));
        for other in ["/d/containers/x/resolv.conf", "", "/etc/resolv.conf"] {
            assert_eq!(target(&sandbox(other), "c"), None, "{other}");
        }
    }
}
