//! What is mounted beneath a pod's directory.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::EMPTY_DIR;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnmountError {
    #[error("what is mounted beneath {} cannot be told, so nothing there is removed: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: is mounted and not by the kubelet; unmount it, the pod's directory is kept until then", path.display())]
    Foreign { path: PathBuf },
    #[error("unmount {}: {errno}", path.display())]
    Unmount { path: PathBuf, errno: rustix::io::Errno },
}

/// Unmounts the pod's volumes in memory. Any other mount beneath its directory is an error: what is in it is someone's.
pub(crate) fn unmount_volumes(pod_dir: &Path) -> Result<(), UnmountError> {
    let table = fs::read("/proc/self/mountinfo")
        .map_err(|error| UnmountError::Unreadable { path: pod_dir.to_owned(), error })?;
    let ours = pod_dir.join("volumes").join(format!("kubernetes.io~{EMPTY_DIR}"));
    let mounts = parse(&table, pod_dir);
    if let Some(foreign) = mounts.iter().find(|m| m.kind != b"tmpfs" || m.point.parent() != Some(&ours)) {
        return Err(UnmountError::Foreign { path: foreign.point.clone() });
    }
    // The last mounted lies on top.
    for mount in mounts.into_iter().rev() {
        rustix::mount::unmount(&mount.point, UnmountFlags::NOFOLLOW)
            .map_err(|errno| UnmountError::Unmount { path: mount.point, errno })?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    kind: Vec<u8>,
}

/// Mounts at or beneath `dir`, in the order of mounting. proc_pid_mountinfo(5):
/// `id parent dev root point options [optional]… - type source super-options`.
fn parse(table: &[u8], dir: &Path) -> Vec<Mount> {
    let lines = table.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = PathBuf::from(unescape(fields.nth(4)?));
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?.to_vec();
        Some(Mount { point, kind })
    });
    mounts.filter(|mount| mount.point.starts_with(dir)).collect()
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = b"36 35 0:52 / /r/pods/u/volumes/kubernetes.io~empty-dir/a\\040b rw,relatime shared:5 - tmpfs tmpfs rw\n\
            37 35 8:1 /x /r/pods/u2 rw - ext4 /dev/sda1 rw\n38 35 8:1 /x /r/pods/u/v rw master:1 shared:2 - ext4 /dev/sda1 rw\nbad\n";
        let mounts = parse(table, Path::new("/r/pods/u"));
        assert_eq!(
            mounts,
            [
                Mount { point: "/r/pods/u/volumes/kubernetes.io~empty-dir/a b".into(), kind: b"tmpfs".to_vec() },
                Mount { point: "/r/pods/u/v".into(), kind: b"ext4".to_vec() },
            ]
        );
        assert_eq!(unescape(b"\\134x\\9"), OsString::from("\\x\\9"));
    }
}
