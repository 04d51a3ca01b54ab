use k8s_openapi::api::core::v1::PodSpec;

use super::*;
use crate::sources::Problem;
use crate::testing;

fn pod(name: &str, uid: &str) -> Arc<Pod> {
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some(uid.into());
    Arc::new(pod)
}

fn file(name: &str, pods: &[Arc<Pod>]) -> FileReport {
    FileReport {
        name: name.into(),
        pods: pods.to_vec(),
        secrets: Vec::new(),
        problem: None,
        ignored: false,
        since: Timestamp::UNIX_EPOCH,
    }
}

fn report(source: usize, files: Vec<FileReport>) -> SourceReport {
    SourceReport { source, files }
}

fn uids(mux: &Mux) -> Vec<String> {
    mux.wanted().into_keys().collect()
}

#[test]
fn rule_7_all_sources_must_have_reported_once() {
    let mut mux = Mux::new(2);
    assert!(!mux.all_reported());
    mux.update(report(1, vec![]), &|_| false);
    assert!(!mux.all_reported());
    mux.update(report(0, vec![]), &|_| false);
    assert!(mux.all_reported());
    assert!(Mux::new(0).all_reported());
}

#[test]
fn of_two_files_with_one_name_the_first_wins_and_the_other_is_told_of_both() {
    let mut mux = Mux::new(1);
    let conflicts =
        mux.update(report(0, vec![file("b.yaml", &[pod("web", "2")]), file("a.yaml", &[pod("web", "1")])]), &|_| false);
    assert_eq!(uids(&mux), ["1"]);
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].message.contains("a.yaml") && conflicts[0].message.contains("b.yaml"), "{conflicts:?}");
    let manifests = mux.manifests();
    let loser = manifests.iter().find(|m| m.file == "b.yaml").unwrap();
    assert!(loser.error.is_some() && !loser.keeps_last_good && loser.pods == 0);
}

#[test]
fn whoever_runs_wins_whatever_its_name() {
    let (first, second) = (pod("web", "1"), pod("web", "2"));
    let both = vec![file("a.yaml", std::slice::from_ref(&first)), file("b.yaml", std::slice::from_ref(&second))];
    let mut running = Mux::new(1);
    running.update(report(0, both.clone()), &|uid| uid == "2");
    assert_eq!(uids(&running), ["2"], "known to the runtime from an earlier life");

    let mut mux = Mux::new(1);
    mux.update(report(0, vec![file("b.yaml", &[second])]), &|_| false);
    assert!(!mux.update(report(0, both.clone()), &|_| false).is_empty());
    assert_eq!(uids(&mux), ["2"], "in force already");
    assert!(mux.update(report(0, both), &|_| false).is_empty(), "told once");
    mux.update(report(0, vec![file("a.yaml", &[first])]), &|_| false);
    assert_eq!(uids(&mux), ["1"], "free when the holder goes");
}

#[test]
fn rule_13_a_file_that_takes_anothers_name_keeps_its_own_pod() {
    let mut mux = Mux::new(1);
    let (web, api) = (pod("web", "1"), pod("api", "2"));
    mux.update(report(0, vec![file("a.yaml", std::slice::from_ref(&web)), file("b.yaml", &[api])]), &|_| false);
    mux.update(report(0, vec![file("a.yaml", &[web]), file("b.yaml", &[pod("web", "3")])]), &|_| false);
    assert_eq!(uids(&mux), ["1", "2"]);
    assert!(mux.wanted()["2"].manifest_error.is_some());
    assert!(mux.manifests()[1].keeps_last_good);
}

#[test]
fn an_edit_keeps_its_name_against_a_new_file() {
    let mut mux = Mux::new(1);
    mux.update(report(0, vec![file("z.yaml", &[pod("web", "1")])]), &|_| false);
    mux.update(report(0, vec![file("a.yaml", &[pod("web", "9")]), file("z.yaml", &[pod("web", "2")])]), &|_| false);
    assert_eq!(uids(&mux), ["2"]);
}

#[test]
fn s_h04_two_pods_of_one_uid_are_refused() {
    let mut mux = Mux::new(2);
    mux.update(report(0, vec![file("a.yaml", &[pod("web", "1")])]), &|_| false);
    let conflicts = mux.update(report(1, vec![file("url", &[pod("api", "1")])]), &|_| false);
    assert!(conflicts[0].message.contains("metadata.uid") && conflicts[0].message.contains("a.yaml"), "{conflicts:?}");
    let twice = mux.update(report(1, vec![file("url", &[pod("x", "7"), pod("x", "8")])]), &|_| false);
    assert!(twice[0].message.contains("metadata.name"), "{twice:?}");
    assert_eq!(uids(&mux), ["1"]);
}

#[test]
fn a_files_problem_is_told_of_its_pods() {
    let mut mux = Mux::new(1);
    let bad = FileReport { problem: Some(Problem { message: "bad".into() }), ..file("a.yaml", &[pod("web", "1")]) };
    mux.update(report(0, vec![bad]), &|_| false);
    let error = mux.wanted()["1"].manifest_error.clone().unwrap();
    assert_eq!((error.message.as_str(), error.since), ("bad", Timestamp::UNIX_EPOCH));
    assert!(mux.manifests()[0].keeps_last_good);
}

/// A file with nothing but secrets.
fn secrets_file(name: &str, secrets: &[Arc<PullSecret>]) -> FileReport {
    FileReport { secrets: secrets.to_vec(), ..file(name, &[]) }
}

fn users(mux: &Mux) -> Vec<String> {
    let secrets = mux.secrets();
    let all = secrets.values().flat_map(|secret| secret.config.for_image("r.example/a"));
    all.map(|credential| credential.password.clone()).collect()
}

#[test]
fn of_two_secrets_with_one_name_the_first_stays_and_both_files_are_told() {
    let secret = |password: &str| testing::secret("regcred", "r.example", password);
    let (one, two) = (secret("1"), secret("2"));
    let both = [secrets_file("a.yaml", &[one]), secrets_file("b.yaml", std::slice::from_ref(&two))];
    let mut mux = Mux::new(1);
    // The second in name comes first in time.
    assert_eq!(mux.update(report(0, both[1..].to_vec()), &|_| false), []);
    let conflicts = mux.update(report(0, both.to_vec()), &|_| false);
    assert_eq!(users(&mux), ["2"]);
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].event.is_none());
    assert_eq!(
        conflicts[0].message,
        r#"a.yaml: metadata.name: secret "regcred" in namespace "default" is declared in b.yaml already, which stays in force; rename or remove one of them"#
    );
    assert_eq!(mux.update(report(0, both.to_vec()), &|_| false), [], "it is told once");
    // An edit of the one in force stays in force; without it the other one is.
    mux.update(report(0, vec![both[0].clone(), secrets_file("b.yaml", &[secret("3")])]), &|_| false);
    assert_eq!(users(&mux), ["3"]);
    mux.update(report(0, both[..1].to_vec()), &|_| false);
    assert_eq!((users(&mux), mux.manifests()[0].error.is_none()), (vec!["1".to_owned()], true));
}

#[test]
fn a_file_whose_secret_another_has_keeps_what_it_had() {
    let secret = |name: &str, password: &str| testing::secret(name, "r.example", password);
    let mut mux = Mux::new(2);
    let mine = FileReport { secrets: vec![secret("mine", "1")], ..file("a.yaml", &[pod("web", "1")]) };
    mux.update(report(0, vec![mine]), &|_| false);
    mux.update(report(1, vec![secrets_file("b.yaml", &[secret("theirs", "2")])]), &|_| false);
    let greedy = FileReport {
        secrets: vec![secret("mine", "3"), secret("theirs", "4")],
        ..file("a.yaml", &[pod("web", "1"), pod("more", "2")])
    };
    assert_eq!(mux.update(report(0, vec![greedy]), &|_| true).len(), 1);
    assert_eq!((users(&mux), uids(&mux)), (vec!["1".to_owned(), "2".to_owned()], vec!["1".to_owned()]));
    let manifests = mux.manifests();
    assert!(manifests[0].keeps_last_good && manifests[0].error.is_some(), "{manifests:?}");
}

#[test]
fn secrets_of_one_name_in_two_namespaces_are_two() {
    let one = testing::secret("s", "r.example", "1");
    let two = Arc::new(PullSecret { namespace: "team".into(), ..PullSecret::clone(&one) });
    let mut mux = Mux::new(1);
    assert_eq!(mux.update(report(0, vec![secrets_file("a.yaml", &[one, two])]), &|_| false), []);
    assert_eq!(mux.secrets().len(), 2);
}
