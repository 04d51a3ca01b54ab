//! The shim's small durable files: written under another name, synced, renamed.

use crate::failure::{Result, Step, failure, not_found, refused};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use shim::protocol::{ContainerSpec, FailureKind, ShimRecord, VERSION, records};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const MAX_SPEC_BYTES: u64 = 4 << 20;
const MAX_ID_BYTES: usize = 128;

/// The directory of a container. Its id comes from outside, so it must be one plain name.
pub(crate) fn container_dir(sandbox: &Path, container: &str) -> Result<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let valid =
        (1..=MAX_ID_BYTES).contains(&container.len()) && container.bytes().all(plain) && !container.starts_with('.');
    if !valid {
        return Err(refused(
            format!("name a container {container:?}"),
            "an id has 1 to 128 letters, digits, `-`, `_` and `.`, and does not begin with a dot",
        ));
    }
    Ok(sandbox.join(records::CONTAINERS).join(container))
}

pub(crate) fn write(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))
}

pub(crate) fn read_spec(dir: &Path, container: &str) -> Result<ContainerSpec> {
    let path = dir.join(records::SPEC);
    let step = || format!("read the container's spec {}", path.display());
    let file = match open_plain(&path) {
        Err(rustix::io::Errno::NOENT) => return Err(not_found(step(), "there is none")),
        file => file.step(step)?,
    };
    let mut bytes = Vec::new();
    File::from(file).take(MAX_SPEC_BYTES + 1).read_to_end(&mut bytes).step(step)?;
    if bytes.len() as u64 > MAX_SPEC_BYTES {
        return Err(refused(step(), "it is longer than 4 MiB"));
    }
    // The version stands first, so it can be told whatever follows it.
    match postcard::take_from_bytes::<u32>(&bytes) {
        Ok((VERSION, _)) => {}
        Ok((other, _)) => return Err(refused(step(), format!("its version is {other}, this shim's is {VERSION}"))),
        Err(error) => return Err(failure(FailureKind::Refused, step(), error.to_string())),
    }
    let spec: ContainerSpec =
        postcard::from_bytes(&bytes).map_err(|error| failure(FailureKind::Refused, step(), error.to_string()))?;
    if spec.id != container {
        return Err(refused(step(), format!("it is that of {:?}", spec.id)));
    }
    Ok(spec)
}

fn open_plain(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// This process's own record.
pub(crate) fn shim_record() -> io::Result<ShimRecord> {
    let pid = std::process::id() as i32;
    Ok(ShimRecord { version: VERSION, pid, start_ticks: start_ticks(pid)? })
}

/// Field 22 of `/proc/<pid>/stat`. A zombie has it too.
pub(crate) fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The command's name is in parentheses and may hold any of them and spaces, so counting begins after the last one.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        assert_eq!(parse_start_ticks(stat), Some(98765));
        assert_eq!(parse_start_ticks("7 (a) S 1"), None);
        assert!(start_ticks(std::process::id() as i32).unwrap() > 0);
    }

    #[test]
    fn s_a14_a_container_id_is_one_plain_name() {
        let dir = |id: &str| container_dir(Path::new("/s"), id).ok();
        assert_eq!(dir("0123abc"), Some("/s/containers/0123abc".into()));
        for id in ["", ".", "..", "a/b", "../x", ".hidden", "a\nb", "a\0b", &"x".repeat(129)] {
            assert_eq!(dir(id), None, "{id:?}");
        }
    }
}
