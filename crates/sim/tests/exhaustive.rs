//! Every interleaving of small worlds.

use sim::exhaustive::{SCENARIOS, explore};

#[test]
fn no_order_of_outcomes_faults_and_deaths_breaks_a_small_world() {
    let explored = std::thread::scope(|scope| {
        let work: Vec<_> = SCENARIOS.iter().map(|scenario| (scenario, scope.spawn(|| explore(scenario)))).collect();
        let done = work.into_iter().map(|(scenario, worker)| {
            (scenario, worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        done.collect::<Vec<_>>()
    });
    let mut states = 0;
    for (scenario, explored) in &explored {
        println!("{}: {} states, {} came to rest", scenario.name, explored.states, explored.rested);
        if let Some((path, how)) = &explored.broken {
            panic!("{}: {how}\n    {}", scenario.name, path.join("\n    "));
        }
        states += explored.states;
        assert!(explored.rested > 100, "{}: only {} ends", scenario.name, explored.rested);
    }
    assert!(states > 5_000, "only {states} states");
}
