//! The 512-byte header block. Offsets are those of tar(5).

use super::{Kind, Region, malformed};
use crate::error::LayerError;

pub(super) const BLOCK: usize = 512;
pub(super) type Block = [u8; BLOCK];

const GNU_MAGIC: &[u8] = b"ustar  \0";
const USTAR_MAGIC: &[u8] = b"ustar\0";

/// A header block whose checksum is right.
pub(super) struct Header {
    block: Block,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) typeflag: u8,
    /// More of the sparse map follows in the next block (GNU's older form).
    pub(super) sparse_continues: bool,
}

impl Header {
    pub(super) fn parse(block: &Block) -> Result<Self, LayerError> {
        check_sum(block)?;
        let mut path = text(&block[..100]).to_vec();
        if &block[257..263] == USTAR_MAGIC {
            let prefix = text(&block[345..500]);
            if !prefix.is_empty() {
                path = [prefix, b"/", &path].concat();
            }
        }
        let typeflag = block[156];
        if typeflag == b'S' && &block[257..265] != GNU_MAGIC {
            return Err(malformed("a sparse member without a GNU header"));
        }
        Ok(Self {
            block: *block,
            path,
            link: text(&block[157..257]).to_vec(),
            typeflag,
            sparse_continues: block[482] != 0,
        })
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, LayerError> {
        Ok(match self.typeflag {
            // Before ustar a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => {
                return Err(LayerError::Entry {
                    path: super::printable(path),
                    reason: "unknown type; expected a file, directory, link, device or fifo",
                });
            }
        })
    }

    pub(super) fn mode(&self) -> Result<u32, LayerError> {
        let mode = number(&self.block[100..108])?;
        u32::try_from(mode & 0o7777).map_err(|_| malformed("a mode is out of range"))
    }

    pub(super) fn uid(&self) -> Result<i64, LayerError> {
        number(&self.block[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64, LayerError> {
        number(&self.block[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, LayerError> {
        unsigned(&self.block[124..136])
    }

    pub(super) fn mtime(&self) -> Result<i64, LayerError> {
        number(&self.block[136..148])
    }

    /// Major and minor number; (0, 0) for what is not a device.
    pub(super) fn device(&self, kind: Kind) -> Result<(u32, u32), LayerError> {
        if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Ok((0, 0));
        }
        let part = |field| u32::try_from(number(field)?).map_err(|_| malformed("a device number is out of range"));
        Ok((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }

    pub(super) fn sparse_regions(&self) -> Result<Vec<Region>, LayerError> {
        regions(&self.block[386..482])
    }

    pub(super) fn sparse_size(&self) -> Result<u64, LayerError> {
        unsigned(&self.block[483..495])
    }
}

/// Pairs of offset and length, 12 bytes each; an empty pair ends them.
pub(super) fn regions(bytes: &[u8]) -> Result<Vec<Region>, LayerError> {
    let pairs = bytes.chunks_exact(24).take_while(|pair| pair[0] != 0);
    pairs.map(|pair| Ok(Region { offset: unsigned(&pair[..12])?, len: unsigned(&pair[12..])? })).collect()
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn unsigned(field: &[u8]) -> Result<u64, LayerError> {
    u64::try_from(number(field)?).map_err(|_| malformed("a size is negative"))
}

/// Octal digits, or, when the first bit is set, a two's complement number with the highest byte first.
fn number(field: &[u8]) -> Result<i64, LayerError> {
    let out_of_range = || malformed("a number is out of range");
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0]) - 0x100 } else { i128::from(field[0] & 0x7f) };
        // At most 12 bytes, so this cannot overflow 128 bits.
        let value = field[1..].iter().fold(first, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| out_of_range());
    }
    let is_blank = |b: &u8| matches!(b, 0 | b' ');
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => {
            value.checked_mul(8).and_then(|v| v.checked_add(i64::from(digit - b'0'))).ok_or_else(out_of_range)
        }
        _ => Err(malformed("a number has a digit that is not octal")),
    })
}

/// The sum counts its own field as blanks; old writers summed signed bytes.
fn check_sum(block: &Block) -> Result<(), LayerError> {
    let expected = number(&block[148..156])?;
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: i64 = bytes().map(|b| i64::from(*b)).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    if expected == unsigned || expected == signed { Ok(()) } else { Err(malformed("a header's checksum is wrong")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary_and_in_range() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"777777777777", 0o777_777_777_777),
            (b"\x80\0\0\0\0\0\0\x05", 5),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        for bad in [
            &b"000064x\0"[..],
            b"-0000001",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }
}
