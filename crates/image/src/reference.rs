//! Image references as people write them, and their one full form.

use crate::digest::{Digest, is_hex, shorten};
use crate::error::{Error, Result};
use std::fmt;
use std::net::Ipv6Addr;

const DEFAULT_DOMAIN: &str = "docker.io";
/// Older name of the same registry.
const DEFAULT_DOMAIN_ALIAS: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest domain and path together.
const MAX_REPOSITORY_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;
/// Longest text that is looked at: repository, tag and digest with their separators.
const MAX_LEN: usize = MAX_REPOSITORY_LEN + 1 + MAX_TAG_LEN + 1 + 71;

/// A full image reference: `domain/path[:tag][@digest]`. At least one of tag and digest is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a reference and fills in what is left out: `nginx` is `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// [`Error::Reference`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |reason| Error::Reference { reference: shorten(text), reason };
        if text.len() > MAX_LEN {
            return Err(refuse("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).map_err(|_| refuse("the digest is not sha256 with 64 digits"))?))
            }
            None => (text, None),
        };
        // A colon belongs to a port, not to a tag, when a slash follows it.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !rest.ends_with(']') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(refuse)?;
        }
        if name.len() == 64 && is_hex(name) {
            return Err(refuse("a name of 64 hexadecimal digits would look like an image id"));
        }
        let (domain, path) = split_domain(name);
        check_domain(&domain).map_err(refuse)?;
        check_path(&path).map_err(refuse)?;
        if domain.len() + 1 + path.len() > MAX_REPOSITORY_LEN {
            return Err(refuse("the name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { domain, path, tag, digest })
    }

    /// Registry host with its port, such as `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Path within the registry, such as `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a registry only if it looks like a host: it has a dot, a colon or a capital, or is `localhost`.
fn split_domain(name: &str) -> (String, String) {
    let looks_like_host =
        |s: &str| s == "localhost" || s.contains(['.', ':']) || s.bytes().any(|b| b.is_ascii_uppercase());
    let (domain, path) = match name.split_once('/') {
        Some((host, path)) if looks_like_host(host) => (host, path),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == DEFAULT_DOMAIN_ALIAS { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        (domain.to_owned(), format!("{OFFICIAL_PREFIX}{path}"))
    } else {
        (domain.to_owned(), path.to_owned())
    }
}

fn check_domain(domain: &str) -> std::result::Result<(), &'static str> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if let Some(port) = port {
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        if !digits || !matches!(port.parse::<u16>(), Ok(1..)) {
            return Err("the port is not a number from 1 to 65535");
        }
    }
    if let Some(address) = host.strip_prefix('[') {
        return match address.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(_)) => Ok(()),
            _ => Err("the registry's IPv6 address is malformed"),
        };
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err("the registry is not a host name") }
}

fn check_path(path: &str) -> std::result::Result<(), &'static str> {
    for component in path.split('/') {
        if component.is_empty() {
            return Err("the name has an empty component");
        }
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("the name must be lower case");
        }
        if !is_path_component(component.as_bytes()) {
            return Err("the name may hold a-z, 0-9 and, between them, '.', '_', '__' or '-'");
        }
    }
    Ok(())
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(bytes: &[u8]) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    let separators_are_valid = bytes
        .split(alphanumeric)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'));
    ends && separators_are_valid
}

fn check_tag(tag: &str) -> std::result::Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_word = tag.bytes().next().is_some_and(word);
    if first_is_word && tag.len() <= MAX_TAG_LEN && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(())
    } else {
        Err("the tag must be 1 to 128 of letters, digits, '_', '.' and '-', and not begin with '.' or '-'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_completed() {
        let digest = format!("sha256:{HEX}");
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".into()),
            ("docker.io/nginx", "docker.io/library/nginx:latest".into()),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest".into()),
            ("a/b", "docker.io/a/b:latest".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("localhost:5000/x:v1", "localhost:5000/x:v1".into()),
            ("LOCAL/x", "LOCAL/x:latest".into()),
            ("reg.example:65535/a/b__c/d--e.f:T_1.2-3", "reg.example:65535/a/b__c/d--e.f:T_1.2-3".into()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".into()),
            ("[2001:db8::1]/x", "[2001:db8::1]/x:latest".into()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
            (&format!("nginx:1@{digest}"), format!("docker.io/library/nginx:1@{digest}")),
        ] {
            let parsed = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.to_string(), full, "{text}");
            assert_eq!(Reference::parse(&full).unwrap(), parsed, "the full form means the same");
        }
    }

    #[test]
    fn s_c11_malformed_references_are_refused() {
        let long = "a".repeat(300);
        let long_tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            ":",
            "@",
            "/",
            "a//b",
            "/a",
            "a/",
            "UPPER",
            "a/UPPER",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a._b",
            "a b",
            "a:",
            "a:.b",
            "a:-b",
            "a:b c",
            "a@",
            "a@sha256:short",
            "host:99999/x",
            "host:0/x",
            "host:/x",
            "ho_st.x/y",
            "-h.x/y",
            "[::1/x",
            "[zz]:1/x",
            "[::1]x:1/y",
            "a\n",
            "a\u{1b}[31m",
            "a\0",
            "../x",
            "a/../b",
            "ä",
            &long,
            &long_tag,
            HEX,
            "x@md5:d41d8cd98f00b204e9800998ecf8427e",
            "http://a/b",
            "a:b:c",
            "sha256:zz:yy",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_one_stable_form(text in "[a-zA-Z0-9.:/@_\\-\\[\\]]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                let full = reference.to_string();
                prop_assert_eq!(Reference::parse(&full).unwrap(), reference.clone());
                prop_assert!(reference.tag().is_some() || reference.digest().is_some());
                prop_assert!(!full.contains("//") && !full.contains(".."));
            }
        }

        #[test]
        fn any_text_is_answered(text in ".{0,400}") {
            let _ = Reference::parse(&text);
        }
    }
}
