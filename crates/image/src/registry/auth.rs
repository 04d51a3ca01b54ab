//! Credentials: anonymous first, then what the registry asks for, and only where it may go.

use super::body::{Answer, Secrets, said};
use super::endpoint::{authority, is_metadata};
use super::error::RegistryError;
use super::exchange::{Pace, Request};
use super::tls::{Clients, Tls};
use crate::Login;
use crate::digest::shorten;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

/// A token server's answer.
const MAX_TOKEN_BYTES: u64 = 256 << 10;
/// Challenges that are looked at, and the length of one of their parameters.
const MAX_CHALLENGES: usize = 8;
const MAX_PARAMETER_BYTES: usize = 4096;
/// How long a token counts when nothing else is said, by the protocol; and at most.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// A token that ends so soon is taken for ended.
const LIFE_MARGIN: Duration = Duration::from_secs(5);
/// Tokens that are remembered.
const MAX_TOKENS: usize = 1024;
const CLIENT_ID: &str = "kubelet";

/// What a registry asks for with 401.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scopes: Vec<String>,
    },
    /// Nothing that we know.
    Other,
}

impl Challenge {
    /// The best of those in an answer: a token is worth less to a thief than a password.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_CHALLENGES);
        let mut best = Self::Other;
        for text in texts.filter_map(|value| value.to_str().ok()) {
            let Ok(challenges) = http_auth::parse_challenges(text) else { continue };
            for challenge in challenges.iter().take(MAX_CHALLENGES) {
                match Self::from_parsed(challenge) {
                    bearer @ Self::Bearer { .. } => return bearer,
                    Self::Basic => best = Self::Basic,
                    Self::Other => {}
                }
            }
        }
        best
    }

    fn from_parsed(challenge: &http_auth::ChallengeRef<'_>) -> Self {
        let parameter = |name: &str| {
            let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            let value = value.to_unescaped();
            (value.len() <= MAX_PARAMETER_BYTES).then_some(value)
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic;
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return Self::Other;
        }
        let scopes = parameter("scope").unwrap_or_default();
        let scopes = scopes.split_ascii_whitespace().map(str::to_owned).collect();
        match parameter("realm") {
            Some(realm) => Self::Bearer { realm, service: parameter("service"), scopes },
            None => Self::Other,
        }
    }
}

/// The token server that a challenge of `home` names, if it may be asked.
///
/// It must be the registry's own host, or speak https: whoever can change a challenge on its way, or write it, could
/// otherwise have the credential sent in clear to anybody, or have us ask services that only this machine reaches.
pub(super) fn trusted_realm(realm: &str, home: &Url) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|_| "it is not named by a URL".to_owned())?;
    let same_host = url.host() == home.host();
    let host = authority(&url);
    match url.scheme() {
        "https" => {}
        "http" if same_host && home.scheme() == "http" => {}
        "http" => return Err(format!("{host} is named with plain http; expected https")),
        other => return Err(format!("it has the scheme {:?}; expected https", shorten(other))),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{host} is named with a user name in the URL"));
    }
    if is_metadata(&url) && !same_host {
        return Err(format!("{host} is where a machine is told its secrets"));
    }
    Ok(url)
}

/// Whom a token is for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    /// Origin of the registry's host.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) login: Option<Login>,
}

/// What is shown to registries, as long as it counts.
#[derive(Default)]
pub(super) struct Tokens(HashMap<TokenKey, (HeaderValue, Instant)>);

impl Tokens {
    pub(super) fn get(&self, key: &TokenKey) -> Option<HeaderValue> {
        let (value, until) = self.0.get(key)?;
        (*until > Instant::now()).then(|| value.clone())
    }

    pub(super) fn put(&mut self, key: TokenKey, authorization: &Authorization) {
        let now = Instant::now();
        // A login is part of the key: it is not to be held for longer than it serves.
        self.0.retain(|_, (_, until)| *until > now);
        if self.0.len() >= MAX_TOKENS {
            self.0.clear();
        }
        self.0.insert(key, (authorization.value.clone(), now + authorization.life));
    }

    /// What a registry refused is not shown to it again; what somebody got in its place meanwhile is.
    pub(super) fn forget(&mut self, key: &TokenKey, refused: &HeaderValue) {
        if self.0.get(key).is_some_and(|(value, _)| value == refused) {
            self.0.remove(key);
        }
    }
}

/// A value for the `Authorization` header.
pub(super) struct Authorization {
    pub(super) value: HeaderValue,
    life: Duration,
}

impl Authorization {
    fn new(text: &str, life: Duration) -> Option<Self> {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(Self { value, life })
    }
}

/// Asking for an authorization: who asks whom for what.
pub(super) struct Asking<'a> {
    pub(super) clients: &'a Clients,
    pub(super) pace: &'a Pace,
    /// URL that was refused.
    pub(super) home: &'a Url,
    pub(super) tls: &'a Tls,
    /// Repository, such as `library/nginx`.
    pub(super) path: &'a str,
    pub(super) login: Option<&'a Login>,
    pub(super) secrets: &'a Secrets,
}

impl Asking<'_> {
    /// What answers `challenge`.
    pub(super) async fn authorization(&self, challenge: &Challenge) -> Result<Authorization, RegistryError> {
        let refuse = |reason: &str| RegistryError::Unauthorized {
            host: authority(self.home),
            asked: self.path.to_owned(),
            reason: reason.to_owned(),
        };
        let found = match (challenge, self.login) {
            (_, Some(Login::Bearer { token })) => Authorization::new(&format!("Bearer {token}"), MAX_LIFE),
            (Challenge::Basic, Some(Login::Basic { username, password })) => {
                Authorization::new(&http_auth::basic::encode_credentials(username, password), MAX_LIFE)
            }
            (Challenge::Basic, Some(Login::Refresh { .. })) => {
                return Err(refuse("it wants a name and a password, and an identity token was given"));
            }
            (Challenge::Basic, None) => {
                return Err(refuse("it wants a name and a password, and none was given for it"));
            }
            (Challenge::Bearer { realm, service, scopes }, login) => {
                let realm = trusted_realm(realm, self.home).map_err(|reason| RegistryError::Realm {
                    host: authority(self.home),
                    reason: self.secrets.clean(&reason),
                })?;
                return self.token(realm, &self.parameters(service.as_deref(), scopes), login).await;
            }
            (Challenge::Other, _) => {
                return Err(refuse("it asks for a kind of credential that is neither Basic nor Bearer"));
            }
        };
        found.ok_or_else(|| refuse("the credential has characters that cannot be sent"))
    }

    fn parameters(&self, service: Option<&str>, scopes: &[String]) -> Vec<(&'static str, String)> {
        let service = service.map(|service| ("service", service.to_owned()));
        let mut parameters: Vec<_> = service.into_iter().collect();
        if scopes.is_empty() {
            parameters.push(("scope", format!("repository:{}:pull", self.path)));
        }
        parameters.extend(scopes.iter().map(|scope| ("scope", scope.clone())));
        parameters
    }

    /// Asks the token server: with GET and the password or nothing, or with POST and an identity token.
    async fn token(
        &self,
        mut realm: Url,
        parameters: &[(&'static str, String)],
        login: Option<&Login>,
    ) -> Result<Authorization, RegistryError> {
        let asked = format!("a token for {}", self.path);
        let mut private = HeaderMap::new();
        let mut form = None;
        match login {
            Some(Login::Refresh { token }) => {
                // This form names all scopes in one field (RFC 6749, 3.3).
                let of = |name| parameters.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str());
                let scope = of("scope").collect::<Vec<_>>().join(" ");
                let mut fields = Serializer::new(String::new());
                fields.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT_ID);
                fields.append_pair("scope", &scope).append_pair("refresh_token", token);
                of("service").for_each(|service| {
                    fields.append_pair("service", service);
                });
                form = Some(fields.finish());
            }
            login => {
                let mut query = realm.query_pairs_mut();
                query.extend_pairs(parameters);
                if let Some(Login::Basic { username, password }) = login {
                    query.append_pair("account", username).append_pair("client_id", CLIENT_ID);
                    let basic = http_auth::basic::encode_credentials(username, password);
                    private.extend(Authorization::new(&basic, MAX_LIFE).map(|basic| (AUTHORIZATION, basic.value)));
                }
            }
        }
        let request = Request {
            method: if form.is_some() { Method::POST } else { Method::GET },
            tls: &self.tls.towards(&realm, self.home),
            url: realm,
            headers: HeaderMap::new(),
            private,
            form,
            asked: &asked,
            secrets: self.secrets,
        };
        let answer = request.send(self.clients, self.pace).await?;
        self.read(answer, login.is_some()).await
    }

    async fn read(&self, answer: Answer, with_login: bool) -> Result<Authorization, RegistryError> {
        let status = answer.status();
        let (host, asked) = (answer.host.clone(), answer.asked.clone());
        if !status.is_success() {
            let body = answer.document(super::body::MAX_ERROR_BYTES).await.unwrap_or_default();
            let reason = said(&body, self.secrets);
            return Err(match status.as_u16() {
                400 | 401 | 403 => {
                    let why = if with_login { "the credential is not accepted" } else { "no credential was given" };
                    RegistryError::Unauthorized { host, asked, reason: format!("{why}{reason}") }
                }
                status => RegistryError::Status { host, asked, status, reason },
            });
        }
        let odd = answer.odd("it holds no token");
        let body = answer.document(MAX_TOKEN_BYTES).await?;
        let Ok(found) = serde_json::from_slice::<TokenAnswer>(&body) else { return Err(odd) };
        let token = [found.token, found.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let life = found.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs).clamp(DEFAULT_LIFE, MAX_LIFE);
        let life = life.saturating_sub(LIFE_MARGIN);
        token.and_then(|token| Authorization::new(&format!("Bearer {token}"), life)).ok_or(odd)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    /// Seconds.
    #[serde(default)]
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests;
