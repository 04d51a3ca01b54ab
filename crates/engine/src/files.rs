//! Small files: written whole or not at all, and the ones that every container of a sandbox sees in `/etc`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cri::v1;

/// What of the machine's is larger is no resolver file, or no host table that a pod needs.
const MAX_MACHINE_FILE_BYTES: u64 = 64 * 1024;

/// A step on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { action, path: path.to_owned(), source }
}

/// Replaces a file in one step. No fsync: the files written here lie on tmpfs, where nothing outlives the machine.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("rename to", path))
}

/// Writes a new file with an exact mode.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    chmod(path, mode)
}

/// Makes a directory, and those above it, for root alone. One that exists is kept as it is.
pub(crate) fn private_dirs(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create directory", path))
}

/// Makes a directory, and those above it, that others may look into: log collectors do.
pub(crate) fn public_dirs(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("create directory", path))
}

pub(crate) fn chmod(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).map_err(failed("chmod", path))
}

/// The text of a sandbox's `/etc/resolv.conf`; without a configuration of its own it has the machine's.
///
/// # Errors
/// A name that would begin a new line, or hold a blank, in the file.
pub(crate) fn resolv_conf(dns: Option<&v1::DnsConfig>, machine: Option<&Path>) -> Result<String, String> {
    match dns {
        Some(dns) => cri::resolver::text(dns),
        None => Ok(machine.map(machine_resolv_conf).unwrap_or_default()),
    }
}

fn machine_resolv_conf(path: &Path) -> String {
    small_file(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the machine's resolver file cannot be used");
        String::new()
    })
}

/// The machine's own `/etc/hosts`, for pods on its network; empty where it cannot be read.
pub(crate) fn machine_hosts(path: &Path) -> String {
    small_file(path).unwrap_or_default()
}

fn small_file(path: &Path) -> io::Result<String> {
    let small = fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() <= MAX_MACHINE_FILE_BYTES);
    if small { fs::read_to_string(path) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The text of `/etc/hosts` for containers that are not given one.
pub(crate) fn hosts(address: Ipv4Addr, hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_configuration_the_machines_file_is_used() {
        assert_eq!(resolv_conf(None, None).unwrap(), "");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 9.9.9.9\n").unwrap();
        assert_eq!(resolv_conf(Some(&v1::DnsConfig::default()), Some(&path)).unwrap(), "");
        assert_eq!(resolv_conf(None, Some(&path)).unwrap(), "nameserver 9.9.9.9\n");
        assert_eq!(resolv_conf(None, Some(dir.path())).unwrap(), "");
    }
}
