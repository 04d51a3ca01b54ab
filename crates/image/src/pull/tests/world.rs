//! A registry on loopback that says what a test wants, and a store to pull into.

use crate::digest::Digest;
use crate::login::Login;
use crate::pull::{PullConfig, PullError, Puller};
use crate::reference::Reference;
use crate::registry::{Registry, RegistryConfig};
use crate::store::{Image, Store};
use crate::testing::{LAYER, Layout, listing};
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Nothing here takes this long unless it never comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is held back is not to be taken for a registry that stalls.
pub(super) const NEVER: Duration = Duration::from_secs(3600);

/// What is served under a digest.
#[derive(Clone)]
struct Content {
    media_type: Option<String>,
    bytes: Bytes,
    /// Only so much is given, and the rest when the test lets it go on.
    held_after: Option<usize>,
}

#[derive(Default)]
struct Site {
    contents: Mutex<HashMap<String, Content>>,
    tags: Mutex<HashMap<String, Digest>>,
    asked: Mutex<Vec<String>>,
    /// Blobs on their way.
    open: AtomicUsize,
    /// Most of them at any time.
    most: AtomicUsize,
    /// How often the test has let everything go on.
    go_on: watch::Sender<u32>,
}

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Arc<Store>,
    pub(super) puller: Arc<Puller>,
    /// The registry's host and port.
    pub(super) host: String,
    site: Arc<Site>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(PullConfig::default(), NEVER).await
    }

    pub(super) async fn with(config: PullConfig, progress_within: Duration) -> Self {
        // Only the first of all tests in the process can succeed.
        rustls::crypto::ring::default_provider().install_default().ok();
        let site = Arc::new(Site::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(listen(listener, site.clone()));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let registry = Registry::new(RegistryConfig { hosts_dir: None, progress_within });
        let puller = Puller::new(store.clone(), registry, config);
        Self { dir, store, puller, host, site }
    }

    /// Serves everything in a layout under its digests.
    pub(super) fn serve(&self, mut layout: Layout) {
        for (name, bytes) in layout.files_mut().drain(..) {
            let digest = format!("sha256:{}", name.rsplit('/').next().unwrap());
            let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
            let media_type = json.and_then(|json| json.get("mediaType")?.as_str().map(str::to_owned));
            self.put(&digest, media_type.as_deref(), &bytes);
        }
    }

    /// Serves bytes under a digest, which may be a wrong one.
    pub(super) fn put(&self, digest: &str, media_type: Option<&str>, bytes: &[u8]) {
        let content = Content {
            media_type: media_type.map(str::to_owned),
            bytes: Bytes::copy_from_slice(bytes),
            held_after: None,
        };
        self.site.contents.lock().unwrap().insert(digest.to_owned(), content);
    }

    /// Serves nothing more under a digest.
    pub(super) fn lose(&self, digest: &str) {
        self.site.contents.lock().unwrap().remove(digest);
    }

    /// Lets `name` (`repository:tag`) name a document that is served.
    pub(super) fn tag(&self, name: &str, digest: &Digest) {
        self.site.tags.lock().unwrap().insert(name.to_owned(), digest.clone());
    }

    /// Serves an image of gzip layers by name, and gives the digest of its manifest.
    pub(super) fn image(&self, name: &str, layers: &[Vec<u8>]) -> Digest {
        let mut layout = Layout::default();
        let descriptor = layout.image(layers, "");
        self.serve(layout);
        let digest = digest_of(&descriptor);
        self.tag(name, &digest);
        digest
    }

    /// Gives no more than so many bytes of a blob until [`World::go_on`].
    pub(super) fn hold(&self, digest: &str, after: usize) {
        self.site.contents.lock().unwrap().get_mut(digest).unwrap().held_after = Some(after);
    }

    /// Holds back no blob any more.
    pub(super) fn go_on(&self) {
        self.site.contents.lock().unwrap().values_mut().for_each(|content| content.held_after = None);
        self.site.go_on.send_modify(|times| *times += 1);
    }

    pub(super) fn reference(&self, name: &str) -> Reference {
        Reference::parse(&format!("{}/{name}", self.host)).unwrap()
    }

    pub(super) async fn pull(&self, name: &str) -> crate::Result<Arc<Image>> {
        self.puller.pull(&self.reference(name), None).await
    }

    pub(super) fn spawn(&self, name: &str, login: Option<Login>) -> tokio::task::JoinHandle<crate::Result<Arc<Image>>> {
        let (puller, reference) = (self.puller.clone(), self.reference(name));
        tokio::spawn(async move { puller.pull(&reference, login).await })
    }

    /// The requests since the last time this was asked, sorted: `GET blobs/sha256:…`, `HEAD manifests/a:1`.
    pub(super) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.site.asked.lock().unwrap());
        asked.sort();
        asked
    }

    /// Blobs on their way to us.
    pub(super) fn open(&self) -> usize {
        self.site.open.load(Ordering::SeqCst)
    }

    pub(super) fn most_open(&self) -> usize {
        self.site.most.load(Ordering::SeqCst)
    }

    /// Everything in the store's directory.
    pub(super) fn files(&self) -> Vec<String> {
        listing(self.store.root())
    }

    /// Pulls what must be refused, and leave nothing, and gives the message.
    pub(super) async fn refused(&self, name: &str) -> String {
        let before = self.files();
        let error = self.pull(name).await.expect_err(name);
        assert!(matches!(error, crate::Error::Pull { .. }), "{error:?}");
        assert!(self.store.list().is_empty(), "{name}");
        // What is complete is kept for the next try.
        let left = self.files().into_iter().filter(|file| !file.starts_with("ingest/t"));
        assert_eq!(left.collect::<Vec<_>>(), before, "{name}: something was left");
        error.to_string()
    }
}

/// The digest in a descriptor.
pub(super) fn digest_of(descriptor: &str) -> Digest {
    let json: serde_json::Value = serde_json::from_str(descriptor).unwrap();
    Digest::parse(json["digest"].as_str().unwrap()).unwrap()
}

/// The digest of a blob of `World::image`.
pub(super) fn blob(layer: &[u8]) -> String {
    Digest::of(&crate::testing::gzip(layer)).to_string()
}

pub(super) fn layer_type() -> String {
    format!("{LAYER}+gzip")
}

pub(super) fn cause(error: crate::Error) -> Arc<PullError> {
    match error {
        crate::Error::Pull { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

/// Waits for something that is bound to come.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// Opens a store that threads of a pull may hold for a moment more.
pub(super) async fn reopen(dir: &Path) -> Arc<Store> {
    let opened = Mutex::new(None);
    until("nobody has the store", || {
        *opened.lock().unwrap() = Store::open(&dir.join("store")).ok();
        opened.lock().unwrap().is_some()
    })
    .await;
    opened.into_inner().unwrap().unwrap()
}

async fn listen(listener: TcpListener, site: Arc<Site>) {
    while let Ok((stream, _)) = listener.accept().await {
        let site = site.clone();
        stream.set_nodelay(true).unwrap();
        // Whatever ends a connection, the client will say what it made of it.
        tokio::spawn(async move { converse(stream, &site).await.ok() });
    }
}

async fn converse(stream: TcpStream, site: &Site) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    loop {
        // No TLS here.
        if stream.fill_buf().await?.first().is_none_or(|byte| !byte.is_ascii_uppercase()) {
            return Ok(());
        }
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        let request = head.first().cloned().unwrap_or_default();
        let (method, rest) = request.split_once(' ').unwrap_or_default();
        let path = rest.split([' ', '?']).next().unwrap_or_default();
        let from = head.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
        answer(&mut stream, site, (method, path, from)).await?;
    }
}

async fn answer(
    stream: &mut BufStream<TcpStream>,
    site: &Site,
    (method, path, from): (&str, &str, Option<usize>),
) -> io::Result<()> {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    let (kind, repository, name) = match (path.split_once("/manifests/"), path.split_once("/blobs/")) {
        (Some((repository, name)), _) => ("manifests", repository, name),
        (_, Some((repository, name))) => ("blobs", repository, name),
        _ => ("", "", ""),
    };
    let tag = format!("{repository}:{name}");
    let digest = site.tags.lock().unwrap().get(&tag).map(ToString::to_string);
    let shown = if digest.is_some() { &tag } else { name };
    site.asked.lock().unwrap().push(format!("{} {kind}/{shown}", method.to_ascii_uppercase()));
    // From before the look at what is held back, so that nothing is missed.
    let mut go_on = site.go_on.subscribe();
    let digest = digest.unwrap_or_else(|| name.to_owned());
    let Some(content) = site.contents.lock().unwrap().get(&digest).cloned() else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
        return stream.flush().await;
    };
    let media_type = content.media_type.as_deref().unwrap_or("application/octet-stream");
    let (total, from) = (content.bytes.len(), from.unwrap_or(0));
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let range = if from > 0 { format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1) } else { String::new() };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n{range}Content-Length: {}\r\n\r\n",
        total - from
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    if method == "head" {
        return Ok(());
    }
    let _open = (kind == "blobs").then(|| Open::new(site));
    let held = content.held_after.unwrap_or(total).clamp(from, total);
    stream.write_all(&content.bytes[from..held]).await?;
    stream.flush().await?;
    if content.held_after.is_some() {
        tokio::select! {
            _ = go_on.changed() => {}
            // A client that is still there says nothing meanwhile.
            gone = stream.fill_buf() => return gone.map(|_| ()),
        }
    }
    stream.write_all(&content.bytes[held..]).await?;
    stream.flush().await
}

/// Counts a blob that is on its way.
struct Open<'a>(&'a Site);

impl<'a> Open<'a> {
    fn new(site: &'a Site) -> Self {
        let open = site.open.fetch_add(1, Ordering::SeqCst) + 1;
        site.most.fetch_max(open, Ordering::SeqCst);
        Self(site)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
