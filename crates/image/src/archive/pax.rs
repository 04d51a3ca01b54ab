//! PAX extended headers: records of the form `<length> <key>=<value>\n`, where the value may be any bytes.

use super::{Region, malformed, sparse};
use crate::error::LayerError;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The records that mean something to an unpacker. Of several with one key the last counts (POSIX).
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// A file with holes, in GNU's PAX forms 0.1 (map here) and 1.0 (map at the start of the content).
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: u64,
    pub(super) map: Option<Vec<Region>>,
}

pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, LayerError> {
    let mut records = Records::default();
    let mut gnu = GnuSparse::default();
    while !bytes.is_empty() {
        let (key, value, rest) = split_record(bytes).ok_or(malformed("a PAX record is malformed"))?;
        bytes = rest;
        if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
            gnu.set(field, value)?;
        } else {
            set(&mut records, key, value)?;
        }
    }
    records.sparse = gnu.finish()?;
    Ok(records)
}

fn set(records: &mut Records, key: &[u8], value: &[u8]) -> Result<(), LayerError> {
    // An empty value takes an earlier one back.
    let given = !value.is_empty();
    match key {
        b"path" => records.path = given.then(|| value.to_vec()),
        b"linkpath" => records.link = given.then(|| value.to_vec()),
        b"size" => records.size = given.then(|| decimal(value)).transpose()?,
        b"uid" => records.uid = given.then(|| signed(value)).transpose()?,
        b"gid" => records.gid = given.then(|| signed(value)).transpose()?,
        b"mtime" => records.mtime = given.then(|| time(value)).transpose()?,
        _ => {
            if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                records.xattrs.retain(|(known, _)| known != name);
                records.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Key, value and what follows. The length counts the whole record: its own digits, the blank and the newline.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&bytes[..blank]).ok()?).ok()?;
    let record = bytes.get(blank + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let key = &record[..equals];
    (!key.is_empty() && !key.contains(&0)).then_some((key, &record[equals + 1..], &bytes[len..]))
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, LayerError> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = std::str::from_utf8(text).ok().filter(|_| is_number).and_then(|t| t.parse::<u64>().ok());
    // A negative file offset is what the kernel would make of more.
    value.filter(|v| i64::try_from(*v).is_ok()).ok_or(malformed("a PAX number is malformed or out of range"))
}

fn signed(text: &[u8]) -> Result<i64, LayerError> {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let value = decimal(digits)?.cast_signed();
    Ok(if negative { -value } else { value })
}

/// Seconds with an optional fraction, such as `-1.5`.
fn time(text: &[u8]) -> Result<(i64, u32), LayerError> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = signed(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(malformed("a PAX time is malformed"));
    }
    let nanos = (0..9).fold(0u32, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    match (whole.starts_with(b"-"), nanos) {
        (true, 1..) => {
            Ok((seconds.checked_sub(1).ok_or(malformed("a PAX time is out of range"))?, 1_000_000_000 - nanos))
        }
        _ => Ok((seconds, nanos)),
    }
}

#[derive(Default)]
struct GnuSparse {
    seen: bool,
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Option<Vec<Region>>,
}

impl GnuSparse {
    fn set(&mut self, field: &[u8], value: &[u8]) -> Result<(), LayerError> {
        self.seen = true;
        match field {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"map" => self.map = Some(sparse::parse_map(value)?),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<Sparse>, LayerError> {
        if !self.seen {
            return Ok(None);
        }
        let size = self.size.ok_or(malformed("a sparse member without its size"))?;
        match (self.major, self.minor, self.map) {
            (Some(1), Some(0), None) => Ok(Some(Sparse { name: self.name, size, map: None })),
            (None, None, Some(map)) => Ok(Some(Sparse { name: self.name, size, map: Some(map) })),
            _ => Err(malformed("a sparse member of an unknown form")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines_and_the_last_one_counts() {
        let records = parse(b"10 path=a\n11 path=bc\n27 SCHILY.xattr.user.x=\n\n\n\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"bc"[..]));
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), b"\n\n\n".to_vec())]);
    }

    #[test]
    fn s_b07_times_and_numbers_out_of_range_are_refused() {
        assert_eq!(time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"-1").unwrap(), (-1, 0));
        for bad in [&b"NaN"[..], b"", b"1e9", b"9223372036854775808", b"-9223372036854775809", b"1.-5", b"--1", b"inf"]
        {
            assert!(time(bad).is_err(), "{bad:?}");
        }
        for bad in [
            &b"10 size=-1\n"[..],
            b"27 size=9223372036854775808\n",
            b"8 path=a\n",
            b"99 path=a\n",
            b"path=a\n",
            b"6 a\0=\n",
            b"5 =x\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
