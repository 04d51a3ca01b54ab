//! Whole lives with secrets that nobody may ever read: not in a log at any level, a `Debug`, an event, a status or a file
//! that others can read.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock};

use cri::Runtime;
use tracing_subscriber::EnvFilter;

use super::*;
use crate::testing::fake::Fake;
use crate::testing::fake::images::image;
use crate::testing::{manifest, secret_manifest};
use crate::{AgentConfig, AgentHandle, ImagesConfig, SourceConfig};

/// In the pods' secret, the node's file, the program's answer and environment, and a password that is wrong.
const CANARIES: [&str; 4] = ["canary-leak-secret", "canary-leak-file", "canary-leak-plugin", "canary-leak-wrong"];
/// That a log is caught at all.
const CONTROL: &str = "canary-leak-control";
const IMAGE: &str = "r.example/team/app:1";

/// Every line of a log, of any thread and at any level, in which there is a canary.
static CAUGHT: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Catcher;

impl io::Write for Catcher {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if text.contains("canary-leak-") {
            CAUGHT.lock().unwrap().push(text.into_owned());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Threads of the runtime's pool log as well, so it is for the whole process.
fn catch_logs() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let filter = EnvFilter::new("agent=trace,pod=trace,cri=trace,lifecycle=trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Catcher).init();
    });
}

fn assert_clean(what: &str, text: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{canary} in {what}: {text}");
    }
}

struct Bed {
    dir: TempDir,
    fake: Arc<Fake>,
    credentials: Arc<Credentials>,
    agent: AgentHandle,
}

impl Bed {
    fn new() -> Self {
        catch_logs();
        let dir = TempDir::new();
        let fake = Arc::new(Fake::default());
        fake.images.publish(image("sha256:1", &[IMAGE]), Some(CANARIES[0]));
        let config = config(&dir, (CANARIES[1], CANARIES[2]));
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let credentials = Arc::new(Credentials::new(config).unwrap());
        Self::on(dir, fake, credentials)
    }

    fn on(dir: TempDir, fake: Arc<Fake>, credentials: Arc<Credentials>) -> Self {
        let path = dir.path().join("manifests");
        let config = AgentConfig {
            node_name: "n".into(),
            root_dir: dir.path().join("root"),
            log_dir: dir.path().join("logs"),
            sources: vec![SourceConfig::Path { path, check_every: Duration::from_secs(3_600) }],
            node_memory_bytes: 1 << 30,
            node_cpu_millis: 2_000,
            images: ImagesConfig { credentials: credentials.clone(), qps: 0, ..ImagesConfig::default() },
            ..AgentConfig::default()
        };
        let agent = crate::run(config, fake.clone(), None).unwrap();
        Self { dir, fake, credentials, agent }
    }

    async fn restart(self) -> Self {
        self.agent.shutdown().await;
        Self::on(self.dir, self.fake, self.credentials)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join("manifests").join(file), text).unwrap();
    }

    fn write_pod(&self, name: &str) {
        let more = "  imagePullSecrets: [{name: regcred}, {name: gone}]\n";
        self.write(&format!("{name}.yaml"), &manifest(name, more).replace("busybox:1", IMAGE));
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "not within 20 s: {what}: {}", self.shown().await);
    }

    async fn until_told(&self, file: &str, part: &str) {
        let told = async |bed: &Self| {
            let manifests = bed.agent.manifests().await;
            manifests.iter().any(|m| m.file.ends_with(file) && m.error.as_deref().is_some_and(|e| e.contains(part)))
        };
        self.until(&format!("{part} of {file}"), told).await;
    }

    /// All that can be asked, in all its forms.
    async fn shown(&self) -> String {
        let (pods, events) = (self.agent.pods().await, self.agent.events(None).await);
        let json = serde_json::json!({ "pods": pods.items, "events": events });
        format!("{json} {pods:?} {events:?} {:?} {:?} {:?}", self.agent.manifests().await, self.agent, self.credentials)
    }

    /// Every file beneath the root directory that holds a secret.
    fn files_with_secrets(&self) -> Vec<PathBuf> {
        let (mut dirs, mut found) = (vec![self.dir.path().join("root"), self.dir.path().join("logs")], Vec::new());
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if CANARIES.iter().any(|canary| fs::read_to_string(&path).unwrap_or_default().contains(canary)) {
                    found.push(path);
                }
            }
        }
        found
    }
}

#[tokio::test]
async fn s_b23_s_g07_nobody_reads_a_secret() {
    let bed = Bed::new();
    // Nothing is known that is right: each password that there is gets tried.
    bed.write("secret.yaml", &secret_manifest("regcred", "r.example", CANARIES[3]));
    bed.write_pod("a");
    bed.until("the wrong ones were tried", async |bed| {
        bed.fake.images.asked().len() >= 3 && bed.shown().await.contains("ErrImagePull")
    })
    .await;
    assert_clean("what is shown", &bed.shown().await);
    assert!(bed.shown().await.contains("Unable to retrieve some image pull secrets (gone)"));
    // The right one.
    bed.write("secret.yaml", &secret_manifest("regcred", "r.example/team", CANARIES[0]));
    bed.until("it runs", async |bed| bed.fake.running() == ["a-n/c/0"]).await;
    // All that can be wrong with a manifest of a secret.
    let good = secret_manifest("regcred", "r.example", CANARIES[0]);
    let bad = [
        (good.replace("stringData", "data"), "is not base64"),
        (good.replace("dockerconfigjson\n", "dockercfg\n"), "type: found"),
        (good.replace("'{", "'"), "is not JSON"),
        (good.replace('\'', ""), "expected a string"),
        (format!("{good}\n x: ["), "invalid YAML"),
    ];
    for (text, part) in bad {
        bed.write("secret.yaml", &text);
        bed.until_told("secret.yaml", part).await;
    }
    bed.write("twice.yaml", &good);
    bed.until_told("twice.yaml", "secret \"regcred\" in namespace \"default\" is declared in ").await;
    // And with the node's own file.
    fs::write(bed.dir.path().join("config.json"), format!("{{\"auths\": \"{}\"", CANARIES[1])).unwrap();
    let _found = bed.credentials.for_image(IMAGE, &[]).await;
    assert_clean("what is shown", &bed.shown().await);

    // The next kubelet finds a bad file, and knows what was good. What it knows it from nobody else may read.
    bed.until("it is stored", async |bed| !bed.files_with_secrets().is_empty()).await;
    let bed = bed.restart().await;
    let forgotten = v1::ImageSpec { image: "sha256:1".to_owned(), ..Default::default() };
    bed.fake.remove_image(v1::RemoveImageRequest { image: Some(forgotten) }).await.unwrap();
    bed.write_pod("b");
    bed.until("both run", async |bed| bed.fake.running() == ["a-n/c/0", "b-n/c/0"]).await;
    for path in bed.files_with_secrets() {
        assert!(path.starts_with(bed.dir.path().join("root/sources")), "{path:?}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{path:?}");
    }
    assert_clean("what is shown", &bed.shown().await);
    bed.agent.shutdown().await;

    let control = std::thread::spawn(|| tracing::trace!(target: "agent", CONTROL));
    control.join().unwrap();
    let caught = CAUGHT.lock().unwrap().join("");
    assert!(caught.contains(CONTROL), "logs are caught");
    assert_clean("the log", &caught);
}
