//! `hosts.toml`: where else a registry's images are, and how its hosts are trusted. The layout is containerd's.

use super::RegistryError;
use super::endpoint::{Endpoint, authority};
use super::tls::{Tls, read_identity, read_roots};
use crate::fs::read_linked;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};
use url::Url;

const FILE: &str = "hosts.toml";
const DEFAULT_DIR: &str = "_default";
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Hosts that one file may name.
const MAX_HOSTS: usize = 32;
const MAX_HEADERS: usize = 32;
const MAX_DIAL_TIMEOUT: Duration = Duration::from_secs(60);
/// What may be said of a host.
const HOST_KEYS: &[&str] = &["capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"];

/// The hosts to ask about images of `domain`, in order. Without a file that speaks of it, its own registry alone.
pub(super) fn endpoints(dir: Option<&Path>, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let own = Endpoint::of(domain).ok_or_else(|| RegistryError::Connect {
        host: domain.to_owned(),
        reason: "that is not the name of a host".into(),
    })?;
    let Some(dir) = dir else { return Ok(vec![own]) };
    let with_port = domain.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    // containerd's name for hosts with a port, on file systems that know no colon.
    let portable = with_port.map(|(host, port)| format!("{host}_{port}_"));
    for name in portable.as_deref().into_iter().chain([domain, DEFAULT_DIR]) {
        let path = dir.join(name).join(FILE);
        let wrong = |reason| RegistryError::Hosts { path: path.clone(), reason };
        let text = match read_linked(&path, MAX_FILE_BYTES) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(wrong(error.to_string())),
        };
        let speaks_of = if name == DEFAULT_DIR { Scope::Every } else { Scope::This };
        let file = HostsFile { path: &path, domain, own: &own, scope: speaks_of };
        return file.read(&text).map_err(wrong);
    }
    Ok(vec![own])
}

/// Whom a file speaks of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    This,
    /// Every registry that has no file of its own.
    Every,
}

struct HostsFile<'a> {
    path: &'a Path,
    domain: &'a str,
    /// The registry as it is without a file.
    own: &'a Endpoint,
    scope: Scope,
}

impl HostsFile<'_> {
    fn read(&self, text: &str) -> Result<Vec<Endpoint>, String> {
        // The parser's message has the line and column, but also quotes the line, which may hold a password.
        let table: Table = text.parse().map_err(|e: toml::de::Error| match e.span() {
            Some(span) => format!("line {}: {}", 1 + text[..span.start].matches('\n').count(), e.message()),
            None => e.message().to_owned(),
        })?;
        let known: Vec<&str> = ["server", "host"].into_iter().chain(HOST_KEYS.iter().copied()).collect();
        check_keys(&table, "", &known)?;
        let mut endpoints = Vec::new();
        if let Some(hosts) = table.get("host") {
            let hosts = hosts.as_table().ok_or("host: expected tables [host.\"https://…\"]")?;
            if hosts.len() > MAX_HOSTS {
                return Err(format!("host: {} hosts are named; the limit is {MAX_HOSTS}", hosts.len()));
            }
            for (url, settings) in hosts {
                let at = format!("host.{url:?}.");
                let settings = settings.as_table().ok_or_else(|| format!("host.{url:?}: expected a table"))?;
                check_keys(settings, &at, HOST_KEYS)?;
                endpoints.push(self.endpoint(&at, url, settings)?);
            }
        }
        endpoints.push(self.server(&table)?);
        Ok(endpoints)
    }

    /// The registry itself, which is asked last.
    fn server(&self, table: &Table) -> Result<Endpoint, String> {
        let mut own = match table.get("server") {
            None => self.own.clone(),
            Some(url) => {
                let url = url.as_str().ok_or("server: expected a string with a URL")?;
                let base = base("server", url, table)?;
                // What speaks of every registry is trusted with the credentials of none.
                let own = self.scope == Scope::This || self.is_own(&base);
                Endpoint { own, namespace: self.namespace(&base), ..named(base) }
            }
        };
        self.settings("", table, &mut own)?;
        Ok(own)
    }

    fn endpoint(&self, at: &str, url: &str, settings: &Table) -> Result<Endpoint, String> {
        let base = base(at.trim_end_matches('.'), url, settings)?;
        let mut endpoint = Endpoint { own: self.is_own(&base), namespace: self.namespace(&base), ..named(base) };
        self.settings(at, settings, &mut endpoint)?;
        Ok(endpoint)
    }

    /// The registry's own host and port. Whoever writes `http://` before them means it, credentials included.
    fn is_own(&self, base: &Url) -> bool {
        authority(base) == self.own.host()
    }

    fn namespace(&self, base: &Url) -> Option<String> {
        (!self.is_own(base)).then(|| self.domain.to_owned())
    }

    /// What a table says of its host, beside where it is.
    fn settings(&self, at: &str, table: &Table, endpoint: &mut Endpoint) -> Result<(), String> {
        for (key, value) in table {
            let wrong = |expected: &str| format!("{at}{key}: expected {expected}");
            match key.as_str() {
                "capabilities" => (endpoint.pull, endpoint.resolve) = capabilities(value).map_err(|e| wrong(&e))?,
                "skip_verify" => endpoint.tls.skip_verify = value.as_bool().ok_or_else(|| wrong("true or false"))?,
                "ca" => {
                    let paths = strings(value).ok_or_else(|| wrong("a path or a list of paths"))?;
                    for path in paths {
                        endpoint.tls.roots.push(read_roots(&self.beside(path)).map_err(|e| format!("{at}{key}: {e}"))?);
                    }
                }
                "client" => {
                    let (certificate, key_file) =
                        client(value).ok_or_else(|| wrong("a path, [path], or [[certificate, key]]"))?;
                    let key_file = key_file.map(|path| self.beside(path));
                    let identity = read_identity(&self.beside(certificate), key_file.as_deref());
                    endpoint.tls.identity = Some(identity.map_err(|e| format!("{at}{key}: {e}"))?);
                }
                "header" => endpoint.headers = headers(value).map_err(|e| format!("{at}{key}{e}"))?,
                "dial_timeout" => {
                    let within = value.as_str().and_then(duration);
                    let within = within.ok_or_else(|| wrong("a duration such as \"5s\", at most a minute"))?;
                    endpoint.tls.connect_within = Some(within);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Paths in the file start at its directory.
    fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().map_or_else(|| path.into(), |dir| dir.join(path))
    }
}

/// A host by its URL, of which nothing else is known.
fn named(base: Url) -> Endpoint {
    Endpoint {
        base,
        pull: true,
        resolve: true,
        own: false,
        or_plain: false,
        namespace: None,
        tls: Tls::default(),
        headers: HeaderMap::new(),
    }
}

fn check_keys(table: &Table, at: &str, known: &[&str]) -> Result<(), String> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let key = crate::digest::shorten(key);
            Err(format!("{at}{key}: there is no such key; expected one of {}", known.join(", ")))
        }
        None => Ok(()),
    }
}

/// What comes before `/<repository>`: the URL, and `/v2` unless `override_path` says that it is complete.
fn base(at: &str, text: &str, settings: &Table) -> Result<Url, String> {
    let complete = match settings.get("override_path") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| format!("{at}.override_path: expected true or false"))?,
    };
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong = |why: &str| format!("{at}: {why}; expected a URL such as \"https://mirror.example:5000\"");
    let mut url = Url::parse(&with_scheme).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("the scheme is neither https nor http"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{at}: a URL must not hold a user name or a password; give the host a header instead"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if complete || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

/// Whether a host is asked for content, and what tags mean. Pushing is nothing that we do.
fn capabilities(value: &Value) -> Result<(bool, bool), String> {
    const EXPECTED: &str = "a list of \"pull\" and \"resolve\"";
    let names = value.as_array().and_then(|_| strings(value)).ok_or(EXPECTED)?;
    if names.is_empty() {
        return Ok((true, true));
    }
    if let Some(other) = names.iter().find(|name| !matches!(**name, "pull" | "resolve" | "push")) {
        return Err(format!("{EXPECTED}, found {:?}", crate::digest::shorten(other)));
    }
    Ok((names.contains(&"pull"), names.contains(&"resolve")))
}

/// A string, or a list of nothing else.
fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// `"both.pem"`, `["both.pem"]`, or `[["certificate", "key"]]`. More than one cannot be shown to one server.
fn client(value: &Value) -> Option<(&str, Option<&str>)> {
    match value {
        Value::String(both) => Some((both, None)),
        Value::Array(list) => match list.as_slice() {
            [Value::String(both)] => Some((both, None)),
            [Value::Array(pair)] => match pair.as_slice() {
                [Value::String(certificate), Value::String(key)] => {
                    Some((certificate, (!key.is_empty()).then_some(key)))
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Headers; their values are never shown. The error says where and why.
fn headers(value: &Value) -> Result<HeaderMap, String> {
    let table = value.as_table().ok_or(": expected a table")?;
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let at = format!(".{}", crate::digest::shorten(name));
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{at}: that is no header's name"))?;
        for text in strings(value).ok_or_else(|| format!("{at}: expected a string or a list of strings"))? {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| format!("{at}: the value has characters that no header may have"))?;
            value.set_sensitive(true);
            headers.append(parsed.clone(), value);
        }
    }
    if headers.len() > MAX_HEADERS {
        return Err(format!(": there are {} values; the limit is {MAX_HEADERS}", headers.len()));
    }
    Ok(headers)
}

/// A duration as Go writes them, of whole numbers: `5s`, `1m`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let found = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        _ => return None,
    };
    (found > Duration::ZERO && found <= MAX_DIAL_TIMEOUT).then_some(found)
}

#[cfg(test)]
mod tests;
