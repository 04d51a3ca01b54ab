//! Logs that Docker writes: a JSON object for each piece of a line, in files of Docker's own, to which the kubelet links.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use serde::Deserialize;

use super::record::Tag;

/// Docker cuts lines into pieces of 16 KiB, of which every byte may be written as an escape of six.
pub(super) const MAX_RECORD_BYTES: usize = 256 * 1024;
const ID_DIGITS: usize = 64;
const SUFFIX: &str = "-json.log";

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Cri,
    Docker,
}

/// A piece of a line; its text has the line feed that ends the line.
#[derive(Debug, Deserialize)]
pub(super) struct Piece<'a> {
    #[serde(borrow)]
    pub(super) log: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) time: Cow<'a, str>,
}

impl<'a> Piece<'a> {
    /// Reads one line of the file.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn tag(&self) -> Tag {
        if self.log.ends_with('\n') { Tag::Full } else { Tag::Partial }
    }
}

/// Where a container's log leads, if it is a link to one of Docker's: made by root, and to a file that is named as
/// Docker alone names it, in the directory named after the same container. Whoever else can make such a link can make
/// what it leads to, and so gains nothing by it.
pub(super) fn target(directory: &OwnedFd, name: &str) -> Option<PathBuf> {
    let link = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_link = rustix::fs::FileType::from_raw_mode(link.st_mode) == rustix::fs::FileType::Symlink;
    if !is_link || link.st_uid != 0 {
        return None;
    }
    let bytes = rustix::fs::readlinkat(directory, name, Vec::new()).ok()?.into_bytes();
    let target = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    is_dockers(&target).then_some(target)
}

fn is_dockers(target: &Path) -> bool {
    let text = |name: Option<&std::ffi::OsStr>| name.and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let (file, directory) = (text(target.file_name()), text(target.parent().and_then(Path::file_name)));
    let is_id = directory.len() == ID_DIGITS && directory.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    target.is_absolute() && is_id && file.strip_suffix(SUFFIX) == Some(&directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_f01_only_a_log_of_docker_s_is_led_to() {
        let id = "0123456789abcdef".repeat(4);
        let other = "f".repeat(64);
        assert!(is_dockers(Path::new(&format!("/var/lib/docker/containers/{id}/{id}-json.log"))));
        for target in [
            format!("/var/lib/docker/containers/{other}/{id}-json.log"),
            format!("/var/lib/docker/containers/{id}/{id}-json.log.1"),
            format!("containers/{id}/{id}-json.log"),
            format!("/{id}-json.log"),
            "/etc/shadow".to_owned(),
            "/x/app/app-json.log".to_owned(),
            String::new(),
        ] {
            assert!(!is_dockers(Path::new(&target)), "{target}");
        }
    }

    #[test]
    fn pieces_are_read_and_anything_else_is_none() {
        let piece = |line: &str| {
            Piece::parse(line.as_bytes())
                .map(|piece| (piece.log.clone().into_owned(), piece.tag(), piece.time.into_owned()))
        };
        let time = "2026-01-01T00:00:00.5Z";
        let line = |log: &str| format!("{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"{time}\"}}");
        assert_eq!(piece(&line("a \\u003cb\\u003e\\n")), Some(("a <b>\n".into(), Tag::Full, time.into())));
        assert_eq!(piece(&line("half")), Some(("half".into(), Tag::Partial, time.into())));
        for bad in ["", "{}", "[]", "{\"log\":1}", "2026-01-01T00:00:00Z stdout F x", "{\"log\":\"x"] {
            assert_eq!(piece(bad), None, "{bad}");
        }
    }
}
