//! The scripts as the model plays them, and the proof that a comparison of plays can fail.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use sim::play;
use sim::script::{Script, Trace, all};

const SEEDS: u64 = 40;

#[test]
fn every_script_tells_the_same_however_long_things_take() {
    let mut wrong = Vec::new();
    for (name, script) in all::all() {
        match play(&script, 1) {
            Err(how) => wrong.push(format!("{name}: {how}")),
            Ok(first) => {
                let unheld = first.orders.iter().filter(|(_, holds)| !holds);
                wrong.extend(unheld.map(|(order, _)| format!("{name}: not so: {order}; {:#?}", first.lanes)));
                wrong.extend((2..=SEEDS).find_map(|seed| unlike(name, &script, (&first, seed))));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn unlike(name: &str, script: &Script, (first, seed): (&Trace, u64)) -> Option<String> {
    match play(script, seed) {
        Err(how) => Some(format!("{name}, seed {seed}: {how}")),
        Ok(other) => first.difference(&other).map(|how| format!("{name}, seed {seed}:\n{how}")),
    }
}

#[test]
fn show() {
    for (name, script) in all::all() {
        println!("{name}: {:#?}", play(&script, 1).unwrap());
    }
}
