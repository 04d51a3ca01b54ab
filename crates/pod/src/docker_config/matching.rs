//! Which images a credential is for.

use std::cmp::Ordering;

/// The names of one registry: Docker's client writes the second, images name the first.
const DOCKER_IO: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
const MAX_BYTES: usize = 1024;

/// `host[:port][/path]`, in which a label of the host may have `*`, `?` and `[a-z]`. Ordered from the most exact one on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// In lower case.
    host: String,
    port: Option<String>,
    /// Without slashes at either end; empty for all of the registry.
    path: String,
}

impl Pattern {
    /// Reads `https://index.docker.io/v1/`, `registry.example.com:5000/team`, `*.example.com`. None where it is no such thing.
    pub fn parse(text: &str) -> Option<Pattern> {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '#' | '\\' | '"');
        if text.is_empty() || text.len() > MAX_BYTES || text.contains("://") || !text.chars().all(plain) {
            return None;
        }
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = split_port(authority);
        let globs_are_whole = host.split('.').all(|label| glob(label).is_some());
        let is_v6 = host.starts_with('[');
        if host.is_empty() || port == Some("") || (!is_v6 && !globs_are_whole) {
            return None;
        }
        // A client of old asks /v1/, a newer one /v2/ of the registry; neither is part of a repository's name.
        let path = ["v1", "v2"].iter().find_map(|version| versionless(path, version)).unwrap_or(path);
        let path = path.trim_matches('/').to_owned();
        Some(Pattern { host: host.to_ascii_lowercase(), port: port.map(str::to_owned), path })
    }

    /// Whether it is for the image of this full name; tag and digest do not matter.
    pub fn matches(&self, image: &str) -> bool {
        let name = image_name(image);
        let (authority, path) = name.split_once('/').unwrap_or((name, ""));
        let beneath = |rest: &str| rest.is_empty() || rest.starts_with('/');
        if !self.path.is_empty() && !path.strip_prefix(self.path.as_str()).is_some_and(beneath) {
            return false;
        }
        let names: &[&str] = if DOCKER_IO.contains(&authority) { &DOCKER_IO } else { &[authority] };
        names.iter().any(|name| self.matches_host(name))
    }

    fn matches_host(&self, authority: &str) -> bool {
        let (host, port) = split_port(authority);
        if port != self.port.as_deref() {
            return false;
        }
        let host = host.to_ascii_lowercase();
        if host.starts_with('[') || self.host.starts_with('[') {
            return host == self.host;
        }
        let (given, wanted) = (host.split('.'), self.host.split('.'));
        given.clone().count() == wanted.clone().count()
            && wanted.zip(given).all(|(wanted, label)| glob(wanted).is_some_and(|parts| matches(&parts, label)))
    }

    /// The longer path first, then the host with fewer wildcards, then the longer host.
    fn rank(&self) -> (std::cmp::Reverse<usize>, usize, std::cmp::Reverse<usize>) {
        let is_v6 = self.host.starts_with('[');
        let wild = self.host.chars().filter(|c| matches!(c, '*' | '?' | '[')).count();
        (std::cmp::Reverse(self.path.len()), if is_v6 { 0 } else { wild }, std::cmp::Reverse(self.host.len()))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |p: &Self| (p.host.clone(), p.port.clone(), p.path.clone());
        self.rank().cmp(&other.rank()).then_with(|| rest(self).cmp(&rest(other)))
    }
}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An image's name without tag and digest.
pub fn image_name(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The registry of a full image name.
pub fn registry_of(image: &str) -> &str {
    image.split_once('/').map_or(image, |(registry, _)| registry)
}

fn versionless<'p>(path: &'p str, version: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(version)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// A piece of a glob.
enum Piece {
    Any,
    One,
    Exactly(char),
    Among { ranges: Vec<(char, char)>, negated: bool },
}

/// None where a bracket is not closed, or holds nothing.
fn glob(text: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' => Piece::Any,
            '?' => Piece::One,
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let from = chars.next()?;
                    if from == ']' {
                        break;
                    }
                    let to =
                        if chars.next_if_eq(&'-').is_some() { chars.next().filter(|to| *to != ']')? } else { from };
                    ranges.push((from, to));
                }
                if ranges.is_empty() {
                    return None;
                }
                Piece::Among { ranges, negated }
            }
            c => Piece::Exactly(c),
        });
    }
    Some(pieces)
}

/// Goes back only to the last star, so that no pattern takes more than its length times the text's.
fn matches(pieces: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut piece, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        let c = text[at];
        let fits = match pieces.get(piece) {
            Some(Piece::Any) => {
                star = Some((piece, at));
                piece += 1;
                continue;
            }
            Some(Piece::One) => true,
            Some(Piece::Exactly(exactly)) => *exactly == c,
            Some(Piece::Among { ranges, negated }) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
            None => false,
        };
        match (fits, &mut star) {
            (true, _) => (piece, at) = (piece + 1, at + 1),
            (false, Some((after, taken))) => {
                *taken += 1;
                (piece, at) = (*after + 1, *taken);
            }
            (false, None) => return false,
        }
    }
    pieces[piece..].iter().all(|piece| matches!(piece, Piece::Any))
}
