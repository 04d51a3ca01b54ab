use std::sync::{Arc, Mutex};

use server::{HostError, ImagePull, LayerPull, LayerState, PruneFailure, Pruned, PrunedImage, PullLine, PulledImage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::host::FakeHost;
use crate::http::Local;

/// How a pull goes: the test says how far it is and how it ends.
#[derive(Default)]
pub(crate) struct Script {
    progress: Mutex<Vec<ImagePull>>,
    end: Mutex<Option<oneshot::Receiver<Result<PulledImage, HostError>>>>,
    /// Cancelled when nobody waits for the pull any more.
    left: CancellationToken,
}

impl Script {
    pub(crate) async fn pull(&self, reference: &str) -> Result<PulledImage, HostError> {
        let _leaving = self.left.clone().drop_guard();
        let end = self.end.lock().unwrap().take();
        match end {
            Some(end) => end.await.unwrap(),
            None => Err(HostError::not_found(format!("image {reference} not found"))),
        }
    }

    pub(crate) fn under_way(&self) -> Vec<ImagePull> {
        self.progress.lock().unwrap().clone()
    }

    fn is_at(&self, done_bytes: u64, total_bytes: Option<u64>) {
        let layer =
            |total_bytes| LayerPull { digest: "sha256:1".into(), done_bytes, total_bytes, state: LayerState::Fetching };
        let of = |reference: &str| ImagePull {
            reference: reference.into(),
            done_bytes,
            total_bytes,
            layers: total_bytes.map(layer).into_iter().collect(),
        };
        *self.progress.lock().unwrap() = vec![of("docker.io/library/another:latest"), of(BUSYBOX)];
    }
}

pub(crate) fn pruned() -> Result<Pruned, HostError> {
    let names = vec!["docker.io/library/old:latest".to_owned()];
    let failure = PruneFailure { id: "sha256:8".into(), names: Vec::new(), error: "is in use".into() };
    Ok(Pruned {
        removed: vec![PrunedImage { id: "sha256:7".into(), names, size_bytes: 10 }],
        failed: vec![failure],
        freed_bytes: 6,
    })
}

const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// A pull that goes on until the test ends it.
fn host() -> (Arc<FakeHost>, oneshot::Sender<Result<PulledImage, HostError>>) {
    let host = FakeHost::default();
    let (end, ended) = oneshot::channel();
    *host.pulls.end.lock().unwrap() = Some(ended);
    (Arc::new(host), end)
}

/// Asks for `busybox` and gives the answer line by line.
async fn ask(server: &Local) -> Lines<BufReader<UnixStream>> {
    let mut stream = server.connect().await;
    let body = r#"{"reference":"busybox"}"#;
    let length = body.len();
    let head = "POST /images/pull HTTP/1.0\r\nHost: x\r\nContent-Type: application/json";
    stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "HTTP/1.0 200 OK");
    let mut head = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
        head.push(line);
    }
    assert!(head.contains(&"content-type: application/x-ndjson".to_owned()), "{head:?}");
    lines
}

async fn next(lines: &mut Lines<BufReader<UnixStream>>) -> Option<PullLine> {
    lines.next_line().await.unwrap().map(|line| serde_json::from_str(&line).unwrap())
}

#[tokio::test]
async fn a_pull_tells_its_progress_and_its_end() {
    let (host, end) = host();
    let server = Local::start(host.clone());
    host.pulls.is_at(0, None);
    let mut lines = ask(&server).await;
    for (done, total) in [(0, None), (5, Some(20)), (20, Some(20))] {
        host.pulls.is_at(done, total);
        let Some(PullLine::Progress(told)) = next(&mut lines).await else { panic!("no progress") };
        assert_eq!((&*told.reference, told.done_bytes, told.total_bytes), (BUSYBOX, done, total));
        assert_eq!(told.layers.len(), usize::from(total.is_some()));
    }
    let image = PulledImage { reference: BUSYBOX.into(), id: "sha256:3".into() };
    end.send(Ok(image.clone())).unwrap();
    assert_eq!(next(&mut lines).await, Some(PullLine::Pulled(image)));
    assert_eq!(next(&mut lines).await, None);
    let pulls: Vec<ImagePull> = serde_json::from_str(&server.get("/images/pulls").await.body).unwrap();
    assert_eq!(pulls[1].total_bytes, Some(20));
}

#[tokio::test]
async fn a_pull_that_fails_says_why() {
    let (host, end) = host();
    let server = Local::start(host.clone());
    let mut lines = ask(&server).await;
    end.send(Err(HostError::internal("registry x: 401"))).unwrap();
    let Some(PullLine::Failed(error)) = next(&mut lines).await else { panic!("not failed") };
    assert_eq!(error.message, "registry x: 401");
    assert_eq!(next(&mut lines).await, None);
    for (body, part) in [
        (r#"{"reference":"Busybox"}"#, "image \"Busybox\" must have a lower-case repository"),
        (r#"{"reference":"busybox","quiet":true}"#, "quiet"),
        ("", "must be {\"reference\""),
    ] {
        let answer = server.send("POST", "/images/pull", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.message().contains(part), "{}", answer.message());
    }
}

#[tokio::test]
async fn f_g06_a_client_that_hangs_up_gives_the_pull_up() {
    let (host, _end) = host();
    let server = Local::start(host.clone());
    let lines = ask(&server).await;
    assert!(!host.pulls.left.is_cancelled());
    drop(lines);
    host.pulls.left.cancelled().await;
}

#[tokio::test]
async fn a_kubelet_that_ends_says_so_to_who_waits_for_a_pull() {
    let (host, _end) = host();
    let server = Local::start(host.clone());
    let mut lines = ask(&server).await;
    drop(server.stop);
    let Some(PullLine::Failed(error)) = next(&mut lines).await else { panic!("not failed") };
    assert_eq!(error.message, "the kubelet is shutting down");
    server.served.await.unwrap();
    host.pulls.left.cancelled().await;
}

#[tokio::test]
async fn pruning_tells_what_went_and_what_did_not() {
    let server = Local::start(Arc::new(FakeHost::default()));
    let answer: Pruned = serde_json::from_str(&server.send("POST", "/images/prune", "").await.body).unwrap();
    assert_eq!(Ok(answer), pruned());
}

#[tokio::test]
async fn images_over_the_local_socket() {
    let host = Arc::new(FakeHost::default());
    let server = Local::start(host.clone());
    let images: Vec<server::ImageSummary> = serde_json::from_str(&server.get("/images").await.body).unwrap();
    assert!(images[0].pinned);

    let answer = server.send("POST", "/images/import", r#"{"path":"/tmp/a.tar","pinned":true}"#).await;
    let imported: Vec<server::ImportedImage> = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(imported[0].id, "sha256:2");
    assert_eq!(host.imported.lock().unwrap()[0].path.to_str(), Some("/tmp/a.tar"));
    for (body, part) in
        [(r#"{"path":"a.tar"}"#, "must be absolute"), (r#"{"path":"/a.tar","pined":true}"#, "pined"), ("", "must be {")]
    {
        let answer = server.send("POST", "/images/import", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.message().contains(part), "{}", answer.message());
    }

    assert_eq!(server.send("DELETE", "/images?reference=nginx", "").await.status, 204);
    for (query, status, part) in
        [("?reference=x%2Fy", 404, "x/y not found"), ("?reference=busy", 409, "in use"), ("", 400, "?reference=")]
    {
        let answer = server.send("DELETE", &format!("/images{query}"), "").await;
        assert_eq!(answer.status, status, "{query}");
        assert!(answer.message().contains(part), "{}", answer.message());
    }
}
