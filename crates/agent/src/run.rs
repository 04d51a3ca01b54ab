//! Starting the loop, and what runs around it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::keys::PodKey;
use cri::{Code, Runtime, v1};
use lifecycle::Effect;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::core::{Agent, Message, Outbox, Request, RuntimeEvent};
use crate::effects::{self, Teller, World, teardown};
use crate::finished::Finished;
use crate::handle::Query;
use crate::image_gc::{self, Surroundings};
use crate::observe::RuntimePod;
use crate::remembered::{self, Memories};
use crate::sources::SourceReport;
use crate::sources::files::FileSource;
use crate::sources::last_good::LastGood;
use crate::sources::url::{UrlError, UrlSource};
use crate::sources::watch::{self, Sinks, Watched};
use crate::status::NodeFacts;
use crate::volumes::{LOG_DIR_MODE, POD_DIR_MODE};
use crate::{AgentConfig, AgentHandle, SourceConfig, clock, observe, rotation};

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
/// The runtime is asked again after this when it does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// For what is still to be written at the end.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// At the start the runtime is to tell of every pod within this; those it does not tell of are left for later.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
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
        listing: None,
        list_at: tokio::time::Instant::now() + LIST_CALM,
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
    /// The listing under way.
    listing: Option<JoinHandle<()>>,
    list_at: tokio::time::Instant,
    /// Records being written; awaited at the end.
    records: JoinSet<()>,
    stop: CancellationToken,
}

impl Loop {
    async fn run(mut self, mut inboxes: Inboxes, writers: [JoinHandle<()>; 2]) {
        let asked = loop {
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
                () = tokio::time::sleep_until(self.next_wake()) => {}
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
        self.agent.take(clock::now(), message, &mut self.outbox);
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

    fn next_wake(&self) -> tokio::time::Instant {
        let now = tokio::time::Instant::now();
        let machines = self.agent.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(clock::mono_ms())));
        // The machines' clock counts time asleep and this one does not: look again in any case after a while.
        let list = if self.listing.is_some() { now + LIST_BUSY } else { self.list_at };
        machines.map_or(list, |wait| list.min(now + wait))
    }

    fn list_when_due(&mut self) {
        if self.listing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.listing = None;
            self.list_at = tokio::time::Instant::now() + self.list_interval();
        }
        // Something began since: look sooner than was thought.
        self.list_at = self.list_at.min(tokio::time::Instant::now() + self.list_interval());
        if self.listing.is_none() && self.list_at <= tokio::time::Instant::now() && self.agent.has_started() {
            self.listing = Some(tokio::spawn(list(self.world.clone(), self.messages.clone())));
        }
    }

    fn list_interval(&self) -> Duration {
        if !self.agent.has_events() {
            LIST_WITHOUT_EVENTS
        } else if self.agent.is_busy() {
            LIST_BUSY
        } else {
            LIST_CALM
        }
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
                Request::Inspect(uid) => drop(tokio::spawn(inspect(world, uid, messages))),
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

async fn list(world: Arc<World>, messages: mpsc::Sender<Message>) {
    match tokio::time::timeout(ANSWER_WITHIN, observe::list(&*world.runtime)).await {
        Ok(Ok(pods)) => tell(&messages, Message::Listed { pods }).await,
        Ok(Err(error)) => not_told(&error, "the runtime does not list its pods"),
        Err(_) => warn!("the runtime did not list its pods within {} s", ANSWER_WITHIN.as_secs()),
    }
}

async fn inspect(world: Arc<World>, uid: String, messages: mpsc::Sender<Message>) {
    let stamp = clock::mono_ms();
    let asked = cri::calls::for_pod(uid.as_str().into(), observe::inspect(&*world.runtime, &uid, &world.messages));
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(pod)) => tell(&messages, Message::Inspected { uid, stamp, pod }).await,
        Ok(Err(error)) => not_told(&error, "the runtime does not tell of a pod"),
        Err(_) => warn!(uid, "the runtime did not tell of a pod within {} s", ANSWER_WITHIN.as_secs()),
    }
}

/// A runtime that is away is asked again and again; that it is away was said once by whoever watches over its calls.
fn not_told(error: &cri::Error, what: &str) {
    match error.code.leaves_outcome_unknown() {
        true => debug!(%error, "{what}"),
        false => warn!(%error, "{what}"),
    }
}

/// Listens to the runtime's events, from before the first listing on, and listens anew whenever they break off.
async fn follow_runtime(
    world: Arc<World>,
    node: Arc<NodeFacts>,
    messages: mpsc::Sender<Message>,
    stop: CancellationToken,
) {
    let work = async {
        let name =
            until_answered("version", || world.runtime.version(v1::VersionRequest::default())).await.runtime_name;
        info!(runtime = %name, "the runtime answers");
        node.runtime_name.get_or_init(|| name);
        let mut first = true;
        loop {
            let events = match world.runtime.events().await {
                Ok(events) => Some(events),
                Err(error) if error.code == Code::Unimplemented => None,
                Err(error) => {
                    not_told(&error, "the runtime's events cannot be had");
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            tell(&messages, Message::Events { had: events.is_some() }).await;
            if first {
                start(&world, &messages).await;
                first = false;
            } else {
                list(world.clone(), messages.clone()).await;
            }
            let Some(mut events) = events else { return };
            while let Some(event) = events.recv().await {
                let deletion = observe::is_deletion(&event);
                let Some(pod) = observe::from_event(event, &world.messages) else { continue };
                tell(&messages, Message::Event(Box::new(RuntimeEvent { pod, deletion }))).await;
            }
            warn!("the runtime's events broke off; listening anew");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// The first listing: what the runtime has, and who ran to its end before.
async fn start(world: &Arc<World>, messages: &mpsc::Sender<Message>) {
    let root_dir = world.config.root_dir.clone();
    let records = spawn_blocking(move || (Finished::new(&root_dir).load(), remembered::load(&root_dir))).await;
    let (finished, stored) = records.unwrap_or_default();
    let (stamp, pods, unseen) = first_look(world, messages).await;
    tell(messages, Message::Started { stamp, pods, unseen, finished, stored }).await;
}

/// What the runtime has, and which of it it does not tell of soon: one pod that hangs must not keep all from beginning.
async fn first_look(world: &Arc<World>, messages: &mpsc::Sender<Message>) -> (u64, Vec<RuntimePod>, Vec<PodKey>) {
    let mut stamp = clock::mono_ms();
    let everything = until_answered("pods", || {
        stamp = clock::mono_ms();
        let asked = observe::everything(&*world.runtime, &world.messages);
        async { tokio::time::timeout(TOLD_WITHIN, asked).await.map_or(Ok(None), |told| told.map(Some)) }
    });
    if let Some(pods) = everything.await {
        return (stamp, pods, Vec::new());
    }
    let keys = until_answered("pods", || {
        stamp = clock::mono_ms();
        observe::keys(&*world.runtime)
    });
    let mut unseen: BTreeMap<String, PodKey> = keys.await.into_iter().map(|key| (key.uid.clone(), key)).collect();
    let (told, mut soon) = mpsc::channel(unseen.len().max(1));
    for uid in unseen.keys() {
        tokio::spawn(inspect(world.clone(), uid.clone(), told.clone()));
    }
    drop(told);
    let mut pods = Vec::new();
    let _late = tokio::time::timeout(TOLD_WITHIN, async {
        while let Some(message) = soon.recv().await {
            let Message::Inspected { uid, pod, .. } = message else { continue };
            unseen.remove(&uid);
            pods.extend(pod);
        }
    })
    .await;
    // Whoever answers after this is heard like everybody else.
    let messages = messages.clone();
    tokio::spawn(async move {
        while let Some(message) = soon.recv().await {
            tell(&messages, message).await;
        }
    });
    (stamp, pods, unseen.into_values().collect())
}

async fn until_answered<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, cri::Error>>,
{
    let mut complaint = String::new();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                if complaint != error.message {
                    warn!(%error, "the runtime does not answer yet: {what}");
                    complaint.clone_from(&error.message);
                }
            }
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

#[cfg(test)]
mod tests;
