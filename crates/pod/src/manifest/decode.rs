//! Plain values to a typed object: every unknown field and every wrong type, with its path.

use super::MAX_ERRORS_PER_DOCUMENT;
use crate::field::FieldError;
use serde::de::value::{Error as StopError, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::cell::Cell;

/// Names listed when none of them is near to the misspelt one; longer lists help nobody.
const LISTED_NAMES: usize = 12;

/// Letters from which on a word may be the beginning of a field's name.
const BEGUN_MIN: usize = 4;

/// Longest list in an object. A typed container is a hundred times larger than the two bytes that can stand for it in the text, so
/// lists are bounded before they become typed.
const MAX_LIST: usize = 5_000;

/// What became of a value.
pub(super) struct Decoded<T> {
    pub object: Option<T>,
    pub errors: Vec<FieldError>,
    /// Paths of wrong types: the object lacks what stood there.
    pub taken_out: Vec<String>,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Decodes an object. Decoding stops at the first wrong type, so what is wrong is taken out and decoding is tried again.
pub(super) fn object<T: DeserializeOwned>(mut value: Value) -> Decoded<T> {
    let (mut errors, mut taken_out) = (Vec::new(), Vec::new());
    if let Some(error) = too_long(&value, &mut Vec::new()) {
        return Decoded { object: None, errors: vec![error], taken_out };
    }
    while errors.len() <= MAX_ERRORS_PER_DOCUMENT {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
        let result: Result<T, serde_json::Error> =
            serde_ignored::deserialize(deserializer, |path| unknown.push(ignored_steps(&path)));
        match result {
            Ok(object) => {
                let told = unknown.len().min(MAX_ERRORS_PER_DOCUMENT);
                errors.extend(unknown[..told].iter().map(|steps| unknown_field::<T>(steps)));
                // These will only be counted, so nobody reads a suggestion, which costs much more than the rest.
                errors.extend(unknown[told..].iter().map(|steps| FieldError::new(show(steps), "unknown field")));
                return Decoded { object: Some(object), errors, taken_out };
            }
            Err(error) => {
                let steps = tracked_steps(&track.path());
                errors.push(wrong_type(&value, &steps, &error.to_string()));
                taken_out.push(show(&steps));
                if !take_out(&mut value, &steps) {
                    break;
                }
            }
        }
    }
    Decoded { object: None, errors, taken_out }
}

fn too_long(value: &Value, steps: &mut Vec<Step>) -> Option<FieldError> {
    match value {
        Value::Array(items) if items.len() > MAX_LIST => {
            let found = format!("{} entries", items.len());
            Some(FieldError::with_found(show(steps), found, format!("a list may have at most {MAX_LIST} entries")))
        }
        Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            steps.push(Step::Index(index));
            let error = too_long(item, steps);
            steps.pop();
            error
        }),
        Value::Object(map) => map.iter().find_map(|(key, item)| {
            steps.push(Step::Key(key.clone()));
            let error = too_long(item, steps);
            steps.pop();
            error
        }),
        _ => None,
    }
}

fn tracked_steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}

fn ignored_steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = ignored_steps(parent);
    steps.extend(step);
    steps
}

fn show(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) => crate::support::push_key(&mut path, key),
        }
    }
    path
}

fn at<'v>(value: &'v Value, steps: &[Step]) -> Option<&'v Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// Removes the field, or the list that holds the element (so that the others keep their indices). False if there is nothing.
fn take_out(value: &mut Value, steps: &[Step]) -> bool {
    let Some(last_key) = steps.iter().rposition(|step| matches!(step, Step::Key(_))) else { return false };
    let (around, from) = steps.split_at(last_key);
    let parent = around.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    });
    match (parent, from.first()) {
        (Some(Value::Object(map)), Some(Step::Key(key))) => map.remove(key).is_some(),
        _ => false,
    }
}

fn wrong_type(root: &Value, steps: &[Step], message: &str) -> FieldError {
    let found = at(root, steps);
    let expected = message.split_once(", expected ").map(|(_, expected)| expected);
    let text = match (expected, found) {
        (Some("a string"), Some(Value::Bool(_) | Value::Number(_))) => "expected a string: put it in quotes".to_owned(),
        (Some(expected), _) => format!("expected {}", plain_type(expected)),
        (None, _) => message.to_owned(),
    };
    let path = if steps.is_empty() { "(document)".to_owned() } else { show(steps) };
    match found {
        Some(value) => FieldError::with_found(path, crate::support::plain(value), text),
        None => FieldError::new(path, text),
    }
}

/// What the typed decoders call their types, as a person would.
fn plain_type(expected: &str) -> String {
    match expected {
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping of names to values".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "Quantity" => "a quantity, as in 500m, 2 or 1.5Gi".to_owned(),
        "IntOrString" => "a whole number or a string".to_owned(),
        name if name.starts_with("struct ") => "a mapping".to_owned(),
        name if name.starts_with(|c: char| c.is_ascii_uppercase()) => format!("a mapping with the fields of {name}"),
        other => other.to_owned(),
    }
}

fn unknown_field<T: DeserializeOwned>(steps: &[Step]) -> FieldError {
    let (Some(Step::Key(name)), Some(parent)) = (steps.last(), steps.len().checked_sub(1).map(|end| &steps[..end]))
    else {
        return FieldError::new(show(steps), "unknown field");
    };
    let known = known_fields::<T>(parent).unwrap_or_default();
    let lower = name.to_lowercase();
    let near = known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate);
    // `timeout` for `timeoutSeconds` is far by letters and yet meant.
    let begun = || known.iter().find(|known| lower.len() >= BEGUN_MIN && known.to_lowercase().starts_with(&lower));
    let message = match near.or_else(begun) {
        Some(candidate) => format!("unknown field; did you mean {candidate}?"),
        None if !known.is_empty() && known.len() <= LISTED_NAMES => {
            format!("unknown field; known here: {}", known.join(", "))
        }
        None => "unknown field".to_owned(),
    };
    FieldError::new(show(steps), message)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().take(64).collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// The field names of the type that stands at a path in an object. The typed decoders tell them when they ask for a struct, so they
/// are led down the path by an input that has nothing else in it.
fn known_fields<T: DeserializeOwned>(steps: &[Step]) -> Option<&'static [&'static str]> {
    let fields = Cell::new(None);
    // Always an error: the probe stops as soon as it has the names.
    let _ = T::deserialize(Probe { steps, fields: &fields });
    fields.get()
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    steps: &'p [Step],
    fields: &'p Cell<Option<&'static [&'static str]>>,
}

impl<'p> Probe<'p> {
    fn down(self) -> Result<(&'p Step, Probe<'p>), StopError> {
        let (first, steps) = self.steps.split_first().ok_or_else(stop)?;
        Ok((first, Probe { steps, ..self }))
    }
}

fn stop() -> StopError {
    StopError::custom("end of the path")
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = StopError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, StopError> {
        if self.steps.is_empty() {
            self.fields.set(Some(fields));
            return Err(stop());
        }
        visitor.visit_map(Only { probe: self, given: false })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, StopError> {
        visitor.visit_map(Only { probe: self, given: false })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, StopError> {
        visitor.visit_seq(Only { probe: self, given: false })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, StopError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, StopError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, StopError> {
        Err(stop())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

/// A mapping or list with the one entry that the path names.
struct Only<'p> {
    probe: Probe<'p>,
    given: bool,
}

impl<'de> MapAccess<'de> for Only<'_> {
    type Error = StopError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, StopError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let (Step::Key(key), _) = self.probe.down()? else { return Err(stop()) };
        let key: StrDeserializer<'_, StopError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, StopError> {
        seed.deserialize(self.probe.down()?.1)
    }
}

impl<'de> SeqAccess<'de> for Only<'_> {
    type Error = StopError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, StopError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        seed.deserialize(self.probe.down()?.1).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn every_rule_of_the_support_table_names_a_field() {
        let mut checked = 0;
        for (pattern, _) in crate::support::RULES {
            let mut steps = Vec::new();
            for part in pattern.split('.') {
                steps.push(Step::Key(part.trim_end_matches("[]").to_owned()));
                if part.ends_with("[]") {
                    steps.push(Step::Index(0));
                }
            }
            let Some(Step::Key(last)) = steps.pop() else { panic!("{pattern} ends in a list") };
            // Resource names are keys of a map, not fields.
            if let Some(fields) = known_fields::<Pod>(&steps) {
                assert!(fields.contains(&last.as_str()), "{pattern} is no field");
                checked += 1;
            } else {
                assert!(pattern.contains(".resources."), "{pattern} leads nowhere");
            }
        }
        assert!(checked > 100, "{checked}");
    }

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("a", "", 1), ("ports", "port", 1), ("vlaue", "value", 1), ("abc", "xyz", 3)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_list_too_long_is_refused_before_it_is_typed() {
        let value = serde_json::json!({"spec": {"containers": vec![serde_json::json!({}); MAX_LIST + 1]}});
        let decoded = object::<Pod>(value);
        assert_eq!(decoded.object, None);
        assert_eq!(
            decoded.errors[0].to_string(),
            "spec.containers: found \"5001 entries\": a list may have at most 5000 entries"
        );
    }
}
