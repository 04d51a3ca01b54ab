//! Which extended attributes a layer may set.

use super::tree::Failed;
use crate::archive::Kind;
use crate::error::LayerError;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// The mark by which overlayfs hides what lies below a directory.
const OPAQUE: &str = "trusted.overlay.opaque";
/// Longest value in Linux (`XATTR_SIZE_MAX`).
const MAX_VALUE_LEN: usize = 64 << 10;

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// File capabilities, access control lists and the user's own attributes are part of an image. Everything else is not:
/// `trusted.overlay.*` and `user.overlay.*` would steer overlayfs (a redirect leads anywhere on the lower file systems),
/// security labels belong to the host's policy.
fn is_kept(name: &[u8], kind: Kind) -> bool {
    match name {
        b"security.capability" => kind == Kind::File,
        b"system.posix_acl_access" => matches!(kind, Kind::File | Kind::Directory),
        b"system.posix_acl_default" => kind == Kind::Directory,
        // The kernel allows user attributes on files and directories only.
        _ if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") => {
            name.len() > b"user.".len() && matches!(kind, Kind::File | Kind::Directory)
        }
        _ => false,
    }
}

/// Sets those of `xattrs` that a layer may set. Comes after chown(2), which takes capabilities away.
pub(super) fn set(
    fd: impl AsFd,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    kind: Kind,
    failed: Failed<'_>,
) -> Result<(), LayerError> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_kept(name, kind)) {
        match rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without access control lists or user attributes still makes a usable image.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(failed("set an extended attribute", e)),
        }
    }
    Ok(())
}

/// Copies what a layer may have set from a file of a layer below.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, kind: Kind, failed: Failed<'_>) -> Result<(), LayerError> {
    set(to, &read(from, kind, failed)?, kind, failed)
}

/// Those that a layer may have set.
pub(super) fn read(from: &OwnedFd, kind: Kind, failed: Failed<'_>) -> Result<Xattrs, LayerError> {
    let read = |e| failed("read extended attributes", e);
    // XATTR_LIST_MAX: a longer list cannot exist.
    let mut names = vec![0; 64 << 10];
    let len = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(read(e)),
    };
    let mut xattrs = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty() && is_kept(name, kind)) {
        let mut value = vec![0; MAX_VALUE_LEN];
        let len = rustix::fs::fgetxattr(from, name, &mut value[..]).map_err(read)?;
        value.truncate(len);
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}

pub(super) fn set_opaque(directory: &OwnedFd, failed: Failed<'_>) -> Result<(), LayerError> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(|e| failed("mark a directory as opaque (is this root, on a file system with trusted attributes?)", e))
}

pub(super) fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_b06_only_attributes_that_belong_to_an_image_are_kept() {
        for (name, file, directory) in [
            (&b"security.capability"[..], true, false),
            (b"user.mime_type", true, true),
            (b"system.posix_acl_access", true, true),
            (b"system.posix_acl_default", false, true),
            (b"trusted.overlay.opaque", false, false),
            (b"trusted.overlay.redirect", false, false),
            (b"trusted.overlay.metacopy", false, false),
            (b"trusted.x", false, false),
            (b"user.overlay.opaque", false, false),
            (b"user.overlay.redirect", false, false),
            (b"security.selinux", false, false),
            (b"security.ima", false, false),
            (b"user.", false, false),
            (b"no_namespace", false, false),
            (b"", false, false),
        ] {
            assert_eq!(is_kept(name, Kind::File), file, "{}", String::from_utf8_lossy(name));
            assert_eq!(is_kept(name, Kind::Directory), directory, "{}", String::from_utf8_lossy(name));
            assert!(!is_kept(name, Kind::Symlink) && !is_kept(name, Kind::CharDevice));
        }
    }
}
