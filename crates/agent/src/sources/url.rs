//! A URL that answers with manifests, asked again and again. Whatever goes wrong, the last good answer stays in force,
//! also over a restart with the URL down.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pod::identity::Source;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::last_good::{Change, LastGood};
use super::text::{self, Content, MANIFEST_MAX_BYTES};
use super::watch::Sinks;
use super::{FileReport, Problem, SourceReport};

/// For one answer, from connecting to the last byte.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A URL cannot be asked as it was configured.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("manifest URL header {name:?}: not a valid header name or value")]
    Header { name: String },
    #[error("manifest URL {url:?}: {message}; expected http://… or https://…")]
    Url { url: String, message: String },
    #[error("prepare the HTTP client for {url}: {message}")]
    Client { url: String, message: String },
}

/// One URL.
pub(crate) struct UrlSource {
    source: usize,
    /// Without credentials, for logs and statuses.
    url: Arc<str>,
    target: reqwest::Url,
    node_name: String,
    client: reqwest::Client,
    headers: HeaderMap,
    last_good: LastGood,
    content: Content,
    body: Option<Vec<u8>>,
    problem: Option<Problem>,
    since: Timestamp,
    reported: bool,
}

/// The target has credentials in it, and so may have the answer.
impl fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlSource").field("url", &self.url).finish_non_exhaustive()
    }
}

impl UrlSource {
    /// # Errors
    /// A header that HTTP does not allow, or a client that cannot be built.
    pub(crate) fn new(
        (source, url): (usize, &str),
        headers: &[(String, String)],
        node_name: String,
        last_good: LastGood,
    ) -> Result<Self, UrlError> {
        let target = reqwest::Url::parse(url)
            .map_err(|error| UrlError::Url { url: url.to_owned(), message: error.to_string() })?;
        let mut shown = target.clone();
        // Both fail only for URLs without a host, which have no credentials either.
        let _ = shown.set_username("").and_then(|()| shown.set_password(None));
        let url = shown.as_str();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let bad = || UrlError::Header { name: name.clone() };
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            // It may be a credential, so it must not appear in any log.
            value.set_sensitive(true);
            map.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
        }
        let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).build();
        let client = client.map_err(|e| UrlError::Client { url: url.to_owned(), message: chain(&e) })?;
        Ok(Self {
            source,
            url: url.into(),
            target,
            node_name,
            client,
            headers: map,
            last_good,
            content: Content::default(),
            body: None,
            problem: None,
            since: Timestamp::now(),
            reported: false,
        })
    }

    /// Asks until cancelled.
    pub(crate) async fn poll(mut self, check_every: Duration, sinks: Sinks, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(check_every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = self.ask() => answer,
            };
            if !self.take(answer, &sinks).await {
                return;
            }
        }
    }

    async fn ask(&self) -> Result<Vec<u8>, String> {
        let url = &self.url;
        let request = self.client.get(self.target.clone()).headers(self.headers.clone());
        let failed = |error: reqwest::Error| format!("{url}: cannot be read: {}", chain(&error.without_url()));
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(format!("{url}: answered {}, expected 200 OK", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MANIFEST_MAX_BYTES {
                return Err(format!(
                    "{url}: the answer is longer than {MANIFEST_MAX_BYTES} bytes, the most that is read"
                ));
            }
        }
        Ok(body)
    }

    /// Judges an answer; false when nobody listens any more.
    async fn take(&mut self, answer: Result<Vec<u8>, String>, sinks: &Sinks) -> bool {
        let before = (self.content.clone(), self.problem.clone());
        let mut change = None;
        match answer {
            Ok(body) if self.body.as_ref() == Some(&body) => self.problem = None,
            Ok(body) => match self.parse(&body) {
                Ok(content) => {
                    self.content = content;
                    self.problem = None;
                    change = Some(Change { name: self.url.clone(), text: Some(body.as_slice().into()) });
                    self.body = Some(body);
                }
                Err(message) => self.problem = Some(Problem { message }),
            },
            Err(message) => self.problem = Some(Problem { message }),
        }
        if !self.reported && self.problem.is_some() {
            self.recall().await;
        }
        if self.reported && before == (self.content.clone(), self.problem.clone()) {
            return true;
        }
        self.since = Timestamp::now();
        self.log(before.1.as_ref());
        self.reported = true;
        if let Some(change) = change
            && sinks.changes.send(change).await.is_err()
        {
            return false;
        }
        self.report(&sinks.reports).await
    }

    fn parse(&self, body: &[u8]) -> Result<Content, String> {
        let source = Source::Url { url: self.url.to_string() };
        text::content_of(&source, &self.node_name, body, &self.content.pods)
    }

    /// The first answer was no good: what an earlier life stored is in force.
    async fn recall(&mut self) {
        let (records, url) = (self.last_good.clone(), self.url.clone());
        let stored = tokio::task::spawn_blocking(move || records.load(&url)).await;
        let Ok(Some(body)) = stored else { return };
        match self.parse(&body) {
            Ok(content) => {
                self.content = content;
                self.body = Some(body);
            }
            Err(message) => warn!("the stored last good answer is passed over: {message}"),
        }
    }

    fn log(&self, before: Option<&Problem>) {
        match (&self.problem, before) {
            (Some(problem), before) if before != Some(problem) => {
                error!(kept_pods = self.content.pods.len(), "manifests refused: {}", problem.message);
            }
            (None, Some(_)) => info!(url = %self.url, "manifests are good again"),
            _ => {}
        }
    }

    async fn report(&self, reports: &mpsc::Sender<SourceReport>) -> bool {
        let file = FileReport {
            name: self.url.clone(),
            pods: self.content.pods.clone(),
            secrets: self.content.secrets.clone(),
            problem: self.problem.clone(),
            ignored: false,
            since: self.since,
        };
        reports.send(SourceReport { source: self.source, files: vec![file] }).await.is_ok()
    }
}

/// An error with what caused it: an HTTP client's outermost message alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
