//! From what a registry has under a reference to the one image in it that this machine runs.

use super::PullError;
use crate::digest::{Digest, shorten};
use crate::json::{self, Dialect};
use crate::manifest::{ConfigFile, Content, Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Platform, choices};
use crate::registry::{Fetched, Session};
use bytes::Bytes;

/// Indexes within indexes; one is usual.
const MAX_DEPTH: usize = 4;
/// Documents that are fetched in search of one for this machine; most that are not for it are told by their index.
const MAX_DOCUMENTS: usize = 32;
/// What servers say that know nothing of what they serve.
const TYPES_OF_NOTHING: [&str; 4] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

/// An image as its documents describe it. They are verified; its layers are not fetched.
pub(super) struct Found {
    /// The manifest, after the indexes that led to it.
    pub(super) manifests: Vec<Bytes>,
    pub(super) config_bytes: Vec<u8>,
    pub(super) config: ConfigFile,
    /// Lowest first, one for each diff id of the configuration.
    pub(super) layers: Vec<Descriptor>,
}

/// Something that may be, or lead to, an image for this machine.
struct Lead {
    descriptor: Descriptor,
    /// The indexes above it.
    above: Vec<Bytes>,
}

/// Looks at what the reference names and, best fitting first, at what lies below it.
pub(super) async fn find(session: &Session, root: Fetched) -> Result<Found, PullError> {
    let mut search = Search { host: Platform::host(), leads: Vec::new(), others: Vec::new() };
    let mut found = search.look(session, root, None, Vec::new()).await?;
    let mut fetched = 1;
    loop {
        if let Some(found) = found {
            return Ok(found);
        }
        let Some(Lead { descriptor, above }) = search.leads.pop() else { return Err(search.nothing()) };
        fetched += 1;
        if fetched > MAX_DOCUMENTS {
            let reason = "its index leads to more than 32 documents without one for this machine";
            return Err(refuse("the image", reason.to_owned()));
        }
        let document = name_of("manifest", &descriptor.digest);
        limit(&document, descriptor.size, MAX_MANIFEST_BYTES)?;
        let below = session.manifest_at(&descriptor.digest, descriptor.size).await?;
        found = search.look(session, below, descriptor.media_type, above).await?;
    }
}

struct Search {
    host: Platform,
    /// The best one is the last.
    leads: Vec<Lead>,
    /// Platforms that were passed over, for the message.
    others: Vec<String>,
}

impl Search {
    /// Reads a document. One that is an index becomes leads.
    async fn look(
        &mut self,
        session: &Session,
        fetched: Fetched,
        referred_as: Option<String>,
        mut above: Vec<Bytes>,
    ) -> Result<Option<Found>, PullError> {
        let document = name_of("manifest", &fetched.digest);
        let served_as = fetched.media_type.as_deref().filter(|t| !TYPES_OF_NOTHING.contains(t));
        if let (Some(served), Some(referred)) = (served_as, referred_as.as_deref())
            && served != referred
        {
            let (served, referred) = (shorten(served), shorten(referred));
            let reason = format!("it is served as {served:?} and referred to as {referred:?}");
            return Err(refuse(&document, reason));
        }
        let (bytes, media_type) = (fetched.bytes.clone(), referred_as.or(served_as.map(str::to_owned)));
        let content = aside(move || Content::parse(&bytes, media_type.as_deref())).await?;
        let content = content.map_err(|reason| refuse(&document, reason))?;
        above.push(fetched.bytes);
        match content {
            Content::Manifest { config, layers } => self.image(session, above, &config, layers).await,
            Content::Index(_) if above.len() >= MAX_DEPTH => {
                Err(refuse(&document, "indexes are nested more than 4 deep".to_owned()))
            }
            Content::Index(manifests) => {
                let (fitting, others) = choices(&manifests, &self.host);
                others.into_iter().for_each(|other| self.pass_over(other));
                let lead = |descriptor| Lead { descriptor, above: above.clone() };
                self.leads.extend(fitting.into_iter().take(MAX_DOCUMENTS + 1).rev().map(lead));
                Ok(None)
            }
        }
    }

    /// An image; its index need not have told, or need not have told the truth about, what it is for.
    async fn image(
        &mut self,
        session: &Session,
        manifests: Vec<Bytes>,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<Option<Found>, PullError> {
        let document = name_of("configuration", &config.digest);
        let config_bytes = fetch_config(session, &document, config).await?;
        let (name, expected) = (document.clone(), config.digest.clone());
        let (config_bytes, config) = aside(move || {
            check_digest(&name, &expected, &config_bytes)?;
            let parsed = json::parse::<ConfigFile>(&config_bytes, Dialect::Oci);
            let parsed = parsed.and_then(|config| config.check().map(|()| config));
            parsed.map(|config| (config_bytes, config)).map_err(|reason| refuse(&name, reason))
        })
        .await??;
        if !config.platform().matches(&self.host) {
            self.pass_over(config.platform().describe());
            return Ok(None);
        }
        let (told, given) = (config.rootfs.diff_ids.len(), layers.len());
        if told != given {
            let reason = format!("it tells of {told} layers, its manifest of {given}");
            return Err(refuse(&document, reason));
        }
        Ok(Some(Found { manifests, config_bytes, config, layers }))
    }

    fn pass_over(&mut self, platform: String) {
        // Builders file what they attest beside the images, for a platform that is none.
        if platform != "unknown/unknown" && !self.others.contains(&platform) && self.others.len() < MAX_DOCUMENTS {
            self.others.push(platform);
        }
    }

    fn nothing(&self) -> PullError {
        let found = if self.others.is_empty() { "none at all".to_owned() } else { self.others.join(", ") };
        PullError::Platform { wanted: self.host.describe(), found }
    }
}

/// As many bytes as the descriptor says: a blob gives neither more nor fewer.
async fn fetch_config(session: &Session, document: &str, config: &Descriptor) -> Result<Vec<u8>, PullError> {
    limit(document, config.size, MAX_CONFIG_BYTES)?;
    let mut blob = session.blob(&config.digest, config.size).await?;
    let mut bytes = Vec::with_capacity(config.size as usize);
    while let Some(more) = blob.next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

/// Megabytes take long enough to hold others up.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::BrokenOff)
}

fn limit(document: &str, size_bytes: u64, limit_bytes: u64) -> Result<(), PullError> {
    if size_bytes <= limit_bytes {
        return Ok(());
    }
    Err(PullError::TooLarge { document: document.to_owned(), size_bytes, limit_bytes })
}

/// Of a manifest its session knows the digest; a blob is its caller's to verify.
fn check_digest(document: &str, expected: &Digest, bytes: &[u8]) -> Result<(), PullError> {
    let found = Digest::of(bytes);
    if found == *expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(PullError::Mismatch { document: document.to_owned(), expected, found })
}

fn refuse(document: &str, reason: String) -> PullError {
    PullError::Document { document: document.to_owned(), reason }
}

fn name_of(what: &str, digest: &Digest) -> String {
    format!("{what} {digest}")
}
