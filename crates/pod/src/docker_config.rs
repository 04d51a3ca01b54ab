//! Docker's client configuration: which credential goes to which registry. A `kubernetes.io/dockerconfigjson` Secret holds
//! the same. What is wrong with one is told by its place; no text here ever shows what stands there.

mod matching;

use crate::field::{FieldError, printable};
use k8s_openapi::ByteString;
use serde_json::{Map, Value};
use std::fmt;

pub use matching::{Pattern, image_name, registry_of};

/// Largest configuration, bytes: what the API allows a Secret.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most registries in one configuration.
pub const MAX_ENTRIES: usize = 1000;
/// The path of a problem of the configuration as a whole.
pub const WHOLE: &str = "(document)";

/// What a registry is told of who asks. Its `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    pub username: String,
    pub password: String,
    /// Exchanged by the registry's token server for another; instead of a password.
    pub identity_token: String,
    /// Shown to the registry as it is; instead of all else.
    pub registry_token: String,
}

impl Credential {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Credentials, and what each is for; those for the most exactly named registry or repository first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerConfig {
    entries: Vec<(Pattern, Credential)>,
}

/// What a configuration holds. What is wrong with an entry costs that entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    pub config: DockerConfig,
    pub problems: Vec<FieldError>,
    /// `credsStore` or `credHelpers`, where set: programs that are not asked.
    pub helpers: Vec<&'static str>,
}

impl DockerConfig {
    pub fn new(entries: impl IntoIterator<Item = (Pattern, Credential)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().filter(|(_, credential)| !credential.is_empty()).collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { entries }
    }

    /// The credentials for an image by its full name, as [`crate::image_name::normalize`] makes it, in the order to try.
    pub fn for_image<'c>(&'c self, image: &'c str) -> impl Iterator<Item = &'c Credential> {
        self.entries.iter().filter(move |(pattern, _)| pattern.matches(image)).map(|(_, credential)| credential)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Reads a `config.json`: credentials stand under `auths`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let Some(object) = object_of(bytes, &mut parsed.problems) else { return parsed };
    let is_set = |field: &str| object.get(field).is_some_and(|value| !matches!(value, Value::Null) && !is_blank(value));
    parsed.helpers = ["credsStore", "credHelpers"].into_iter().filter(|field| is_set(field)).collect();
    match object.get("auths") {
        None | Some(Value::Null) => {}
        Some(Value::Object(auths)) => parsed.config = entries(auths, "auths", &mut parsed.problems),
        Some(_) => parsed.problems.push(FieldError::new("auths", "expected a mapping of registries to credentials")),
    }
    parsed
}

/// Reads a `.dockercfg`, as it was before there was a `config.json`: all of it is what stands under `auths` there.
pub fn parse_legacy(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    if let Some(object) = object_of(bytes, &mut parsed.problems) {
        parsed.config = entries(&object, "", &mut parsed.problems);
    }
    parsed
}

fn is_blank(value: &Value) -> bool {
    value.as_str() == Some("") || value.as_object().is_some_and(Map::is_empty)
}

fn object_of(bytes: &[u8], problems: &mut Vec<FieldError>) -> Option<Map<String, Value>> {
    if bytes.len() > MAX_BYTES {
        let message = format!("is {} bytes long, at most {MAX_BYTES} are allowed", bytes.len());
        problems.push(FieldError::new(WHOLE, message));
        return None;
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => return Some(object),
        Ok(_) => problems.push(FieldError::new(WHOLE, "expected a JSON object as docker writes it")),
        // The parser's own message may quote what it met.
        Err(error) => {
            let message = format!("is not JSON: line {}, column {}", error.line(), error.column());
            problems.push(FieldError::new(WHOLE, message));
        }
    }
    None
}

fn entries(auths: &Map<String, Value>, prefix: &str, problems: &mut Vec<FieldError>) -> DockerConfig {
    if auths.len() > MAX_ENTRIES {
        let message = format!("names {} registries, at most {MAX_ENTRIES} are allowed", auths.len());
        problems.push(FieldError::new(if prefix.is_empty() { WHOLE } else { prefix }, message));
        return DockerConfig::default();
    }
    let mut entries = Vec::new();
    for (registry, value) in auths {
        // Before an @ stands who asks, and perhaps the password.
        let shown = registry.rsplit_once('@').map_or(registry.as_str(), |(_, host)| host);
        let path = format!("{prefix}[{}]", printable(shown));
        match (Pattern::parse(registry), credential(&path, value)) {
            (Some(pattern), Ok(credential)) => entries.push((pattern, credential)),
            (None, _) => problems.push(FieldError::new(
                path,
                "is not a registry: expected a host with an optional port and path, as in registry.example.com:5000/team",
            )),
            (_, Err(problem)) => problems.push(problem),
        }
    }
    DockerConfig::new(entries)
}

fn credential(path: &str, value: &Value) -> Result<Credential, FieldError> {
    let Value::Object(entry) = value else {
        return Err(FieldError::new(path, "expected a mapping with auth, or username and password"));
    };
    let text = |field: &str| match entry.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(FieldError::new(format!("{path}.{field}"), "expected a string")),
    };
    let mut credential = Credential {
        username: text("username")?,
        password: text("password")?,
        identity_token: text("identitytoken")?,
        registry_token: text("registrytoken")?,
    };
    let auth = text("auth")?;
    if !auth.trim().is_empty() {
        let wrong = || {
            let message = "is not the base64 form of user:password; `docker login` writes it";
            FieldError::new(format!("{path}.auth"), message)
        };
        let decoded = base64(&auth).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)?;
        let (username, password) = decoded.split_once(':').ok_or_else(wrong)?;
        username.clone_into(&mut credential.username);
        // Old clients filled it up with zeroes.
        password.trim_end_matches('\0').clone_into(&mut credential.password);
    }
    let texts = [&credential.username, &credential.password, &credential.identity_token, &credential.registry_token];
    // It goes into an HTTP header.
    if texts.iter().any(|text| text.contains(|c: char| c.is_ascii_control())) {
        return Err(FieldError::new(path, "holds a control character, which cannot be sent to a registry"));
    }
    Ok(credential)
}

/// Decodes base64, with or without padding, over several lines or in one.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut text: String = text.trim().chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    // The API's own form of bytes.
    serde_json::from_value::<ByteString>(Value::String(text)).ok().map(|bytes| bytes.0)
}

#[cfg(test)]
mod tests;
