//! The container's root: the image's layers below, a directory of the container's own on top.

use super::beneath;
use crate::failure::{Result, Step, refused, system};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use shim::protocol::{FailureKind, Root};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

/// mount(2) copies one page of options and the kernel cuts what is longer without a word.
const MAX_OPTIONS_BYTES: usize = 4095;

/// What we ask for beside the directories, best first; a kernel or file system that does not know one refuses all.
///
/// `redirect_dir=nofollow` and `metacopy=off` keep extended attributes that an image smuggled in from pointing anywhere;
/// `index=off` lets layers be shared by many containers; `volatile` spares the syncs of what is thrown away anyway.
const EXTRA_OPTIONS: [&str; 4] = [
    ",index=off,redirect_dir=nofollow,metacopy=off,volatile",
    ",index=off,redirect_dir=nofollow,metacopy=off",
    ",index=off,redirect_dir=off,metacopy=off",
    "",
];

/// Mounts the root on `target` and returns it.
pub(crate) fn mount(root: &Root, target: &Path) -> Result<OwnedFd> {
    let step = || format!("mount overlay on {}", target.display());
    // Lower directories are named relative to here, so that the options stay short.
    rustix::process::chdir(&root.layers_dir)
        .step(|| format!("enter the layers' directory {}", root.layers_dir.display()))?;
    forget_volatile(&root.work);
    let mut last = Errno::INVAL;
    for extra in EXTRA_OPTIONS {
        let options = options(root, extra)?;
        match rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str())) {
            Ok(()) => {
                rustix::process::chdir("/").step(step)?;
                return beneath::open_root(target);
            }
            Err(Errno::INVAL) => last = Errno::INVAL,
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(system(FailureKind::System, step(), last.raw_os_error()))
}

/// A volatile mount leaves a mark that forbids the next one, lest data that was never synced be taken for good after a
/// crash of the machine. Within one boot nothing is lost, and a container does not outlive a boot; a start that failed
/// may be tried again.
fn forget_volatile(work: &Path) {
    // Absent as a rule; what else may be wrong the mount itself tells.
    let mark = work.join("work/incompat/volatile");
    std::fs::remove_file(mark.join("dirty")).ok();
    std::fs::remove_dir(&mark).ok();
}

fn options(root: &Root, extra: &str) -> Result<CString> {
    let step = || "name the layers of the container's root".to_owned();
    let mut text = String::from("lowerdir=");
    for (at, layer) in root.lower.iter().enumerate() {
        if at > 0 {
            text.push(':');
        }
        text.push_str(layer);
    }
    for (key, path) in [(",upperdir=", &root.upper), (",workdir=", &root.work)] {
        text.push_str(key);
        text.push_str(path.to_str().ok_or_else(|| refused(step(), format!("{} is not UTF-8", path.display())))?);
    }
    text.push_str(extra);
    // These separate directories and options in the kernel's syntax, and older kernels differ in how they escape.
    let own = |path: &Path| path.to_string_lossy().contains([',', ':', '\\']);
    if root.lower.is_empty() || root.lower.iter().any(|l| l.is_empty() || l.contains([',', ':', '\\'])) {
        return Err(refused(
            step(),
            "there must be at least one, and none with a comma, colon or backslash in its name",
        ));
    }
    if own(&root.upper) || own(&root.work) {
        let detail = format!(
            "{} and {} must hold no comma, colon or backslash: choose another root directory",
            root.upper.display(),
            root.work.display()
        );
        return Err(refused(step(), detail));
    }
    if text.len() > MAX_OPTIONS_BYTES {
        let detail = format!("{} layers need {} bytes of options, mount(2) takes 4095", root.lower.len(), text.len());
        return Err(refused(step(), detail));
    }
    CString::new(text).map_err(|_| refused(step(), "a name holds a NUL byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(lower: Vec<String>, upper: &str) -> Root {
        Root { layers_dir: "/l".into(), lower, upper: upper.into(), work: "/c/w".into(), read_only: false }
    }

    #[test]
    fn s_b13_options_are_whole_or_refused() {
        let layers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let two = options(&root(layers(2), "/c/u"), ",volatile").unwrap();
        assert_eq!(two.to_str().unwrap(), "lowerdir=0:1,upperdir=/c/u,workdir=/c/w,volatile");
        assert!(options(&root(layers(500), "/c/u"), EXTRA_OPTIONS[0]).is_ok());
        for (lower, upper) in [
            (layers(2000), "/c/u"),
            (layers(0), "/c/u"),
            (vec!["a:b".into()], "/c/u"),
            (vec!["a,volatile".into()], "/c/u"),
            (vec![String::new()], "/c/u"),
            (layers(1), "/c,x/u"),
            (layers(1), "/c\\/u"),
        ] {
            assert_eq!(options(&root(lower, upper), "").unwrap_err().kind, FailureKind::Refused);
        }
    }
}
