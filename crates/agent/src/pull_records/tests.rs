use std::os::unix::fs::MetadataExt;

use super::*;
use crate::testing::TempDir;

const APP: &str = "registry.example/team/app:1";

fn load(dir: &TempDir) -> Arc<PullRecords> {
    Arc::new(PullRecords::load(dir.path(), Verification::default()))
}

fn bearer(name: &str, password: &str) -> Bearer {
    let auth = v1::AuthConfig { password: password.to_owned(), ..Default::default() };
    Bearer { namespace: "default".into(), name: name.into(), uid: String::new(), hash: hash(&auth) }
}

fn only(bearer: &Bearer) -> Access {
    Access::Bearers(vec![bearer.clone()])
}

fn image(id: &str, name: &str) -> v1::Image {
    crate::testing::fake::images::image(id, &[name])
}

/// Names of all records.
fn on_disk(dir: &TempDir) -> (usize, usize) {
    let count = |kind: &str| files(&dir.path().join("image_manager").join(kind)).unwrap().len();
    (count("pulling"), count("pulled"))
}

#[test]
fn what_was_granted_is_known_to_the_next_kubelet() {
    let dir = TempDir::new();
    let (ada, eve) = (bearer("ada", "canary-1"), bearer("eve", "guess"));
    for (round, records) in [load(&dir), load(&dir)].into_iter().enumerate() {
        if round == 0 {
            assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Granted, "nobody knows how it came");
            let pulling = records.begin(APP, None).unwrap();
            assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Ask, "it is being pulled");
            assert_eq!(on_disk(&dir), (1, 0));
            pulling.end(Ended::Pulled("sha256:1".into(), only(&ada)));
        }
        assert_eq!(on_disk(&dir), (0, 1));
    }
    let records = load(&dir);
    assert_eq!(records.judge(APP, Some("sha256:1"), std::slice::from_ref(&ada)), Verdict::Granted);
    assert_eq!(records.judge(APP, Some("sha256:1"), std::slice::from_ref(&eve)), Verdict::Ask);
    assert_eq!(records.judge("registry.example/team/app:2", Some("sha256:1"), &[ada]), Verdict::Granted, "a tag");
    assert_eq!(records.judge("registry.example/other:1", Some("sha256:1"), &[]), Verdict::Ask, "a repository");
    assert_eq!(records.judge(APP, Some("sha256:2"), &[]), Verdict::Granted, "another image");
    assert_eq!(records.judge(APP, None, &[]), Verdict::Granted, "an archive gave the name");
    records.grant(APP, "sha256:1", Access::Everyone).unwrap();
    assert_eq!(load(&dir).judge(APP, Some("sha256:1"), &[eve]), Verdict::Granted);
}

#[test]
fn s_b23_a_record_shows_no_credential_and_is_for_root_alone() {
    let dir = TempDir::new();
    let records = load(&dir);
    let pulling = records.begin(APP, None).unwrap();
    let intent = std::fs::read_to_string(records.pulling_dir.join(file_name(APP))).unwrap();
    assert_eq!(
        intent,
        r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"registry.example/team/app:1"}"#
    );
    pulling.end(Ended::Pulled("sha256:1".into(), only(&bearer("ada", "canary-1"))));
    let path = records.pulled_dir.join(file_name("sha256:1"));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["kind"], &record["imageRef"]), (&"ImagePulledRecord".into(), &"sha256:1".into()));
    let secrets = &record["credentialMapping"]["registry.example/team/app"]["kubernetesSecrets"];
    assert_eq!((&secrets[0]["name"], secrets[0]["credentialHash"].as_str().unwrap().len()), (&"ada".into(), 64));
    assert!(record["lastUpdatedTime"].as_str().unwrap().ends_with('Z'), "{text}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(&records.pulled_dir)), (0o600, 0o700));
}

#[test]
fn hashes_tell_credentials_apart() {
    let auth = |username: &str, password: &str, token: &str| {
        let auth = v1::AuthConfig { username: username.into(), password: password.into(), ..Default::default() };
        hash(&v1::AuthConfig { identity_token: token.into(), ..auth })
    };
    let all = [auth("a", "b", ""), auth("ab", "", ""), auth("", "ab", ""), auth("a", "", "b"), auth("", "", "")];
    assert_eq!(BTreeSet::from(all.clone()).len(), all.len());
    assert_eq!(auth("a", "b", ""), all[0]);
}

/// As if images were listed after the latest moment at which what was pulled may come.
fn later() -> Millis {
    clock::mono_ms() + LATE_MS + 1
}

/// Pulls whose end nobody sees, each in its way, on a machine of its own.
fn lost(image: &str, present: Option<&str>) -> Vec<(TempDir, Arc<PullRecords>)> {
    let ways: [fn(Pulling); 3] = [drop, |pulling| pulling.end(Ended::Unknown), std::mem::forget];
    let lose = |way: fn(Pulling)| {
        let dir = TempDir::new();
        let records = load(&dir);
        way(records.begin(image, present).unwrap());
        // The one that was forgotten is a killed kubelet's.
        let records = load(&dir);
        (dir, records)
    };
    ways.map(lose).into()
}

#[test]
fn f_b06_a_pull_whose_end_nobody_saw_lets_nobody_in() {
    for (dir, records) in lost(APP, None) {
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((1, 0), Verdict::Ask));
        // Neither does one who is refused.
        records.begin(APP, Some("sha256:1")).unwrap().end(Ended::Failed);
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((1, 0), Verdict::Ask));
        records.prune(&[image("sha256:1", APP)], clock::mono_ms() + 1);
        assert_eq!(on_disk(&dir), (1, 0), "another may come yet");
        records.prune(&[image("sha256:1", APP)], later());
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((0, 1), Verdict::Ask));
        assert_eq!(load(&dir).judge(APP, Some("sha256:1"), &[]), Verdict::Ask);
        records.begin(APP, Some("sha256:1")).unwrap().end(Ended::Pulled("sha256:1".into(), Access::Everyone));
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((0, 1), Verdict::Granted));
    }
}

#[test]
fn f_b06_who_is_let_in_ends_what_nobody_saw_the_end_of() {
    for (dir, records) in lost(APP, None) {
        records.begin(APP, None).unwrap().end(Ended::Pulled("sha256:1".into(), only(&bearer("ada", "canary-1"))));
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((0, 1), Verdict::Ask));
        assert_eq!(records.judge(APP, Some("sha256:1"), &[bearer("ada", "canary-1")]), Verdict::Granted);
    }
    for (dir, records) in lost(APP, None) {
        records.prune(&[image("sha256:2", "registry.example/team/app:2")], later());
        assert_eq!(on_disk(&dir), (0, 0), "nothing came of it");
        assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Granted);
    }
}

#[test]
fn f_b06_what_was_there_before_a_pull_did_not_come_by_it() {
    for (dir, records) in lost(APP, Some("sha256:0")) {
        assert_eq!(records.judge(APP, Some("sha256:0"), &[]), Verdict::Granted);
        assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Ask);
        records.prune(&[image("sha256:0", APP)], later());
        assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:0"), &[])), ((0, 0), Verdict::Granted));
    }
}

#[test]
fn f_b06_a_digest_and_its_tag_are_of_one_pull() {
    let digest = format!("registry.example/team/app@sha256:{}", "0".repeat(64));
    let both = digest.replace("app@", "app:1@");
    for (pulled, listed) in [(APP, &*digest), (&*digest, APP), (&*both, &*digest), (&*both, APP)] {
        for (dir, records) in lost(pulled, None) {
            for name in [APP, &digest, &both] {
                assert_eq!(records.judge(name, Some("sha256:1"), &[]), Verdict::Ask, "{pulled} {name}");
            }
            let other = "registry.example/team/other:1";
            assert_eq!(records.judge(other, Some("sha256:1"), &[]), Verdict::Granted, "{pulled}");
            let mut listed = image("sha256:1", listed);
            listed.repo_digests = vec![digest.clone()];
            listed.repo_tags = vec![APP.to_owned()];
            records.prune(&[listed], later());
            assert_eq!((on_disk(&dir), records.judge(&digest, Some("sha256:1"), &[])), ((0, 1), Verdict::Ask));
        }
    }
}

#[test]
fn one_of_two_pulls_that_fails_leaves_the_other_under_way() {
    let dir = TempDir::new();
    let records = load(&dir);
    let (one, two) = (records.begin(APP, None).unwrap(), records.begin(APP, None).unwrap());
    one.end(Ended::Failed);
    assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((1, 0), Verdict::Ask));
    records.prune(&[image("sha256:1", APP)], Millis::MAX);
    assert_eq!(on_disk(&dir), (1, 0));
    two.end(Ended::Pulled("sha256:1".into(), Access::Everyone));
    assert_eq!((on_disk(&dir), records.judge(APP, Some("sha256:1"), &[])), ((0, 1), Verdict::Granted));
}

#[test]
fn what_is_gone_is_forgotten_and_what_just_came_is_not() {
    let dir = TempDir::new();
    let records = load(&dir);
    let grant = |id: &str| records.grant(APP, id, Access::Everyone).unwrap();
    grant("sha256:1");
    grant("sha256:2");
    let since_ms = clock::mono_ms() + 1;
    records.prune(&[image("sha256:1", APP)], since_ms);
    assert_eq!(on_disk(&dir), (0, 1));
    assert_eq!(records.judge(APP, Some("sha256:2"), &[]), Verdict::Granted, "as one that nobody knows of");
    records.prune(&[], clock::mono_ms().saturating_sub(60_000));
    assert_eq!(on_disk(&dir), (0, 1), "it came after they were listed");
    // Granted again it is as new, though its file need not be written.
    let written = std::fs::metadata(records.pulled_dir.join(file_name("sha256:1"))).unwrap().ino();
    grant("sha256:1");
    assert_eq!(std::fs::metadata(records.pulled_dir.join(file_name("sha256:1"))).unwrap().ino(), written);
}

#[test]
fn s_m02_what_cannot_be_read_lets_nobody_in() {
    let dir = TempDir::new();
    let records = load(&dir);
    records.grant(APP, "sha256:1", Access::Everyone).unwrap();
    std::fs::write(records.pulled_dir.join(file_name("sha256:1")), "{").unwrap();
    std::fs::write(records.pulled_dir.join("notes.txt"), "").unwrap();
    drop(records);
    let records = load(&dir);
    assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Ask);
    assert_eq!(records.judge(APP, Some("sha256:2"), &[]), Verdict::Granted);
    records.grant(APP, "sha256:1", Access::Everyone).unwrap();
    assert_eq!(load(&dir).judge(APP, Some("sha256:1"), &[]), Verdict::Granted);
    std::mem::forget(records.begin("registry.example/x:1", None).unwrap());
    std::fs::write(records.pulling_dir.join(file_name("registry.example/x:1")), "{").unwrap();
    let records = load(&dir);
    assert_eq!(records.judge("registry.example/x:1", Some("sha256:2"), &[]), Verdict::Ask);
    assert_eq!(records.judge("registry.example/y:1", Some("sha256:2"), &[]), Verdict::Granted);
    records.prune(&[image("sha256:2", "registry.example/x:1"), image("sha256:1", APP)], later());
    assert_eq!(on_disk(&dir), (0, 2), "what came of it is known by name");
    assert_eq!(records.judge("registry.example/x:1", Some("sha256:2"), &[]), Verdict::Ask);
}

#[test]
fn records_of_other_kubelets_are_understood() {
    let dir = TempDir::new();
    let record = serde_json::json!({
        "kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1alpha1",
        "lastUpdatedTime": "2026-01-02T03:04:05Z", "imageRef": "sha256:1",
        "credentialMapping": {
            "nginx": { "nodePodsAccessible": true },
            "registry.example/private": {
                "kubernetesSecrets": [
                    { "uid": "u", "namespace": "default", "name": "s", "credentialHash": "0123" },
                    { "uid": "v", "namespace": "default", "name": "t", "credentialHash": "" },
                ],
                "kubernetesServiceAccounts": [{ "uid": "w", "namespace": "default", "name": "sa" }],
            },
        },
    });
    let pulled = dir.path().join("image_manager/pulled");
    std::fs::create_dir_all(&pulled).unwrap();
    std::fs::write(pulled.join(file_name("sha256:1")), record.to_string()).unwrap();
    let records = load(&dir);
    assert_eq!(records.judge("docker.io/library/nginx:1", Some("sha256:1"), &[]), Verdict::Granted);
    let same = Bearer { uid: "u".into(), ..bearer("s", "x") };
    let unhashed = Bearer { uid: "v".into(), ..bearer("t", "x") };
    let private = "registry.example/private:1";
    assert_eq!(records.judge(private, Some("sha256:1"), std::slice::from_ref(&same)), Verdict::GrantedTo(&same));
    assert_eq!(records.judge(private, Some("sha256:1"), &[unhashed]), Verdict::Ask);
}

#[test]
fn what_cannot_be_written_down_is_an_error() {
    let dir = TempDir::new();
    // Root may write anywhere but not where a file stands.
    std::fs::write(dir.path().join("image_manager"), "").unwrap();
    let records = load(&dir);
    assert!(records.begin(APP, None).is_err());
    assert!(records.grant(APP, "sha256:1", Access::Everyone).is_err());
    assert_eq!(records.judge(APP, Some("sha256:1"), &[]), Verdict::Ask, "nor can what was written down be read");
}
