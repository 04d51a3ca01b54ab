//! The listings under way: one that hangs must not keep the next from telling who has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::LIST_BUSY;
use crate::observe::Listing;

/// A listing that takes longer may never be answered: the next one begins beside it.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// Listings that begin so quickly one after the other. Where none of them is answered it is the runtime that hangs, and
/// it is asked less often. Each is given up after [`super::ANSWER_WITHIN`]: there are never many.
const QUICK_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct Listings {
    tasks: JoinSet<(u64, Option<Listing>)>,
    /// Those younger than the newest answer, by number.
    under_way: BTreeMap<u64, AbortHandle>,
    begun: u64,
    /// Listings up to this number do not tell enough: the one after them stays due.
    outdated: u64,
    begun_at: Instant,
    due_at: Instant,
}

impl Listings {
    /// The first one is due after `wait`.
    pub(super) fn new(wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            tasks: JoinSet::new(),
            under_way: BTreeMap::new(),
            begun: 0,
            outdated: 0,
            begun_at: now,
            due_at: now + wait,
        }
    }

    /// When the next one is to begin.
    pub(super) fn due_at(&self) -> Instant {
        match self.under_way.len() {
            0 => self.due_at,
            1..QUICK_MAX => self.begun_at + DOUBTED_AFTER,
            _ => self.begun_at + LIST_BUSY,
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.due_at() <= Instant::now()
    }

    /// The next one is to begin no later than after `wait`.
    pub(super) fn hasten(&mut self, wait: Duration) {
        self.due_at = self.due_at.min(Instant::now() + wait);
    }

    /// What was asked for before now is not enough.
    pub(super) fn outdate(&mut self) {
        self.outdated = self.begun;
        self.due_at = Instant::now();
    }

    /// Begins one, which ends with nothing where the runtime does not tell.
    pub(super) fn begin(&mut self, listing: impl Future<Output = Option<Listing>> + Send + 'static) {
        self.begun += 1;
        self.begun_at = Instant::now();
        let number = self.begun;
        let task = self.tasks.spawn(async move { (number, listing.await) });
        self.under_way.insert(number, task);
    }

    /// What the next one to end tells; after it one is due after `wait`. None where nothing is under way. Those that were
    /// asked for before it are given up: whatever they tell is older.
    pub(super) async fn next(&mut self, wait: Duration) -> Option<Option<Listing>> {
        loop {
            let (number, listing) = match self.tasks.join_next().await? {
                Ok(ended) => ended,
                Err(error) if error.is_cancelled() => continue,
                // It broke off.
                Err(_) => {
                    self.under_way.retain(|_, task| !task.is_finished());
                    self.due_at = Instant::now() + wait;
                    continue;
                }
            };
            if self.under_way.remove(&number).is_none() {
                // It ended beside a newer one, which was heard first.
                continue;
            }
            if number > self.outdated {
                self.due_at = Instant::now() + wait;
            }
            if listing.is_some() {
                let younger = self.under_way.split_off(&number);
                self.under_way.values().for_each(AbortHandle::abort);
                self.under_way = younger;
            }
            return Some(listing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;
    use crate::run::ANSWER_WITHIN;

    const SECOND: Duration = Duration::from_secs(1);

    /// A listing that tells only of this pod, once it is let.
    fn held(pod: &'static str) -> (oneshot::Sender<()>, impl Future<Output = Option<Listing>>) {
        let (let_go, held) = oneshot::channel();
        (let_go, async move {
            held.await.ok()?;
            Some(telling(pod))
        })
    }

    fn telling(pod: &str) -> Listing {
        Listing { names: BTreeMap::from([(pod.to_owned(), pod.into())]), ..Listing::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_while_they_are_answered() {
        let mut listings = Listings::new(SECOND);
        assert!(!listings.is_due() && listings.next(SECOND).await.is_none());
        tokio::time::sleep(SECOND).await;
        assert!(listings.is_due());
        listings.begin(async { Some(telling("a")) });
        assert!(!listings.is_due());
        assert_eq!(listings.next(SECOND).await, Some(Some(telling("a"))));
        assert!(!listings.is_due());
        listings.hasten(Duration::ZERO);
        assert!(listings.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_before_is_not_enough_and_is_heard_all_the_same() {
        let mut listings = Listings::new(Duration::ZERO);
        let (let_go, before) = held("before");
        listings.begin(before);
        listings.outdate();
        assert!(!listings.is_due(), "one is under way");
        let_go.send(()).unwrap();
        assert_eq!(listings.next(SECOND).await, Some(Some(telling("before"))));
        assert!(listings.is_due());
        listings.begin(async { Some(telling("after")) });
        assert_eq!(listings.next(SECOND).await, Some(Some(telling("after"))));
        assert!(!listings.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_have_ended_the_older_is_never_heard_after_the_newer() {
        for _ in 0..100 {
            let mut listings = Listings::new(Duration::ZERO);
            let [(old, of_old), (new, of_new)] = ["old", "new"].map(held);
            listings.begin(of_old);
            listings.begin(of_new);
            new.send(()).unwrap();
            old.send(()).unwrap();
            tokio::task::yield_now().await;
            let mut heard = Vec::new();
            while let Some(told) = listings.next(SECOND).await {
                heard.extend(told);
            }
            assert!([vec![telling("new")], vec![telling("old"), telling("new")]].contains(&heard), "{heard:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f_a01_beside_one_that_hangs_the_next_begins_and_the_newest_answer_wins() {
        let mut listings = Listings::new(Duration::ZERO);
        let [(old, of_old), (hung, of_hung), (new, of_new)] = ["old", "hung", "new"].map(held);
        for listing in [of_old, of_hung] {
            listings.begin(listing);
            assert!(!listings.is_due());
            tokio::time::sleep(DOUBTED_AFTER).await;
            assert!(listings.is_due());
        }
        old.send(()).unwrap();
        assert_eq!(listings.next(SECOND).await, Some(Some(telling("old"))), "better than none");
        listings.begin(of_new);
        new.send(()).unwrap();
        assert_eq!(listings.next(SECOND).await, Some(Some(telling("new"))));
        assert_eq!(listings.next(SECOND).await, None, "the older one was given up");
        assert!(hung.send(()).is_err());
        assert!(!listings.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn f_a01_where_all_hang_there_are_not_many_and_one_is_soon_asked_for() {
        let mut listings = Listings::new(Duration::ZERO);
        let (begun_at, mut most) = (Instant::now(), 0);
        while begun_at.elapsed() < 10 * ANSWER_WITHIN {
            let due_at = listings.due_at();
            tokio::select! {
                Some(told) = listings.next(SECOND) => assert_eq!(told, None),
                () = tokio::time::sleep_until(due_at) => {
                    listings.begin(async { tokio::time::timeout(ANSWER_WITHIN, pending()).await.ok() });
                }
            }
            assert!(listings.due_at() <= Instant::now() + LIST_BUSY);
            most = most.max(listings.under_way.len());
        }
        assert!((QUICK_MAX..20).contains(&most), "{most}");
    }
}
