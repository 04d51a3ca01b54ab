//! One path of manifests: a directory (not its sub-directories) or a single file. Synchronous; it runs where blocking is
//! allowed, and remembers of every file what it last read, so that looking again at an unchanged file costs one stat.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use pod::identity::Source;
use tracing::{error, info, warn};

use super::last_good::{Change, LastGood};
use super::text::{self, Content};
use super::{FileReport, Problem, SourceReport};

pub(crate) mod read;

use read::{Fingerprint, ReadError};

/// A bad file that was changed more recently than this may be half written by someone who does not close it; it is
/// looked at once more before it is called bad.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// Manifests of one directory; more are refused, by name.
const FILES_MAX: usize = 10_000;

/// What happened to a name in the directory, as inotify tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Closed after writing, moved in, or its attributes changed: as it is now, it is meant.
    Settled,
    /// Created or changed by someone who has it open still.
    Writing,
    /// Removed or moved away.
    Gone,
}

/// What to look at.
#[derive(Debug)]
pub(crate) enum Pass {
    /// Everything: at the start, at every poll, and when the directory itself changed.
    Full,
    /// Only these paths, each with the last thing that happened to it.
    Only(BTreeMap<PathBuf, Touch>),
}

/// What a pass found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// None when nothing changed since the last pass.
    pub(crate) report: Option<SourceReport>,
    /// For the durable copies.
    pub(crate) changes: Vec<Change>,
    /// Some file looked half written: look again soon.
    pub(crate) unsettled: bool,
}

#[derive(Debug)]
pub(crate) struct FileSource {
    source: usize,
    path: PathBuf,
    node_name: String,
    last_good: LastGood,
    files: BTreeMap<PathBuf, FileState>,
    /// Open for writing, as far as events tell.
    writing: BTreeSet<PathBuf>,
    /// The directory itself cannot be read.
    unreadable: Option<FileState>,
    reported: bool,
    changed: bool,
    unsettled: bool,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct FileState {
    fingerprint: Option<Fingerprint>,
    content_hash: Option<u64>,
    content: Content,
    problem: Option<Problem>,
    ignored: bool,
    since: Timestamp,
    /// As it was when it looked half written.
    unsettled: Option<Fingerprint>,
}

impl FileState {
    fn new() -> Self {
        Self {
            fingerprint: None,
            content_hash: None,
            content: Content::default(),
            problem: None,
            ignored: false,
            since: Timestamp::now(),
            unsettled: None,
        }
    }

    fn report(&self, path: &Path) -> FileReport {
        FileReport {
            name: path.to_string_lossy().into(),
            pods: self.content.pods.clone(),
            secrets: self.content.secrets.clone(),
            problem: self.problem.clone(),
            ignored: self.ignored,
            since: self.since,
        }
    }
}

impl FileSource {
    pub(crate) fn new(source: usize, path: PathBuf, node_name: String, last_good: LastGood) -> Self {
        Self {
            source,
            path,
            node_name,
            last_good,
            files: BTreeMap::new(),
            writing: BTreeSet::new(),
            unreadable: None,
            reported: false,
            changed: false,
            unsettled: false,
            changes: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what `pass` names.
    pub(crate) fn look(&mut self, pass: Pass) -> Findings {
        match pass {
            Pass::Full => self.look_at_everything(),
            Pass::Only(paths) => {
                for (path, touch) in paths {
                    self.look_after(path, touch);
                }
            }
        }
        let tell = self.changed || !self.reported;
        self.reported = true;
        self.changed = false;
        Findings {
            report: tell.then(|| self.report()),
            changes: std::mem::take(&mut self.changes),
            unsettled: std::mem::take(&mut self.unsettled),
        }
    }

    fn report(&self) -> SourceReport {
        let unreadable = self.unreadable.iter().map(|state| state.report(&self.path));
        let files = self.files.iter().map(|(path, state)| state.report(path)).chain(unreadable).collect();
        SourceReport { source: self.source, files }
    }

    fn look_at_everything(&mut self) {
        let present = match std::fs::metadata(&self.path) {
            Ok(meta) if meta.is_dir() => list(&self.path),
            Ok(_) => Ok(BTreeSet::from([self.path.clone()])),
            // A missing path is an empty set: so says the tradition, and `rm -r` of the directory is meant.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        };
        let present = match present {
            Ok(present) => present,
            Err(error) => return self.keep_unreadable(&error),
        };
        self.readable_again();
        self.writing.retain(|path| present.contains(path));
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !present.contains(*path)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        for path in present {
            let touch = if self.writing.contains(&path) { Touch::Writing } else { Touch::Settled };
            self.consider(path, touch, Certainty::Poll);
        }
    }

    /// Looks at one path after an event.
    fn look_after(&mut self, path: PathBuf, touch: Touch) {
        if path.file_name().is_some_and(is_hidden) && path != self.path {
            return;
        }
        if touch == Touch::Writing && read::will_be_closed(&path) {
            self.writing.insert(path);
        } else {
            self.writing.remove(&path);
            self.consider(path, Touch::Settled, Certainty::Event);
        }
    }

    /// Applies the rules of names, then looks at the file.
    fn consider(&mut self, path: PathBuf, touch: Touch, certainty: Certainty) {
        // A file that was named on the command line may have any name.
        let named = path == self.path || path.file_name().is_some_and(is_manifest);
        if named && (self.files.contains_key(&path) || self.files.len() < FILES_MAX) {
            return self.look_at_file(path, touch, certainty);
        }
        match (std::fs::symlink_metadata(&path), self.files.contains_key(&path)) {
            (Err(_), true) => return self.forget(&path),
            (Err(_), false) | (Ok(_), true) => return,
            (Ok(_), false) => {}
        }
        let message = if named {
            format!("{}: not read, the directory holds more than {FILES_MAX} files", path.display())
        } else {
            format!("{}: ignored, its name does not end in .yaml, .yml or .json", path.display())
        };
        warn!("{message}");
        let state = FileState { problem: Some(Problem { message }), ignored: !named, ..FileState::new() };
        self.files.insert(path, state);
        self.changed = true;
    }

    fn look_at_file(&mut self, path: PathBuf, touch: Touch, certainty: Certainty) {
        let fingerprint = match read::stat(&path) {
            Ok(fingerprint) => fingerprint,
            Err(ReadError::Missing) => return self.forget(&path),
            Err(error) => return self.refuse(path, None, &error.to_string()),
        };
        let known = self.files.get(&path);
        if known.is_some_and(|state| state.fingerprint.as_ref() == Some(&fingerprint)) {
            return;
        }
        let seen_before = known.is_some_and(|state| state.unsettled.as_ref() == Some(&fingerprint));
        if touch == Touch::Writing && !seen_before {
            return self.wait_for(path, fingerprint, Soon::AtNextPoll);
        }
        let (fingerprint, bytes) = match read::regular_file(&path, text::MANIFEST_MAX_BYTES) {
            Ok(read) => read,
            Err(ReadError::Missing) => return self.forget(&path),
            Err(ReadError::Changing(fingerprint)) => return self.wait_for(path, fingerprint, Soon::InAMoment),
            Err(error) => return self.refuse(path, Some(fingerprint), &error.to_string()),
        };
        match self.parse(&path, &bytes) {
            Parsed::Same => self.accept(path, fingerprint, None),
            Parsed::Good(content) => self.accept(path, fingerprint, Some((content, bytes))),
            Parsed::Bad(_) if certainty == Certainty::Poll && !seen_before && is_recent(&fingerprint) => {
                self.wait_for(path, fingerprint, Soon::InAMoment);
            }
            Parsed::Bad(message) => self.refuse(path, Some(fingerprint), &message),
        }
    }

    fn parse(&self, path: &Path, bytes: &[u8]) -> Parsed {
        let known = self.files.get(path);
        if known.is_some_and(|state| state.content_hash == Some(hash_of(bytes))) {
            return Parsed::Same;
        }
        let Some(name) = path.to_str() else {
            return Parsed::Bad(format!("{}: the name is not UTF-8", path.display()));
        };
        let old = known.map(|state| state.content.pods.as_slice()).unwrap_or_default();
        let source = Source::File { path: name.to_owned() };
        text::content_of(&source, &self.node_name, bytes, old).map_or_else(Parsed::Bad, Parsed::Good)
    }

    /// The file is good. `news` is empty when its content is what was in force already.
    fn accept(&mut self, path: PathBuf, fingerprint: Fingerprint, news: Option<(Content, Vec<u8>)>) {
        let name: Arc<str> = path.to_string_lossy().into();
        let state = self.files.entry(path).or_insert_with(FileState::new);
        state.fingerprint = Some(fingerprint);
        state.unsettled = None;
        if state.problem.take().is_some() {
            info!(file = %name, "manifest is good again");
            state.since = Timestamp::now();
            self.changed = true;
        }
        let Some((content, bytes)) = news else { return };
        state.content_hash = Some(hash_of(&bytes));
        state.content = content;
        state.ignored = false;
        state.since = Timestamp::now();
        self.changed = true;
        self.changes.push(Change { name, text: Some(bytes.into()) });
    }

    /// The file is bad. The pods of its last good version stay wanted (rule 13).
    fn refuse(&mut self, path: PathBuf, fingerprint: Option<Fingerprint>, message: &str) {
        if !self.files.contains_key(&path) {
            let state = self.remembered(&path);
            self.files.insert(path.clone(), state);
        }
        let Some(state) = self.files.get_mut(&path) else { return };
        state.fingerprint = fingerprint;
        state.unsettled = None;
        let problem = Some(Problem { message: message.to_owned() });
        if state.problem != problem {
            let kept = state.content.pods.len();
            error!(kept_pods = kept, "manifest refused: {message}");
            state.problem = problem;
            state.since = Timestamp::now();
            self.changed = true;
        }
    }

    /// What is known of a file that was never good in this process's life: its durable copy, if it still parses.
    fn remembered(&self, path: &Path) -> FileState {
        let mut state = FileState::new();
        let Some(name) = path.to_str() else { return state };
        let Some(bytes) = self.last_good.load(name) else { return state };
        let source = Source::File { path: name.to_owned() };
        match text::content_of(&source, &self.node_name, &bytes, &[]) {
            Ok(content) => {
                state.content = content;
                state.content_hash = Some(hash_of(&bytes));
            }
            Err(message) => warn!("the stored last good version is passed over: {message}"),
        }
        state
    }

    fn wait_for(&mut self, path: PathBuf, fingerprint: Fingerprint, soon: Soon) {
        if !self.files.contains_key(&path) {
            let state = self.remembered(&path);
            self.changed |= !state.content.is_empty();
            self.files.insert(path.clone(), state);
        }
        if let Some(state) = self.files.get_mut(&path) {
            state.unsettled = Some(fingerprint);
        }
        self.unsettled |= soon == Soon::InAMoment;
    }

    fn forget(&mut self, path: &Path) {
        if self.files.remove(path).is_some() {
            self.changed = true;
        }
        // Also where no state was kept: a stored copy may be left of an earlier life.
        self.changes.push(Change { name: path.to_string_lossy().into(), text: None });
    }

    /// The path is there and cannot be read: all that was wanted stays wanted, also what an earlier life stored.
    fn keep_unreadable(&mut self, error: &io::Error) {
        let message = format!("{}: cannot be read: {error}; what it held last stays in force", self.path.display());
        let problem = Some(Problem { message });
        if self.unreadable.as_ref().is_some_and(|state| state.problem == problem) {
            return;
        }
        error!("{}", problem.as_ref().map(|p| p.message.as_str()).unwrap_or_default());
        if !self.reported {
            self.recall_all();
        }
        self.unreadable = Some(FileState { problem, ..FileState::new() });
        self.changed = true;
    }

    /// Takes back the stored copies of files that are gone since an earlier life. Called once, after the first report.
    pub(crate) fn tidy(&self) -> Vec<Change> {
        if self.unreadable.is_some() {
            return Vec::new();
        }
        let stored = self.last_good.load_below(&self.path.to_string_lossy());
        let gone = stored.into_iter().map(|(name, _)| name).filter(|name| {
            let path = Path::new(name);
            let ours = path == self.path || path.parent() == Some(&self.path);
            ours && !self.files.contains_key(path)
        });
        gone.map(|name| Change { name: name.into(), text: None }).collect()
    }

    fn recall_all(&mut self) {
        for (name, _) in self.last_good.load_below(&self.path.to_string_lossy()) {
            let path = PathBuf::from(name);
            if path == self.path || path.parent() == Some(&self.path) {
                let state = self.remembered(&path);
                self.files.insert(path, state);
            }
        }
    }

    fn readable_again(&mut self) {
        if self.unreadable.take().is_some() {
            info!(path = %self.path.display(), "manifests can be read again");
            self.changed = true;
        }
    }
}

/// How it came that a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// An event says that it is as it is meant.
    Event,
    /// It was met while looking at everything.
    Poll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Soon {
    InAMoment,
    AtNextPoll,
}

#[derive(Debug)]
enum Parsed {
    /// Byte for byte what is in force.
    Same,
    Good(Content),
    Bad(String),
}

fn list(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !is_hidden(&name) {
            paths.insert(dir.join(name));
        }
    }
    Ok(paths)
}

pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn is_manifest(name: &OsStr) -> bool {
    pod::manifest::is_file_name(name.as_bytes())
}

fn is_recent(fingerprint: &Fingerprint) -> bool {
    SystemTime::now().duration_since(fingerprint.modified()).is_ok_and(|age| age < SETTLED_AFTER)
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
