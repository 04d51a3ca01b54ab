//! The scripts as the model plays them, and the proof that a comparison of plays can fail.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use sim::play;
use sim::script::{Script, Step, Trace, all};

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

fn told(script: &Script) -> Trace {
    play(script, 1).unwrap()
}

#[test]
fn a_play_of_other_steps_tells_something_else() {
    let script = all::a_container_that_fails_starts_again_at_once_and_then_later();
    let mut other = script.clone();
    let exit = other.steps.iter_mut().find(|step| **step == Step::Exit("main", 3)).unwrap();
    *exit = Step::Exit("main", 4);
    let difference = told(&script).difference(&told(&other)).unwrap();
    assert!(difference.contains("main:\n      started\n    - ended 3\n    + ended 4\n      started\n"), "{difference}");
    assert!(difference.contains("- main: running started ready restarts 1 last terminated Error 3\n"), "{difference}");
    assert!(difference.contains("+ main: running started ready restarts 1 last terminated Error 4\n"), "{difference}");
    assert_eq!(told(&script).difference(&told(&script)), None);
}

type Mutation = fn(&mut Trace);

/// What is done to a trace, and what the difference then says.
const MUTATIONS: &[(Mutation, &str)] = &[
    (|trace| _ = trace.lanes.get_mut("main").unwrap().pop(), "main:\n      started\n      stopping\n    - ended 143\n"),
    (|trace| trace.lanes.get_mut("two").unwrap().swap(1, 2), "two:\n      started\n    - stopping\n    + ended 143\n"),
    (|trace| trace.lanes.get_mut("one").unwrap().push("started".into()), "    + started\n"),
    (|trace| _ = trace.lanes.insert("three".into(), vec!["started".into()]), "three:\n    + started\n"),
    (
        |trace| trace.orders[2].1 = false,
        "    - main ended 143 before two stopping: true\n    + main ended 143 before two",
    ),
    (|trace| _ = trace.sights.pop(), "status 2:\n    - Running\n"),
    (|trace| trace.sights[0][0] = "Running".into(), "status 1:\n    - Pending\n    + Running\n      has an address"),
];

#[test]
fn every_part_of_a_trace_is_compared() {
    let right = told(&all::sidecars_start_in_order_and_stop_the_other_way_round());
    for (mutate, said) in MUTATIONS {
        let mut wrong = right.clone();
        mutate(&mut wrong);
        let difference = right.difference(&wrong).unwrap();
        assert!(difference.contains(said), "{difference}\nis to say\n{said}");
    }
}

#[test]
fn what_the_script_orders_is_read_off_the_log() {
    let script = Script::new("Always").order("a ended", "b started#2").order("b started", "a started");
    let log = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let holds = |lines: &[&str]| -> Vec<bool> {
        Trace::new(&script, &log(lines), Vec::new()).orders.into_iter().map(|(_, holds)| holds).collect()
    };
    assert_eq!(holds(&["b started", "a started", "a ended 3", "b started"]), [true, true]);
    assert_eq!(holds(&["a started", "b started", "b started", "a ended 3"]), [false, false]);
    assert_eq!(
        holds(&["a started", "a ended 3", "b started"]),
        [false, false],
        "what never came is not before anything"
    );
}
