//! Image references as people write them: short names made full, malformed ones refused, the pull policy they imply.

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest domain and path together, bytes (the distribution specification).
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    #[error("must not be empty")]
    Empty,
    #[error("must not begin or end with blanks")]
    Blanks,
    #[error("is too long: the name of an image has at most {NAME_MAX} characters")]
    TooLong,
    #[error(
        "has an invalid registry host: expected a host name or address with an optional port, as in registry.example.com:5000"
    )]
    Domain,
    #[error(
        "must have a lower-case repository of letters and digits, parted by '/', '.', '_', '__' or '-', as in library/nginx"
    )]
    Path,
    #[error(
        "has an invalid tag: expected 1 to {TAG_MAX} letters, digits, '_', '.' or '-', not beginning with '.' or '-'"
    )]
    Tag,
    #[error("has an invalid digest: expected sha256: and 64 (or sha512: and 128) lower-case hexadecimal digits")]
    Digest,
    #[error("must be a repository without a tag and a digest")]
    NotAlone,
}

/// The parts of a reference, borrowed from the text.
struct Parts<'a> {
    domain: Option<&'a str>,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// The full reference: `nginx` becomes `docker.io/library/nginx:latest`. A digest alone gets no tag.
pub fn normalize(image: &str) -> Result<String, ImageNameError> {
    let parts = parse(image)?;
    let mut full = full_name(&parts)?;
    let tag = match (parts.tag, parts.digest) {
        (None, None) => Some(DEFAULT_TAG),
        (tag, _) => tag,
    };
    if let Some(tag) = tag {
        full.push(':');
        full.push_str(tag);
    }
    if let Some(digest) = parts.digest {
        full.push('@');
        full.push_str(digest);
    }
    Ok(full)
}

/// The full name of the repository that a reference is of: `nginx:1` is of `docker.io/library/nginx`.
pub fn repository(image: &str) -> Result<String, ImageNameError> {
    full_name(&parse(image)?)
}

/// The full name of a repository that is given as such: without a tag and a digest.
pub fn repository_alone(name: &str) -> Result<String, ImageNameError> {
    let parts = parse(name)?;
    match (parts.tag, parts.digest) {
        (None, None) => full_name(&parts),
        _ => Err(ImageNameError::NotAlone),
    }
}

fn full_name(parts: &Parts<'_>) -> Result<String, ImageNameError> {
    let domain = match parts.domain {
        None | Some("index.docker.io") => DEFAULT_DOMAIN,
        Some(domain) => domain,
    };
    let official = domain == DEFAULT_DOMAIN && !parts.path.contains('/');
    let full = format!("{domain}/{}{}", if official { OFFICIAL_PREFIX } else { "" }, parts.path);
    if full.len() > NAME_MAX { Err(ImageNameError::TooLong) } else { Ok(full) }
}

/// `Always` for the tag `latest`, said or implied; `IfNotPresent` for every other.
pub fn default_pull_policy(image: &str) -> &'static str {
    match parse(image) {
        Ok(Parts { tag: None, digest: None, .. } | Parts { tag: Some(DEFAULT_TAG), .. }) => "Always",
        _ => "IfNotPresent",
    }
}

fn parse(image: &str) -> Result<Parts<'_>, ImageNameError> {
    if image.trim().is_empty() {
        return Err(ImageNameError::Empty);
    }
    if image.trim() != image {
        return Err(ImageNameError::Blanks);
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
        Some(_) => return Err(ImageNameError::Digest),
        None => (image, None),
    };
    let (name, tag) = split_tag(rest);
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ImageNameError::Tag);
    }
    let (domain, path) = split_domain(name);
    if domain.is_some_and(|domain| !is_domain(domain)) {
        return Err(ImageNameError::Domain);
    }
    if !path.split('/').all(is_path_component) {
        return Err(ImageNameError::Path);
    }
    if name.len() > NAME_MAX {
        return Err(ImageNameError::TooLong);
    }
    Ok(Parts { domain, path, tag, digest })
}

/// A colon after the last slash begins the tag; one before it belongs to the host's port.
fn split_tag(rest: &str) -> (&str, Option<&str>) {
    match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    }
}

/// The first component is a host if it has a dot or colon or is `localhost`.
fn split_domain(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':', '[']) || first == "localhost" => (Some(first), path),
        _ => (None, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.parse::<core::net::Ipv6Addr>().is_err() {
            return false;
        }
        (None, after.strip_prefix(':').or(if after.is_empty() { None } else { Some("") }))
    } else {
        let (host, port) = domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port)));
        (Some(host), port)
    };
    let host_ok = host.is_none_or(|host| {
        host.split('.').all(|label| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            edge(label.bytes().next())
                && edge(label.bytes().last())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_ok && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` parted by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    edges
        && bytes
            .split(alphanumeric)
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_MAX
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) => (hex, 64),
        Some(("sha512", hex)) => (hex, 128),
        _ => return false,
    };
    length.0.len() == length.1 && length.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_are_made_full() {
        let with_digest = format!("nginx@{SHA}");
        let both = format!("quay.io/a/b:1@{SHA}");
        let table = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:x", "localhost:5000/app:x"),
            ("registry.example.com/a/b/c:V1.0_x-y", "registry.example.com/a/b/c:V1.0_x-y"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest"),
            (both.as_str(), both.as_str()),
        ];
        for (given, expected) in table {
            assert_eq!(normalize(given).as_deref(), Ok(expected), "{given}");
        }
        assert_eq!(normalize(&with_digest), Ok(format!("docker.io/library/nginx@{SHA}")));
    }

    #[test]
    fn repositories_have_no_tag() {
        let digest = format!("r.example:5000/a/b:1@sha256:{}", "0".repeat(64));
        for (image, expected) in
            [("nginx:1", "docker.io/library/nginx"), ("a/b", "docker.io/a/b"), (&*digest, "r.example:5000/a/b")]
        {
            assert_eq!(repository(image).as_deref(), Ok(expected));
        }
        assert_eq!(repository_alone("nginx").as_deref(), Ok("docker.io/library/nginx"));
        for image in ["nginx:1", &digest] {
            assert_eq!(repository_alone(image), Err(ImageNameError::NotAlone));
        }
    }

    #[test]
    fn s_c11_malformed_references_are_refused() {
        use ImageNameError::*;
        let long = format!("a/{}", "b".repeat(300));
        let table = [
            ("", Empty),
            ("  ", Empty),
            (" nginx", Blanks),
            ("nginx\n", Blanks),
            ("UPPER/x", Path),
            ("nginx/UP", Path),
            ("Nginx", Path),
            ("a//b", Path),
            ("/a", Path),
            ("a/", Path),
            ("a/../b", Path),
            ("a..b", Path),
            ("a___b", Path),
            ("-a", Path),
            ("a\u{1b}[31m", Path),
            ("a b", Path),
            ("x@sha256:short", Digest),
            ("x@", Digest),
            ("x@md5:00", Digest),
            ("host:99999/x", Domain),
            ("ho_st.com/x", Domain),
            ("[::g]:1/x", Domain),
            ("[::1/x", Domain),
            ("host:/x", Domain),
            ("x:", Tag),
            ("x:-a", Tag),
            ("x:a b", Tag),
            (long.as_str(), TooLong),
        ];
        for (given, expected) in table {
            assert_eq!(normalize(given), Err(expected), "{given:?}");
        }
        assert_eq!(normalize(&format!("x:{}", "t".repeat(129))), Err(Tag));
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let digest = format!("nginx@{SHA}");
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("nginx:1", "IfNotPresent"),
            (digest.as_str(), "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
