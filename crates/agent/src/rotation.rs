//! The logs of running containers, rotated for a runtime that leaves it to the kubelet.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::keys::PodKey;
use cri::names::{container_state, log_directory, log_path};
use cri::{LogRotation, v1};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::effects::World;
use crate::effects::teardown::component;
use crate::observe;

/// Between two looks at the logs' sizes.
const EVERY: Duration = Duration::from_secs(10);
/// For the listing, and for the reopening of one log: no other log waits longer for its turn because of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Entries of a container's log directory looked at: it is the container's own only by convention.
const MAX_ENTRIES: usize = 16_384;
/// What readers of logs expect after the name, in UTC so that the names sort by age when summer ends.
const STAMP: &str = "%Y%m%d-%H%M%S";
const STAMP_LEN: usize = "20060102-150405".len();

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it cannot be renamed: {0}")]
    Rename(Errno),
    #[error("the runtime does not reopen it: {0}")]
    Reopen(cri::Error),
    #[error("an older one cannot be removed: {0}")]
    Remove(Errno),
    #[error("the work was given up")]
    GivenUp,
}

/// Rotates until `stop`; ends at once where there is nothing to do for the kubelet.
pub(crate) async fn rotate_logs(world: Arc<World>, stop: CancellationToken) {
    if world.runtime.log_rotation() == LogRotation::Runtime || world.config.log_max_bytes == 0 {
        return;
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = BTreeSet::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        failing = round(&world, failing).await;
    }
}

/// One look at every log. Returns whose could not be rotated; each is complained of once.
async fn round(world: &Arc<World>, failing: BTreeSet<String>) -> BTreeSet<String> {
    let state = v1::ContainerState::ContainerRunning as i32;
    let filter = v1::ContainerFilter { state: Some(v1::ContainerStateValue { state }), ..Default::default() };
    let asked = world.runtime.list_containers(v1::ListContainersRequest { filter: Some(filter) });
    // A runtime that is away is complained of by others.
    let Ok(Ok(listed)) = timeout(ANSWER_WITHIN, asked).await else { return failing };
    let logs: Vec<Log> = listed.containers.iter().filter_map(Log::of).collect();
    let (root, max_bytes) = (world.config.log_dir.clone(), world.config.log_max_bytes);
    let look = move || logs.into_iter().filter_map(|log| log.due(&root, max_bytes)).collect::<Vec<_>>();
    let mut still_failing = BTreeSet::new();
    for due in spawn_blocking(look).await.unwrap_or_default() {
        let (id, path) = (due.log.id.clone(), due.log.dir.join(&due.log.name));
        match rotate(world, due).await {
            Ok(()) => debug!(log = %path.display(), "rotated"),
            Err(error) => {
                if !failing.contains(&id) {
                    warn!(log = %path.display(), %error, "a log that has grown too large is not rotated; trying on");
                }
                still_failing.insert(id);
            }
        }
    }
    still_failing
}

/// Where a running container's log is.
#[derive(Debug)]
struct Log {
    id: String,
    /// As health calls it.
    pod: Arc<str>,
    /// Beneath the directory of all logs.
    dir: PathBuf,
    name: String,
}

/// A log to be rotated.
#[derive(Debug)]
struct Due {
    log: Log,
    dir: OwnedFd,
    /// It has been renamed, and who did that ended before the runtime was told.
    renamed_before: bool,
}

impl Log {
    /// None for what is not a kubelet's, or does not run.
    fn of(container: &v1::Container) -> Option<Self> {
        if container_state(container.state) != v1::ContainerState::ContainerRunning {
            return None;
        }
        let key = PodKey::from_labels(&container.labels)?;
        let metadata = container.metadata.as_ref()?;
        let below = log_directory(Path::new(""), &key);
        // The names are the runtime's word: none may lead elsewhere.
        component(below.to_str()?).ok()?;
        let path = below.join(log_path(component(&metadata.name).ok()?, metadata.attempt));
        let name = path.file_name()?.to_str()?.to_owned();
        Some(Self { id: container.id.clone(), pod: observe::name_of(&key), dir: path.parent()?.to_owned(), name })
    }

    /// Whether it has more than `max_bytes`, or is not where the runtime should write it. What is anything but a plain
    /// file, or lies behind a link that a pod may have put there, is left alone.
    fn due(self, root: &Path, max_bytes: u64) -> Option<Due> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).ok()?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let dir = rustix::fs::openat2(root, &self.dir, flags, Mode::empty(), beneath).ok()?;
        let renamed_before = match rustix::fs::statat(&dir, &*self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
                let due = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && size_bytes > max_bytes;
                due.then_some(false)?
            }
            Err(Errno::NOENT) => true,
            Err(_) => return None,
        };
        Some(Due { log: self, dir, renamed_before })
    }
}

/// Renames the log, has the runtime reopen it, and removes the oldest ones. Whatever fails, no line is lost: the runtime
/// writes on to the file that it has open, under either name.
async fn rotate(world: &Arc<World>, due: Due) -> Result<(), Failure> {
    let Due { log, dir, renamed_before } = due;
    let Log { id, pod, name, .. } = log;
    let rotated = format!("{name}.{}", jiff::Timestamp::now().strftime(STAMP));
    let (dir, name, rotated) = (Arc::new(dir), Arc::<str>::from(name), Arc::<str>::from(rotated));
    if !renamed_before {
        let (dir, name, rotated) = (Arc::clone(&dir), Arc::clone(&name), Arc::clone(&rotated));
        blocking(move || rename(&dir, &name, &rotated).map_err(Failure::Rename)).await?;
    }
    let asked = world.runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id });
    let reopened = match timeout(ANSWER_WITHIN, cri::calls::for_pod(pod, asked)).await {
        Ok(answer) => answer.map_err(Failure::Reopen),
        Err(_) => {
            let text = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            Err(Failure::Reopen(cri::Error::deadline_exceeded(text)))
        }
    };
    let max_files = world.config.log_max_files;
    blocking(move || match reopened {
        Ok(_) => prune(&dir, &name, max_files).map_err(Failure::Remove),
        Err(error) => {
            // Where it was reopened after all, the new file stays; and where there is nothing to go back to, so be it.
            let _taken = if renamed_before { Ok(()) } else { rename(&dir, &rotated, &name) };
            Err(error)
        }
    })
    .await
}

async fn blocking(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    spawn_blocking(work).await.unwrap_or(Err(Failure::GivenUp))
}

fn rename(dir: &OwnedFd, from: &str, to: &str) -> Result<(), Errno> {
    rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE)
}

/// Leaves `max_files`, the one being written among them; the names of the others sort by age.
fn prune(dir: &OwnedFd, name: &str, max_files: u32) -> Result<(), Errno> {
    let entries = Dir::read_from(dir)?.take(MAX_ENTRIES).flatten();
    let names = entries.map(|entry| entry.file_name().to_owned());
    let mut rotated: Vec<_> = names.filter(|entry| entry.to_str().is_ok_and(|entry| is_rotated(entry, name))).collect();
    rotated.sort_unstable();
    let kept = usize::try_from(max_files).unwrap_or(usize::MAX).saturating_sub(1);
    let surplus = rotated.len().saturating_sub(kept);
    for name in rotated.iter().take(surplus) {
        match rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `<log>.20060102-150405`, also compressed, as another kubelet may have left it.
fn is_rotated(entry: &str, log: &str) -> bool {
    let Some(rest) = entry.strip_prefix(log).and_then(|rest| rest.strip_prefix('.')) else { return false };
    let Some((stamp, rest)) = rest.split_at_checked(STAMP_LEN) else { return false };
    stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') && matches!(rest, "" | ".gz" | ".tmp")
}

#[cfg(test)]
mod tests;
