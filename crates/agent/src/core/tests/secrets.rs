use lifecycle::{Failure, FailureClass};
use pod::PullSecret;

use super::*;
use crate::testing;

/// A pod that names these secrets.
fn pod_with_secrets(name: &str, uid: &str, secrets: &[&str]) -> Arc<Pod> {
    let mut pod = Pod::clone(&pod(name, uid));
    let references: Vec<_> = secrets.iter().map(|name| serde_json::json!({ "name": name })).collect();
    pod.spec.as_mut().unwrap().image_pull_secrets = serde_json::from_value(references.into()).unwrap();
    Arc::new(pod)
}

fn secret(name: &str, password: &str) -> Arc<PullSecret> {
    testing::secret(name, "docker.io", password)
}

fn in_namespace(namespace: &str, secret: &Arc<PullSecret>) -> Arc<PullSecret> {
    Arc::new(PullSecret { namespace: namespace.to_owned(), ..PullSecret::clone(secret) })
}

/// One file of pods and one of secrets.
fn both(pods: &[Arc<Pod>], secrets: &[Arc<PullSecret>]) -> Message {
    let Message::Report(mut report) = report(0, pods) else { unreachable!() };
    report.files.push(FileReport {
        name: "secrets".into(),
        pods: Vec::new(),
        secrets: secrets.to_vec(),
        ..report.files[0].clone()
    });
    Message::Report(report)
}

/// The pulls asked for, all else carried out: how to tell of their end, and the passwords known.
type Pull = ((String, u64, EffectId), Vec<String>);

fn pulls(agent: &mut Agent, now_ms: u64, outbox: &mut Outbox) -> Vec<Pull> {
    let mut pulls = Vec::new();
    while !outbox.is_empty() {
        let is_pull = |request: &Request| matches!(request, Request::Perform { job, .. } if matches!(job.effect, Effect::EnsureImage { .. }));
        let (asked, mut rest): (Vec<_>, Vec<_>) = std::mem::take(outbox).into_iter().partition(is_pull);
        for request in asked {
            let Request::Perform { uid, generation, id, job } = request else { unreachable!() };
            let known =
                job.pull_secrets.iter().flat_map(|secret| secret.config.for_image("docker.io/library/busybox:1"));
            let passwords = known.map(|credential| credential.password.clone()).collect();
            pulls.push(((uid, generation, id), passwords));
        }
        // Of what is done, only what it leads to matters.
        for request in rest.drain(..) {
            let mut one = vec![request];
            complete_one(agent, at(now_ms), &mut one);
            outbox.append(&mut one);
        }
    }
    pulls
}

/// Carries out one request; what comes of it stays in the outbox.
fn complete_one(agent: &mut Agent, now: Now, outbox: &mut Outbox) {
    let Some(Request::Perform { uid, generation, id, job }) = outbox.pop() else { return };
    let done = match &job.effect {
        Effect::RunSandbox { .. } => Done::Sandbox { id: format!("s-{uid}"), ips: vec!["10.0.0.9".into()] },
        _ => Done::Nothing,
    };
    let observed = (job.effect == Effect::Inspect).then(|| (now.mono_ms, ObservedPod::default()));
    let performed = Performed { observed, ..Performed::new(Outcome::Ok(done)) };
    agent.take(now, Message::Completed { uid, generation, id, performed }, outbox);
}

fn fail(agent: &mut Agent, now_ms: u64, (uid, generation, id): (String, u64, EffectId), outbox: &mut Outbox) {
    let failure =
        Failure { class: FailureClass::Retry, reason: pod::reasons::ERR_IMAGE_PULL.into(), message: "no".into() };
    let performed = Performed::new(Outcome::Failed(failure));
    agent.take(at(now_ms), Message::Completed { uid, generation, id, performed }, outbox);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn a_pull_has_the_secrets_that_its_pod_names_in_their_order() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let wanted = [pod_with_secrets("a", "u1", &["two", "one", "two", "gone", "foreign"]), pod("b", "u2")];
    let foreign = in_namespace("other", &secret("foreign", "3"));
    agent.take(at(2), both(&wanted, &[secret("one", "1"), secret("two", "2"), foreign]), &mut outbox);
    let asked = pulls(&mut agent, 3, &mut outbox);
    let of = |uid: &str| asked.iter().find(|pull| pull.0.0 == uid).unwrap();
    assert_eq!((&of("u1").1, &of("u2").1), (&strings(&["2", "1"]), &strings(&[])));
    let events: Vec<_> = agent.history().iter().map(|record| record.to_v1("n")).collect();
    let told = events.iter().find(|event| event.reason.as_deref() == Some("FailedToRetrieveImagePullSecret")).unwrap();
    assert_eq!(
        told.message.as_deref(),
        Some(
            "Unable to retrieve some image pull secrets (gone, foreign); attempting to pull the image may not succeed."
        )
    );
    assert_eq!(
        (told.type_.as_deref(), told.involved_object.name.as_deref(), &told.involved_object.field_path),
        (Some("Warning"), Some("a"), &None)
    );
}

#[test]
fn who_waits_for_an_image_tries_at_once_with_other_secrets() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let wanted = [pod_with_secrets("a", "u1", &["one"])];
    agent.take(at(2), both(&wanted, &[]), &mut outbox);
    let [(pull, passwords)] = &pulls(&mut agent, 3, &mut outbox)[..] else { panic!("one pull") };
    assert_eq!(*passwords, strings(&[]));
    fail(&mut agent, 4, pull.clone(), &mut outbox);
    agent.take(at(5), both(&wanted, &[]), &mut outbox);
    assert!(pulls(&mut agent, 5, &mut outbox).is_empty(), "nothing is new");
    let mut now_ms = 6;
    for (secrets, expected) in [(vec!["1"], &["1"][..]), (vec!["2"], &["2"]), (vec![], &[])] {
        let secrets: Vec<_> = secrets.into_iter().map(|password| secret("one", password)).collect();
        agent.take(at(now_ms), both(&wanted, &secrets), &mut outbox);
        let [(pull, passwords)] = &pulls(&mut agent, now_ms, &mut outbox)[..] else { panic!("{expected:?}") };
        assert_eq!(*passwords, strings(expected));
        fail(&mut agent, now_ms + 1, pull.clone(), &mut outbox);
        assert!(pulls(&mut agent, now_ms + 1, &mut outbox).is_empty(), "it backs off");
        now_ms += 2;
    }
}

#[test]
fn a_pull_that_fails_with_yesterdays_secrets_is_tried_at_once_with_todays() {
    let mut agent = agent(1);
    let mut outbox = Outbox::new();
    agent.take(at(1), started(vec![]), &mut outbox);
    let wanted = [pod_with_secrets("a", "u1", &["one"])];
    agent.take(at(2), both(&wanted, &[secret("one", "old")]), &mut outbox);
    let [(pull, _)] = &pulls(&mut agent, 3, &mut outbox)[..] else { panic!("one pull") };
    agent.take(at(4), both(&wanted, &[secret("one", "new")]), &mut outbox);
    assert!(pulls(&mut agent, 4, &mut outbox).is_empty(), "one pull at a time");
    fail(&mut agent, 5, pull.clone(), &mut outbox);
    let [(pull, passwords)] = &pulls(&mut agent, 5, &mut outbox)[..] else { panic!("it is tried again") };
    assert_eq!(*passwords, strings(&["new"]));
    fail(&mut agent, 6, pull.clone(), &mut outbox);
    assert!(pulls(&mut agent, 6, &mut outbox).is_empty(), "it backs off");
}
