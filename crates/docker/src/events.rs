//! What happens to containers, from Docker's own events.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use cri::turns::Turns;
use cri::{Error, v1};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::core::Core;
use crate::facts::now_ns;
use crate::{labels, names, status};

/// Events that wait for their reader; who falls behind further subscribes anew and relists.
const CAPACITY: usize = 1024;
/// Docker's own events that wait to be completed. Docker drops what is not taken from it in time.
const RAW: usize = 8192;
/// Events whose pods are asked for at one time: those of one pod one after the other, as they came, and a pod whose answer
/// hangs holds up no other.
const COMPLETED_AT_ONCE: usize = 64;
/// Between attempts to hear from a daemon that is away: a little longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What is told of Docker's stream of events.
enum Heard {
    Event(Box<EventMessage>),
    /// It broke off and was begun anew: what happened in between may not be told.
    Anew,
}

impl Core {
    /// A stream of events from now on. It outlives the daemon: when that is back, the state of every pod is told.
    pub(crate) async fn events(self: &Arc<Self>) -> Result<mpsc::Receiver<v1::ContainerEventResponse>, Error> {
        // Docker repeats what happened since a time, so nothing is lost until the stream is open.
        let since_ns = now_ns();
        self.call("listen to events", |docker| async move { docker.ping().await }).await?;
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let (heard, raw) = mpsc::channel(RAW);
        tokio::spawn(Arc::clone(self).listen(since_ns, heard));
        tokio::spawn(Arc::clone(self).complete(raw, sender));
        Ok(receiver)
    }

    /// Takes events from Docker until nobody wants them any more.
    async fn listen(self: Arc<Self>, mut since_ns: i64, heard: mpsc::Sender<Heard>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let taking = self.take(&mut since_ns, &mut pause, &heard);
            tokio::select! {
                () = heard.closed() => return,
                taken = taking => if taken.is_err() { return },
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            let reachable = self.call("listen to events", |docker| async move { docker.ping().await }).await;
            if reachable.is_ok() && heard.try_send(Heard::Anew).is_err() {
                return;
            }
        }
    }

    /// Takes events until the stream breaks off. An error where their reader is behind or gone.
    async fn take(
        &self,
        since_ns: &mut i64,
        pause: &mut Duration,
        heard: &mpsc::Sender<Heard>,
    ) -> Result<(), mpsc::error::TrySendError<Heard>> {
        let Ok(client) = self.client().await else { return Ok(()) };
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("label", vec![labels::OWN_LABELS]),
            ("event", vec!["create", "start", "die", "destroy"]),
        ]);
        let since = format!("{}.{:09}", *since_ns / 1_000_000_000, *since_ns % 1_000_000_000);
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        let mut stream = client.events(Some(options)).boxed();
        while let Some(Ok(event)) = stream.next().await {
            *pause = FIRST_PAUSE;
            // The next stream begins after it.
            *since_ns = event.time_nano.map_or(*since_ns, |at| at + 1).max(*since_ns);
            if let (Some("die"), Some(id)) =
                (event.action.as_deref(), event.actor.as_ref().and_then(|actor| actor.id.as_deref()))
            {
                // What the pods of earlier events are asked for takes its time.
                self.settling.begin(id);
            }
            heard.try_send(Heard::Event(Box::new(event)))?;
        }
        Ok(())
    }

    /// Adds to each event what is true after it.
    async fn complete(
        self: Arc<Self>,
        mut raw: mpsc::Receiver<Heard>,
        sender: mpsc::Sender<v1::ContainerEventResponse>,
    ) {
        let turns = Turns::default();
        let heard = futures_util::stream::poll_fn(|context| raw.poll_recv(context));
        let completed = heard.map(async |heard| match heard {
            Heard::Event(event) => self.completed(&event, &turns).await.into_iter().collect(),
            Heard::Anew => self.everything().await,
        });
        let mut completed = pin!(completed.buffer_unordered(COMPLETED_AT_ONCE));
        loop {
            let events: Option<Vec<_>> = tokio::select! {
                () = sender.closed() => return,
                events = completed.next() => events,
            };
            let Some(events) = events else { return };
            for event in events {
                // Full: the reader is told by the channel's end.
                if sender.try_send(event).is_err() {
                    return;
                }
            }
        }
    }

    /// `None` where the daemon went away meanwhile: then everything is told when it is back.
    async fn completed(&self, event: &EventMessage, turns: &Turns) -> Option<v1::ContainerEventResponse> {
        use v1::ContainerEventType as Kind;
        let kind = match event.action.as_deref()? {
            "create" => Kind::ContainerCreatedEvent,
            "start" => Kind::ContainerStartedEvent,
            "die" => Kind::ContainerStoppedEvent,
            "destroy" => Kind::ContainerDeletedEvent,
            _ => return None,
        };
        let actor = event.actor.as_ref()?;
        let (id, attributes) = (actor.id.clone()?, actor.attributes.as_ref()?);
        let sandbox_id = match labels::is_sandbox(attributes) {
            true => id.clone(),
            false if labels::is_container(attributes) => labels::text(attributes, labels::SANDBOX_ID).to_owned(),
            false => return None,
        };
        let _turn = turns.of(&sandbox_id).await;
        let (status, containers_statuses) = self.pod(&sandbox_id).await.ok()?;
        // Of a sandbox that is gone the event itself tells whose it was.
        let gone = || labels::is_sandbox(attributes).then(|| gone(&id, attributes));
        Some(v1::ContainerEventResponse {
            container_id: id.clone(),
            container_event_type: kind.into(),
            created_at: event.time_nano.unwrap_or_else(now_ns),
            pod_sandbox_status: status.or_else(gone),
            containers_statuses,
        })
    }

    /// The state of every pod, as an event of its sandbox.
    async fn everything(&self) -> Vec<v1::ContainerEventResponse> {
        let listed = self.list(&[(labels::TYPE, labels::TYPE_SANDBOX)]).await.unwrap_or_default();
        let ids = listed.into_iter().filter_map(|sandbox| sandbox.id);
        let told = futures_util::stream::iter(ids).map(async |id| {
            let (Some(status), containers_statuses) = self.pod(&id).await.ok()? else { return None };
            let kind = match status.state() {
                v1::PodSandboxState::SandboxReady => v1::ContainerEventType::ContainerStartedEvent,
                v1::PodSandboxState::SandboxNotready => v1::ContainerEventType::ContainerStoppedEvent,
            };
            Some(v1::ContainerEventResponse {
                container_id: id,
                container_event_type: kind.into(),
                created_at: now_ns(),
                pod_sandbox_status: Some(status),
                containers_statuses,
            })
        });
        told.buffer_unordered(COMPLETED_AT_ONCE).filter_map(async |event| event).collect().await
    }

    /// A sandbox, if it is there, and the containers in it.
    pub(crate) async fn pod(
        &self,
        sandbox_id: &str,
    ) -> Result<(Option<v1::PodSandboxStatus>, Vec<v1::ContainerStatus>), Error> {
        let sandbox = self.inspect_sandbox(sandbox_id).await?;
        let mut containers = Vec::new();
        for listed in self.list(&[(labels::SANDBOX_ID, sandbox_id)]).await? {
            let found = self.inspect_settled(&listed.id.unwrap_or_default()).await?;
            containers.extend(found.as_ref().map(status::container));
        }
        Ok((sandbox.as_ref().map(status::sandbox), containers))
    }
}

fn gone(id: &str, attributes: &HashMap<String, String>) -> v1::PodSandboxStatus {
    let (labels, annotations) = labels::split(attributes);
    v1::PodSandboxStatus {
        id: id.to_owned(),
        metadata: names::parse(labels::text(attributes, "name")).map(|parts| parts.pod),
        state: v1::PodSandboxState::SandboxNotready.into(),
        labels,
        annotations,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::keys::Map;

    #[test]
    fn an_event_tells_whose_a_sandbox_was() {
        let asked = Map::from([("io.kubernetes.pod.uid".to_owned(), "u-1".to_owned())]);
        let mut attributes = labels::join(&asked, &Map::new(), [(labels::TYPE, labels::TYPE_SANDBOX.to_owned())]);
        attributes.insert("name".into(), "k8s_POD_web_shop_u-1_4".into());
        let status = gone("s", &attributes);
        assert_eq!(status.labels, asked);
        assert_eq!(status.metadata.as_ref().map(|metadata| metadata.attempt), Some(4));
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    }
}
