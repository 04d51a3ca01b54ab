//! One thing wrong with one field.

use std::fmt;

/// Characters of a found value shown to a person; more is cut.
const SHOWN_CHARS: usize = 80;

/// A field, what was found there, and what would be right. Shown as `path: found "x": message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// As in `spec.containers[0].ports[1].containerPort`.
    pub path: String,
    /// The value, printable and cut to a bearable length; none where there is nothing to show.
    pub found: Option<String>,
    /// What is allowed, and what to do.
    pub message: String,
}

impl FieldError {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), found: None, message: message.into() }
    }

    /// With the value that was found, made printable: nothing of a manifest reaches a terminal raw.
    pub fn with_found(path: impl Into<String>, found: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { path: path.into(), found: Some(printable(&found.to_string())), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path may hold keys of the manifest (labels, misspelt fields), so it is as untrusted as a value.
        let path = escape(&self.path);
        match &self.found {
            Some(found) => write!(f, "{path}: found \"{found}\": {}", self.message),
            None => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for FieldError {}

/// Escapes control and formatting characters and cuts to 80 characters.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    escape(&shown)
}

/// Escapes whatever could move a cursor, change a colour or reorder the line.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || reorders {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_c11_ansi_and_bidi_never_reach_the_terminal() {
        let error = FieldError::with_found("a\u{1b}[2J", "x\u{1b}[31mred\u{202e}", "must be plain");
        let text = error.to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
        assert!(text.contains("\\u{1b}[31mred"), "{text}");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(printable(&"é".repeat(200)).chars().count(), SHOWN_CHARS + 1);
        assert_eq!(printable(&"a".repeat(SHOWN_CHARS)), "a".repeat(SHOWN_CHARS));
    }
}
