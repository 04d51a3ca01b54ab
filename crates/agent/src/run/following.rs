//! Asking the runtime what it has, and listening to what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cri::keys::PodKey;
use cri::{Code, v1};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ANSWER_WITHIN, tell};
use crate::core::{Message, RuntimeEvent};
use crate::effects::World;
use crate::finished::Finished;
use crate::observe::{Listing, RuntimePod};
use crate::status::NodeFacts;
use crate::{clock, observe, remembered};

/// The runtime is asked again after this when it does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Events that broke off are asked for again after this.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// At the start the runtime is to tell of every pod within this; those it does not tell of are left for later.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What the runtime has; nothing where it does not tell.
pub(super) async fn list(world: Arc<World>) -> Option<Listing> {
    match tokio::time::timeout(ANSWER_WITHIN, observe::list(&*world.runtime)).await {
        Ok(Ok(listing)) => return Some(listing),
        Ok(Err(error)) => not_told(&error, "the runtime does not list its pods"),
        Err(_) => warn!("the runtime did not list its pods within {} s", ANSWER_WITHIN.as_secs()),
    }
    None
}

/// Asks for one pod. Its name is what its calls are told by.
pub(super) async fn inspect(world: Arc<World>, (uid, name): (String, Arc<str>), messages: mpsc::Sender<Message>) {
    let stamp = clock::mono_ms();
    let asked = cri::calls::for_pod(name.clone(), observe::inspect(&*world.runtime, &uid, &world.messages));
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(pod)) => tell(&messages, Message::Inspected { uid, stamp, pod }).await,
        Ok(Err(error)) => not_told(&error, "the runtime does not tell of a pod"),
        Err(_) => warn!(pod = %name, "the runtime did not tell of a pod within {} s", ANSWER_WITHIN.as_secs()),
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
pub(super) async fn follow_runtime(
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
        let mut started = false;
        loop {
            let events = world.runtime.events().await;
            let had = events.is_ok();
            tell(&messages, Message::Events { had }).await;
            if !started {
                start(&world, &messages).await;
                started = true;
            }
            match events {
                Ok(events) => {
                    hear(&world, events, &messages).await;
                    warn!("the runtime's events broke off; listening anew");
                    tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
                }
                Err(error) if error.code == Code::Unimplemented => return,
                Err(error) => {
                    not_told(&error, "the runtime's events cannot be had");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Until the events break off.
async fn hear(world: &World, mut events: mpsc::Receiver<v1::ContainerEventResponse>, messages: &mpsc::Sender<Message>) {
    while let Some(event) = events.recv().await {
        let deletion = observe::is_deletion(&event);
        let Some(pod) = observe::from_event(event, &world.messages) else { continue };
        tell(messages, Message::Event(Box::new(RuntimeEvent { pod, deletion }))).await;
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
    for (uid, key) in &unseen {
        tokio::spawn(inspect(world.clone(), (uid.clone(), observe::name_of(key)), told.clone()));
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
