//! Bytes to plain values: YAML or JSON, with limits on size, depth, count and aliases. Duplicate keys are errors.

use super::{MAX_BYTES, ManifestError, Position, Problem};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::options::DuplicateKeyPolicy;
use std::fmt;

/// Values in all documents of a manifest together, aliases counted each time they are used. A thousand ordinary pods have
/// a tenth of it; it bounds memory to some tens of MiB.
const MAX_NODES: usize = 200_000;
/// Levels of nesting; a pod has about a dozen.
const MAX_DEPTH: usize = 64;
/// Uses of `*alias` in a manifest.
const MAX_ALIASES: usize = 1_000;
/// Values that aliases may unfold to, and that are kept because an anchor names them.
const MAX_UNFOLDED: usize = 20_000;
const MAX_DOCUMENTS: usize = super::MAX_PODS + 1;
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Why the text as a whole cannot be read.
#[derive(Debug)]
pub(super) struct Failure {
    pub position: Option<Position>,
    pub problem: Problem,
}

impl Failure {
    pub(super) fn in_file(self, file: &str) -> ManifestError {
        ManifestError { file: file.to_owned(), document: None, position: self.position, problem: self.problem }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { position: None, problem }
    }
}

/// All documents that are not empty.
pub(super) fn documents(bytes: &[u8]) -> Result<Vec<Value>, Failure> {
    let text = readable(bytes)?;
    let Some(inside) = text.trim_start().strip_prefix('{') else { return yaml(text) };
    // What begins with a brace is JSON, unless it is YAML in flow style. If it is neither, a quoted key tells which was meant.
    let failure = match json(text) {
        Ok(documents) => return Ok(documents),
        Err(failure @ Failure { problem: Problem::TooComplex { .. }, .. }) => return Err(failure),
        Err(failure) => failure,
    };
    let meant_json = inside.trim_start().starts_with(['"', '}']);
    yaml(text).map_err(|yaml_failure| if meant_json { failure } else { yaml_failure })
}

/// The bytes as text without a byte order mark.
pub(super) fn readable(bytes: &[u8]) -> Result<&str, Failure> {
    if bytes.len() > MAX_BYTES {
        return Err(Problem::TooLarge { size_bytes: bytes.len() }.into());
    }
    let not_text = |reason: String| Failure::from(Problem::NotText { reason });
    let text =
        std::str::from_utf8(bytes).map_err(|error| not_text(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let binary = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    match text.char_indices().find(|(_, c)| binary(*c)) {
        Some((at, c)) => Err(not_text(format!("byte {at} is the control character U+{:04X}", u32::from(c)))),
        None => Ok(text),
    }
}

fn yaml(text: &str) -> Result<Vec<Value>, Failure> {
    let documents: Vec<Strict> =
        serde_saphyr::from_str_multiple_with_options(text, yaml_options()).map_err(|error| yaml_failure(&error))?;
    Ok(documents.into_iter().map(|document| document.0).collect())
}

pub(super) fn yaml_options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 3 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: MAX_UNFOLDED,
            max_recorded_anchor_bytes: MAX_BYTES,
            max_documents: MAX_DOCUMENTS,
            max_total_scalar_bytes: 2 * MAX_BYTES,
            max_merge_keys: MAX_ALIASES,
            max_inclusion_depth: 0,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        emit_comments: false,
        with_snippet: false,
        // Kubernetes reads YAML 1.1: 0644 is octal (and yes, no, on and off are booleans).
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
    };
    options.alias_limits.max_total_replayed_events = MAX_UNFOLDED;
    options.alias_limits.max_replay_stack_depth = MAX_DEPTH;
    options
}

fn yaml_failure(error: &serde_saphyr::Error) -> Failure {
    use serde_saphyr::Error;
    let known = error.location().filter(|location| location.line() > 0);
    let position = known.map(|location| Position { line: location.line(), column: Some(location.column()) });
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner.without_snippet();
    }
    let problem = match limit_exceeded(error) {
        Some(message) => Problem::TooComplex { message },
        None => Problem::Syntax { format: "YAML", message: yaml_message(error) },
    };
    Failure { position, problem }
}

fn yaml_message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("duplicate key {key:?}"),
        Error::DuplicateMappingKey { key: None, .. } => "duplicate key".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias refers to what it is part of".to_owned(),
        other => without_position(&other.to_string()),
    }
}

fn limit_exceeded(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    let aliases =
        || format!("aliases unfold to more than {MAX_UNFOLDED} values, or there are more than {MAX_ALIASES} of them");
    Some(match error {
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Depth { .. } => too_deep(),
            BudgetBreach::Documents { .. } => format!("more than {MAX_DOCUMENTS} documents"),
            BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => format!("more than {MAX_NODES} values"),
            BudgetBreach::SequenceUnbalanced => return None,
            _ => aliases(),
        },
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => aliases(),
        _ => return None,
    })
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

/// The parsers repeat the position at the end of their messages.
fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or_default().to_owned()
}

fn json(text: &str) -> Result<Vec<Value>, Failure> {
    let nodes = json_nodes(text.as_bytes());
    if nodes > MAX_NODES {
        let message = format!("about {nodes} values, at most {MAX_NODES} are allowed");
        return Err(Problem::TooComplex { message }.into());
    }
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Strict>() {
        documents.push(document.map_err(|error| json_failure(&error))?.0);
        if documents.len() > MAX_DOCUMENTS {
            let message = format!("more than {MAX_DOCUMENTS} documents");
            return Err(Problem::TooComplex { message }.into());
        }
    }
    Ok(documents)
}

/// An upper bound of the values in a JSON text, without building any.
fn json_nodes(bytes: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' | b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn json_failure(error: &serde_json::Error) -> Failure {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    let position =
        (error.line() > 0).then(|| Position { line: error.line() as u64, column: Some(error.column() as u64) });
    let problem = if message.contains("recursion limit") {
        Problem::TooComplex { message: too_deep() }
    } else {
        Problem::Syntax { format: "JSON", message }
    };
    Failure { position, problem }
}

/// A plain value in which no mapping has a key twice.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            let Strict(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
