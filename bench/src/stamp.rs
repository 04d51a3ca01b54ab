//! The workload and what it tells: an image whose program writes down when its first instruction ran.

use anyhow::{Context, Result, bail, ensure};
use e2e::oci::sha256;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::time::{ClockId, clock_gettime};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Reference of the image, on all sides.
pub(crate) const IMAGE: &str = "stamp:latest";
/// Where the image's program finds the directory of stamps.
pub(crate) const MOUNT: &str = "/out";
/// No first instruction is awaited longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

/// Nanoseconds of the clock that the workload reads.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Compiles the workload and packs it as an archive such as `docker save` writes.
pub(crate) fn build_archive(archive: &Path) -> Result<()> {
    let source = e2e::machine::workspace().join("bench/stamp.c");
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("stamp");
    let compiled = Command::new("gcc").args(["-static", "-O2", "-s", "-o"]).arg(&program).arg(&source).status();
    ensure!(compiled.context("gcc is needed: run `scripts/setup.sh test`")?.success(), "gcc failed");

    let mut layer = tar::Builder::new(Vec::new());
    for (name, kind) in ["dev/", "etc/", "proc/", "sys/", "tmp/"].map(|name| (name, tar::EntryType::Directory)) {
        layer.append_data(&mut header(kind, 0), name, std::io::empty())?;
    }
    append_file(&mut layer, "stamp", &std::fs::read(&program)?)?;
    let layer = layer.into_inner()?;

    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": ["/stamp"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);

    let mut image = tar::Builder::new(Vec::new());
    append_file(&mut image, &config_name, config.as_bytes())?;
    append_file(&mut image, "layer.tar", &layer)?;
    append_file(&mut image, "manifest.json", manifest.to_string().as_bytes())?;
    let parent = archive.parent().context("the archive's directory")?;
    std::fs::create_dir_all(parent)?;
    std::fs::write(archive, image.into_inner()?).with_context(|| format!("write {}", archive.display()))
}

/// Whether a process is a workload, by the program that its command line begins with.
pub(crate) fn is_workload(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/stamp"))
}

fn header(kind: tar::EntryType, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size_bytes);
    header
}

fn append_file(archive: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, u64::try_from(content.len())?);
    Ok(archive.append_data(&mut header, name, content)?)
}

/// The directory that workloads write their stamps to: one file each, one line a start.
pub(crate) struct Stamps {
    pub(crate) dir: PathBuf,
    events: OwnedFd,
}

impl Stamps {
    pub(crate) fn watch(dir: PathBuf) -> Result<Stamps> {
        std::fs::create_dir_all(&dir)?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, &dir, inotify::WatchFlags::CLOSE_WRITE)?;
        Ok(Stamps { dir, events })
    }

    /// When the workload `name` ran its first instruction for the `nth` time, counted from 0.
    pub(crate) fn await_start(&self, name: &str, nth: usize) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Read before waiting: the event of a start that is already in the file may have been drained.
            let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            // A line is whole once its newline is there; it is written by one write(2).
            if let Some(line) = text.lines().nth(nth) {
                return line.parse().with_context(|| format!("{name}: not a stamp: {line:?}"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{name}: start {} not within {PATIENCE:?}", nth + 1);
            }
            self.await_event(left)?;
        }
    }

    fn await_event(&self, limit: Duration) -> Result<()> {
        let limit = Timespec::try_from(limit)?;
        poll(&mut [PollFd::new(&self.events, PollFlags::IN)], Some(&limit))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        while reader.next().is_ok() {}
        Ok(())
    }
}
