//! Many worlds, and the proof that their checkers can fail.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use sim::{Keep, Mutant, run, run_many};

const WORLDS: u64 = 200;
/// Worlds in which each mutant must be found out.
const MUTANT_WORLDS: u64 = 60;

#[test]
fn two_hundred_worlds_keep_every_rule_and_tempt_each() {
    let tally = run_many(1..WORLDS + 1, None);
    let broken = tally.broken.iter().map(|verdict| {
        let how = verdict.broken.as_deref().unwrap_or_default();
        format!("seed {}: {how}\n    cargo run -p sim -- --seed {} --trace", verdict.seed, verdict.seed)
    });
    let broken: Vec<String> = broken.collect();
    assert!(broken.is_empty(), "{} of {} worlds broke:\n{}", broken.len(), tally.worlds, broken.join("\n"));
    assert_eq!(tally.marks.missing(), [], "situations that never came up");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 7, 42, 1_000_003] {
        let first = run(seed, None, Keep::Hash);
        let second = run(seed, None, Keep::Lines);
        assert_eq!((first.hash, first.lasted_ms, first.notes), (second.hash, second.lasted_ms, second.notes), "{seed}");
        assert_eq!(first.marks, second.marks, "{seed}");
        assert!(!second.lines.is_empty());
    }
    assert_ne!(run(1, None, Keep::Hash).hash, run(2, None, Keep::Hash).hash);
}

/// Which checker finds out each mutant.
const FOUND_BY: &[(Mutant, &[&str])] = &[
    (Mutant::ForgetsEnd, &["rule 1"]),
    (Mutant::DropsCancel, &["rule 2"]),
    (Mutant::StartsWhileEnding, &["rule 3"]),
    (Mutant::DoublesStarts, &["rule 4"]),
    (Mutant::RetriesUnknown, &["rule 5"]),
    (Mutant::HeedsStale, &["rule 6"]),
    (Mutant::CleansEarly, &["rule 7"]),
    (Mutant::SaysZero, &["rule 8"]),
    (Mutant::ForgetsGate, &["rule 9"]),
    (Mutant::MissesEdits, &["rule 10"]),
    (Mutant::ForgetsBackOff, &["rule 11"]),
    (Mutant::AssumesGone, &["rule 12"]),
    (Mutant::DropsLastGood, &["rule 13"]),
    (Mutant::SkipsInit, &["order"]),
    (Mutant::StopsAtOnce, &["own"]),
];

#[test]
fn every_checker_finds_out_who_breaks_its_rule() {
    let mutants: Vec<Mutant> = FOUND_BY.iter().map(|(mutant, _)| *mutant).collect();
    assert_eq!(mutants, Mutant::ALL, "every mutant has its checker");
    let mut missed = Vec::new();
    for (mutant, checkers) in FOUND_BY {
        let tally = run_many(1..MUTANT_WORLDS + 1, Some(*mutant));
        let mut verdicts: Vec<String> = tally.broken.into_iter().filter_map(|verdict| verdict.broken).collect();
        let found = verdicts.iter().any(|how| checkers.iter().any(|checker| how.starts_with(&format!("{checker}:"))));
        verdicts.truncate(5);
        if !found {
            missed.push(format!("{mutant:?} was not found out by {checkers:?}, but: {verdicts:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
