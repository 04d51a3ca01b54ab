//! Starting the loop, and what runs around it.

mod following;
mod listings;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::Runtime;
use lifecycle::Effect;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::{Agent, Message, Outbox, Request};
use crate::effects::{self, Teller, World, teardown};
use crate::finished::Finished;
use crate::handle::Query;
use crate::image_gc::{self, Surroundings};
use crate::observe::Listing;
use crate::remembered::{self, Memories};
use crate::sources::SourceReport;
use crate::sources::files::FileSource;
use crate::sources::last_good::LastGood;
use crate::sources::url::{UrlError, UrlSource};
use crate::sources::watch::{self, Sinks, Watched};
use crate::status::NodeFacts;
use crate::volumes::{LOG_DIR_MODE, POD_DIR_MODE};
use crate::{AgentConfig, AgentHandle, SourceConfig, clock, observe, rotation};
use following::{follow_runtime, inspect, list};
use listings::Listings;

/// Messages waiting for the loop; who has more to say waits.
const QUEUE: usize = 1024;
/// Who wants images removed and waits; each removal takes its time.
const PRUNES: usize = 8;
/// Messages taken before the machines' deadlines are looked at again.
const BATCH: usize = 256;
/// Between listings that repair what events missed: while all is calm, while something is under way, and where the
/// runtime has no events.
const LIST_CALM: Duration = Duration::from_secs(60);
const LIST_BUSY: Duration = Duration::from_secs(10);
const LIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Events that did not tell of something may have stopped without a word, and are not relied upon for so long, or until
/// the next one.
const DEAF_FOR: Duration = Duration::from_secs(60);
/// For what is still to be written at the end.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// Questions about one pod that may be open at once.
const INSPECTIONS_MAX: usize = 16;
/// For one listing or inspection.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("create {}: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("make the control groups of pods: {0}")]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Url(#[from] UrlError),
}

/// Starts the agent on the current tokio runtime. Without `cgroups` the runtime is left to group pods as it likes.
///
/// With a URL among the sources, the process must have installed a default `rustls` provider before.
///
/// # Errors
/// Directories or control groups cannot be made, or a URL source is not usable as configured. Nothing runs then.
pub fn run(
    config: AgentConfig,
    runtime: Arc<dyn Runtime>,
    cgroups: Option<cgroup::Layout>,
) -> Result<AgentHandle, StartError> {
    for (path, mode) in [(teardown::pods_dir(&config.root_dir), POD_DIR_MODE), (config.log_dir.clone(), LOG_DIR_MODE)] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(&path);
        made.map_err(|error| StartError::Directory { path, error })?;
    }
    let world = Arc::new(World::new(runtime, config, cgroups));
    effects::make_qos_cgroups(&world)?;
    let node = Arc::new(NodeFacts::new(&world.config));
    let last_good = LastGood::new(&world.config.root_dir);
    let (watched, urls) = sources(&world.config, &last_good)?;

    let stop = CancellationToken::new();
    let (changes, writer) = last_good.writer();
    let (reports, incoming) = mpsc::channel(QUEUE);
    let sinks = Sinks { reports, changes };
    if !watched.is_empty() {
        tokio::spawn(watch::watch(watched, sinks.clone(), stop.clone()));
    }
    for (url, check_every) in urls {
        tokio::spawn(url.poll(check_every, sinks.clone(), stop.clone()));
    }
    let (messages, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(follow_runtime(world.clone(), node.clone(), messages.clone(), stop.clone()));
    tokio::spawn(rotation::rotate_logs(world.clone(), stop.clone()));
    let (memories, memory_writer) = Memories::writer(&world.config.root_dir, stop.clone());
    let (queries, questions) = mpsc::channel(QUEUE);
    let (prunes, asked) = mpsc::channel(PRUNES);
    let surroundings = Surroundings { world: world.clone(), queries: queries.clone(), messages: messages.clone() };
    tokio::spawn(image_gc::look_after_images(surroundings, asked, stop.clone()));
    let agent = Agent::new(node.clone(), world.config.sources.len());
    let work = Loop {
        finished: Finished::new(&world.config.root_dir),
        memories,
        world,
        agent,
        messages,
        outbox: Outbox::new(),
        listings: Listings::new(LIST_CALM),
        inspections: BTreeMap::new(),
        names: BTreeMap::new(),
        deaf_until: None,
        records: JoinSet::new(),
        stop,
    };
    tokio::spawn(work.run(Inboxes { inbox, incoming, questions }, [writer, memory_writer]));
    Ok(AgentHandle::new(queries, prunes, node))
}

type Sources = (Vec<Watched>, Vec<(UrlSource, Duration)>);

fn sources(config: &AgentConfig, last_good: &LastGood) -> Result<Sources, UrlError> {
    let (mut watched, mut urls) = (Vec::new(), Vec::new());
    for (number, source) in config.sources.iter().enumerate() {
        let node_name = config.node_name.clone();
        match source {
            SourceConfig::Path { path, check_every } => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let files = FileSource::new(number, path, node_name, last_good.clone());
                watched.push(Watched { files, check_every: *check_every });
            }
            SourceConfig::Url { url, headers, check_every } => {
                urls.push((UrlSource::new((number, url), headers, node_name, last_good.clone())?, *check_every));
            }
        }
    }
    Ok((watched, urls))
}

struct Inboxes {
    inbox: mpsc::Receiver<Message>,
    incoming: mpsc::Receiver<SourceReport>,
    questions: mpsc::Receiver<Query>,
}

struct Loop {
    world: Arc<World>,
    agent: Agent,
    finished: Finished,
    memories: Memories,
    messages: mpsc::Sender<Message>,
    outbox: Outbox,
    listings: Listings,
    /// Open questions about pods, by UID.
    inspections: BTreeMap<String, Vec<AbortHandle>>,
    /// Of the pods that were listed last.
    names: BTreeMap<String, Arc<str>>,
    /// The runtime's events did not tell what a listing told: until then they are not relied upon.
    deaf_until: Option<Instant>,
    /// Records being written; awaited at the end.
    records: JoinSet<()>,
    stop: CancellationToken,
}

impl Loop {
    async fn run(mut self, mut inboxes: Inboxes, writers: [JoinHandle<()>; 2]) {
        let asked = loop {
            let (wake, interval) = (self.next_wake(), self.list_interval());
            tokio::select! {
                question = inboxes.questions.recv(), if !inboxes.questions.is_closed() => match question {
                    Some(Query::Shutdown(reply)) => break Some(reply),
                    Some(question) => self.answer(question),
                    None => {}
                },
                Some(report) = inboxes.incoming.recv() => self.take(Message::Report(report)),
                Some(message) = inboxes.inbox.recv() => {
                    self.take(message);
                    for _ in 0..BATCH {
                        let Ok(message) = inboxes.inbox.try_recv() else { break };
                        self.take(message);
                    }
                }
                Some(listing) = self.listings.next(interval) => self.hear(listing),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.agent.tick(clock::now(), &mut self.outbox);
            self.list_when_due();
            self.dispatch();
            while self.records.try_join_next().is_some() {}
        };
        self.end(inboxes, writers).await;
        if let Some(reply) = asked {
            // Whoever asked may have gone meanwhile.
            let _gone = reply.send(());
        }
    }

    /// Stops watching and deciding, and sees to it that what was to be remembered is on disk. Pods go on.
    async fn end(mut self, inboxes: Inboxes, writers: [JoinHandle<()>; 2]) {
        self.stop.cancel();
        drop(inboxes);
        while self.records.join_next().await.is_some() {}
        // A source that hangs on a dead file system keeps the writer waiting.
        for writer in writers {
            match tokio::time::timeout(STORED_WITHIN, writer).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "what was to be remembered was not all stored"),
                Err(_) => warn!("what was to be remembered was not all stored within {} s", STORED_WITHIN.as_secs()),
            }
        }
        if self.agent.is_empty() {
            let world = self.world.clone();
            if let Err(error) = spawn_blocking(move || teardown::remove_empty_qos_cgroups(&world)).await {
                warn!(%error, "control groups were not all removed");
            }
        }
    }

    fn take(&mut self, message: Message) {
        match &message {
            Message::Event(_) => self.deaf_until = None,
            // What nobody listened to shows in a listing. The first look at all comes after the subscription.
            Message::Events { .. } if self.agent.has_started() => self.listings.outdate(),
            _ => {}
        }
        self.agent.take(clock::now(), message, &mut self.outbox);
    }

    /// Nothing, where the runtime did not tell.
    fn hear(&mut self, listing: Option<Listing>) {
        let Some(Listing { pods, names }) = listing else { return };
        self.names = names;
        let asked = self.outbox.len();
        self.take(Message::Listed { pods });
        // What is already being asked shows nothing new: a pod that hangs is no reason to doubt the events.
        let asking =
            |uid: &str| self.inspections.get(uid).is_some_and(|open| open.iter().any(|one| !one.is_finished()));
        let untold = |request: &Request| matches!(request, Request::Inspect(uid) if !asking(uid));
        if self.outbox[asked..].iter().any(untold) {
            self.deaf_until = Some(Instant::now() + DEAF_FOR);
        }
    }

    fn answer(&mut self, question: Query) {
        // Whoever asked may have gone meanwhile.
        let _gone = match question {
            Query::Pods(reply) => reply.send(self.agent.snapshots()).is_err(),
            Query::Manifests(reply) => reply.send(self.agent.manifests()).is_err(),
            Query::Events(reply) => reply.send(self.agent.history()).is_err(),
            Query::ImagesChanged(reply) => {
                self.take(Message::ImagesChanged);
                reply.send(()).is_err()
            }
            Query::WantedImages(reply) => reply.send(self.agent.wanted_images()).is_err(),
            Query::Shutdown(reply) => reply.send(()).is_err(),
        };
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let machines = self.agent.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(clock::mono_ms())));
        // Nothing is listed before the runtime has answered for the first time, which wakes the loop.
        let list = if self.agent.has_started() { self.listings.due_at() } else { now + LIST_CALM };
        // The machines' clock counts time asleep and this one does not: look again in any case after a while.
        let list = list.min(now + LIST_CALM);
        machines.map_or(list, |wait| list.min(now + wait))
    }

    fn list_when_due(&mut self) {
        if !self.agent.has_started() {
            return;
        }
        // Something began since: look sooner than was thought.
        self.listings.hasten(self.list_interval());
        if self.listings.is_due() {
            self.listings.begin(list(self.world.clone()));
        }
    }

    fn list_interval(&self) -> Duration {
        if !self.agent.has_events() || self.deaf_until.is_some_and(|until| Instant::now() < until) {
            LIST_WITHOUT_EVENTS
        } else if self.agent.is_busy() {
            LIST_BUSY
        } else {
            LIST_CALM
        }
    }

    fn inspect(&mut self, uid: String) {
        self.inspections.retain(|_, open| {
            open.retain(|question| !question.is_finished());
            !open.is_empty()
        });
        let name = self.name_of(&uid);
        let open = self.inspections.entry(uid.clone()).or_default();
        // Where none of them is answered the pod hangs; once one is given up, the next listing asks again.
        if open.len() < INSPECTIONS_MAX {
            let asking = inspect(self.world.clone(), (uid, name), self.messages.clone());
            open.push(tokio::spawn(asking).abort_handle());
        }
    }

    /// How calls for the pod are told: by its UID only where nothing else is known of it.
    fn name_of(&self, uid: &str) -> Arc<str> {
        let name = self.agent.key_of(uid).map(observe::name_of);
        name.or_else(|| self.names.get(uid).cloned()).unwrap_or_else(|| uid.into())
    }

    fn dispatch(&mut self) {
        for request in std::mem::take(&mut self.outbox) {
            let (world, messages) = (self.world.clone(), self.messages.clone());
            match request {
                Request::Perform { uid, generation, id, job } => {
                    let remembered =
                        matches!(job.effect, Effect::RemoveContainer { .. }).then(|| self.memories.written());
                    tokio::spawn(async move {
                        if let Some(remembered) = remembered {
                            remembered.await;
                        }
                        let teller = Teller { messages: messages.clone(), uid: uid.clone(), generation };
                        let performed = effects::perform(world, *job, teller).await;
                        tell(&messages, Message::Completed { uid, generation, id, performed }).await;
                    });
                }
                Request::Inspect(uid) => self.inspect(uid),
                Request::FindLeftovers => drop(tokio::spawn(async move {
                    if let Ok(uids) = spawn_blocking(move || teardown::leftovers(&world)).await {
                        tell(&messages, Message::Leftovers(uids)).await;
                    }
                })),
                Request::SaveFinished { uid, status } => {
                    let finished = self.finished.clone();
                    self.record(move || finished.save(&uid, *status).map_err(|error| (uid, error)));
                }
                Request::SaveMemory { uid, memory } => self.memories.save(uid, *memory),
                Request::ForgetMemory(uid) => self.memories.forget(&uid),
                Request::SavePod(pod) => self.record(move || {
                    let dir = teardown::pods_dir(&world.config.root_dir).join(pod::uid(&pod));
                    remembered::save_pod(&dir, &pod).map_err(|error| (pod::uid(&pod).to_owned(), error))
                }),
                Request::ForgetFinished(uid) => {
                    let finished = self.finished.clone();
                    self.record(move || finished.remove(&uid).map_err(|error| (uid, error)));
                }
            }
        }
    }

    fn record(&mut self, write: impl FnOnce() -> Result<(), (String, io::Error)> + Send + 'static) {
        self.records.spawn_blocking(move || {
            if let Err((uid, error)) = write() {
                warn!(uid, %error, "the record of a pod cannot be changed; a later kubelet may take it for what it was");
            }
        });
    }
}

async fn tell(messages: &mpsc::Sender<Message>, message: Message) {
    // The loop has ended: there is nobody to tell.
    let _ended = messages.send(message).await;
}

#[cfg(test)]
mod tests;
