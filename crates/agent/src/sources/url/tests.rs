use std::os::unix::fs::MetadataExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::testing::{TempDir, manifest, secret_manifest};

/// Answers each request with the next of `answers`, and goes on with the last one. Tells what was asked.
async fn serve(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut served = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let _gone = asked.send(String::from_utf8_lossy(&request).into_owned());
            let answer = &answers[served.min(answers.len() - 1)];
            served += 1;
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    (format!("http://user:secret@{address}/pods.yaml"), requests)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

struct Bed {
    reports: mpsc::Receiver<SourceReport>,
    changes: mpsc::Receiver<Change>,
    stop: CancellationToken,
}

fn source(url: &str, headers: &[(String, String)], dir: &TempDir) -> Result<UrlSource, UrlError> {
    // Installed by whichever test comes first.
    let _already = rustls::crypto::ring::default_provider().install_default();
    UrlSource::new((0, url), headers, "n".into(), LastGood::new(dir.path()))
}

fn start(url: &str, dir: &TempDir) -> Bed {
    let (reports, incoming) = mpsc::channel(64);
    let (changes, kept) = mpsc::channel(64);
    let headers = [("X-Token".to_owned(), "t".to_owned())];
    let source = source(url, &headers, dir).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(source.poll(Duration::from_millis(1), Sinks { reports, changes }, stop.clone()));
    Bed { reports: incoming, changes: kept, stop }
}

fn state(report: &SourceReport) -> (Vec<String>, Option<String>) {
    let file = &report.files[0];
    let pods = file.pods.iter().map(|pod| pod::name(pod).to_owned()).collect();
    (pods, file.problem.as_ref().map(|problem| problem.message.clone()))
}

#[tokio::test]
async fn s_h02_whatever_goes_wrong_the_last_good_set_stays() {
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 11 << 20, " ".repeat(11 << 20));
    let answers = vec![
        ok(&manifest("a", "")),
        ok(""),
        "HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
        "garbage\r\n\r\n".to_owned(),
        ok("kind: ["),
        big,
        ok("apiVersion: v1\nkind: PodList\nitems: []\n"),
    ];
    let dir = TempDir::new();
    let (url, mut requests) = serve(answers).await;
    let mut bed = start(&url, &dir);
    let first = state(&bed.reports.recv().await.unwrap());
    assert_eq!(first, (vec!["a-n".to_owned()], None));
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(request.contains("x-token: t") && request.contains("authorization: basic"), "{request}");
    for part in ["holds nothing", "500", "cannot be read", "", "longer than"] {
        let (pods, problem) = state(&bed.reports.recv().await.unwrap());
        let problem = problem.unwrap();
        assert_eq!(pods, ["a-n"], "{problem}");
        assert!(problem.contains(part), "{part:?} in {problem:?}");
        assert!(!problem.contains("secret"), "credentials are not shown: {problem}");
    }
    assert_eq!(state(&bed.reports.recv().await.unwrap()), (vec![], None), "an empty list is an answer");
    bed.stop.cancel();
}

#[tokio::test]
async fn the_last_good_answer_outlives_the_kubelet() {
    let dir = TempDir::new();
    let (url, _requests) = serve(vec![ok(&manifest("a", ""))]).await;
    let mut bed = start(&url, &dir);
    bed.reports.recv().await.unwrap();
    let change = bed.changes.recv().await.unwrap();
    bed.stop.cancel();
    let (writer, written) = LastGood::new(dir.path()).writer();
    writer.send(change).await.unwrap();
    drop(writer);
    written.await.unwrap();

    // Bound and not listening: nobody answers there, nor can anybody else.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = nobody.local_addr().unwrap().port();
    let down = format!("http://127.0.0.1:{port}/pods.yaml");
    let mut other = start(&down, &dir);
    let (pods, problem) = state(&other.reports.recv().await.unwrap());
    assert!(pods.is_empty() && problem.is_some(), "another URL's answer is not taken");
    other.stop.cancel();

    // The same URL, with nothing good to say from the start.
    let stored = LastGood::new(dir.path()).load_below("http://").remove(0).0;
    assert!(!stored.contains("secret"));
    let mut source = source(&stored, &[], &dir).unwrap();
    let (reports, mut incoming) = mpsc::channel(4);
    let (changes, _kept) = mpsc::channel(4);
    assert!(source.take(Err("down".to_owned()), &Sinks { reports, changes }).await);
    assert_eq!(state(&incoming.recv().await.unwrap()), (vec!["a-n".to_owned()], Some("down".to_owned())));
}

#[tokio::test]
async fn s_b23_secrets_of_a_url_outlive_the_kubelet_and_are_for_root_alone() {
    let dir = TempDir::new();
    let body = format!("{}---\n{}", manifest("a", ""), secret_manifest("regcred", "r.example", "canary-7f"));
    let (url, _requests) = serve(vec![ok(&body)]).await;
    let mut bed = start(&url, &dir);
    let first = bed.reports.recv().await.unwrap();
    assert_eq!(first.files[0].secrets[0].key(), ("default", "regcred"));
    let change = bed.changes.recv().await.unwrap();
    bed.stop.cancel();
    let (writer, written) = LastGood::new(dir.path()).writer();
    writer.send(change).await.unwrap();
    drop(writer);
    written.await.unwrap();
    let records = dir.path().join("sources");
    assert_eq!(std::fs::metadata(&records).unwrap().mode() & 0o777, 0o700);
    for record in std::fs::read_dir(&records).unwrap() {
        assert_eq!(record.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }

    let stored = LastGood::new(dir.path()).load_below("http://").remove(0).0;
    let mut source = source(&stored, &[], &dir).unwrap();
    let (reports, mut incoming) = mpsc::channel(4);
    let (changes, _kept) = mpsc::channel(4);
    assert!(source.take(Err("down".to_owned()), &Sinks { reports, changes }).await);
    let recalled = incoming.recv().await.unwrap();
    assert_eq!(recalled.files[0].secrets, first.files[0].secrets);
    let shown = format!("{source:?} {recalled:?} {first:?}");
    assert!(
        !shown.contains("canary") && !shown.contains(&format!("{:?}", b"canary").replace(['[', ']'], "")),
        "{shown}"
    );
}

#[tokio::test]
async fn bad_headers_and_urls_are_refused_at_the_start() {
    let dir = TempDir::new();
    let new = |url: &str, header: &str| source(url, &[(header.to_owned(), "v".to_owned())], &dir);
    assert!(matches!(new("http://x/", "a b"), Err(UrlError::Header { .. })));
    assert!(matches!(new("not a url", "a"), Err(UrlError::Url { .. })));
}
