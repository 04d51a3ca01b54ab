//! Many worlds, on all processors.

use crate::kubelet::Mutant;
use crate::marks::Marks;
use crate::trace::Keep;
use crate::world::{Verdict, run};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of many worlds.
#[derive(Debug, Default)]
pub struct Tally {
    pub worlds: u64,
    pub marks: Marks,
    pub simulated_ms: u64,
    /// Verdicts of broken worlds, by seed.
    pub broken: Vec<Verdict>,
}

/// Runs the worlds of all seeds in the range. The order does not matter: the tally is the same every time.
pub fn run_many(seeds: Range<u64>, mutant: Option<Mutant>) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let work = || {
            let mut mine = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return mine;
                }
                let verdict = run(seed, mutant, Keep::Hash);
                mine.worlds += 1;
                mine.simulated_ms += verdict.lasted_ms;
                mine.marks.add(&verdict.marks);
                if verdict.broken.is_some() {
                    mine.broken.push(verdict);
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let mine = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            tally.worlds += mine.worlds;
            tally.simulated_ms += mine.simulated_ms;
            tally.marks.add(&mine.marks);
            tally.broken.extend(mine.broken);
        }
    });
    tally.broken.sort_by_key(|verdict| verdict.seed);
    tally
}
