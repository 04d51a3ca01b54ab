//! Whose turn it is at an object: one after the other for each name or id, in the order in which they asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Entries looked through for ones that nobody holds before a new one is made.
const SWEEP_FROM: usize = 256;

/// Whoever holds this has the object for himself.
pub type Turn = OwnedMutexGuard<()>;

/// The turns at objects, by name or id. Of those that nobody holds, few are kept.
#[derive(Debug, Default)]
pub struct Turns {
    all: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for its turn at the object `key`.
    pub async fn of(&self, key: &str) -> Turn {
        let mutex = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= SWEEP_FROM {
                all.retain(|_, held| held.strong_count() > 0);
            }
            let held = all.get(key).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let mutex = Arc::default();
                all.insert(key.to_owned(), Arc::downgrade(&mutex));
                mutex
            })
        };
        mutex.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_key_and_none_is_kept() {
        let turns = Turns::default();
        let first = turns.of("a").await;
        let _other = turns.of("b").await;
        let mut second = Box::pin(turns.of("a"));
        tokio::select! {
            biased;
            _ = &mut second => panic!("two at once"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        drop(second.await);
        for key in 0..2 * SWEEP_FROM {
            drop(turns.of(&key.to_string()).await);
        }
        assert!(turns.all.lock().unwrap().len() <= SWEEP_FROM);
    }
}
