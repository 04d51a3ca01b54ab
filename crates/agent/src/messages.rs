//! What a container leaves to be read when it has ended: a file that is mounted into it, or else the end of its log.

mod docker;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cri::keys::{self, Map};
use cri::names::container_state;
use cri::v1;
use pod::reasons;
use rustix::fs::OFlags;

use crate::effects::teardown::{component, pods_dir};
use crate::volumes::POD_DIR_MODE;

/// Whatever user the container runs as writes to it.
const FILE_MODE: u32 = 0o666;
/// Read of the file, from its end.
const FILE_MAX_BYTES: u64 = 4_096;
/// Taken of the log: as many lines, and of these as many bytes.
const LOG_LINES_MAX: usize = 80;
const LOG_MAX_BYTES: usize = 2_048;
/// Holds what is taken of the log: so many bytes, each line's time and stream, and one record that is longer than that.
const LOG_TAIL_BYTES: u64 = 64 << 10;
/// Messages kept; one that was dropped is read again when it is asked for.
const KEPT_MAX: usize = 1_024;
const FALL_BACK_TO_LOGS: &str = "FallbackToLogsOnError";

/// The messages of ended containers. Each is read when its container is first seen ended: what becomes of the file later
/// does not change what was said.
#[derive(Debug)]
pub(crate) struct Messages {
    root_dir: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By the container's id.
    messages: BTreeMap<String, String>,
    order: VecDeque<String>,
}

impl Messages {
    pub(crate) fn new(root_dir: &Path) -> Self {
        Self { root_dir: root_dir.to_owned(), kept: Mutex::default() }
    }

    /// What the runtime says of a container's end and what the container said itself; what the runtime says where it has
    /// not ended.
    pub(crate) fn of(&self, status: &v1::ContainerStatus) -> String {
        if container_state(status.state) != v1::ContainerState::ContainerExited {
            return status.message.clone();
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = kept.messages.get(&status.id) {
            return message.clone();
        }
        let own = own_message(&self.root_dir, status);
        let message = match (status.message.as_str(), own.as_str()) {
            ("", own) => own.to_owned(),
            (runtimes, "") => runtimes.to_owned(),
            (runtimes, own) => format!("{runtimes}: {own}"),
        };
        kept.messages.insert(status.id.clone(), message.clone());
        kept.order.push_back(status.id.clone());
        if kept.order.len() > KEPT_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.messages.remove(&oldest);
        }
        message
    }
}

fn own_message(root_dir: &Path, status: &v1::ContainerStatus) -> String {
    let message = match path_of(root_dir, status).map(|path| tail(&path, FILE_MAX_BYTES)) {
        Some(Ok(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            return format!("Error on reading termination log: {error}");
        }
        // A container that was made without one.
        Some(Err(_)) | None => String::new(),
    };
    if !message.is_empty() || !falls_back(status) || status.log_path.is_empty() {
        return message;
    }
    // A log that cannot be read says nothing.
    let log = Path::new(&status.log_path);
    let end = match docker::target(log, &status.id) {
        Some(target) => tail(&target, LOG_TAIL_BYTES).map(|bytes| docker::end_of_log(&bytes)),
        None => tail(log, LOG_TAIL_BYTES).map(|bytes| end_of_log(&bytes)),
    };
    end.unwrap_or_default()
}

fn falls_back(status: &v1::ContainerStatus) -> bool {
    let policy = status.annotations.get(keys::CONTAINER_TERMINATION_MESSAGE_POLICY).map(String::as_str);
    policy == Some(FALL_BACK_TO_LOGS) && status.exit_code != 0 && status.reason != reasons::CONTAINER_CANNOT_RUN
}

/// Labels come from the runtime, which may be anybody's: none may name a path of its own.
fn path_of(root_dir: &Path, status: &v1::ContainerStatus) -> Option<PathBuf> {
    let part = |labels: &Map, key: &str| component(labels.get(key)?).ok().map(str::to_owned);
    let uid = part(&status.labels, keys::POD_UID)?;
    let container = part(&status.labels, keys::CONTAINER_NAME)?;
    let attempt = keys::restart_count(&status.annotations)?;
    Some(pods_dir(root_dir).join(uid).join("containers").join(container).join(file_name(attempt)))
}

fn file_name(attempt: u32) -> String {
    format!("{attempt:08x}")
}

/// Makes the file of one attempt in the container's directory, and removes those of attempts before the last.
///
/// # Errors
/// The file system's, with the path.
pub(crate) fn make(container_dir: &Path, attempt: u32) -> Result<PathBuf, String> {
    let path = container_dir.join(file_name(attempt));
    let explain = |error: io::Error| format!("create {}: {error}", path.display());
    DirBuilder::new().recursive(true).mode(POD_DIR_MODE).create(container_dir).map_err(explain)?;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(FILE_MODE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(&path).map_err(explain)?;
    // Past the umask.
    file.set_permissions(std::fs::Permissions::from_mode(FILE_MODE)).map_err(explain)?;
    if attempt > 1 {
        remove_older(container_dir, attempt - 1);
    }
    Ok(path)
}

fn remove_older(container_dir: &Path, keep_from: u32) {
    let names =
        std::fs::read_dir(container_dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
    let is_older = |name: &std::ffi::OsString| {
        name.to_str().and_then(|n| u32::from_str_radix(n, 16).ok()).is_some_and(|n| n < keep_from)
    };
    for name in names.filter(is_older) {
        // One that stays goes with the pod.
        let _stays = std::fs::remove_file(container_dir.join(name));
    }
}

/// The end of a regular file, never through a link.
fn tail(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.len() > max_bytes {
        file.seek(SeekFrom::Start(metadata.len() - max_bytes))?;
    }
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the last lines of a log in CRI format say: `<time> <stream> <tags> <text>`, where the tag `P` is a line that goes
/// on in the next record.
fn end_of_log(bytes: &[u8]) -> String {
    let mut said = Vec::new();
    let records: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let first = records.len().saturating_sub(LOG_LINES_MAX);
    for record in &records[first..] {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let mut parts = record.splitn(4, |byte| *byte == b' ');
        let (Some(_time), Some(b"stdout" | b"stderr"), Some(tags)) = (parts.next(), parts.next(), parts.next()) else {
            // The rest of a record whose beginning was cut off.
            continue;
        };
        said.extend_from_slice(parts.next().unwrap_or_default());
        if tags.split(|byte| *byte == b':').next() != Some(b"P") {
            said.push(b'\n');
        }
    }
    cut(&said)
}

/// The end of what a log says, as much of it as a message may hold.
fn cut(said: &[u8]) -> String {
    let from = said.len().saturating_sub(LOG_MAX_BYTES);
    String::from_utf8_lossy(&said[from..]).into_owned()
}

#[cfg(test)]
mod tests;
