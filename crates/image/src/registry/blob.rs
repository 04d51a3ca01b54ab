//! A blob on its way, resumed where its connection breaks.

use super::body::{Answer, Body};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::session::{Ask, Inner, Want, check_no_page};
use crate::Digest;
use bytes::{Buf, Bytes};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use std::collections::VecDeque;
use std::sync::Arc;

/// Connections to one host that may break, one after the other, without progress. The waits between them are 14 s in all.
const MAX_FRUITLESS: u32 = 5;
/// Less than this is no progress: a host that gives a byte a connection would be asked for ever.
const MIN_PROGRESS_BYTES: u64 = 16 << 10;

/// The bytes of a blob as they arrive: exactly as many as its descriptor says, or an error. The caller verifies the digest.
pub(crate) struct Blob {
    session: Arc<Inner>,
    digest: Digest,
    size: u64,
    /// Bytes that the caller has.
    given: u64,
    /// Hosts still to be asked, the current one first.
    hosts: VecDeque<usize>,
    body: Option<Body>,
    /// Bytes of `body` that the caller has already: the host sends the whole again.
    skip: u64,
    /// `given` at the last progress, and what broke since then on this host.
    progress_at: u64,
    fruitless: u32,
    /// Whether this host is asked for the rest alone.
    ranges: Ranges,
    /// Why the hosts before failed.
    tried: Vec<RegistryError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Asked,
    /// It gave another range than it was asked for.
    Lied,
}

impl Blob {
    pub(super) async fn open(session: Arc<Inner>, digest: &Digest, size: u64) -> Result<Self, RegistryError> {
        let mut blob = Self {
            hosts: session.hosts_for(Want::Content),
            session,
            digest: digest.clone(),
            size,
            given: 0,
            body: None,
            skip: 0,
            progress_at: 0,
            fruitless: 0,
            ranges: Ranges::Asked,
            tried: Vec::new(),
        };
        blob.connect().await?;
        Ok(blob)
    }

    /// The next bytes, or `None` when all were given. After an error there is nothing more to come.
    ///
    /// # Errors
    /// Those of all hosts that were asked.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.given < self.size {
            let Some(body) = &mut self.body else {
                self.connect().await?;
                continue;
            };
            let failure = match body.next().await {
                Ok(Some(bytes)) => match self.take(bytes) {
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(too_long) => too_long,
                },
                Ok(None) => self.broken("it ended too early"),
                Err(failure) => failure,
            };
            self.broke(failure).await;
        }
        self.body = None;
        Ok(None)
    }

    /// Takes what the caller does not have yet.
    fn take(&mut self, mut bytes: Bytes) -> Result<Bytes, RegistryError> {
        let known = self.skip.min(bytes.len() as u64);
        bytes.advance(usize::try_from(known).unwrap_or(bytes.len()));
        self.skip -= known;
        if bytes.len() as u64 > self.size - self.given {
            return Err(RegistryError::TooLarge { host: self.host(), asked: self.name(), limit: self.size });
        }
        self.given += bytes.len() as u64;
        if self.given - self.progress_at >= MIN_PROGRESS_BYTES {
            (self.progress_at, self.fruitless) = (self.given, 0);
        }
        Ok(bytes)
    }

    /// Decides what a failure in the middle means: another connection to the same host, or the next host.
    async fn broke(&mut self, failure: RegistryError) {
        self.body = None;
        self.fruitless += 1;
        let tries = match failure {
            // A network that went away for a moment takes new connections along.
            RegistryError::Broken { .. } | RegistryError::Connect { .. } => MAX_FRUITLESS,
            // Each wait takes half of the time for progress, so that a dead connection leaves time for another.
            RegistryError::Stalled { .. } => 2,
            _ => 0,
        };
        tracing::debug!(host = %self.host(), given = self.given, %failure, "a blob's connection broke");
        if self.fruitless >= tries {
            self.next_host(failure);
        } else if self.fruitless > 1 {
            tokio::time::sleep(self.session.shared().pace.first_wait.saturating_mul(1 << self.fruitless)).await;
        }
    }

    fn next_host(&mut self, mut failure: RegistryError) {
        if let RegistryError::Stalled { after, .. } = &mut failure {
            *after = self.session.shared().pace.progress_within;
        }
        if let Some(at) = self.hosts.pop_front() {
            self.session.failed(&self.session.endpoints[at], &failure);
        }
        self.tried.push(failure);
        (self.fruitless, self.progress_at, self.ranges) = (0, self.given, Ranges::Asked);
    }

    /// Asks for what is missing, of one host after the other.
    async fn connect(&mut self) -> Result<(), RegistryError> {
        while let Some(at) = self.hosts.front() {
            let session = self.session.clone();
            match self.request(&session.endpoints[*at]).await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(failure @ RegistryError::Connect { .. }) if self.given > 0 => self.broke(failure).await,
                Err(failure) => self.next_host(failure),
            }
        }
        Err(self.session.all(std::mem::take(&mut self.tried)))
    }

    async fn request(&mut self, endpoint: &Endpoint) -> Result<Body, RegistryError> {
        if self.given > 0 && self.ranges == Ranges::Asked {
            let answer = self.get(endpoint, Some(self.given)).await?;
            if answer.status() == StatusCode::OK {
                return self.whole(answer);
            }
            if self.is_rest(&answer) {
                self.skip = 0;
                return Ok(self.body(answer));
            }
            self.ranges = Ranges::Lied;
        }
        let answer = self.get(endpoint, None).await?;
        self.whole(answer)
    }

    async fn get(&self, endpoint: &Endpoint, from: Option<u64>) -> Result<Answer, RegistryError> {
        let mut headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        // A number is a valid header value.
        headers.extend(from.and_then(|from| HeaderValue::from_str(&format!("bytes={from}-")).ok()).map(|v| (RANGE, v)));
        let tail = format!("blobs/{}", self.digest);
        let answer = self.session.ask(endpoint, &Ask { method: Method::GET, tail, headers, name: self.name() }).await?;
        check_no_page(&answer)?;
        Ok(answer)
    }

    /// The whole blob, of which the beginning is skipped. What the host encoded is not decoded: a digest speaks of the
    /// bytes as they are stored, and hosts are known to name the blob's own compression there.
    fn whole(&mut self, answer: Answer) -> Result<Body, RegistryError> {
        if answer.status() != StatusCode::OK {
            return Err(answer.odd(format!("status {}, expected 200", answer.status().as_u16())));
        }
        let length = answer.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| *length != self.size) {
            return Err(RegistryError::Mismatch {
                host: answer.host,
                asked: answer.asked,
                what: "a size of",
                expected: self.size.to_string(),
                found: length.to_string(),
            });
        }
        self.skip = self.given;
        Ok(self.body(answer))
    }

    fn body(&self, mut answer: Answer) -> Body {
        answer.progress_within /= 2;
        answer.into_body()
    }

    /// True for just the range that was asked for, or a beginning of it.
    fn is_rest(&self, answer: &Answer) -> bool {
        let range = answer.header(CONTENT_RANGE).and_then(parse_range);
        answer.status() == StatusCode::PARTIAL_CONTENT
            && range.is_some_and(|(first, last, total)| {
                first == self.given && last >= first && last < self.size && total.is_none_or(|total| total == self.size)
            })
    }

    fn name(&self) -> String {
        format!("blob {}", self.digest)
    }

    fn host(&self) -> String {
        let current = self.hosts.front().map(|at| self.session.endpoints[*at].host());
        self.body.as_ref().map(|body| body.host().to_owned()).or(current).unwrap_or_default()
    }

    fn broken(&self, reason: &str) -> RegistryError {
        let reason = format!("{reason}, after {} of {} bytes", self.given, self.size);
        RegistryError::Broken { host: self.host(), asked: self.name(), reason }
    }
}

/// First byte, last byte and total of a `Content-Range`.
pub(super) fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}
