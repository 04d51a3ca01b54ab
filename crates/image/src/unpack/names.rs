//! Paths as they stand in a layer, and the names by which a layer deletes.

use crate::archive::printable;
use crate::error::LayerError;

/// `PATH_MAX` counts the final zero byte.
const MAX_PATH_LEN: usize = 4_095;
const MAX_NAME_LEN: usize = 255;
const WHITEOUT: &[u8] = b".wh.";
/// Names of the AUFS file system's own bookkeeping, of which only the opaque mark means something to others.
const METADATA: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// The layer's root.
    Root,
    Entry {
        parent: &'a [u8],
        name: &'a [u8],
    },
    /// `name` in the layers below is deleted.
    Whiteout {
        parent: &'a [u8],
        name: &'a [u8],
    },
    /// Everything in `parent` in the layers below is deleted.
    Opaque {
        parent: &'a [u8],
    },
    /// To be passed over.
    Metadata,
}

/// The path without empty components, `.` and `..`; what would lead above the root stays at it.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, LayerError> {
    let refuse = |reason| LayerError::Entry { path: printable(path), reason };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in components(path) {
        match part {
            b".." => drop(parts.pop()),
            // What a deletion is about may have the longest name that there is.
            _ if part.strip_prefix(WHITEOUT).unwrap_or(part).len() > MAX_NAME_LEN => {
                return Err(refuse("a name is longer than 255 bytes"));
            }
            _ => parts.push(part),
        }
    }
    let clean = parts.join(&b'/');
    if clean.len() > MAX_PATH_LEN { Err(refuse("the path is longer than 4,095 bytes")) } else { Ok(clean) }
}

/// Components but empty ones and `.`.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

pub(super) fn target(clean: &[u8]) -> Target<'_> {
    let (parent, name) = split(clean);
    if clean.is_empty() {
        Target::Root
    } else if components(parent).any(|part| part.starts_with(METADATA)) {
        Target::Metadata
    } else if name == OPAQUE {
        Target::Opaque { parent }
    } else if name.starts_with(METADATA) && name != METADATA {
        Target::Metadata
    } else if let Some(name) = name.strip_prefix(WHITEOUT) {
        Target::Whiteout { parent, name }
    } else {
        Target::Entry { parent, name }
    }
}

/// A whiteout must name an entry of its own directory.
pub(super) fn check_whiteout(parent: &[u8], name: &[u8]) -> Result<(), LayerError> {
    if matches!(name, b"" | b"." | b"..") || name.starts_with(WHITEOUT) {
        let path = printable(&[parent, b"/", WHITEOUT, name].concat());
        return Err(LayerError::Entry { path, reason: "it marks no valid name as deleted" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_stay_beneath_the_root() {
        for (path, cleaned) in [
            (&b"./a/b"[..], &b"a/b"[..]),
            (b"/a//b/", b"a/b"),
            (b"../../a", b"a"),
            (b"a/../../b", b"b"),
            (b"a/..", b""),
            (b"", b""),
            (b".", b""),
            (b"a/.../b", b"a/.../b"),
            (b"a\xff\n", b"a\xff\n"),
        ] {
            assert_eq!(clean(path).unwrap(), cleaned, "{path:?}");
        }
        assert!(clean(&[b'a'; 256]).is_err() && clean(&b"ab/".repeat(1_400)).is_err());
        assert!(clean(&[b'a'; 255]).is_ok());
        assert!(clean(&[WHITEOUT, &[b'a'; 255]].concat()).is_ok());
        assert!(clean(&[WHITEOUT, &[b'a'; 256]].concat()).is_err());
    }

    #[test]
    fn s_b05_names_that_delete_are_told_from_others() {
        let whiteout = |parent, name| Target::Whiteout { parent, name };
        for (path, expected) in [
            (&b"a/.wh.b"[..], whiteout(&b"a"[..], &b"b"[..])),
            (b".wh.a", whiteout(b"", b"a")),
            (b".wh.", whiteout(b"", b"")),
            (b"a/.wh...", whiteout(b"a", b"..")),
            (b"a/.wh..", whiteout(b"a", b".")),
            (b".wh..wh.", whiteout(b"", b".wh.")),
            (b"a/.wh..wh..opq", Target::Opaque { parent: b"a" }),
            (b".wh..wh..opq", Target::Opaque { parent: b"" }),
            (b".wh..wh.plnk", Target::Metadata),
            (b".wh..wh.plnk/12.34", Target::Metadata),
            (b"a/.wh..wh..opq/b", Target::Metadata),
            (b".wh.a/b", Target::Entry { parent: b".wh.a", name: b"b" }),
            (b"a.wh.b", Target::Entry { parent: b"", name: b"a.wh.b" }),
        ] {
            assert_eq!(target(path), expected, "{}", String::from_utf8_lossy(path));
        }
        for bad in [&b""[..], b".", b"..", b".wh.", b".wh.a"] {
            assert!(check_whiteout(b"a", bad).is_err());
        }
        assert!(check_whiteout(b"a", b"...").is_ok());
    }
}
