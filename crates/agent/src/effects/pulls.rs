//! Whose turn it is to pull: so many at a time, so many a second.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ImagesConfig;

/// The way to the registries for every pod of the node.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Who came first goes first, and who gives up leaves the queue; none where any number may pull.
    turns: Option<Semaphore>,
    /// How long a turn is at most; none for as long as the pull takes.
    turn_within: Option<Duration>,
    /// None where they may begin as fast as they like.
    pace: Option<Mutex<Bucket>>,
}

/// While it is held, the pull counts.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

impl Gate {
    pub(crate) fn new(config: &ImagesConfig) -> Self {
        let turns = match config.max_parallel {
            _ if config.serialize => Some(1),
            max => max.map(|max| max as usize),
        };
        let turns = turns.map(|turns| Semaphore::new(turns.clamp(1, Semaphore::MAX_PERMITS)));
        let pace = (config.qps > 0).then(|| Mutex::new(Bucket::new(config.qps, config.burst)));
        Self { turns, turn_within: config.turn_within, pace }
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        let permit = match &self.turns {
            // Nobody closes it: every wait ends with a permit.
            Some(turns) => turns.acquire().await.ok(),
            None => None,
        };
        Turn { _permit: permit }
    }

    /// Pulls. One that takes longer than a turn goes on without: whether it hangs is not known, and if it does, nobody else
    /// is to wait for it.
    pub(crate) async fn pull<T>(&self, turn: Turn<'_>, pull: impl Future<Output = T>) -> T {
        let Some(within) = self.turn_within else { return pull.await };
        let mut pull = pin!(pull);
        if let Ok(pulled) = tokio::time::timeout(within, &mut pull).await {
            return pulled;
        }
        drop(turn);
        pull.await
    }

    /// Whether a pull may begin at this moment; it counts as begun then.
    pub(crate) fn is_paced(&self) -> bool {
        let take = |pace: &Mutex<Bucket>| pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        self.pace.as_ref().is_none_or(take)
    }
}

/// What may begin at once after a calm, refilled at an even pace.
#[derive(Debug)]
struct Bucket {
    /// How long one takes to come back.
    every: Duration,
    /// How long all of them take.
    depth: Duration,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// `qps` of at least 1; so is `burst`, for nothing could ever begin with less.
    fn new(qps: u32, burst: u32) -> Self {
        let every = Duration::from_secs(1) / qps.max(1);
        Self { every, depth: every * burst.max(1), full_at: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.every;
        let taken = full_at <= now + self.depth;
        if taken {
            self.full_at = Some(full_at);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn config(serialize: bool, max_parallel: Option<u32>) -> ImagesConfig {
        ImagesConfig { serialize, max_parallel, ..ImagesConfig::default() }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn so_many_pull_at_a_time() {
        for (config, at_once) in [
            (config(true, None), 1),
            (config(true, Some(5)), 1),
            (config(false, Some(1)), 1),
            (config(false, Some(3)), 3),
            (config(false, None), 50),
        ] {
            let gate = Gate::new(&config);
            let mut turns = Vec::new();
            while turns.len() < 50 {
                let Poll::Ready(turn) = poll(pin!(gate.turn())) else { break };
                turns.push(turn);
            }
            assert_eq!(turns.len(), at_once, "{config:?}");
        }
    }

    #[test]
    fn who_came_first_goes_first_and_who_gives_up_holds_up_nobody() {
        let gate = Gate::new(&config(true, None));
        let Poll::Ready(held) = poll(pin!(gate.turn())) else { panic!("the first one waits") };
        let (mut first, mut third) = (pin!(gate.turn()), pin!(gate.turn()));
        let mut second = Box::pin(gate.turn());
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        drop(second);
        drop(held);
        assert!(poll(third.as_mut()).is_pending(), "the first comes before the third");
        let Poll::Ready(turn) = poll(first.as_mut()) else { panic!("it is the first one's turn") };
        drop(turn);
        assert!(poll(third.as_mut()).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_hangs_gives_its_turn_to_the_next_and_goes_on() {
        for (turn_within, gives) in [(Some(Duration::from_secs(60)), true), (None, false)] {
            let gate = Gate::new(&ImagesConfig { turn_within, ..ImagesConfig::default() });
            let hung = async { gate.pull(gate.turn().await, pending::<()>()).await };
            let next = async { gate.pull(gate.turn().await, async { "the next" }).await };
            let day = Duration::from_secs(86_400);
            let pulled = tokio::time::timeout(day, async {
                tokio::select! {
                    biased;
                    () = hung => None,
                    pulled = next => Some(pulled),
                }
            });
            assert_eq!(pulled.await.ok(), gives.then_some(Some("the next")));
        }
    }

    #[test]
    fn a_burst_and_then_an_even_pace() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5, 3);
        let mut begun = |at_ms: u64| bucket.take(start + Duration::from_millis(at_ms));
        assert_eq!([0, 0, 0, 0, 199].map(&mut begun), [true, true, true, false, false]);
        assert_eq!([200, 200, 400, 500].map(&mut begun), [true, false, true, false]);
        assert_eq!([10_000; 4].map(&mut begun), [true, true, true, false], "no more than a burst is saved up");
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let gate = Gate::new(&ImagesConfig { qps: 0, burst: 1, ..ImagesConfig::default() });
        assert!((0..1_000).all(|_| gate.is_paced()));
        let gate = Gate::new(&ImagesConfig { qps: 1, burst: 0, ..ImagesConfig::default() });
        assert_eq!((gate.is_paced(), gate.is_paced()), (true, false), "a burst of none would be never");
    }
}
