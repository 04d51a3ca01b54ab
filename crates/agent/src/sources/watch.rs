//! Watches all paths of manifests with one inotify instance, and polls as repair.
//!
//! A file that is closed after writing, or moved in, is acted on at once. Whatever else happens meanwhile is gathered by
//! the kernel and taken in one go when the pass before it is done: a burst of a thousand files is read in few passes.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::SourceReport;
use super::files::{FileSource, Findings, Pass, Touch};
use super::last_good::Change;

/// Between polls where events cannot be had.
const POLL_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Until a file that looked half written is looked at again.
const RECHECK_AFTER: Duration = Duration::from_secs(1);
/// Editors that do not rename remove a file and create it anew; the pod must not go for that.
const GONE_AFTER: Duration = Duration::from_millis(10);
/// Room for some 400 events of usual names.
const BUFFER_BYTES: usize = 16 << 10;

/// A path of manifests with its poll.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) files: FileSource,
    pub(crate) check_every: Duration,
}

/// Where the findings go.
#[derive(Debug, Clone)]
pub(crate) struct Sinks {
    pub(crate) reports: mpsc::Sender<SourceReport>,
    pub(crate) changes: mpsc::Sender<Change>,
}

/// Watches until cancelled.
pub(crate) async fn watch(watched: Vec<Watched>, sinks: Sinks, stop: CancellationToken) {
    let paths = watched.iter().map(|w| w.files.path().to_owned()).collect();
    let mut events = Events::open(paths);
    let now = Instant::now();
    let mut paths: Vec<PathState> = watched.into_iter().map(|w| PathState::new(w, now)).collect();
    loop {
        for (number, path) in paths.iter_mut().enumerate() {
            if !path.take_turn(number, &mut events, &sinks).await {
                return;
            }
        }
        let next = paths.iter().map(|p| p.next_deadline(events.working)).min().unwrap_or(now + POLL_WITHOUT_EVENTS);
        tokio::select! {
            () = stop.cancelled() => return,
            touched = events.next() => for event in touched {
                paths[event.path].touch(event);
            },
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// The schedule of one path.
struct PathState {
    /// Absent while a pass runs; a pass that panicked never gives it back.
    files: Option<FileSource>,
    check_every: Duration,
    full_at: Instant,
    checked_at: Instant,
    due: BTreeMap<PathBuf, Touch>,
    gone: BTreeMap<PathBuf, Instant>,
    tidied: bool,
}

impl PathState {
    fn new(watched: Watched, now: Instant) -> Self {
        Self {
            files: Some(watched.files),
            check_every: watched.check_every,
            full_at: now,
            checked_at: now,
            due: BTreeMap::new(),
            gone: BTreeMap::new(),
            tidied: false,
        }
    }

    fn touch(&mut self, event: Event) {
        match event.what {
            What::Everything => self.full_at = Instant::now(),
            What::Path(path, Touch::Gone) => {
                self.due.remove(&path);
                self.gone.insert(path, Instant::now() + GONE_AFTER);
            }
            What::Path(path, touch) => {
                self.gone.remove(&path);
                self.due.insert(path, touch);
            }
        }
    }

    fn poll_every(&self, events_work: bool) -> Duration {
        if events_work { self.check_every } else { self.check_every.min(POLL_WITHOUT_EVENTS) }
    }

    fn next_deadline(&self, events_work: bool) -> Instant {
        let poll = self.full_at.min(self.checked_at + self.poll_every(events_work));
        self.gone.values().copied().fold(poll, Instant::min)
    }

    /// Does what is due; false when nobody listens any more.
    async fn take_turn(&mut self, path: usize, events: &mut Events, sinks: &Sinks) -> bool {
        let now = Instant::now();
        let over: Vec<PathBuf> = self.gone.iter().filter(|(_, at)| **at <= now).map(|(p, _)| p.clone()).collect();
        for path in over {
            self.gone.remove(&path);
            self.due.insert(path, Touch::Gone);
        }
        let full = self.full_at.min(self.checked_at + self.poll_every(events.working)) <= now;
        // What is named by events goes first: a full pass would look at it with less certainty.
        if !self.due.is_empty() {
            let pass = Pass::Only(std::mem::take(&mut self.due));
            if !self.pass(pass, sinks).await {
                return false;
            }
        }
        if full || !self.tidied {
            self.checked_at = now;
            self.full_at = now + self.poll_every(events.working);
            // The watch comes first: what changes after the look is then an event.
            events.arm(path);
            if !self.pass(Pass::Full, sinks).await {
                return false;
            }
        }
        if !self.tidied {
            self.tidied = true;
            return self.tidy(sinks).await;
        }
        true
    }

    async fn pass(&mut self, pass: Pass, sinks: &Sinks) -> bool {
        let Some(mut files) = self.files.take() else { return true };
        let looked = spawn_blocking(move || {
            let findings = files.look(pass);
            (files, findings)
        });
        let (files, findings) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                error!(%error, "reading manifests broke off; what they hold stays as it is until a restart");
                return true;
            }
        };
        self.files = Some(files);
        let Findings { report, changes, unsettled } = findings;
        if unsettled {
            self.full_at = Instant::now() + RECHECK_AFTER;
        }
        if let Some(report) = report
            && sinks.reports.send(report).await.is_err()
        {
            return false;
        }
        send_all(changes, sinks).await
    }

    async fn tidy(&mut self, sinks: &Sinks) -> bool {
        let Some(files) = self.files.take() else { return true };
        let tidied = spawn_blocking(move || {
            let changes = files.tidy();
            (files, changes)
        });
        match tidied.await {
            Ok((files, changes)) => {
                self.files = Some(files);
                send_all(changes, sinks).await
            }
            Err(error) => {
                error!(%error, "reading stored manifests broke off");
                true
            }
        }
    }
}

async fn send_all(changes: Vec<Change>, sinks: &Sinks) -> bool {
    for change in changes {
        if sinks.changes.send(change).await.is_err() {
            return false;
        }
    }
    true
}

/// What inotify says of one of the paths.
struct Event {
    path: usize,
    what: What,
}

enum What {
    Path(PathBuf, Touch),
    Everything,
}

/// Whose watch it is that an event came by. One descriptor may serve several.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The path itself, links followed.
    Own { path: usize },
    /// The directory that the path stands in: tells when the path itself comes and goes.
    Parent { path: usize },
}

struct Events {
    fd: Option<AsyncFd<Inotify>>,
    paths: Vec<PathBuf>,
    roles: HashMap<WatchDescriptor, Vec<Role>>,
    /// Every path that exists is watched.
    working: bool,
}

impl Events {
    fn open(paths: Vec<PathBuf>) -> Self {
        let mut events = Self { fd: None, paths, roles: HashMap::new(), working: true };
        match Self::open_fd() {
            Ok(fd) => events.fd = Some(fd),
            Err(error) => events.complain(&error),
        }
        events
    }

    #[expect(deprecated, reason = "its successor is unsafe; what it asks for holds: Inotify owns its one descriptor")]
    fn open_fd() -> io::Result<AsyncFd<Inotify>> {
        AsyncFd::with_interest(Inotify::init()?, Interest::READABLE)
    }

    /// Watches the path, or watches it again where it was replaced; watching what is watched already changes nothing.
    fn arm(&mut self, path: usize) {
        if self.fd.is_none() {
            self.fd = Self::open_fd().ok();
        }
        let Some(fd) = &self.fd else { return };
        let mut watches = fd.get_ref().watches();
        let own = WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | NAMES;
        let absolute = std::path::absolute(&self.paths[path]).unwrap_or_else(|_| self.paths[path].clone());
        let parent = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let wanted = [(absolute, own, Role::Own { path }), (parent, NAMES, Role::Parent { path })];
        let mut failed = None;
        for (target, mask, role) in wanted {
            // One inode has one watch: without MASK_ADD the second request would narrow the first.
            match watches.add(&target, mask | WatchMask::MASK_ADD) {
                Ok(descriptor) => {
                    let roles = self.roles.entry(descriptor).or_default();
                    if !roles.contains(&role) {
                        roles.push(role);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => self.complain(&error),
            None if !self.working => {
                self.working = true;
                info!("file events work again");
            }
            None => {}
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.working {
            warn!(%error, "manifests are polled every second: the kernel gives no file events; \
                fs.inotify.max_user_instances and max_user_watches may be used up");
        }
        self.working = false;
    }

    /// Waits for events and takes all there are.
    async fn next(&mut self) -> Vec<Event> {
        let Some(fd) = &mut self.fd else { return std::future::pending().await };
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut raw = Vec::new();
        let drained = loop {
            let mut ready = match fd.readable_mut().await {
                Ok(ready) => ready,
                Err(error) => break Err(error),
            };
            let taken = ready.try_io(|fd| {
                let events = fd.get_mut().read_events(&mut buffer)?;
                raw.extend(events.map(|event| (event.wd.clone(), event.mask, event.name.map(|name| name.to_owned()))));
                Ok(())
            });
            match taken {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(error),
                Err(_would_block) if raw.is_empty() => {}
                Err(_would_block) => break Ok(()),
            }
        };
        if let Err(error) = drained {
            self.complain(&error);
            self.fd = None;
            self.roles.clear();
        }
        let mut events = Vec::new();
        for (descriptor, mask, name) in raw {
            self.translate(&descriptor, mask, name.as_deref().map(Path::new), &mut events);
        }
        events
    }

    fn translate(
        &mut self,
        descriptor: &WatchDescriptor,
        mask: EventMask,
        name: Option<&Path>,
        events: &mut Vec<Event>,
    ) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            events.extend((0..self.paths.len()).map(|path| Event { path, what: What::Everything }));
            return;
        }
        let roles = self.roles.get(descriptor).cloned().unwrap_or_default();
        if mask.contains(EventMask::IGNORED) {
            self.roles.remove(descriptor);
        }
        for role in roles {
            let event = match role {
                Role::Parent { path } => {
                    let ours = name.is_some() && name.map(Path::as_os_str) == self.paths[path].file_name();
                    ours.then_some(Event { path, what: What::Everything })
                }
                Role::Own { path } => own_event(&self.paths[path], mask, name).map(|what| Event { path, what }),
            };
            events.extend(event);
        }
    }
}

const NAMES: WatchMask =
    WatchMask::CREATE.union(WatchMask::DELETE).union(WatchMask::MOVED_FROM).union(WatchMask::MOVED_TO);

fn own_event(own: &Path, mask: EventMask, name: Option<&Path>) -> Option<What> {
    let itself = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
    if mask.intersects(itself) {
        return Some(What::Everything);
    }
    let path = match name {
        // `..data` and its like: links of visible names lead through it, so their targets changed.
        Some(name) if name.as_os_str().as_encoded_bytes().starts_with(b"..") => return Some(What::Everything),
        Some(name) if name.as_os_str().as_encoded_bytes().starts_with(b".") => return None,
        Some(name) => own.join(name),
        None if mask.contains(EventMask::ISDIR) => return Some(What::Everything),
        None => own.to_owned(),
    };
    let touch = if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
        Touch::Gone
    } else if mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO | EventMask::ATTRIB) {
        Touch::Settled
    } else {
        Touch::Writing
    };
    Some(What::Path(path, touch))
}

#[cfg(test)]
mod tests;
