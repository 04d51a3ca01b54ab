//! Ending containers: asked first, killed when their time is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::query_parameters::{KillContainerOptionsBuilder, StopContainerOptionsBuilder};
use cri::{Error, v1};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::{CONFLICT, absent_is_done};
use crate::core::Core;
use crate::facts::{Life, life};

/// A process that was killed is gone at once, unless it is in uninterruptible sleep.
const KILLED: Duration = Duration::from_secs(10);
/// Between looks at one that was killed.
const LOOK: Duration = Duration::from_millis(50);
/// Longest grace period, a year.
const MAX_GRACE_SECS: i64 = 365 * 24 * 3600;

/// The containers that were asked to end and may still run: when they will be killed.
#[derive(Default)]
pub(crate) struct Stops {
    deadlines: Mutex<HashMap<String, watch::Sender<Instant>>>,
}

impl Stops {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Instant>>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deadline to keep, where this is the first to ask; else the one that was set is brought forward.
    fn begin(&self, id: &str, deadline: Instant) -> Option<watch::Receiver<Instant>> {
        let mut deadlines = self.lock();
        if let Some(set) = deadlines.get(id) {
            set.send_if_modified(|set| {
                let earlier = deadline < *set;
                *set = deadline.min(*set);
                earlier
            });
            return None;
        }
        let (sender, receiver) = watch::channel(deadline);
        deadlines.insert(id.to_owned(), sender);
        Some(receiver)
    }

    /// Closed when the stop that is under way has ended.
    fn watch(&self, id: &str) -> Option<watch::Receiver<Instant>> {
        self.lock().get(id).map(watch::Sender::subscribe)
    }

    fn end(&self, id: &str) {
        self.lock().remove(id);
    }
}

impl Core {
    /// Asks a container to end, and kills it when its time is over. A second call asks nothing again: it brings the
    /// first one's time forward.
    pub(crate) async fn stop_container(self: &Arc<Self>, id: &str, timeout_secs: i64) -> Result<(), Error> {
        let Some(mut found) = self.inspect_container(id).await? else { return Ok(()) };
        if life(&found) == Life::Created {
            // A start may be under way; whoever makes it holds the turn.
            drop(self.turns.of(id).await);
            let Some(now) = self.inspect_container(id).await? else { return Ok(()) };
            found = now;
        }
        if life(&found) != Life::Running {
            return Ok(());
        }
        self.settling.begin(id);
        let seconds = timeout_secs.clamp(0, MAX_GRACE_SECS);
        let grace = Duration::from_secs(seconds.unsigned_abs());
        match self.stops.begin(id, Instant::now() + grace) {
            Some(deadline) => {
                let (core, of) = (Arc::clone(self), id.to_owned());
                // A task of its own: the container ends in its time even if the caller goes away.
                let stopping = tokio::spawn(async move {
                    let answer = core.ask_then_kill(&of, seconds, deadline).await;
                    core.stops.end(&of);
                    answer
                });
                stopping.await.map_err(crate::call::internal("stop the container"))?
            }
            None => self.join_stop(id).await,
        }
    }

    /// Waits for the stop of another call.
    async fn join_stop(&self, id: &str) -> Result<(), Error> {
        if let Some(mut deadline) = self.stops.watch(id) {
            while deadline.changed().await.is_ok() {}
        }
        match self.inspect_container(id).await? {
            Some(found) if life(&found) == Life::Running => Err(still_alive(id)),
            _ => Ok(()),
        }
    }

    async fn ask_then_kill(&self, id: &str, seconds: i64, mut deadline: watch::Receiver<Instant>) -> Result<(), Error> {
        if seconds == 0 {
            return self.kill(id).await;
        }
        // The daemon keeps the first deadline itself: it holds though this process may end.
        let options = StopContainerOptionsBuilder::new().t(i32::try_from(seconds).unwrap_or(i32::MAX)).build();
        let of = id.to_owned();
        let action = format!("stop container {id}");
        let limit = Duration::from_secs(seconds.unsigned_abs()) + self.config.call_within;
        let asked =
            self.call_within((&action, limit), |docker| async move { docker.stop_container(&of, Some(options)).await });
        let earlier = async {
            loop {
                let at = *deadline.borrow_and_update();
                tokio::select! {
                    () = tokio::time::sleep_until(at) => return,
                    changed = deadline.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let answer = tokio::select! {
            answer = asked => absent_is_done(answer).map_err(Error::from),
            // The daemon is about to do the same, if it was not brought forward.
            () = earlier => self.kill(id).await,
        };
        match answer {
            // Docker gives up on one that does not die, in words of its own.
            Err(error) if error.code == cri::Code::Internal && self.is_running(id).await => {
                Err(Error::deadline_exceeded(format!("{}: {}", still_alive(id), error.message)))
            }
            answer => answer,
        }
    }

    async fn is_running(&self, id: &str) -> bool {
        matches!(self.inspect(id).await, Ok(Some(found)) if life(&found) == Life::Running)
    }

    /// Kills a container and waits for its end.
    pub(crate) async fn kill(&self, id: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let of = id.to_owned();
        let action = format!("kill container {id}");
        let kill = |docker: bollard::Docker| async move { docker.kill_container(&of, Some(options)).await };
        match self.call(&action, kill).await {
            // It does not run.
            Err(failed) if failed.status == Some(CONFLICT) => {}
            answer => absent_is_done(answer)?,
        }
        let deadline = Instant::now() + KILLED;
        while let Some(found) = self.inspect(id).await? {
            if life(&found) != Life::Running {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(still_alive(id));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// The state of a container that has to be in one, for those who list.
pub(crate) fn is_created(item: &v1::Container) -> bool {
    item.state == i32::from(v1::ContainerState::ContainerCreated)
}

fn still_alive(id: &str) -> Error {
    Error::deadline_exceeded(format!("container {id} was killed and is still there: its processes wait for the kernel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_call_can_only_bring_the_deadline_forward() {
        let stops = Stops::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let first = stops.begin("c", at(30)).unwrap();
        assert!(stops.begin("c", at(60)).is_none());
        assert_eq!(*first.borrow(), at(30));
        assert!(stops.begin("c", at(5)).is_none());
        assert_eq!(*first.borrow(), at(5));
        assert!(stops.begin("other", at(1)).is_some());
        let mut waiting = stops.watch("c").unwrap();
        stops.end("c");
        assert!(waiting.changed().await.is_err());
        assert!(stops.begin("c", at(60)).is_some());
    }
}
