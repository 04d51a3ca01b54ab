use std::sync::Arc;

use cri::Error;
use cri::keys::PodKey;
use lifecycle::image_access::Verification;
use lifecycle::{Effect, Failure, Severity};
use pod::PullSecret;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::Message;
use crate::credentials::{Credentials, CredentialsConfig};
use crate::effects::perform;
use crate::testing::fake::Fake;
use crate::testing::fake::images::image;
use crate::testing::{TempDir, secret};
use crate::{AgentConfig, ImagesConfig};

const APP: &str = "registry.example/team/app:1";
const OTHER: &str = "registry.example/team/other:1";

struct Bed {
    dir: TempDir,
    fake: Arc<Fake>,
    world: Arc<World>,
    messages: mpsc::Sender<Message>,
    told: mpsc::Receiver<Message>,
}

/// A container's image that is being made present.
struct Work {
    cancel: CancellationToken,
    task: JoinHandle<Performed>,
}

impl Bed {
    fn new(images: ImagesConfig) -> Self {
        let (dir, fake) = (TempDir::new(), Arc::new(Fake::default()));
        let world = world(&dir, &fake, images);
        let (messages, told) = mpsc::channel(64);
        Self { dir, fake, world, messages, told }
    }

    /// Another kubelet in its place.
    fn restart(&mut self, images: ImagesConfig) {
        self.world = world(&self.dir, &self.fake, images);
    }

    fn begin(&self, name: &str, pull_policy: PullPolicy) -> Work {
        self.begin_with(name, pull_policy, Vec::new())
    }

    fn begin_with(&self, name: &str, pull_policy: PullPolicy, pull_secrets: Vec<Arc<PullSecret>>) -> Work {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "default", "uid": "u" },
            "spec": { "containers": [{ "name": "c", "image": name }] },
        });
        let cancel = CancellationToken::new();
        let job = Job {
            key: PodKey { namespace: "default".into(), name: "p".into(), uid: "u".into() },
            pod: Some(Arc::new(serde_json::from_value(pod).unwrap())),
            effect: Effect::EnsureImage { container: "c".into() },
            ips: Vec::new(),
            sandbox_attempt: 0,
            pull_policy,
            pull_secrets,
            burstable_millis: 0,
            cancel: cancel.clone(),
        };
        let teller = Teller { messages: self.messages.clone(), uid: "u".into(), generation: 7 };
        Work { cancel, task: tokio::spawn(perform(self.world.clone(), job, teller)) }
    }

    async fn ensure(&self, name: &str, pull_policy: PullPolicy) -> Performed {
        self.begin(name, pull_policy).task.await.unwrap()
    }

    /// The same for a pod with a Secret, by its name and its password.
    async fn ensure_with(&self, pull_policy: PullPolicy, (name, password): (&str, &str)) -> Performed {
        self.begin_with(APP, pull_policy, vec![named_secret(name, password)]).task.await.unwrap()
    }

    /// What comes of a container without a Secret that waits while one with these pulls the same image.
    async fn one_after_another(&mut self, secrets: Vec<Arc<PullSecret>>) -> Performed {
        self.fake.images.hold_pulls(true);
        let first = self.begin_with(APP, PullPolicy::IfNotPresent, secrets);
        self.until("the first pulls", |bed| bed.fake.images.under_way().0 == 1).await;
        let second = self.begin(APP, PullPolicy::IfNotPresent);
        self.next_told().await;
        self.next_told().await;
        self.fake.images.hold_pulls(false);
        assert!(is_image(&first.task.await.unwrap(), "sha256:1"));
        second.task.await.unwrap()
    }

    fn pulls(&self) -> usize {
        self.fake.images.asked().len()
    }

    /// What is told next while something is under way.
    async fn next_told(&mut self) -> String {
        match self.told.recv().await.unwrap() {
            Message::Told { uid, generation: 7, event } if uid == "u" => line(&event),
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "not within 20 s: {what}");
    }
}

/// One user's, whatever the Secret's name.
fn named_secret(name: &str, password: &str) -> Arc<PullSecret> {
    let secret = secret("user", "registry.example", password);
    Arc::new(PullSecret { name: name.to_owned(), ..PullSecret::clone(&secret) })
}

fn world(dir: &TempDir, fake: &Arc<Fake>, images: ImagesConfig) -> Arc<World> {
    let config = AgentConfig { images, root_dir: dir.path().to_owned(), ..AgentConfig::default() };
    Arc::new(World::new(fake.clone(), config, None))
}

fn parallel(max_parallel: Option<u32>) -> ImagesConfig {
    ImagesConfig { serialize: false, max_parallel, ..ImagesConfig::default() }
}

fn line(event: &Event) -> String {
    assert_eq!(event.container.as_deref(), Some("c"));
    let severity = if event.severity == Severity::Warning { "W " } else { "" };
    format!("{severity}{}: {}", event.reason, event.message)
}

fn lines(performed: &Performed) -> Vec<String> {
    performed.events.iter().map(line).collect()
}

fn failure(performed: &Performed) -> (&str, &str) {
    match &performed.outcome {
        Outcome::Failed(Failure { reason, message, .. }) => (reason, message),
        other => panic!("{other:?}"),
    }
}

fn is_image(performed: &Performed, id: &str) -> bool {
    performed.outcome == Outcome::Ok(Done::Image { image_ref: id.to_owned() })
}

#[tokio::test]
async fn what_is_present_is_pulled_only_by_always() {
    let present = r#"Pulled: Container image "registry.example/team/app:1" already present on machine and can be accessed by the pod"#;
    for (policy, pulls) in [(PullPolicy::IfNotPresent, 0), (PullPolicy::Never, 0), (PullPolicy::Always, 1)] {
        let mut bed = Bed::new(ImagesConfig::default());
        bed.fake.images.add(image("sha256:1", &[APP]));
        bed.fake.images.publish(image("sha256:2", &[APP]), None);
        let performed = bed.ensure(APP, policy).await;
        assert_eq!(bed.fake.images.asked().len(), pulls, "{policy:?}");
        if pulls == 0 {
            assert!(is_image(&performed, "sha256:1"), "{performed:?}");
            assert_eq!(lines(&performed), [present]);
            continue;
        }
        assert!(is_image(&performed, "sha256:2"), "what the registry has now: {performed:?}");
        assert_eq!(bed.next_told().await, format!("Pulling: Pulling image {APP:?}"));
    }
}

#[tokio::test]
async fn a_pull_tells_how_long_it_took_and_how_large_the_image_is() {
    let bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:2", &["docker.io/library/app:latest"]), None);
    let performed = bed.ensure("app", PullPolicy::IfNotPresent).await;
    assert!(is_image(&performed, "sha256:2"), "{performed:?}");
    let lines = lines(&performed);
    assert_eq!(lines.len(), 1);
    let rest = lines[0].strip_prefix(r#"Pulled: Successfully pulled image "app" in "#).unwrap();
    let (took, rest) = rest.split_once(" (").unwrap();
    let (whole, rest) = rest.split_once(" including waiting").unwrap();
    assert!(took.ends_with('s') && whole.ends_with('s'), "{lines:?}");
    assert_eq!(rest, "). Image size: 1000 bytes.");
}

#[tokio::test]
async fn what_is_no_failed_pull_has_a_reason_of_its_own() {
    let bed = Bed::new(ImagesConfig::default());
    let performed = bed.ensure(APP, PullPolicy::Never).await;
    let text = format!("Container image {APP:?} is not present with pull policy of Never");
    assert_eq!(failure(&performed), ("ErrImageNeverPull", text.as_str()));
    assert_eq!(
        lines(&performed),
        [format!("W ErrImageNeverPull: {text}"), "W Failed: Error: ErrImageNeverPull".into()]
    );

    let performed = bed.ensure("App:1", PullPolicy::Always).await;
    let (reason, message) = failure(&performed);
    assert_eq!(reason, "InvalidImageName");
    let begin = r#"Failed to apply default image tag "App:1": couldn't parse image name "App:1": "#;
    assert!(message.starts_with(begin), "{message}");
    let expected = [format!("W InspectFailed: {message}"), "W Failed: Error: InvalidImageName".into()];
    assert_eq!(lines(&performed), expected);

    bed.fake.images.go_blind(Error::internal("the disk is broken"));
    let performed = bed.ensure(APP, PullPolicy::Always).await;
    let text = format!("Failed to inspect image {APP:?}: the disk is broken");
    assert_eq!(failure(&performed), ("ImageInspectError", text.as_str()));
    assert_eq!(lines(&performed), [format!("W InspectFailed: {text}"), "W Failed: Error: ImageInspectError".into()]);
    assert!(bed.fake.images.asked().is_empty());
}

#[tokio::test]
async fn a_failed_pull_is_named_as_every_kubelet_names_it() {
    let table = [
        ("manifest unknown", "ErrImagePull", "manifest unknown".to_owned()),
        (
            "RegistryUnavailable: dial tcp: refused",
            "RegistryUnavailable",
            format!("image pull failed for {APP} because the registry is unavailable: dial tcp: refused"),
        ),
        (
            "RegistryUnavailable",
            "RegistryUnavailable",
            format!("image pull failed for {APP} because the registry is unavailable"),
        ),
        (
            "SignatureValidationFailed: no key",
            "SignatureValidationFailed",
            format!("image pull failed for {APP} because the signature validation failed: no key"),
        ),
        ("no RegistryUnavailable", "ErrImagePull", "no RegistryUnavailable".to_owned()),
    ];
    for (error, reason, message) in table {
        let bed = Bed::new(ImagesConfig::default());
        // As the client of a runtime behind a socket says it.
        bed.fake.images.fail_pulls_of(APP, Error::internal(format!("pull_image: {error}")));
        let performed = bed.ensure(APP, PullPolicy::IfNotPresent).await;
        assert_eq!(failure(&performed), (reason, message.as_str()));
        let expected =
            [format!("W Failed: Failed to pull image {APP:?}: {error}"), format!("W Failed: Error: {reason}")];
        assert_eq!(lines(&performed), expected);
    }
}

/// Credentials for the registry, each in a file of its own.
fn credentials(dir: &TempDir, known: &[(&str, &str)]) -> ImagesConfig {
    let write = |(number, (username, password)): (usize, &(&str, &str))| {
        let path = dir.path().join(format!("{number}.json"));
        let auths = json!({ "auths": { "registry.example": { "username": username, "password": password } } });
        std::fs::write(&path, auths.to_string()).unwrap();
        path
    };
    let docker_configs = known.iter().enumerate().map(write).collect();
    let credentials = Credentials::new(CredentialsConfig { docker_configs, ..Default::default() }).unwrap();
    ImagesConfig { credentials: Arc::new(credentials), ..ImagesConfig::default() }
}

#[tokio::test]
async fn credentials_are_tried_until_one_is_good() {
    let dir = TempDir::new();
    let bed = Bed::new(credentials(&dir, &[("eve", "guess"), ("ada", "canary-1"), ("bob", "canary-2")]));
    bed.fake.images.publish(image("sha256:2", &[APP]), Some("canary-1"));
    assert!(is_image(&bed.ensure(APP, PullPolicy::Always).await, "sha256:2"));
    let asked: Vec<_> = bed.fake.images.asked().into_iter().filter_map(|(_, who)| who).collect();
    assert_eq!(asked, ["eve", "ada"]);

    let bed = Bed::new(credentials(&dir, &[("eve", "guess"), ("ada", "canary-1")]));
    bed.fake.images.fail_pulls_of(APP, Error::internal("the disk is full"));
    assert_eq!(failure(&bed.ensure(APP, PullPolicy::Always).await), ("ErrImagePull", "the disk is full"));
    assert_eq!(bed.fake.images.asked().len(), 1, "another credential empties no disk");
}

#[tokio::test]
async fn s_b23_no_message_shows_a_credential() {
    let dir = TempDir::new();
    let bed = Bed::new(credentials(&dir, &[("eve", "canary-1"), ("mal", "canary-2")]));
    bed.fake.images.publish(image("sha256:2", &[APP]), Some("something else"));
    let performed = bed.ensure(APP, PullPolicy::Always).await;
    let wrong = format!("{APP}: \"<redacted>\" is a wrong password");
    assert_eq!(failure(&performed), ("ErrImagePull", wrong.as_str()), "what is the same is said once");
    assert!(!format!("{performed:?}").contains("canary"), "{performed:?}");
}

#[tokio::test]
async fn pulling_is_told_when_it_begins_and_giving_up_ends_the_pull() {
    let mut bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:2", &[APP]), None);
    bed.fake.images.hold_pulls(true);
    let work = bed.begin(APP, PullPolicy::IfNotPresent);
    assert_eq!(bed.next_told().await, format!("Pulling: Pulling image {APP:?}"));
    bed.until("the runtime pulls", |bed| bed.fake.images.under_way().0 == 1).await;
    work.cancel.cancel();
    let performed = work.task.await.unwrap();
    assert!(
        matches!(&performed.outcome, Outcome::Failed(failure) if failure.class == lifecycle::FailureClass::Cancelled)
    );
    assert_eq!(bed.fake.images.under_way(), (0, 1), "the runtime's pull was dropped");
}

#[tokio::test]
async fn one_pulls_after_the_other_and_who_gives_up_leaves_the_queue() {
    let mut bed = Bed::new(ImagesConfig::default());
    for (id, name) in [("sha256:1", APP), ("sha256:2", OTHER), ("sha256:3", "registry.example/third:1")] {
        bed.fake.images.publish(image(id, &[name]), None);
    }
    bed.fake.images.hold_pulls(true);
    let first = bed.begin(APP, PullPolicy::IfNotPresent);
    bed.until("the first pulls", |bed| bed.fake.images.under_way().0 == 1).await;
    let second = bed.begin(OTHER, PullPolicy::IfNotPresent);
    let third = bed.begin("registry.example/third:1", PullPolicy::IfNotPresent);
    for _ in 0..3 {
        assert!(bed.next_told().await.starts_with("Pulling: "), "told before its turn has come");
    }
    second.cancel.cancel();
    assert!(matches!(second.task.await.unwrap().outcome, Outcome::Failed(_)));
    bed.fake.images.hold_pulls(false);
    assert!(is_image(&first.task.await.unwrap(), "sha256:1"));
    assert!(is_image(&third.task.await.unwrap(), "sha256:3"));
    assert_eq!(bed.fake.images.under_way(), (0, 1));
    assert!(!bed.fake.images.asked().iter().any(|(name, _)| name == OTHER));
}

#[tokio::test]
async fn so_many_pull_at_once_as_may() {
    let names: Vec<String> = (0..5).map(|n| format!("registry.example/app{n}:1")).collect();
    for (config, at_once) in [(parallel(Some(2)), 2), (parallel(None), 5)] {
        let bed = Bed::new(config);
        bed.fake.images.hold_pulls(true);
        for name in &names {
            bed.fake.images.publish(image(&format!("sha256:{name}"), &[name]), None);
        }
        let work: Vec<Work> = names.iter().map(|name| bed.begin(name, PullPolicy::IfNotPresent)).collect();
        bed.until("so many pull", |bed| bed.fake.images.under_way().0 == at_once).await;
        bed.fake.images.hold_pulls(false);
        for work in work {
            assert!(matches!(work.task.await.unwrap().outcome, Outcome::Ok(_)));
        }
        assert_eq!(bed.fake.images.under_way(), (0, at_once));
    }
}

#[tokio::test]
async fn who_waited_for_another_to_bring_the_image_does_not_pull_it_again() {
    let mut bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:1", &[APP]), None);
    let second = bed.one_after_another(Vec::new()).await;
    assert!(is_image(&second, "sha256:1"), "{second:?}");
    assert!(lines(&second)[0].contains("already present on machine"), "{second:?}");
    assert_eq!(bed.fake.images.asked().len(), 1);
}

#[tokio::test]
async fn who_pulls_too_often_is_told() {
    let bed = Bed::new(ImagesConfig { qps: 1, burst: 2, ..ImagesConfig::default() });
    for name in [APP, OTHER, "registry.example/third:1"] {
        bed.fake.images.fail_pulls_of(name, Error::internal("broken"));
    }
    for (name, expected) in [(APP, "broken"), (OTHER, "broken"), (APP, "pull QPS exceeded")] {
        assert_eq!(failure(&bed.ensure(name, PullPolicy::Always).await), ("ErrImagePull", expected));
    }
}

#[tokio::test]
async fn what_an_archive_brought_waits_for_no_registry() {
    let bed = Bed::new(ImagesConfig { qps: 1, burst: 1, ..ImagesConfig::default() });
    bed.fake.images.publish(image("sha256:1", &[APP]), None);
    bed.fake.images.give(image("sha256:2", &[OTHER]));
    bed.fake.images.hold_pulls(true);
    let pulls = bed.begin(APP, PullPolicy::IfNotPresent);
    bed.until("one pulls", |bed| bed.fake.images.under_way().0 == 1).await;
    for _ in 0..5 {
        assert!(is_image(&bed.ensure(OTHER, PullPolicy::Always).await, "sha256:2"));
    }
    assert_eq!(bed.pulls(), 1, "and the one goes on");
    bed.fake.images.hold_pulls(false);
    assert!(is_image(&pulls.task.await.unwrap(), "sha256:1"));
}

#[tokio::test]
async fn an_image_that_is_only_kept_from_collection_is_pulled_as_any_other() {
    let dir = TempDir::new();
    let bed = Bed::new(credentials(&dir, &[("ada", "canary-1")]));
    bed.fake.images.add(v1::Image { pinned: true, ..image("sha256:1", &[APP]) });
    bed.fake.images.publish(image("sha256:2", &[APP]), Some("canary-1"));
    assert!(is_image(&bed.ensure(APP, PullPolicy::Always).await, "sha256:2"), "with the credential that is known");
}

#[tokio::test]
async fn s_b23_a_private_image_is_only_for_those_whom_its_registry_lets_in() {
    let mut bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:1", &[APP]), Some("canary-1"));
    assert!(is_image(&bed.ensure_with(PullPolicy::IfNotPresent, ("ada", "canary-1")).await, "sha256:1"));
    assert_eq!(bed.pulls(), 1);

    let never = format!("Container image {APP:?} is not present with pull policy of Never");
    for _ in 0..2 {
        let without = bed.ensure(APP, PullPolicy::IfNotPresent).await;
        assert_eq!(failure(&without).0, "ErrImagePull");
        let wrong = bed.ensure_with(PullPolicy::IfNotPresent, ("eve", "guess")).await;
        assert_eq!(failure(&wrong).0, "ErrImagePull");
        assert_eq!(failure(&bed.ensure(APP, PullPolicy::Never).await), ("ErrImageNeverPull", never.as_str()));
        bed.restart(ImagesConfig::default());
    }
    assert_eq!(bed.pulls(), 5, "never is never");

    // The same, the same in another Secret, and another one in that: known without asking.
    for (name, password) in [("ada", "canary-1"), ("bob", "canary-1"), ("bob", "canary-2")] {
        for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
            let performed = bed.ensure_with(policy, (name, password)).await;
            assert!(is_image(&performed, "sha256:1"), "{name} {performed:?}");
            assert!(lines(&performed)[0].ends_with("already present on machine and can be accessed by the pod"));
        }
    }
    assert_eq!(bed.pulls(), 5);

    bed.restart(ImagesConfig { verification: Verification::Never, ..ImagesConfig::default() });
    assert!(is_image(&bed.ensure(APP, PullPolicy::IfNotPresent).await, "sha256:1"));
    assert_eq!(bed.pulls(), 5);
}

#[tokio::test]
async fn what_the_node_or_nobody_in_particular_pulled_is_for_everybody() {
    let dir = TempDir::new();
    let node = credentials(&dir, &[("node", "canary-1")]);
    for (config, secrets, password) in
        [(node, vec![named_secret("eve", "guess")], Some("canary-1")), (parallel(None), vec![], None)]
    {
        let mut bed = Bed::new(config);
        bed.fake.images.publish(image("sha256:1", &[APP]), password);
        let performed = bed.begin_with(APP, PullPolicy::IfNotPresent, secrets).task.await.unwrap();
        assert!(is_image(&performed, "sha256:1"), "{performed:?}");
        let pulls = bed.pulls();
        bed.restart(ImagesConfig { verification: Verification::Always, ..ImagesConfig::default() });
        assert!(is_image(&bed.ensure(APP, PullPolicy::Never).await, "sha256:1"));
        assert_eq!(bed.pulls(), pulls);
    }
}

#[tokio::test]
async fn what_others_brought_is_for_everybody_unless_all_is_verified() {
    let mut bed = Bed::new(ImagesConfig::default());
    bed.fake.images.add(image("sha256:1", &[APP]));
    assert!(is_image(&bed.ensure(APP, PullPolicy::Never).await, "sha256:1"));
    bed.restart(ImagesConfig { verification: Verification::Always, ..ImagesConfig::default() });
    assert_eq!(failure(&bed.ensure(APP, PullPolicy::Never).await).0, "ErrImageNeverPull");
    // It is asked for once, and then known.
    for _ in 0..2 {
        assert!(is_image(&bed.ensure(APP, PullPolicy::IfNotPresent).await, "sha256:1"));
    }
    assert_eq!(bed.pulls(), 1);
}

#[tokio::test]
async fn an_archive_that_holds_a_private_image_gives_it_to_everybody() {
    let bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:1", &[APP]), Some("canary-1"));
    assert!(is_image(&bed.ensure_with(PullPolicy::IfNotPresent, ("ada", "canary-1")).await, "sha256:1"));
    bed.fake.images.give(image("sha256:1", &[OTHER]));
    assert!(is_image(&bed.ensure(OTHER, PullPolicy::Never).await, "sha256:1"));
    assert_eq!(failure(&bed.ensure(APP, PullPolicy::Never).await).0, "ErrImageNeverPull", "by its other name");
}

#[tokio::test]
async fn s_b23_a_digest_opens_nothing() {
    let bed = Bed::new(ImagesConfig::default());
    let digest = format!("registry.example/team/app@sha256:{}", "0".repeat(64));
    bed.fake.images.publish(image("sha256:1", &[APP]), Some("canary-1"));
    bed.fake.images.publish(image("sha256:1", &[&digest, APP]), Some("canary-1"));
    assert!(is_image(&bed.ensure_with(PullPolicy::IfNotPresent, ("ada", "canary-1")).await, "sha256:1"));
    // No registry need be asked what it means.
    bed.fake.images.give(image("sha256:1", &[&digest]));
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Always] {
        assert_eq!(failure(&bed.ensure(&digest, policy).await).0, "ErrImagePull", "{policy:?}");
    }
    assert_eq!(failure(&bed.ensure(&digest, PullPolicy::Never).await).0, "ErrImageNeverPull");
    let pulls = bed.pulls();
    let secret = named_secret("ada", "canary-1");
    let performed = bed.begin_with(&digest, PullPolicy::Always, vec![secret]).task.await.unwrap();
    assert!(is_image(&performed, "sha256:1"), "{performed:?}");
    assert_eq!(bed.pulls(), pulls, "whoever may have it needs no registry");
}

#[tokio::test]
async fn who_waited_for_another_to_bring_a_private_image_is_asked_who_he_is() {
    let mut bed = Bed::new(ImagesConfig::default());
    bed.fake.images.publish(image("sha256:1", &[APP]), Some("canary-1"));
    let second = bed.one_after_another(vec![named_secret("ada", "canary-1")]).await;
    assert_eq!(failure(&second).0, "ErrImagePull");
    assert_eq!(bed.pulls(), 2);
}

#[tokio::test]
async fn f_b06_a_pull_whose_outcome_is_not_known_lets_nobody_in() {
    let bed = Bed::new(ImagesConfig::default());
    // It comes late, whatever was answered.
    for (id, error, expected) in [
        ("sha256:1", Error::deadline_exceeded("no answer"), "ErrImageNeverPull"),
        ("sha256:2", Error::internal("no"), ""),
    ] {
        let name = format!("registry.example/{}:1", id.replace(':', "-"));
        bed.fake.images.fail_pulls_of(&name, error);
        assert_eq!(failure(&bed.ensure(&name, PullPolicy::IfNotPresent).await).0, "ErrImagePull");
        bed.fake.images.add(image(id, &[&name]));
        let performed = bed.ensure(&name, PullPolicy::Never).await;
        match expected {
            "" => assert!(is_image(&performed, id), "it failed, and others brought it: {performed:?}"),
            expected => assert_eq!(failure(&performed).0, expected),
        }
    }
}

#[test]
fn durations_are_written_as_people_know_them() {
    let table = [
        (0, "0s"),
        (56, "56ms"),
        (1_000, "1s"),
        (1_234, "1.234s"),
        (62_500, "1m2.5s"),
        (120_000, "2m0s"),
        (3_661_010, "1h1m1.01s"),
    ];
    for (ms, text) in table {
        assert_eq!(go_duration(Duration::from_millis(ms)), text);
    }
}
