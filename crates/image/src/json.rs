//! JSON documents of untrusted origin: what two readers could understand differently is refused.

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

/// Every name that means something in an index, a manifest, an image configuration or Docker's `manifest.json`. Readers
/// in other languages take `Layers` for `layers`; a document that relies on it is ambiguous.
const KNOWN: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "digest",
    "size",
    "platform",
    "urls",
    "architecture",
    "os",
    "variant",
    "rootfs",
    "diff_ids",
    "annotations",
];
/// Objects below these names have keys of the author's own choice.
const FREE: &[&str] = &["annotations", "Labels", "Volumes", "ExposedPorts", "LayerSources", "history"];
/// Docker's `manifest.json` writes these with a capital.
const CAPITALISED: &[&str] = &["Config", "Layers"];

/// Which spelling of names a document uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Oci,
    /// `manifest.json` of `docker save`.
    DockerArchive,
}

/// Parses `bytes`, refusing duplicate names, other spellings of known names, and nesting deeper than 128 levels.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], dialect: Dialect) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Check { dialect, free: false }.deserialize(&mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

#[derive(Clone, Copy)]
struct Check {
    dialect: Dialect,
    free: bool,
}

impl Check {
    fn name<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        if self.free || KNOWN.contains(&name) {
            return Ok(());
        }
        if self.dialect == Dialect::DockerArchive && CAPITALISED.contains(&name) {
            return Ok(());
        }
        match KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) => Err(E::custom(format_args!("ambiguous name {name:?}, expected {known:?}"))),
            None => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            self.name(&name)?;
            let below = Check { free: self.free || FREE.contains(&name.as_str()), ..self };
            if seen.contains(&name) {
                return Err(A::Error::custom(format_args!("duplicate name {:?}", crate::digest::shorten(&name))));
            }
            seen.insert(name);
            map.next_value_seed(below)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Nothing {}

    #[test]
    fn s_b11_ambiguous_documents_are_refused() {
        let ok = |text: &str| parse::<Nothing>(text.as_bytes(), Dialect::Oci);
        for good in [
            r#"{"layers":[],"annotations":{"Layers":"x","a":"1","A":"2"}}"#,
            r#"{"config":{"Labels":{"OS":"x","os":"y"}},"history":[{"Config":1}]}"#,
            r#"{"os.version":"1","x":null,"y":[1,-2,3.5,true,"s"]}"#,
        ] {
            ok(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        for bad in [
            r#"{"layers":[],"layers":[]}"#,
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"Manifests":[]}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"annotations":{"a":"1","a":"2"}}"#,
            r#"{"a":"\u0061","\u0061":1}"#,
            r#"{"layers":[{"Digest":"x"}]}"#,
            "{\"a\":\"\u{1}\"}",
            "{} {}",
            "",
            "null",
            &deep,
        ] {
            assert!(ok(bad).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
        assert!(parse::<Nothing>(b"{\"a\":\"\xff\"}", Dialect::Oci).is_err(), "not UTF-8");
    }
}
