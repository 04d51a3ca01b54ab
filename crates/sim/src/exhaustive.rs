//! Small worlds, all of them: one or two pods, and at every step every outcome, fault and accident of a small alphabet, to
//! a bounded depth; and from wherever that leads, without further faults, to rest.
//!
//! Here machines are driven directly and branched by cloning; who is alone with a full name is decided as the agent does.

mod branch;
mod laws;

use crate::pods::{self, Behaviour, Cast, Hook, Run};
use branch::Branch;
use k8s_openapi::api::core::v1::Pod;
use lifecycle::PodPlan;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// States looked at, at most; more and the alphabet or the depth is too large to be called small.
const STATES_MAX: usize = 400_000;

/// One small world, and how much may go wrong in it.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// Containers of each pod: `i` init, `s` sidecar, `c` regular; in capitals with hooks. Two pods share one full name.
    pub pods: &'static [&'static [&'static str]],
    pub policy: &'static str,
    pub depth: usize,
    pub faults: u8,
    /// Deaths of the kubelet.
    pub kills: u8,
    /// Containers that exit by themselves with code 1.
    pub crashes: u8,
}

/// How far it was explored.
#[derive(Debug, Default)]
pub struct Explored {
    pub states: usize,
    /// Ends from which rest was reached.
    pub rested: usize,
    /// The path to the first state in which something was wrong, and what.
    pub broken: Option<(Vec<String>, String)>,
}

/// The worlds that are explored on every test run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "one", pods: &[&["c"]], policy: "Always", depth: 8, faults: 2, kills: 1, crashes: 1 },
    Scenario { name: "two", pods: &[&["c", "d"]], policy: "OnFailure", depth: 7, faults: 1, kills: 1, crashes: 1 },
    Scenario { name: "init", pods: &[&["i", "c"]], policy: "Never", depth: 8, faults: 1, kills: 1, crashes: 1 },
    Scenario { name: "sidecar", pods: &[&["s", "c"]], policy: "Always", depth: 8, faults: 1, kills: 1, crashes: 1 },
    Scenario { name: "hooks", pods: &[&["C"]], policy: "Always", depth: 8, faults: 1, kills: 1, crashes: 1 },
    Scenario {
        name: "namesakes",
        pods: &[&["c"], &["c"]],
        policy: "Always",
        depth: 11,
        faults: 1,
        kills: 0,
        crashes: 0,
    },
];

/// Explores one small world.
pub fn explore(scenario: &Scenario) -> Explored {
    let (plans, cast) = plans(scenario);
    let mut explored = Explored::default();
    let mut seen = BTreeSet::new();
    let mut open = vec![Branch::new(scenario, plans, cast)];
    while let Some(branch) = open.pop() {
        explored.states += 1;
        if explored.states > STATES_MAX {
            explored.broken = Some((branch.path.clone(), format!("more than {STATES_MAX} states")));
            return explored;
        }
        let steps = if branch.path.len() < scenario.depth { branch.choices() } else { Vec::new() };
        if steps.is_empty() {
            let mut end = branch.clone();
            match end.rest() {
                Ok(()) => explored.rested += 1,
                Err(how) => {
                    explored.broken = Some((end.path, how));
                    return explored;
                }
            }
        }
        for step in steps {
            let mut next = branch.clone();
            if let Err(how) = next.take(step) {
                explored.broken = Some((next.path, how));
                return explored;
            }
            if seen.insert(print_of(&next)) {
                open.push(next);
            }
        }
    }
    explored
}

/// Two states with one print behave alike: all of it but the way that led there.
fn print_of(branch: &Branch) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    format!("{:?}", branch.situation()).hash(&mut hasher);
    (branch.path.len(), hasher.finish())
}

fn plans(scenario: &Scenario) -> (Vec<PodPlan>, Cast) {
    let mut cast = Cast::new();
    let mut plans = Vec::new();
    for (number, containers) in scenario.pods.iter().enumerate() {
        let uid = format!("p-u{number}");
        for name in *containers {
            cast.insert((uid.clone(), (*name).to_owned()), behaviour(name));
        }
        let manifest = manifest(&uid, containers, scenario.policy);
        let pod: Pod = serde_json::from_value(manifest).expect("what is made here is a pod");
        plans.push(agent::core::plan_of(&pod));
    }
    (plans, cast)
}

fn manifest(uid: &str, containers: &[&str], policy: &str) -> Value {
    let exec = json!({ "exec": { "command": ["true"] } });
    let container = |name: &&str| {
        let mut container = json!({ "name": name, "image": "image:1" });
        if name.starts_with('s') {
            container["restartPolicy"] = json!("Always");
        }
        if name.chars().all(char::is_uppercase) {
            container["lifecycle"] = json!({ "postStart": exec, "preStop": exec });
        }
        container
    };
    let begins = |name: &&&str| name.starts_with(['i', 's']);
    json!({
        "metadata": { "name": pods::name_of(uid), "namespace": "default", "uid": uid },
        "spec": {
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 5,
            "initContainers": containers.iter().filter(begins).map(container).collect::<Vec<_>>(),
            "containers": containers.iter().filter(|name| !begins(name)).map(container).collect::<Vec<_>>(),
        },
    })
}

/// Init containers end well after a while; the others go on until they are told, or made, to end.
fn behaviour(name: &str) -> Behaviour {
    let run = Run {
        lasts_ms: name.starts_with('i').then_some(50),
        exit_code: 0,
        term_ms: Some(20),
        unkillable_ms: 0,
        starts_up_ms: 0,
        sick_after_ms: None,
        unready_ms: (0, 0),
        post_start: Hook::Ends(1),
        pre_stop: Hook::Ends(1),
    };
    Behaviour { runs: vec![run] }
}
