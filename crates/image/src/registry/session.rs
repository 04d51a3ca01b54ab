//! Asking about one repository: its hosts in order, each with what it wants to see.

use super::auth::{Asking, Challenge, TokenKey};
use super::blob::Blob;
use super::body::{Answer, MAX_ERROR_BYTES, Secrets, said};
use super::endpoint::{Endpoint, authority};
use super::error::RegistryError;
use super::exchange::{Request, retry_after};
use super::{Fetched, Shared};
use crate::manifest::MAX_MANIFEST_BYTES;
use crate::{Digest, Login, Reference};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use std::collections::VecDeque;
use std::sync::Arc;
use url::Url;

/// Manifests and indexes that are understood.
const MANIFESTS: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// One reference's repository, with the credential that is shown to its registry.
pub(crate) struct Session {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    shared: Arc<Shared>,
    reference: Reference,
    login: Option<Login>,
    pub(super) endpoints: Vec<Endpoint>,
    /// One asks for a token; who comes meanwhile uses the same.
    turn: tokio::sync::Mutex<()>,
}

/// What is asked of a host.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Below the repository, such as `manifests/latest`.
    pub(super) tail: String,
    pub(super) headers: HeaderMap,
    /// In a person's words.
    pub(super) name: String,
}

/// For what a host is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Content,
    Tag,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        reference: &Reference,
        login: Option<Login>,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        let turn = tokio::sync::Mutex::default();
        Self { inner: Arc::new(Inner { shared, reference: reference.clone(), login, endpoints, turn }) }
    }

    /// Which digest the reference has in the registry now. One with a digest has that; it is asked for all the same, for
    /// not everybody is given everything.
    ///
    /// # Errors
    /// Those of all hosts that were asked.
    pub(crate) async fn digest(&self) -> Result<Digest, RegistryError> {
        let fixed = self.inner.reference.digest();
        let (want, name) = match fixed {
            Some(digest) => (Want::Content, digest.as_str()),
            None => (Want::Tag, self.inner.tag()),
        };
        let mut hosts = self.inner.hosts(want);
        while let Some(endpoint) = hosts.next() {
            match self.inner.head(endpoint, name).await {
                Ok(digest) => return Ok(fixed.cloned().unwrap_or(digest)),
                Err(error) => hosts.failed(error),
            }
        }
        Err(hosts.error())
    }

    /// The manifest or index of the reference: by digest if it has one, else by tag.
    ///
    /// # Errors
    /// Those of all hosts that were asked.
    pub(crate) async fn manifest(&self) -> Result<Fetched, RegistryError> {
        if let Some(digest) = self.inner.reference.digest() {
            return self.fetch(digest, None).await;
        }
        let mut hosts = self.inner.hosts(Want::Tag);
        while let Some(endpoint) = hosts.next() {
            let tag = self.inner.tag();
            if !endpoint.pull {
                // It knows tags alone: the content is others'.
                match self.inner.head(endpoint, tag).await {
                    Ok(digest) => return self.fetch(&digest, None).await,
                    Err(error) => hosts.failed(error),
                }
                continue;
            }
            match self.inner.get(endpoint, tag, None).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => hosts.failed(error),
            }
        }
        Err(hosts.error())
    }

    /// The manifest with this digest, verified.
    ///
    /// # Errors
    /// Those of all hosts that were asked.
    pub(crate) async fn manifest_at(&self, digest: &Digest, size: u64) -> Result<Fetched, RegistryError> {
        self.fetch(digest, Some(size)).await
    }

    /// The blob with this digest, as a stream whose digest is not verified.
    ///
    /// # Errors
    /// Those of all hosts that were asked.
    pub(crate) async fn blob(&self, digest: &Digest, size: u64) -> Result<Blob, RegistryError> {
        Blob::open(self.inner.clone(), digest, size).await
    }

    async fn fetch(&self, digest: &Digest, size: Option<u64>) -> Result<Fetched, RegistryError> {
        let mut hosts = self.inner.hosts(Want::Content);
        while let Some(endpoint) = hosts.next() {
            match self.inner.get(endpoint, digest.as_str(), Some((digest, size))).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => hosts.failed(error),
            }
        }
        Err(hosts.error())
    }
}

/// The hosts that are asked one after the other, until one has an answer.
struct Hosts<'a> {
    session: &'a Inner,
    left: VecDeque<usize>,
    current: Option<&'a Endpoint>,
    tried: Vec<RegistryError>,
}

impl<'a> Hosts<'a> {
    fn next(&mut self) -> Option<&'a Endpoint> {
        self.current = self.left.pop_front().map(|at| &self.session.endpoints[at]);
        self.current
    }

    fn failed(&mut self, error: RegistryError) {
        if let Some(endpoint) = self.current {
            self.session.failed(endpoint, &error);
        }
        self.tried.push(error);
    }

    fn error(self) -> RegistryError {
        self.session.all(self.tried)
    }
}

impl Inner {
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// References without a digest have a tag.
    fn tag(&self) -> &str {
        self.reference.tag().unwrap_or("latest")
    }

    /// The hosts for `want`, as places in `endpoints`, without mirrors that did not answer lately.
    pub(super) fn hosts_for(&self, want: Want) -> VecDeque<usize> {
        let fits = |endpoint: &Endpoint| match want {
            Want::Content => endpoint.pull,
            Want::Tag => endpoint.resolve,
        };
        let fitting = || (0..self.endpoints.len()).filter(|at| fits(&self.endpoints[*at]));
        let alive: VecDeque<usize> = fitting().filter(|at| !self.shared.is_dead(&self.endpoints[*at])).collect();
        if alive.is_empty() { fitting().collect() } else { alive }
    }

    fn hosts(&self, want: Want) -> Hosts<'_> {
        Hosts { session: self, left: self.hosts_for(want), current: None, tried: Vec::new() }
    }

    /// Notes that a host did not serve.
    pub(super) fn failed(&self, endpoint: &Endpoint, error: &RegistryError) {
        let is_dead = error.is_unavailable() || matches!(error, RegistryError::Certificate { .. });
        if !endpoint.own && is_dead {
            tracing::warn!(domain = self.reference.domain(), %error, "a registry's mirror is left alone for a while");
            self.shared.note_dead(endpoint);
        } else {
            tracing::debug!(host = %endpoint.host(), %error, "a registry's host failed");
        }
    }

    /// One error for those of all hosts.
    pub(super) fn all(&self, mut tried: Vec<RegistryError>) -> RegistryError {
        match tried.pop() {
            None => RegistryError::Connect {
                host: self.reference.domain().to_owned(),
                reason: "its hosts.toml names no host that may be asked for this".into(),
            },
            Some(only) if tried.is_empty() => only,
            Some(last) => {
                tried.push(last);
                RegistryError::AllHosts { tried }
            }
        }
    }

    /// A manifest from one host. With `expected`, it has that digest and size.
    async fn get(
        &self,
        endpoint: &Endpoint,
        what: &str,
        expected: Option<(&Digest, Option<u64>)>,
    ) -> Result<Fetched, RegistryError> {
        let answer = self.ask(endpoint, &self.ask_manifest(Method::GET, what)).await?;
        check_manifest(&answer)?;
        let (host, asked) = (answer.host.clone(), answer.asked.clone());
        let media_type = answer.media_type();
        let claimed = answer.header(CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok());
        let bytes = answer.document(MAX_MANIFEST_BYTES).await?;
        let digest = Digest::of(&bytes);
        let mismatch = |what: &'static str, expected: String, found: String| {
            Err(RegistryError::Mismatch { host: host.clone(), asked: asked.clone(), what, expected, found })
        };
        if let Some((_, Some(size))) = expected
            && size != bytes.len() as u64
        {
            return mismatch("a size of", size.to_string(), bytes.len().to_string());
        }
        let wanted = expected.map(|(digest, _)| digest).or(claimed.as_ref());
        match wanted {
            Some(wanted) if *wanted != digest => mismatch("the digest", wanted.to_string(), digest.to_string()),
            _ => Ok(Fetched { digest, media_type, bytes }),
        }
    }

    /// What a tag means, from one host: by its word if it gives it, else by the content.
    async fn head(&self, endpoint: &Endpoint, tag: &str) -> Result<Digest, RegistryError> {
        match self.ask(endpoint, &self.ask_manifest(Method::HEAD, tag)).await {
            Ok(answer) => {
                check_manifest(&answer)?;
                if let Some(digest) = answer.header(CONTENT_DIGEST).and_then(|text| Digest::parse(text).ok()) {
                    return Ok(digest);
                }
            }
            // Some hosts know no HEAD.
            Err(RegistryError::Status { status: 400 | 405 | 501, .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(self.get(endpoint, tag, None).await?.digest)
    }

    fn ask_manifest(&self, method: Method, what: &str) -> Ask {
        let name = match what.starts_with("sha256:") {
            true => format!("manifest {}@{what}", self.reference.path()),
            false => format!("manifest {}:{what}", self.reference.path()),
        };
        Ask { method, tail: format!("manifests/{what}"), headers: HeaderMap::from_iter([(ACCEPT, MANIFESTS)]), name }
    }

    /// Asks one host, showing it what it wants to see: nothing at first, unless it is known from before.
    pub(super) async fn ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Answer, RegistryError> {
        let url = endpoint.url(&format!("{}/{}", self.reference.path(), ask.tail));
        if !endpoint.or_plain {
            return self.ask_at(endpoint, url, ask).await;
        }
        let mut plain = url.clone();
        // From one scheme of the web to the other: always possible.
        let _ = plain.set_scheme("http");
        if self.shared.is_plain(endpoint) {
            return self.ask_at(endpoint, plain, ask).await;
        }
        match self.ask_at(endpoint, url, ask).await {
            Err(no_tls @ RegistryError::Connect { .. }) => {
                let answer = self.ask_at(endpoint, plain, ask).await;
                if matches!(answer, Err(RegistryError::Connect { .. } | RegistryError::Broken { .. })) {
                    return Err(no_tls);
                }
                self.shared.note_plain(endpoint);
                answer
            }
            answer => answer,
        }
    }

    async fn ask_at(&self, endpoint: &Endpoint, url: Url, ask: &Ask) -> Result<Answer, RegistryError> {
        let key = self.token_key(endpoint, &url);
        let mut shown = self.shared.token(&key);
        let mut renewed = false;
        loop {
            let secrets = self.secrets(endpoint, shown.as_ref());
            let mut private = endpoint.headers.clone();
            if let Some(authorization) = &shown {
                private.insert(AUTHORIZATION, authorization.clone());
            }
            let request = Request {
                method: ask.method.clone(),
                url: url.clone(),
                headers: ask.headers.clone(),
                private,
                form: None,
                asked: &ask.name,
                tls: &endpoint.tls,
                secrets: &secrets,
            };
            let answer = request.send(&self.shared.clients, &self.shared.pace).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let is_refusal = matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if let Some(refused) = shown.as_ref().filter(|_| is_refusal && answer.at_home) {
                // Kept, it would be shown again for as long as it counts, whatever was put right meanwhile.
                self.shared.forget_token(&key, refused);
            }
            let challenged = answer.status() == StatusCode::UNAUTHORIZED && answer.at_home;
            // What is refused twice will be refused for ever.
            if !challenged || renewed {
                return Err(refusal(answer, secrets, key.login.is_some()).await);
            }
            renewed = true;
            let challenge = Challenge::of(answer.headers());
            // Its end is read, so that the connection can be used again.
            let _ = answer.document(MAX_ERROR_BYTES).await;
            shown = Some(self.authorize(endpoint, &url, &challenge, shown).await?);
        }
    }

    /// What answers a challenge: what another task got meanwhile, or something new.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        challenge: &Challenge,
        refused: Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let _turn = self.turn.lock().await;
        let key = self.token_key(endpoint, url);
        if let Some(known) = self.shared.token(&key) {
            return Ok(known);
        }
        let asking = Asking {
            clients: &self.shared.clients,
            pace: &self.shared.pace,
            home: url,
            tls: &endpoint.tls,
            path: self.reference.path(),
            login: key.login.as_ref(),
            secrets: &self.secrets(endpoint, refused.as_ref()),
        };
        let authorization = asking.authorization(challenge).await?;
        self.shared.put_token(key, &authorization);
        Ok(authorization.value)
    }

    fn token_key(&self, endpoint: &Endpoint, url: &Url) -> TokenKey {
        TokenKey {
            host: format!("{}://{}", url.scheme(), authority(url)),
            path: self.reference.path().to_owned(),
            login: self.login.clone().filter(|_| endpoint.own),
        }
    }

    fn secrets(&self, endpoint: &Endpoint, shown: Option<&HeaderValue>) -> Secrets {
        let mut secrets = Secrets::default();
        match &self.login {
            Some(Login::Basic { username, password }) => {
                secrets.add(password);
                let basic = http_auth::basic::encode_credentials(username, password);
                secrets.add(basic.trim_start_matches("Basic "));
            }
            Some(Login::Refresh { token } | Login::Bearer { token }) => secrets.add(token),
            None => {}
        }
        endpoint.headers.values().chain(shown).for_each(|value| secrets.add_header(value));
        secrets
    }
}

/// A portal or a proxy that answers in a registry's place is told at once, rather than by a digest.
pub(super) fn check_manifest(answer: &Answer) -> Result<(), RegistryError> {
    if answer.status() != StatusCode::OK {
        return Err(answer.odd(format!("status {}, expected 200", answer.status().as_u16())));
    }
    if answer.is_encoded() {
        return Err(answer.odd("it is compressed, which was not asked for"));
    }
    check_no_page(answer)
}

/// Refuses a page for people.
pub(super) fn check_no_page(answer: &Answer) -> Result<(), RegistryError> {
    if answer.media_type().as_deref() == Some("text/html") {
        return Err(answer.odd("it is a web page; is there a proxy, or a network that wants a log-in?"));
    }
    Ok(())
}

/// What an answer that is none of the good ones means.
async fn refusal(answer: Answer, mut secrets: Secrets, with_login: bool) -> RegistryError {
    answer.signature.iter().for_each(|query| secrets.add_query(query));
    let (status, at_home) = (answer.status().as_u16(), answer.at_home);
    let (host, asked) = (answer.host.clone(), answer.asked.clone());
    let wait = retry_after(&answer).map(|wait| format!("; it asks to wait for {} s", wait.as_secs()));
    let said = match answer.document(MAX_ERROR_BYTES).await {
        Ok(body) => said(&body, &secrets),
        Err(_) => String::new(),
    };
    match status {
        401 | 403 => {
            let why = match (at_home, with_login) {
                (false, _) => "the registry sent us there, and it lets nobody in",
                (true, true) => "the credential that was given does not allow it",
                (true, false) => {
                    "it is not open to everybody, and no credential was given (or there is no such repository)"
                }
            };
            RegistryError::Unauthorized { host, asked, reason: format!("{why}{said}") }
        }
        404 => RegistryError::NotFound { host, asked, reason: said },
        status => RegistryError::Status { host, asked, status, reason: said + &wait.unwrap_or_default() },
    }
}
