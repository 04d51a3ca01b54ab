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
    let namespace = secret.metadata.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    if name.is_empty() {
        errors.push(FieldError::new("metadata.name", "is missing: name is needed for the secret"));
    } else if !names::is_subdomain(&name) {
        errors.push(FieldError::with_found("metadata.name", &name, SUBDOMAIN_RULE));
    }
    if !names::is_label(&namespace) {
        errors.push(FieldError::with_found("metadata.namespace", &namespace, LABEL_RULE));
    }
    let config = match config_of(values, &mut errors) {
        Some((path, bytes)) => parse(&path, &bytes, &mut errors),
        None => docker_config::DockerConfig::default(),
    };
    if errors.is_empty() { Ok(PullSecret { namespace, name, config }) } else { Err(errors) }
}

fn check_type(given: &str) -> Option<FieldError> {
    if given == PULL_SECRET_TYPE {
        return None;
    }
    let message = format!("only {PULL_SECRET_TYPE}, for imagePullSecrets, is supported yet");
    Some(match given {
        "" => FieldError::new("type", format!("is missing: {message}")),
        given => FieldError::with_found("type", given, message),
    })
}

/// The decoders quote what they found.
fn redacted(error: FieldError) -> FieldError {
    let is_plain = error.message.starts_with("expected ") || error.message.starts_with("unknown field");
    let message = if is_plain { error.message } else { "cannot be read".to_owned() };
    FieldError { path: error.path, found: None, message }
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
        for (key, value) in entries {
            let mut path = field.to_owned();
            push_key(&mut path, &key);
            match (key == PULL_SECRET_KEY, bytes_of(field, value)) {
                (false, _) => {
                    let message = format!("unknown key; a Secret of this type has {PULL_SECRET_KEY} only");
                    errors.push(FieldError::new(path, message));
                }
                (true, Err(message)) => errors.push(FieldError::new(path, message)),
                (true, Ok(bytes)) => config = config.or(Some((path, bytes))),
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
