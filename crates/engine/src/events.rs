//! Who wants to know what happens.

use std::sync::Mutex;

use cri::v1;
use tokio::sync::mpsc;

use crate::state::{Core, Sandbox, lock, now_ns};
use crate::status;

/// Events that a reader may be behind before it is cut off: several for each of a few hundred pods.
const CAPACITY: usize = 4096;
const MAX_SUBSCRIBERS: usize = 64;

#[derive(Default)]
pub(crate) struct Events {
    subscribers: Mutex<Vec<mpsc::Sender<v1::ContainerEventResponse>>>,
}

impl Events {
    /// `None` when there are too many subscribers.
    pub(crate) fn subscribe(&self) -> Option<mpsc::Receiver<v1::ContainerEventResponse>> {
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|subscriber| !subscriber.is_closed());
        if subscribers.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        let (sender, receiver) = mpsc::channel(CAPACITY);
        subscribers.push(sender);
        Some(receiver)
    }

    fn send(&self, event: &dyn Fn() -> v1::ContainerEventResponse) {
        let mut subscribers = lock(&self.subscribers);
        if subscribers.is_empty() {
            return;
        }
        let event = event();
        // One that is behind loses its channel, not single events: it notices, and lists anew.
        subscribers.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
    }
}

impl Core {
    /// Tells all subscribers what happened to a container, or to the sandbox itself under its own id.
    pub(crate) fn announce(&self, sandbox: &Sandbox, id: &str, kind: v1::ContainerEventType) {
        self.events.send(&|| {
            let (pod_sandbox_status, containers_statuses) = status::pod(sandbox);
            v1::ContainerEventResponse {
                container_id: id.to_owned(),
                container_event_type: kind.into(),
                created_at: now_ns(),
                pod_sandbox_status: Some(pod_sandbox_status),
                containers_statuses,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_falls_behind_sees_its_channel_close() {
        let events = Events::default();
        let (mut slow, mut quick) = (events.subscribe().unwrap(), events.subscribe().unwrap());
        for sent in 0..=CAPACITY {
            events.send(&|| v1::ContainerEventResponse { created_at: sent as i64, ..Default::default() });
            assert_eq!(quick.try_recv().unwrap().created_at, sent as i64);
        }
        let mut received = 0;
        while slow.try_recv().is_ok() {
            received += 1;
        }
        assert_eq!(received, CAPACITY);
        assert!(matches!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        events.send(&v1::ContainerEventResponse::default);
        assert!(quick.try_recv().is_ok());
    }

    #[test]
    fn the_number_of_subscribers_is_limited_and_the_gone_do_not_count() {
        let events = Events::default();
        let held: Vec<_> = std::iter::from_fn(|| events.subscribe()).collect();
        assert_eq!(held.len(), MAX_SUBSCRIBERS);
        drop(held);
        assert!(events.subscribe().is_some());
    }
}
