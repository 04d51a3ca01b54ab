//! GET requests to containers, for probes and hooks: one connection each, nothing kept.

use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use url::{Position, Url};

use super::dial::{authority, dial};
use super::tls::{TlsError, tls};

/// Bytes of an answer that are looked at.
const MAX_BODY_BYTES: usize = 10 << 10;
/// Bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Requests for one answer.
const MAX_REQUESTS: usize = 10;

/// A request, with where it goes.
#[derive(Debug, Clone)]
pub(in crate::effects) struct Get {
    url: Url,
    /// As the first `Host` header says it.
    authority: String,
    /// In place of `authority`.
    host: Option<HeaderValue>,
    headers: HeaderMap,
}

#[derive(Debug)]
pub(in crate::effects) struct Reply {
    pub(in crate::effects) status: StatusCode,
    /// The beginning of it, as text.
    pub(in crate::effects) body: String,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(in crate::effects) enum GetError {
    /// None came.
    NoAnswer(String),
    /// HTTPS was asked for, and HTTP is spoken there.
    NotTls(String),
    /// It broke off after its head.
    Broken(String),
}

impl Get {
    /// The request that an action describes, to `address` unless it names a host, in the name of `agent`.
    pub(in crate::effects) fn new(
        action: &HTTPGetAction,
        (address, port): (&str, u16),
        agent: &'static str,
    ) -> Result<Get, String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(address);
        let scheme = if action.scheme.as_deref() == Some("HTTPS") { "https" } else { "http" };
        let authority = authority(host, port);
        let path = action.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let url = format!("{scheme}://{authority}{slash}{path}");
        let url = Url::parse(&url).map_err(|error| format!("parse {url:?}: {error}"))?;
        let mut get = Get { url, authority, host: None, headers: HeaderMap::new() };
        for header in action.http_headers.iter().flatten() {
            let invalid = |what: &str| format!("the {what} of header {:?} is not valid", header.name);
            let value = HeaderValue::from_str(&header.value).map_err(|_| invalid("value"))?;
            match HeaderName::try_from(&header.name).map_err(|_| invalid("name"))? {
                HOST => get.host = Some(value).filter(|value| !value.is_empty()),
                name => _ = get.headers.append(name, value),
            }
        }
        for (name, default) in [(USER_AGENT, agent), (ACCEPT, "*/*")] {
            match get.headers.get(&name) {
                None => _ = get.headers.insert(name, HeaderValue::from_static(default)),
                // An empty one says: none at all.
                Some(value) if value.is_empty() => _ = get.headers.remove(name),
                Some(_) => {}
            }
        }
        get.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(get)
    }

    /// The same by HTTP, without the credentials that were meant for HTTPS.
    pub(in crate::effects) fn plain(&self) -> Get {
        let mut get = self.clone();
        let port = get.url.port_or_known_default();
        // Of the two schemes each may become the other; the port stays, which may have gone without saying.
        let _ = get.url.set_scheme("http");
        let _ = get.url.set_port(port);
        get.headers.remove(hyper::header::AUTHORIZATION);
        get
    }

    /// `host:port`.
    pub(in crate::effects) fn authority(&self) -> &str {
        &self.authority
    }

    fn shown(&self) -> String {
        let path = &self.url[Position::BeforePath..];
        format!("Get \"{}://{}{path}\"", self.url.scheme(), self.authority)
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let path = &self.url[Position::BeforePath..Position::AfterQuery];
        let mut request = Request::get(path).body(Empty::new())?;
        *request.headers_mut() = self.headers.clone();
        let host = self.host.clone().map_or_else(|| HeaderValue::from_str(&self.authority), Ok)?;
        request.headers_mut().insert(HOST, host);
        Ok(request)
    }

    /// Where an answer sends this request, if to the same host.
    fn redirected(&self, answer: &Parts) -> Option<Get> {
        if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = answer.headers.get(LOCATION)?.to_str().ok()?;
        let url = self.url.join(location).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        if url.host_str() != self.url.host_str() {
            return None;
        }
        let is_relative = Url::parse(location).is_err() && !location.starts_with("//");
        Some(Get {
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            host: self.host.clone().filter(|_| is_relative),
            headers: self.headers.clone(),
            url,
        })
    }
}

/// Sends the request and follows where it is sent, on the same host.
pub(in crate::effects) async fn get(mut get: Get, deadline: Instant) -> Result<Reply, GetError> {
    for _ in 0..MAX_REQUESTS {
        let (parts, body) = once(&get, deadline).await?;
        match get.redirected(&parts) {
            Some(next) => get = next,
            None => return Ok(Reply { status: parts.status, body: String::from_utf8_lossy(&body).into_owned() }),
        }
    }
    Err(GetError::NoAnswer(format!("{}: stopped after {MAX_REQUESTS} redirects", get.shown())))
}

async fn once(get: &Get, deadline: Instant) -> Result<(Parts, Vec<u8>), GetError> {
    let no_answer = |why: &str| GetError::NoAnswer(format!("{}: {why}", get.shown()));
    let request = get.request().map_err(|error| no_answer(&error.to_string()))?;
    let host = get.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = get.url.port_or_known_default().unwrap_or_default();
    let late = || no_answer("context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
    let stream = timeout_at(deadline, dial(host, port)).await.map_err(|_| late())?;
    let stream = stream.map_err(|error| no_answer(&error))?;
    if get.url.scheme() == "http" {
        return exchange(get, (stream, request), deadline).await;
    }
    match timeout_at(deadline, tls(host, stream)).await.map_err(|_| late())? {
        Ok(stream) => exchange(get, (stream, request), deadline).await,
        Err(TlsError::NotTls) => {
            Err(GetError::NotTls(format!("{}: http: server gave HTTP response to HTTPS client", get.shown())))
        }
        Err(TlsError::Other(error)) => Err(no_answer(&error)),
    }
}

async fn exchange<S>(
    get: &Get,
    (stream, request): (S, Request<Empty<Bytes>>),
    deadline: Instant,
) -> Result<(Parts, Vec<u8>), GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let no_answer = |why: &str| GetError::NoAnswer(format!("{}: {why}", get.shown()));
    let late = |phase: &str| format!("context deadline exceeded (Client.Timeout {phase})");
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| no_answer(&error.to_string()))?;
    let asked = async {
        let answer = timeout_at(deadline, sender.send_request(request)).await;
        let answer = answer.map_err(|_| no_answer(&late("exceeded while awaiting headers")))?;
        let answer = answer.map_err(|error| no_answer(&described(&error)))?;
        let (parts, body) = answer.into_parts();
        let body = timeout_at(deadline, beginning(body)).await;
        let body = body.map_err(|_| GetError::Broken(late("or context cancellation while reading body")))?;
        Ok((parts, body.map_err(|error| GetError::Broken(described(&error)))?))
    };
    beside(asked, connection).await
}

/// Runs `asked` while the connection that carries it runs. Neither outlives the other, whoever drops this.
pub(super) async fn beside<T>(asked: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut asked, mut connection) = (pin!(asked), pin!(connection));
    tokio::select! {
        biased;
        done = &mut asked => done,
        // What it brought last may still be unread; how it ended is told to who asked.
        _ = &mut connection => asked.await,
    }
}

async fn beginning(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY_BYTES {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY_BYTES - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(bytes)
}

/// An error with its causes.
fn described(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
