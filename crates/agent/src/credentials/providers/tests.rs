use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tokio::task::JoinSet;

use super::*;
use crate::testing::TempDir;

/// A provider whose program notes each run and, while a file `held` is there, does not answer.
struct Bed {
    dir: TempDir,
    providers: Arc<Providers>,
}

impl Bed {
    /// With this key type and duration in the answers, and this default.
    fn new(key_type: &str, cache: Option<&str>, default: &str) -> Self {
        let answer = serde_json::json!({
            "kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType": key_type, "cacheDuration": cache,
            "auth": { "*.example": { "username": "u", "password": "p" } },
        });
        Self::answering(&format!("echo '{answer}'"), default)
    }

    fn answering(script: &str, default: &str) -> Self {
        let dir = TempDir::new();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink("/bin/sh", bin.join("login")).unwrap();
        let at = dir.path().display();
        let script = format!("echo run >> {at}/runs; while [ -e {at}/held ]; do sleep 0.01; done; {script}");
        let config = serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "login", "matchImages": ["*.example", "*.example:5000"], "defaultCacheDuration": default,
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "args": ["-c", script],
            }],
        });
        let path = dir.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        let providers = Arc::new(Providers::load(&path, &bin).unwrap());
        Self { dir, providers }
    }

    fn held(&self) -> PathBuf {
        self.dir.path().join("held")
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn flights(&self) -> usize {
        self.providers.providers[0].state().flights.len()
    }

    /// The credentials found, how many.
    async fn ask(&self, image: &str) -> usize {
        found(&self.providers, image).await
    }

    async fn ask_all(&self, images: &[&'static str]) -> Vec<usize> {
        let mut all = JoinSet::new();
        for image in images {
            let (providers, image) = (self.providers.clone(), *image);
            all.spawn(async move { found(&providers, image).await });
        }
        all.join_all().await
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"));
    }
}

async fn found(providers: &Providers, image: &str) -> usize {
    providers.for_image(image).await.iter().flat_map(|config| config.for_image(image)).count()
}

#[tokio::test]
async fn an_answer_is_kept_for_what_it_is_for() {
    // How often the program runs for an image, another tag of it, another of its registry, one of another registry.
    for (key_type, expected) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
        let bed = Bed::new(key_type, Some("1h"), "0s");
        for image in ["a.example/x:1", "a.example/x:2", "a.example/x@sha256:00", "a.example/y:1", "b.example/x:1"] {
            assert_eq!(bed.ask(image).await, 1, "{key_type} {image}");
        }
        assert_eq!((bed.runs(), bed.flights()), (expected, 0), "{key_type}");
        assert_eq!((bed.ask("c.other/x:1").await, bed.runs()), (0, expected), "it is not meant for this one");
    }
}

#[tokio::test]
async fn how_long_an_answer_is_kept_is_its_own_word_or_the_configurations() {
    for (answer, default, expected) in [(Some("0s"), "1h", 2), (Some("1h"), "0s", 1), (None, "1h", 1), (None, "0s", 2)]
    {
        let bed = Bed::new("Registry", answer, default);
        assert_eq!((bed.ask("a.example/x:1").await, bed.ask("a.example/x:1").await), (1, 1));
        assert_eq!(bed.runs(), expected, "{answer:?} {default}");
    }
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_share_one_run() {
    for key_type in ["Image", "Registry", "Global"] {
        let bed = Bed::new(key_type, Some("0s"), "0s");
        fs::write(bed.held(), "").unwrap();
        let asking = bed.ask_all(&["a.example/x:1"; 100]);
        let opening = async {
            bed.until("it runs", |bed| bed.runs() == 1).await;
            fs::remove_file(bed.held()).unwrap();
        };
        let (found, ()) = tokio::join!(asking, opening);
        assert_eq!((found, bed.runs(), bed.flights()), (vec![1; 100], 1, 0), "{key_type}");
    }
}

#[tokio::test]
async fn who_shared_an_answer_that_is_for_another_image_asks_again() {
    let bed = Bed::new("Image", Some("1h"), "0s");
    let found = bed.ask_all(&["a.example/x:1", "a.example/y:1", "a.example/x:2", "a.example/z:1"]).await;
    assert_eq!((found, bed.runs(), bed.flights()), (vec![1; 4], 3, 0));
}

#[tokio::test]
async fn a_failure_is_shared_and_not_kept() {
    let bed = Bed::answering("exit 1", "1h");
    fs::write(bed.held(), "").unwrap();
    let opening = async {
        bed.until("it runs", |bed| bed.runs() == 1).await;
        fs::remove_file(bed.held()).unwrap();
    };
    let (found, ()) = tokio::join!(bed.ask_all(&["a.example/x:1"; 20]), opening);
    assert_eq!((found, bed.runs()), (vec![0; 20], 1));
    assert_eq!((bed.ask("a.example/x:1").await, bed.runs(), bed.flights()), (0, 2, 0));
}

#[tokio::test]
async fn when_the_one_who_ran_it_gives_up_another_goes_on() {
    let bed = Bed::new("Registry", Some("1h"), "0s");
    fs::write(bed.held(), "").unwrap();
    let ask = || {
        let providers = bed.providers.clone();
        tokio::spawn(async move { found(&providers, "a.example/x:1").await })
    };
    let first = ask();
    bed.until("it runs", |bed| bed.runs() == 1).await;
    let second = ask();
    first.abort();
    first.await.unwrap_err();
    bed.until("it runs again", |bed| bed.runs() == 2).await;
    fs::remove_file(bed.held()).unwrap();
    assert_eq!(second.await.unwrap(), 1);
    fs::write(bed.held(), "").unwrap();
    let last = {
        let providers = bed.providers.clone();
        tokio::spawn(async move { found(&providers, "b.example/x:1").await })
    };
    bed.until("it runs", |bed| bed.runs() == 3).await;
    last.abort();
    last.await.unwrap_err();
    assert_eq!(bed.flights(), 0, "nobody waits any more");
}
