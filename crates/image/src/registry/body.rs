//! Reading answers: never more than is wanted, and never for ever.

use super::error::{RegistryError, classify};
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Fewer bytes than this within the time for progress are none: a byte now and then holds a slot for ever.
const MIN_PROGRESS_BYTES: usize = 1024;
/// A document may take so many times the time for progress in all.
const DOCUMENT_PATIENCE: u32 = 4;
/// What is read of an answer that tells of an error.
pub(super) const MAX_ERROR_BYTES: u64 = 64 << 10;
/// What is shown of it.
const MAX_SHOWN_CHARS: usize = 200;

/// The head of an answer, with its body still to come.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Who answered: not the host that was asked, after a redirect.
    pub(super) host: String,
    pub(super) asked: String,
    /// True when it came without a redirect to another host.
    pub(super) at_home: bool,
    /// Query of the URL that a redirect led to: whoever has its signature can fetch what it names.
    pub(super) signature: Option<String>,
    pub(super) progress_within: Duration,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header's text, if it is one and there is just one of it.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        let mut values = self.headers().get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }

    /// The `Content-Type` without its parameters.
    pub(super) fn media_type(&self) -> Option<String> {
        let text = self.header(CONTENT_TYPE)?;
        let essence = text.split(';').next().unwrap_or_default().trim();
        Some(essence.to_ascii_lowercase())
    }

    pub(super) fn is_encoded(&self) -> bool {
        self.headers().get_all(CONTENT_ENCODING).iter().any(|encoding| encoding != "identity")
    }

    /// An error that says what is odd about this answer.
    pub(super) fn odd(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), asked: self.asked.clone(), reason: reason.into() }
    }

    pub(super) fn into_body(self) -> Body {
        Body { answer: self, waited: Duration::ZERO, since_progress: 0 }
    }

    /// The whole body, of at most `limit` bytes, whatever the head says of its length.
    pub(super) async fn document(self, limit: u64) -> Result<Bytes, RegistryError> {
        let (host, asked, after) =
            (self.host.clone(), self.asked.clone(), self.progress_within.saturating_mul(DOCUMENT_PATIENCE));
        let mut body = self.into_body();
        let read = async {
            let mut bytes = BytesMut::new();
            while let Some(more) = body.next().await? {
                if (bytes.len() + more.len()) as u64 > limit {
                    let (host, asked) = (host.clone(), asked.clone());
                    return Err(RegistryError::TooLarge { host, asked, limit });
                }
                bytes.extend_from_slice(&more);
            }
            Ok(bytes.freeze())
        };
        match timeout(after, read).await {
            Ok(read) => read,
            Err(_) => Err(RegistryError::Stalled { host, asked, after }),
        }
    }
}

/// A body as it arrives.
pub(super) struct Body {
    answer: Answer,
    /// Waited for bytes since the last progress; the time that the reader takes for itself is not the server's.
    waited: Duration,
    since_progress: usize,
}

impl Body {
    pub(super) fn host(&self) -> &str {
        &self.answer.host
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let within = self.answer.progress_within;
        let began = Instant::now();
        let read = timeout(within.saturating_sub(self.waited), self.answer.response.chunk()).await;
        self.waited += began.elapsed();
        match read {
            Ok(Ok(Some(bytes))) => {
                self.since_progress += bytes.len();
                if self.since_progress >= MIN_PROGRESS_BYTES {
                    (self.since_progress, self.waited) = (0, Duration::ZERO);
                }
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(classify(error, &self.answer.host, &self.answer.asked)),
            Err(_) => {
                let (host, asked) = (self.answer.host.clone(), self.answer.asked.clone());
                Err(RegistryError::Stalled { host, asked, after: within })
            }
        }
    }
}

/// What must never be shown, even when a server says it.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Shorter ones cannot be told from ordinary text.
    const MIN_CHARS: usize = 4;

    pub(super) fn add(&mut self, secret: &str) {
        if secret.chars().count() >= Self::MIN_CHARS {
            self.0.push(secret.to_owned());
        }
    }

    /// Adds a header's value, whole and without its scheme.
    pub(super) fn add_header(&mut self, value: &HeaderValue) {
        if let Ok(text) = value.to_str() {
            self.add(text);
            text.split_once(' ').iter().for_each(|(_, secret)| self.add(secret));
        }
    }

    /// Adds a signed query, whole and by its values.
    pub(super) fn add_query(&mut self, query: &str) {
        self.add(query);
        query.split('&').filter_map(|pair| pair.split_once('=')).for_each(|(_, value)| self.add(value));
        url::form_urlencoded::parse(query.as_bytes()).for_each(|(_, value)| self.add(&value));
    }

    /// A server's text for a person: without secrets and control characters, and bounded.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret, "…");
        }
        let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        shown.take(MAX_SHOWN_CHARS).collect::<String>().trim().to_owned()
    }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<RefusalEntry>,
    /// Token servers put their words here.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// What an error's body says, as the end of a message: `: CODE: text`, or nothing.
pub(super) fn said(body: &[u8], secrets: &Secrets) -> String {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else { return String::new() };
    let first = refusal.errors.into_iter().next();
    let words = match first {
        Some(RefusalEntry { code, message }) => [code, message],
        None => [refusal.details, refusal.error_description],
    };
    let words: Vec<String> = words.into_iter().flatten().map(|word| secrets.clean(&word)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(": ")) }
}
