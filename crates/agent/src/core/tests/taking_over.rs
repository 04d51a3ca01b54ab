//! What a kubelet does with what an earlier one left.

use lifecycle::{ContainerMemory, Memory};

use super::*;

const WALL_NS: i64 = 1_000_000_000;

fn started_with(pods: Vec<RuntimePod>, stored: Vec<(&str, Stored)>) -> Message {
    let stored = stored.into_iter().map(|(uid, stored)| (uid.to_owned(), stored)).collect();
    Message::Started { stamp: 1, pods, unseen: Vec::new(), finished: BTreeMap::new(), stored }
}

/// Of a pod that ran.
fn memory(uid: &str) -> Memory {
    let container = ContainerMemory {
        name: "c".into(),
        attempt: 4,
        hash: plan::hash("c", "busybox:1"),
        container_id: format!("c-{uid}"),
        started: true,
        ready: true,
        hooked: true,
        last: None,
    };
    Memory { admitted: true, start_ns: 5, containers: vec![container], ..Memory::default() }
}

fn with_pre_stop() -> serde_json::Value {
    serde_json::json!({ "lifecycle": { "preStop": { "exec": { "command": ["true"] } } } })
}

#[test]
fn restart_counts_go_on_where_the_runtime_has_forgotten() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let stored = Stored { pod: Some(pod("a", "u1")), memory: Some(memory("u1")) };
    agent.take(at(1), started_with(vec![], vec![("u1", stored)]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    let asked = complete_all(&mut agent, at(3), &mut outbox);
    assert!(asked.iter().any(|ask| ask.contains("attempt: 5, sandbox_id")), "{asked:?}");
    assert!(asked.iter().any(|ask| ask.starts_with("SaveMemory")), "{asked:?}");
}

#[test]
fn a_pod_that_ran_before_is_not_asked_whether_it_may() {
    let asks = serde_json::json!({ "resources": { "requests": { "cpu": "64" } } });
    for (remembered, phase) in [(true, "Running"), (false, "Failed")] {
        let mut agent = agent(1);
        let mut outbox = Outbox::new();
        let stored = Stored { pod: None, memory: Some(memory("u1")) };
        let (pods, stored) =
            if remembered { (vec![runtime_pod("a", "u1")], vec![("u1", stored)]) } else { Default::default() };
        agent.take(at(1), started_with(pods, stored), &mut outbox);
        agent.take(at(2), report(0, &[pod_with("a", "u1", &asks)]), &mut outbox);
        assert_eq!(status(&agent, "u1").phase.as_deref(), Some(phase));
    }
}

#[test]
fn a_pod_whose_manifest_is_gone_ends_as_its_spec_says() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let stored = Stored { pod: Some(pod_with("a", "u1", &with_pre_stop())), memory: Some(memory("u1")) };
    agent.take(at(1), started_with(vec![runtime_pod("a", "u1")], vec![("u1", stored)]), &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new(), "no source has spoken");
    agent.take(at(2), report(0, &[]), &mut outbox);
    let asked = asked(&mut outbox);
    let hook = r#"u1: PreStop { container: "c", container_id: "c-u1", grace_ms: 30000 }"#;
    assert!(asked.iter().any(|ask| ask == hook), "{asked:?}");
    let snapshots = agent.snapshots();
    let shown = snapshots[0].to_pod(&agent.node).unwrap();
    assert_eq!(pod::name(&shown), "a");
    assert!(shown.metadata.deletion_timestamp.is_some());
}

#[test]
fn f_b02_what_is_left_of_a_grace_goes_on_after_a_restart() {
    for (kill_at_ns, left_ms) in [(WALL_NS + 7_000_000_000, 7_000), (WALL_NS + 700_000_000_000, 30_000)] {
        let mut agent = agent(1);
        let mut outbox = Outbox::new();
        let memory = Memory { kill_at_ns: Some(kill_at_ns), ..memory("u1") };
        let stored = Stored { pod: Some(pod_with("a", "u1", &with_pre_stop())), memory: Some(memory) };
        agent.take(at(1), started_with(vec![runtime_pod("a", "u1")], vec![("u1", stored)]), &mut outbox);
        agent.take(at(2), report(0, &[]), &mut outbox);
        let asked = asked(&mut outbox);
        let grace = format!("grace_ms: {left_ms}");
        assert!(asked.iter().any(|ask| ask.contains("PreStop") && ask.contains(&grace)), "{asked:?}");
    }
}

#[test]
fn a_pod_that_was_being_ended_and_is_wanted_again_ends_first() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let memory = Memory { kill_at_ns: Some(WALL_NS + 7_000_000_000), ..memory("u1") };
    let stored = Stored { pod: Some(pod("a", "u1")), memory: Some(memory) };
    agent.take(at(1), started_with(vec![runtime_pod("a", "u1")], vec![("u1", stored)]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    let stops = |request: &Request| matches!(request, Request::Perform { job, .. } if matches!(job.effect, Effect::StopContainer { .. }));
    assert!(outbox.iter().any(stops), "{outbox:?}");
    let asked = settle(&mut agent, 4, &mut outbox);
    let forgotten = asked.iter().position(|ask| ask.starts_with("ForgetMemory")).unwrap();
    let begun = asked.iter().position(|ask| ask == "u1: SetUp").unwrap();
    assert!(forgotten < begun, "{asked:?}");
    assert!(asked.iter().any(|ask| ask.contains("attempt: 0, sandbox_id")), "it begins anew: {asked:?}");
}

#[test]
fn s_m02_without_its_spec_a_pod_is_an_orphan_as_ever() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let stored = Stored { pod: None, memory: Some(memory("u1")) };
    agent.take(at(1), started_with(vec![runtime_pod("a", "u1")], vec![("u1", stored)]), &mut outbox);
    agent.take(at(2), report(0, &[]), &mut outbox);
    assert!(asked(&mut outbox).iter().any(|ask| ask.starts_with("u1: StopContainer")));
}

#[test]
fn what_is_only_left_on_disk_is_cleaned_under_its_name() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let stored = Stored { pod: Some(pod("a", "u1")), memory: Some(memory("u1")) };
    agent.take(at(1), started_with(vec![], vec![("u1", stored)]), &mut outbox);
    agent.take(at(2), report(0, &[]), &mut outbox);
    assert_eq!(asked(&mut outbox), ["FindLeftovers"]);
    agent.take(at(3), Message::Leftovers(vec!["u1".into(), "other".into()]), &mut outbox);
    agent.tick(at(100), &mut outbox);
    let jobs = outbox.iter().filter_map(|request| match request {
        Request::Perform { job, .. } => Some((job.key.name.clone(), job.key.uid.clone())),
        _ => None,
    });
    let named: BTreeSet<(String, String)> = jobs.collect();
    assert_eq!(named, BTreeSet::from([("a".to_owned(), "u1".to_owned()), (String::new(), "other".to_owned())]));
    let asked = settle(&mut agent, 100, &mut outbox);
    assert!(asked.contains(&"u1: TearDown".to_owned()), "{asked:?}");
}

#[test]
fn a_memory_is_stored_before_the_record_goes_that_tells_the_same() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![runtime_pod("a", "u1")]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    complete_all(&mut agent, at(3), &mut outbox);
    agent.take(at(4), report(0, &[]), &mut outbox);
    let first = |wanted: &str| {
        let name = |request: &Request| match request {
            Request::Perform { job, .. } => format!("{:?}", job.effect),
            other => format!("{other:?}"),
        };
        outbox.iter().position(|request| name(request).starts_with(wanted))
    };
    assert!(first("SaveMemory").unwrap() < first("StopContainer").unwrap(), "{outbox:?}");
}

#[test]
fn a_pod_that_changes_in_place_is_stored_anew() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![runtime_pod("a", "u1")]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    complete_all(&mut agent, at(3), &mut outbox);
    agent.take(at(4), report(0, &[pod_with("a", "u1", &with_pre_stop())]), &mut outbox);
    assert!(
        outbox.iter().any(|request| matches!(request, Request::SavePod(pod) if pod::uid(pod) == "u1")),
        "{outbox:?}"
    );
}

/// Effects are told apart by their numbers, which begin anew with every machine.
#[test]
fn rule_6_a_completion_of_an_earlier_machine_of_the_same_uid_is_dropped() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    let first: Vec<u64> = agent.machines().map(|(_, generation, _)| generation).collect();
    agent.take(at(3), report(0, &[]), &mut outbox);
    complete_all(&mut agent, at(4), &mut outbox);
    agent.take(at(5), report(0, &[pod("a", "u1")]), &mut outbox);
    let second: Vec<u64> = agent.machines().map(|(_, generation, _)| generation).collect();
    assert!(first.len() == 1 && second.len() == 1 && first < second, "{first:?} {second:?}");
    outbox.clear();
    let stale = Message::Completed {
        uid: "u1".into(),
        generation: first[0],
        id: EffectId(1),
        performed: Performed::new(Outcome::Ok(Done::Nothing)),
    };
    agent.take(at(6), stale, &mut outbox);
    assert!(outbox.is_empty(), "{outbox:?}");
}
