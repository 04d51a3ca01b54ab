mod secrets;
mod taking_over;

use cri::keys::PodKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use lifecycle::admission::Offer;
use lifecycle::{Done, Effect, EffectId, ObservedContainer, ObservedSandbox, ObservedState, Outcome};

use super::*;
use crate::plan;

fn agent(sources: usize) -> Agent {
    let offer =
        Offer { pods: 10_000, cpu_millis: 2_000, memory_bytes: 1 << 30, os: "linux".into(), ..Offer::default() };
    let node = NodeFacts { node_name: "n".into(), offer, ..NodeFacts::default() };
    Agent::new(Arc::new(node), sources)
}

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ns: 1_000_000_000 }
}

fn pod(name: &str, uid: &str) -> Arc<Pod> {
    pod_with(name, uid, &serde_json::json!({}))
}

/// A pod whose only container has more to it.
fn pod_with(name: &str, uid: &str, more: &serde_json::Value) -> Arc<Pod> {
    let mut container = serde_json::json!({ "name": "c", "image": "busybox:1" });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pod = serde_json::json!({
        "metadata": { "name": name, "namespace": "default", "uid": uid }, "spec": { "containers": [container] }
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn report(source: usize, pods: &[Arc<Pod>]) -> Message {
    let name = format!("file{source}").into();
    let file = FileReport {
        name,
        pods: pods.to_vec(),
        secrets: Vec::new(),
        problem: None,
        ignored: false,
        since: Timestamp::UNIX_EPOCH,
    };
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
    Message::Started { stamp: 1, pods, unseen: Vec::new(), finished: BTreeMap::new(), stored: BTreeMap::new() }
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
    let same = digest_of(&runtime_pod("a", "u1").observed);
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

/// Completes every effect asked for, but for probes, as a world without trouble would: whatever is looked for is gone.
/// What was asked, as `uid: effect`.
fn complete_all(agent: &mut Agent, now: Now, outbox: &mut Outbox) -> Vec<String> {
    let mut all = Vec::new();
    let mut now = now;
    while !outbox.is_empty() {
        for request in std::mem::take(outbox) {
            let Request::Perform { uid, generation, id, job } = request else {
                all.extend(asked(&mut vec![request]));
                continue;
            };
            now.mono_ms += 1;
            let done = match &job.effect {
                Effect::RunSandbox { .. } => Done::Sandbox { id: format!("s-{uid}"), ips: vec!["10.0.0.9".into()] },
                Effect::EnsureImage { .. } => Done::Image { image_ref: "sha256:1".into() },
                Effect::StartContainer { container, attempt, .. } => {
                    Done::Container { id: format!("{container}{attempt}-{uid}") }
                }
                Effect::Probe { .. } => continue,
                _ => Done::Nothing,
            };
            all.push(format!("{uid}: {:?}", job.effect));
            let observed = (job.effect == Effect::Inspect).then(|| (now.mono_ms, ObservedPod::default()));
            let performed = Performed { observed, ..Performed::new(Outcome::Ok(done)) };
            agent.take(now, Message::Completed { uid, generation, id, performed }, outbox);
        }
    }
    all
}

/// As [`complete_all`], and one moment later: an answer of the same millisecond proves nothing to a machine.
fn settle(agent: &mut Agent, now_ms: u64, outbox: &mut Outbox) -> Vec<String> {
    let mut asked = complete_all(agent, at(now_ms), outbox);
    agent.tick(at(now_ms + 100), outbox);
    asked.extend(complete_all(agent, at(now_ms + 100), outbox));
    asked
}

fn status(agent: &Agent, uid: &str) -> PodStatus {
    let snapshots = agent.snapshots();
    let snapshot = snapshots.iter().find(|snapshot| snapshot.key.uid == uid).unwrap();
    snapshot.to_pod(&agent.node).unwrap().status.unwrap()
}

fn told(agent: &Agent) -> Vec<String> {
    let text = |record: &events::Record| {
        let event = record.to_v1("n");
        let object = event.involved_object;
        format!("{} {} {}", object.name.unwrap(), event.reason.unwrap(), object.field_path.unwrap_or_default())
    };
    agent.history().iter().map(text).collect()
}

#[test]
fn who_finds_no_room_is_refused_and_nothing_of_it_is_made() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let asks = |cpu: &str| serde_json::json!({ "resources": { "requests": { "cpu": cpu } } });
    let pods = [pod_with("a", "u1", &asks("1500m")), pod_with("b", "u2", &asks("1")), pod("c", "u3")];
    agent.take(at(2), report(0, &pods), &mut outbox);
    let asked = asked(&mut outbox);
    assert!(asked.iter().any(|ask| ask == "u1: SetUp") && asked.iter().any(|ask| ask == "u3: SetUp"), "{asked:?}");
    assert!(!asked.iter().any(|ask| ask.starts_with("u2")), "{asked:?}");
    let refused = status(&agent, "u2");
    assert_eq!((refused.phase.as_deref(), refused.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
    let message =
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000";
    assert_eq!(refused.message.as_deref(), Some(message));
    assert_eq!(told(&agent), ["b OutOfcpu "]);
    // Room that is left by others is for those that come; who was refused stays so until it is written anew.
    agent.take(at(3), report(0, &pods[1..]), &mut outbox);
    assert_eq!(status(&agent, "u2").phase.as_deref(), Some("Failed"));
    agent.take(at(4), report(0, std::slice::from_ref(&pods[2])), &mut outbox);
    settle(&mut agent, 5, &mut outbox);
    assert!(!agent.entries.contains_key("u2"));
}

#[test]
fn pods_that_have_ended_take_no_room() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let asks = serde_json::json!({ "resources": { "requests": { "cpu": "2" } } });
    let mut once = Pod::clone(&pod_with("a", "u1", &asks));
    once.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let once = Arc::new(once);
    agent.take(at(2), report(0, std::slice::from_ref(&once)), &mut outbox);
    complete_all(&mut agent, at(3), &mut outbox);
    let mut ended = runtime_pod("a", "u1");
    ended.observed.containers[0].id = "c0-u1".into();
    ended.observed.containers[0].state = ObservedState::Exited {
        started_at_ns: 6,
        finished_at_ns: 7,
        exit_code: 0,
        reason: String::new(),
        message: "bye".into(),
    };
    agent.take(at(40), Message::Inspected { uid: "u1".into(), stamp: 40, pod: Some(ended) }, &mut outbox);
    let asked = complete_all(&mut agent, at(50), &mut outbox);
    assert!(asked.iter().any(|ask| ask.starts_with("SaveFinished")), "{asked:?}");
    assert_eq!(status(&agent, "u1").phase.as_deref(), Some("Succeeded"));
    agent.take(at(90), report(0, &[once, pod_with("b", "u2", &asks)]), &mut outbox);
    assert_eq!(status(&agent, "u2").phase.as_deref(), Some("Pending"));
}

#[test]
fn what_executors_and_machines_tell_is_kept_under_the_containers_name() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    agent.take(at(2), report(0, &[pod("a", "u1")]), &mut outbox);
    let asked = outbox.iter().find_map(|request| match request {
        Request::Perform { generation, id, .. } => Some((*generation, *id)),
        _ => None,
    });
    let (generation, id) = asked.unwrap();
    let event = events::normal("Pulled", "there", "c");
    let early =
        |generation| Message::Told { uid: "u1".into(), generation, event: events::normal("Pulling", "it begins", "c") };
    agent.take(at(3), early(generation), &mut Outbox::new());
    // Of a machine that is gone.
    agent.take(at(3), early(generation + 1), &mut Outbox::new());
    let performed = Performed::new(Outcome::Ok(Done::Nothing)).telling(event).telling(events::whole_warning("X", "y"));
    let done = Message::Completed { uid: "u1".into(), generation, id, performed };
    agent.take(at(3), done, &mut Outbox::new());
    assert_eq!(told(&agent), ["a Pulling spec.containers{c}", "a Pulled spec.containers{c}", "a X "]);
    assert_eq!(agent.history()[0].to_v1("n").count, Some(1));
    agent.take(at(4), Message::NodeTold(events::whole_warning("ImageGCFailed", "z")), &mut Outbox::new());
    assert_eq!(agent.history()[3].to_v1("n").involved_object.kind.as_deref(), Some("Node"));
}

#[test]
fn f_f01_what_is_wanted_is_known_once_every_source_has_spoken() {
    let mut agent = agent(2);
    let mut outbox = Outbox::new();
    agent.take(at(1), report(0, &[pod("a", "u1")]), &mut outbox);
    assert_eq!(agent.wanted_images(), None);
    agent.take(at(2), started(vec![]), &mut outbox);
    assert_eq!(agent.wanted_images(), None);
    agent.take(at(3), report(1, &[pod("b", "u2")]), &mut outbox);
    let image = pod::containers_in_order(&pod("a", "u1")).find_map(|container| container.image.clone());
    assert_eq!(agent.wanted_images(), Some(image.into_iter().collect()));
}

#[test]
fn two_files_that_declare_one_pod_are_told() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let file = |name: &str, uid: &str| FileReport {
        name: name.into(),
        pods: vec![pod("web", uid)],
        secrets: Vec::new(),
        problem: None,
        ignored: false,
        since: Timestamp::UNIX_EPOCH,
    };
    let files = vec![file("a.yaml", "u1"), file("b.yaml", "u2")];
    agent.take(at(2), Message::Report(SourceReport { source: 0, files }), &mut outbox);
    assert_eq!(told(&agent), ["web FailedValidation "]);
    let message = agent.history()[0].to_v1("n").message.unwrap();
    assert_eq!(
        message,
        r#"Error validating pod web_default(u2) from b.yaml due to duplicate pod name "web", ignoring"#
    );
}

#[test]
fn what_turned_nothing_costs_no_report() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    let probe = serde_json::json!({ "livenessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 } });
    agent.take(at(1), started(vec![runtime_pod("a", "u1")]), &mut outbox);
    agent.take(at(2), report(0, &[pod_with("a", "u1", &probe)]), &mut outbox);
    complete_all(&mut agent, at(3), &mut outbox);
    let mut probed = 0;
    let mut revision = None;
    for now_ms in (1_000..20_000).step_by(500) {
        agent.tick(at(now_ms), &mut outbox);
        for request in std::mem::take(&mut outbox) {
            let Request::Perform { uid, generation, id, job } = request else { panic!("{request:?}") };
            assert!(matches!(job.effect, Effect::Probe { .. }), "{:?}", job.effect);
            let done = Done::Probe { healthy: true, output: String::new() };
            let performed = Performed::new(Outcome::Ok(done));
            agent.take(at(now_ms), Message::Completed { uid, generation, id, performed }, &mut outbox);
            assert!(outbox.is_empty(), "{outbox:?}");
            probed += 1;
        }
        let now = agent.entries["u1"].revision;
        assert!(probed < 2 || revision == now, "after {probed} probes");
        revision = now;
    }
    assert!(probed >= 15, "{probed}");
}
