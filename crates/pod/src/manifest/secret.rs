//! A `Secret` document. Its values are taken out before anything else looks at it, and no error shows what was found, even
//! where no secret was meant to stand: misplaced ones are secrets too.

use super::decode;
use crate::docker_config::{self, base64};
use crate::field::FieldError;
use crate::names::{self, LABEL_RULE, SUBDOMAIN_RULE};
use crate::secret::{PULL_SECRET_KEY, PULL_SECRET_TYPE, PullSecret};
use crate::support::push_key;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value};

const DEFAULT_NAMESPACE: &str = "default";
/// Letters in a field's name, at most.
const WORD_MAX: usize = 30;

/// # Errors
/// Every field that is wrong, without values.
pub(super) fn read(mut object: Map<String, Value>) -> Result<PullSecret, Vec<FieldError>> {
    let values = [("stringData", object.remove("stringData")), ("data", object.remove("data"))];
    let decoded = decode::object::<Secret>(Value::Object(object));
    let mut errors: Vec<FieldError> = decoded.errors.into_iter().map(redacted).collect();
    let Some(secret) = decoded.object else { return Err(errors) };
    if !errors.is_empty() {
        return Err(errors);
    }
    if let Some(error) = check_type(secret.type_.as_deref().unwrap_or_default()) {
        // What another type holds is nobody's business here.
        return Err(vec![error]);
    }
    let name = secret.metadata.name.unwrap_or_default();
    let uid = secret.metadata.uid.unwrap_or_default();
    let namespace = secret.metadata.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    if name.is_empty() {
        errors.push(FieldError::new("metadata.name", "is missing: name is needed for the secret"));
    } else if !names::is_subdomain(&name) {
        errors.push(named("metadata.name", &name, SUBDOMAIN_RULE));
    }
    if !names::is_label(&namespace) {
        errors.push(named("metadata.namespace", &namespace, LABEL_RULE));
    }
    let config = match config_of(values, &mut errors) {
        Some((path, bytes)) => parse(&path, &bytes, &mut errors),
        None => docker_config::DockerConfig::default(),
    };
    if errors.is_empty() { Ok(PullSecret { namespace, name, uid, config }) } else { Err(errors) }
}

fn check_type(given: &str) -> Option<FieldError> {
    if given == PULL_SECRET_TYPE {
        return None;
    }
    let message = format!("only {PULL_SECRET_TYPE}, for imagePullSecrets, is supported yet");
    Some(match given {
        "" => FieldError::new("type", format!("is missing: {message}")),
        given => named("type", given, message),
    })
}

/// With what was found, if it looks like a name: where a blank or a line's end is missing it may be anything.
fn named(path: &str, found: &str, message: impl Into<String>) -> FieldError {
    match names::is_qualified(found) {
        true => FieldError::with_found(path, found, message),
        false => FieldError::new(path, message),
    }
}

/// The decoders quote what they found, and name fields that are none.
fn redacted(error: FieldError) -> FieldError {
    let is_plain = error.message.starts_with("expected ") || error.message.starts_with("unknown field");
    let message = if is_plain { error.message } else { "cannot be read".to_owned() };
    let path = plain_beginning(&error.path);
    if path.len() == error.path.len() {
        return FieldError { path: error.path, found: None, message };
    }
    let path = if path.is_empty() { docker_config::WHOLE } else { path };
    FieldError::new(path, format!("something in it is wrong: {message}"))
}

/// As much of a path as consists of words.
fn plain_beginning(path: &str) -> &str {
    let mut end = 0;
    while end < path.len() {
        let word = path[end..].strip_prefix('.').unwrap_or(&path[end..]);
        let rest = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let letters = word.len() - rest.len();
        if !(1..=WORD_MAX).contains(&letters) || !(rest.is_empty() || rest.starts_with(['.', '['])) {
            break;
        }
        end = path.len() - rest.len();
    }
    &path[..end]
}

/// The configuration and where it stands; `stringData` comes before `data`, as in the API.
fn config_of(values: [(&str, Option<Value>); 2], errors: &mut Vec<FieldError>) -> Option<(String, Vec<u8>)> {
    let before = errors.len();
    let mut config = None;
    for (field, value) in values {
        let entries = match value {
            None | Some(Value::Null) => continue,
            Some(Value::Object(entries)) => entries,
            Some(_) => {
                errors.push(FieldError::new(field, "expected a mapping of names to values"));
                continue;
            }
        };
        // A key is not shown: where the blank after a colon is missing it is the value as well.
        if entries.keys().any(|key| key != PULL_SECRET_KEY) {
            let message = format!("expected {PULL_SECRET_KEY} and no other key; is there a blank after each colon?");
            errors.push(FieldError::new(field, message));
        }
        for value in entries.into_iter().filter(|(key, _)| key == PULL_SECRET_KEY).map(|(_, value)| value) {
            let mut path = field.to_owned();
            push_key(&mut path, PULL_SECRET_KEY);
            match bytes_of(field, value) {
                Err(message) => errors.push(FieldError::new(path, message)),
                Ok(bytes) => config = config.or(Some((path, bytes))),
            }
        }
    }
    if config.is_none() && errors.len() == before {
        let message = format!(
            "is missing: expected docker's config.json, in base64 here or as it is under stringData[{PULL_SECRET_KEY}]"
        );
        errors.push(FieldError::new(format!("data[{PULL_SECRET_KEY}]"), message));
    }
    config
}

fn bytes_of(field: &str, value: Value) -> Result<Vec<u8>, &'static str> {
    match (field, value) {
        ("stringData", Value::String(text)) => Ok(text.into_bytes()),
        (_, Value::String(text)) => base64(&text).ok_or("is not base64; put plain text under stringData"),
        ("stringData", Value::Object(_)) => Err("expected a string: put `|` after the colon"),
        _ => Err("expected a string"),
    }
}

fn parse(path: &str, bytes: &[u8], errors: &mut Vec<FieldError>) -> docker_config::DockerConfig {
    let parsed = docker_config::parse(bytes);
    let told = !parsed.problems.is_empty();
    errors.extend(parsed.problems.into_iter().map(|problem| within(path, problem)));
    if !told && parsed.config.is_empty() {
        let message = match parsed.helpers.first() {
            Some(helper) => format!(
                "holds no credential: docker left them to a program ({helper}), which is not asked; write auth, or username \
                 and password, under auths"
            ),
            None => "holds no credential: expected auths with at least one registry".to_owned(),
        };
        errors.push(FieldError::new(path, message));
    }
    parsed.config
}

fn within(path: &str, problem: FieldError) -> FieldError {
    let path = match problem.path.as_str() {
        docker_config::WHOLE => path.to_owned(),
        inner => format!("{path}.{inner}"),
    };
    FieldError { path, ..problem }
}
