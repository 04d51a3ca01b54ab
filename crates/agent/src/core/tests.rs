use cri::keys::PodKey;
use jiff::Timestamp;
use lifecycle::{Done, ObservedContainer, ObservedSandbox, ObservedState, Outcome};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::*;
use crate::sources::FileReport;

fn agent(sources: usize) -> Agent {
    let node = NodeFacts {
        node_name: "n".into(),
        host_ips: vec![],
        log_dir: PathBuf::from("/logs"),
        runtime_name: OnceLock::new(),
    };
    Agent::new(Arc::new(node), sources)
}

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ns: 1_000_000_000 }
}

fn pod(name: &str, uid: &str) -> Arc<Pod> {
    let container = serde_json::json!({ "name": "c", "image": "busybox:1" });
    let pod = serde_json::json!({
        "metadata": { "name": name, "namespace": "default", "uid": uid }, "spec": { "containers": [container] }
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn report(source: usize, pods: &[Arc<Pod>]) -> Message {
    let name = format!("file{source}").into();
    let file = FileReport { name, pods: pods.to_vec(), problem: None, ignored: false, since: Timestamp::UNIX_EPOCH };
    Message::Report(SourceReport { source, files: vec![file] })
}

fn runtime_pod(name: &str, uid: &str) -> RuntimePod {
    let key = PodKey { namespace: "default".into(), name: name.into(), uid: uid.into() };
    let sandbox = ObservedSandbox {
        id: format!("s-{uid}"),
        attempt: 0,
        ready: true,
        ips: vec!["10.0.0.9".into()],
        created_at_ns: 5,
    };
    let container = ObservedContainer {
        id: format!("c-{uid}"),
        sandbox_id: sandbox.id.clone(),
        name: "c".into(),
        attempt: 0,
        hash: plan::hash("c", "busybox:1"),
        state: ObservedState::Running { started_at_ns: 6 },
        image: "busybox:1".into(),
        image_ref: "sha256:1".into(),
        created_at_ns: 5,
    };
    RuntimePod { key, observed: ObservedPod { sandboxes: vec![sandbox], containers: vec![container] }, grace_ms: None }
}

fn started(pods: Vec<RuntimePod>) -> Message {
    Message::Started { stamp: 1, pods, finished: BTreeMap::new() }
}

/// What was asked for, as `uid: effect`.
fn asked(outbox: &mut Outbox) -> Vec<String> {
    let name = |request: Request| match request {
        Request::Perform { uid, job, .. } => format!("{uid}: {:?}", job.effect),
        other => format!("{other:?}"),
    };
    std::mem::take(outbox).into_iter().map(name).collect()
}

#[test]
fn rule_7_nothing_is_cleaned_before_every_source_has_reported() {
    let mut agent = agent(2);
    let mut outbox = Outbox::new();
    agent.take(at(1), report(0, &[]), &mut outbox);
    agent.take(at(2), started(vec![runtime_pod("x", "u1"), runtime_pod("y", "u2")]), &mut outbox);
    agent.take(at(3), report(0, &[]), &mut outbox);
    agent.tick(at(100_000), &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new());
    agent.take(at(4), report(1, &[pod("y", "u2")]), &mut outbox);
    let asked = asked(&mut outbox);
    assert!(asked.iter().any(|ask| ask.starts_with("u1: StopContainer")), "{asked:?}");
    assert!(asked.iter().any(|ask| ask == "FindLeftovers"), "{asked:?}");
    assert!(!asked.iter().any(|ask| ask.starts_with("u2: Stop")), "{asked:?}");
}

#[test]
fn nothing_begins_before_the_runtime_has_answered() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), report(0, &[pod("a", "u1")]), &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new());
    assert_eq!(agent.snapshots().len(), 1, "it is shown all the same");
    agent.take(at(2), started(vec![]), &mut outbox);
    assert!(asked(&mut outbox).iter().any(|ask| ask == "u1: SetUp"));
}

#[test]
fn rule_9_a_pod_waits_for_an_unclaimed_one_of_its_name() {
    let mut agent = agent(2);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![runtime_pod("a", "old")]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "new")]), &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new(), "the old one may still be wanted by the other source");
    agent.take(at(3), report(1, &[]), &mut outbox);
    let asked = asked(&mut outbox);
    assert!(asked.iter().any(|ask| ask.starts_with("old: StopContainer")), "{asked:?}");
    assert!(!asked.iter().any(|ask| ask.starts_with("new: ")), "{asked:?}");
}

#[test]
fn rule_6_a_completion_for_an_earlier_machine_is_dropped() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    let (id, generation) = outbox
        .iter()
        .find_map(|request| match request {
            Request::Perform { id, generation, .. } => Some((*id, *generation)),
            _ => None,
        })
        .unwrap();
    outbox.clear();
    let done = |generation| Message::Completed {
        uid: "u1".into(),
        generation,
        id,
        performed: Performed::new(Outcome::Ok(Done::Nothing)),
    };
    agent.take(at(3), done(generation + 7), &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new());
    agent.take(at(4), done(generation), &mut outbox);
    assert!(!asked(&mut outbox).is_empty(), "its own goes on");
}

#[test]
fn a_listing_that_differs_is_looked_into() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![runtime_pod("a", "u1")]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    outbox.clear();
    let same = observe::digest_of(&runtime_pod("a", "u1").observed);
    agent.take(at(3), Message::Listed { pods: BTreeMap::from([("u1".into(), same.clone())]) }, &mut outbox);
    assert_eq!(asked(&mut outbox), Vec::<String>::new());
    let mut other = same;
    other.insert("c-u1".into(), cri::v1::ContainerState::ContainerExited as i32);
    let pods = BTreeMap::from([("u1".into(), other), ("strange".into(), Digest::new())]);
    agent.take(at(4), Message::Listed { pods }, &mut outbox);
    assert_eq!(asked(&mut outbox), ["Inspect(\"u1\")", "Inspect(\"strange\")"]);
    let inspected = Message::Inspected { uid: "strange".into(), stamp: 5, pod: Some(runtime_pod("s", "strange")) };
    agent.take(at(6), inspected, &mut outbox);
    assert!(asked(&mut outbox).iter().any(|ask| ask.starts_with("strange: Stop")), "an orphan made behind our back");
}

#[test]
fn a_thousand_pods_that_wait_and_go_at_once_cost_no_stack() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(
        at(1),
        started((0..1_000).map(|n| runtime_pod(&format!("p{n}"), &format!("old{n}"))).collect()),
        &mut outbox,
    );
    let pods: Vec<Arc<Pod>> = (0..1_000).map(|n| pod(&format!("p{n}"), &format!("new{n}"))).collect();
    agent.take(at(2), report(0, &pods), &mut outbox);
    agent.take(at(3), report(0, &[]), &mut outbox);
    assert!(!outbox.is_empty());
}
