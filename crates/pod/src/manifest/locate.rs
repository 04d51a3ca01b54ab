//! Finds the line of a field. Only a manifest with errors pays for it: the text is read once more, with positions.

use super::text::{readable, yaml_options};
use super::{ManifestError, Position, Problem};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// Adds the line to every error of a field. JSON is read as the YAML that it also is; where that fails, lines stay unknown.
pub(super) fn fill_in(bytes: &[u8], errors: &mut [ManifestError]) {
    if errors.is_empty() {
        return;
    }
    let Ok(text) = readable(bytes) else { return };
    let Ok(documents) = serde_saphyr::from_str_multiple_with_options::<Spanned<Node>, Vec<_>>(text, yaml_options())
    else {
        return;
    };
    for error in errors {
        let Problem::Field(field) = &error.problem else { continue };
        let Some(root) = error.document.and_then(|number| documents.get(number - 1)) else { continue };
        error.position = Some(Position { line: line_of(root, &field.path), column: None });
    }
}

/// The line of the field, or of the nearest thing around it that exists.
fn line_of(root: &Spanned<Node>, path: &str) -> u64 {
    let (mut at, mut line) = (root, root.referenced.line());
    for step in steps(path) {
        let next = match &at.value {
            Node::Map(entries) => {
                entries.iter().find(|(key, _)| key.value == step).map(|(key, value)| (key.referenced.line(), value))
            }
            Node::Seq(items) => {
                step.parse().ok().and_then(|index: usize| items.get(index)).map(|item| (item.referenced.line(), item))
            }
            Node::Leaf => None,
        };
        let Some((found, value)) = next else { break };
        (line, at) = (found, value);
    }
    line
}

/// `a.b[0][x.y/z]` as a, b, 0, x.y/z.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        steps.push(step);
        rest = after.strip_prefix('.').unwrap_or(after);
        // A path that does not move on ends the search.
        if step.is_empty() {
            break;
        }
    }
    steps
}

enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    Seq(Vec<Spanned<Node>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(steps("spec.containers[0].ports[12].name"), ["spec", "containers", "0", "ports", "12", "name"]);
        assert_eq!(steps("metadata.labels[a.b/c]"), ["metadata", "labels", "a.b/c"]);
        assert_eq!(steps("items[3]"), ["items", "3"]);
        assert_eq!(steps("a..b"), ["a", ""]);
        assert!(steps("").is_empty());
    }
}
