//! Runs simulated worlds: `sim --seeds 200 [--from N]` many, `sim --seed N [--trace]` one, line by line if asked.

use sim::marks::Mark;
use sim::{Keep, run, run_many};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: sim --seeds COUNT [--from SEED] | sim --seed SEED [--trace]";

#[derive(Debug, Default)]
struct Wish {
    seeds: Option<u64>,
    from: u64,
    seed: Option<u64>,
    trace: bool,
}

fn main() -> ExitCode {
    match wish(std::env::args().skip(1)) {
        Ok(Wish { seed: Some(seed), trace, .. }) => one(seed, if trace { Keep::Lines } else { Keep::Hash }),
        Ok(Wish { seeds: Some(count), from, .. }) => many(from, count),
        Ok(_) => usage("neither --seeds nor --seed is given"),
        Err(wrong) => usage(&wrong),
    }
}

fn usage(wrong: &str) -> ExitCode {
    eprintln!("{wrong}\n{USAGE}");
    ExitCode::from(2)
}

fn wish(mut words: impl Iterator<Item = String>) -> Result<Wish, String> {
    let mut wish = Wish { from: 1, ..Wish::default() };
    while let Some(word) = words.next() {
        let mut number = || {
            let given = words.next().ok_or(format!("{word} needs a number"))?;
            given.parse().map_err(|_| format!("{word} needs a number, not {given:?}"))
        };
        match word.as_str() {
            "--seeds" => wish.seeds = Some(number()?),
            "--from" => wish.from = number()?,
            "--seed" => wish.seed = Some(number()?),
            "--trace" => wish.trace = true,
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    Ok(wish)
}

fn one(seed: u64, keep: Keep) -> ExitCode {
    let verdict = run(seed, None, keep);
    for line in &verdict.lines {
        println!("{line}");
    }
    println!("seed {seed}: {} s simulated, trace {:016x}", verdict.lasted_ms / 1_000, verdict.hash);
    match verdict.broken {
        None => ExitCode::SUCCESS,
        Some(how) => {
            println!("BROKEN {how}");
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, count: u64) -> ExitCode {
    let began = Instant::now();
    let tally = run_many(from..from.saturating_add(count), None);
    for mark in Mark::ALL {
        println!("{:>10}  {mark:?}", tally.marks.count(*mark));
    }
    for verdict in &tally.broken {
        println!("seed {}: BROKEN {}", verdict.seed, verdict.broken.as_deref().unwrap_or_default());
        println!("    cargo run -p sim -- --seed {} --trace", verdict.seed);
    }
    let (hours, seconds) = (tally.simulated_ms / 3_600_000, began.elapsed().as_secs_f64());
    println!("{} worlds, {hours} h simulated in {seconds:.1} s, {} broken", tally.worlds, tally.broken.len());
    if tally.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
