//! What may be a name. Everything that later becomes part of a path, a host name or a label passes here first.

/// Longest DNS label, bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, bytes.
pub const SUBDOMAIN_MAX: usize = 253;
/// Longest UID, bytes.
pub const UID_MAX: usize = 253;

pub const LABEL_RULE: &str = "must be 1 to 63 lower-case letters, digits or '-', beginning and ending with a letter or digit (as in my-name, 123-abc)";
pub const SUBDOMAIN_RULE: &str = "must be at most 253 lower-case letters, digits, '-' or '.', each part beginning and ending with a letter or digit (as in example.com)";
pub const PORT_NAME_RULE: &str = "must be 1 to 15 lower-case letters, digits or '-', at least one letter, no '-' at the ends and no two in a row (as in http, web-2)";
pub const UID_RULE: &str = "must be 1 to 253 letters, digits, '-', '_' or '.', beginning with a letter or digit";
pub const QUALIFIED_RULE: &str = "must be 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit, after an optional DNS prefix and '/' (as in example.com/my-name)";
pub const LABEL_VALUE_RULE: &str =
    "must be empty or at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit";
pub const ENV_RULE: &str = "must be one or more printable ASCII characters other than '='";

/// DNS-1123 label.
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX && is_dns_part(text)
}

/// DNS-1123 subdomain.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_dns_part)
}

/// IANA service name, as port names are.
pub fn is_port_name(text: &str) -> bool {
    is_dns_part(text) && text.len() <= 15 && !text.contains("--") && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// Safe as one component of a path, and as a label value's length allows it: no separator, no dot-dot, nothing unprintable.
pub fn is_uid(text: &str) -> bool {
    text.len() <= UID_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Key of a label or annotation.
pub fn is_qualified(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

/// Value of a label.
pub fn is_label_value(text: &str) -> bool {
    text.len() <= LABEL_MAX && (text.is_empty() || bounded_by_alphanumerics(text, |b| matches!(b, b'-' | b'_' | b'.')))
}

/// Name of an HTTP header.
pub fn is_header(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Name of an environment variable.
pub fn is_env(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=')
}

fn is_dns_part(text: &str) -> bool {
    !text.bytes().any(|b| b.is_ascii_uppercase()) && bounded_by_alphanumerics(text, |b| b == b'-')
}

fn bounded_by_alphanumerics(text: &str, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || inner(*b))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "0", "a-b", "123-abc", &"a".repeat(63)] {
            assert!(is_label(good) && is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "a\n", "é", "a/b", "a\0", "..", "."] {
            assert!(!is_label(bad) && !is_subdomain(bad), "{bad:?}");
        }
        assert!(!is_label(&"a".repeat(64)) && !is_label("a.b"));
        assert!(is_subdomain("a.b.c-d") && is_subdomain(&"a".repeat(253)));
        for bad in ["a..b", ".a", "a.", "a.-b", "a-.b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad:?}");
        }
    }

    #[test]
    fn port_names() {
        for good in ["http", "web-2", "a", "0a", "abcdefghijklmno"] {
            assert!(is_port_name(good), "{good}");
        }
        for bad in ["", "80", "a--b", "-a", "a-", "HTTP", "abcdefghijklmnop", "a.b"] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }

    #[test]
    fn s_a14_uids_that_are_paths_are_refused() {
        for bad in ["", ".", "..", "a/../../b", "/a", "a\0b", "a\nb", "-rf", &"a".repeat(300), "ü"] {
            assert!(!is_uid(bad), "{bad:?}");
        }
        for good in ["0123456789abcdef0123456789abcdef", "e2f0-11.x_y", "a..b"] {
            assert!(is_uid(good), "{good}");
        }
    }

    #[test]
    fn keys_and_values() {
        for good in ["app", "example.com/app", "A.b_c-9"] {
            assert!(is_qualified(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "UP/a", "-a", &"a".repeat(64)] {
            assert!(!is_qualified(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_x") && !is_label_value("a b") && !is_label_value("_a"));
        assert!(
            is_env("A") && is_env("my.var-1 x") && !is_env("") && !is_env("a=b") && !is_env("a\tb") && !is_env("é")
        );
    }
}
