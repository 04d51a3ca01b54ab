//! One request and its answer, through redirects.

use super::body::{Answer, MAX_ERROR_BYTES, Secrets};
use super::endpoint::{authority, redirected, same_origin};
use super::error::{RegistryError, classify};
use super::tls::{Clients, Tls, proxy_variable};
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};
use std::time::Duration;
use tokio::time::timeout;
use url::Url;

const MAX_REDIRECTS: usize = 10;
const FORM: &str = "application/x-www-form-urlencoded";

/// A request as it leaves.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    /// For whoever answers.
    pub(super) headers: HeaderMap,
    /// For the host of `url` alone.
    pub(super) private: HeaderMap,
    /// A form for the host of `url` alone.
    pub(super) form: Option<String>,
    /// What it asks, in a person's words.
    pub(super) asked: &'a str,
    pub(super) tls: &'a Tls,
    pub(super) secrets: &'a Secrets,
}

impl Request<'_> {
    /// Sends it, and again where the answer asks for patience or tells of a passing trouble.
    pub(super) async fn send(&self, clients: &Clients, pace: &Pace) -> Result<Answer, RegistryError> {
        let mut patience = Patience::new(pace.first_wait);
        loop {
            let sent = self.send_once(clients, pace.progress_within).await;
            let wait = match &sent {
                Ok(answer) => patience.after_answer(answer),
                Err(failure) => patience.after_failure(failure),
            };
            let Some(wait) = wait else { return sent };
            tracing::debug!(host = %authority(&self.url), asked = self.asked, ?wait, "a registry is asked again");
            // Its end is read, so that the connection can be used again.
            if let Ok(answer) = sent {
                let _ = answer.document(MAX_ERROR_BYTES).await;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends it, and on to where it is redirected. What is private goes to no other host, nor back from there.
    async fn send_once(&self, clients: &Clients, progress_within: Duration) -> Result<Answer, RegistryError> {
        let mut url = self.url.clone();
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let client = clients.towards(&url, self.tls.towards(&url, &self.url))?;
            let mut request = client.request(self.method.clone(), url.clone()).headers(self.headers.clone());
            if at_home {
                request = request.headers(self.private.clone());
                if let Some(form) = &self.form {
                    request = request.header(CONTENT_TYPE, FORM).body(form.clone());
                }
            }
            let (host, asked) = (self.secrets.clean(&authority(&url)), self.asked.to_owned());
            tracing::trace!(%host, asked, method = %self.method, "asking a registry");
            let response = match timeout(progress_within, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(name_proxy(classify(error, &host, &asked), &url)),
                Err(_) => return Err(RegistryError::Stalled { host, asked, after: progress_within }),
            };
            tracing::trace!(%host, asked, status = response.status().as_u16(), "a registry answered");
            if !is_redirect(response.status()) {
                let signature = (url != self.url).then(|| url.query().map(str::to_owned)).flatten();
                return Ok(Answer { response, host, asked, at_home, signature, progress_within });
            }
            let refuse = |reason: String| RegistryError::Redirect { host, asked, reason: self.secrets.clean(&reason) };
            if self.form.is_some() {
                return Err(refuse("elsewhere, where a credential does not go".into()));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.ok_or_else(|| "to nowhere".to_owned()).and_then(|to| redirected(&url, to));
            url = next.map_err(refuse)?;
            at_home &= same_origin(&url, &self.url);
        }
        Err(RegistryError::Redirect {
            host: authority(&self.url),
            asked: self.asked.to_owned(),
            reason: format!("more than {MAX_REDIRECTS} times"),
        })
    }
}

/// Says that it may be the proxy which was not reached.
fn name_proxy(error: RegistryError, url: &Url) -> RegistryError {
    match (error, proxy_variable(url)) {
        (RegistryError::Connect { host, reason }, Some(variable)) => {
            let reason =
                format!("{reason}; the way leads through the proxy that {variable} names, unless NO_PROXY says no");
            RegistryError::Connect { host, reason }
        }
        (error, _) => error,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) progress_within: Duration,
    /// Before the second try; the next waits are twice as long each.
    pub(super) first_wait: Duration,
}

/// How often a request is tried, and how long is waited in between.
struct Patience {
    tries_left: u32,
    wait_left: Duration,
    next_wait: Duration,
}

impl Patience {
    const TRIES: u32 = 3;
    const WAIT: Duration = Duration::from_secs(30);

    fn new(first_wait: Duration) -> Self {
        Self { tries_left: Self::TRIES - 1, wait_left: Self::WAIT, next_wait: first_wait }
    }

    /// How long to wait before another try, if there is one.
    fn again(&mut self, asked_for: Option<Duration>) -> Option<Duration> {
        let wait = asked_for.unwrap_or(self.next_wait);
        self.tries_left = self.tries_left.checked_sub(1)?;
        self.wait_left = self.wait_left.checked_sub(wait)?;
        self.next_wait = self.next_wait.saturating_mul(2);
        Some(wait)
    }

    /// The same after an answer: only for those that ask for patience or tell of a passing trouble.
    fn after_answer(&mut self, answer: &Answer) -> Option<Duration> {
        match answer.status().as_u16() {
            429 | 503 => self.again(retry_after(answer)),
            500 | 502 | 504 => self.again(None),
            _ => None,
        }
    }

    /// The same after a failure: only where a connection broke, which one that lay idle does.
    fn after_failure(&mut self, failure: &RegistryError) -> Option<Duration> {
        matches!(failure, RegistryError::Broken { .. }).then(|| self.again(None)).flatten()
    }
}

/// How long an answer asks to wait, in the one form that registries use. A date counts as nothing said.
pub(super) fn retry_after(answer: &Answer) -> Option<Duration> {
    let seconds = answer.header(reqwest::header::RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_b24_patience_has_an_end() {
        let seconds = Duration::from_secs;
        for (asked_for, waits) in [
            (&[None, None, None][..], &[Some(seconds(1)), Some(seconds(2)), None][..]),
            (&[Some(7), Some(8), Some(1)], &[Some(seconds(7)), Some(seconds(8)), None]),
            (&[Some(30), Some(0)], &[Some(seconds(30)), Some(seconds(0))]),
            (&[Some(20), Some(11)], &[Some(seconds(20)), None]),
            (&[Some(31)], &[None]),
            (&[Some(u64::MAX)], &[None]),
        ] {
            let mut patience = Patience::new(seconds(1));
            let found: Vec<_> = asked_for.iter().map(|asked| patience.again(asked.map(seconds))).collect();
            assert_eq!(found, waits, "{asked_for:?}");
        }
    }
}
