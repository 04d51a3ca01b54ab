//! Files with holes.

use super::pax::decimal;
use super::{Entries, Input, malformed};
use crate::error::LayerError;

/// A file with more parts than this is a device to exhaust memory.
const MAX_REGIONS: usize = 65_536;

/// Stored bytes and where in the file they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

pub(super) fn check_count(regions: usize) -> Result<(), LayerError> {
    if regions > MAX_REGIONS {
        return Err(LayerError::Limit { what: "number of parts of a sparse file", limit: MAX_REGIONS as u64 });
    }
    Ok(())
}

/// Refuses maps that overlap, run backwards, leave the file, or do not use exactly the stored bytes.
pub(super) fn checked(map: Vec<Region>, stored: u64, size: u64) -> Result<Vec<Region>, LayerError> {
    check_count(map.len())?;
    let (mut end, mut used) = (0u64, 0u64);
    for region in &map {
        if region.offset < end {
            return Err(malformed("a sparse map overlaps itself"));
        }
        end = region.offset.checked_add(region.len).ok_or(malformed("a sparse map is out of range"))?;
        used = used.checked_add(region.len).ok_or(malformed("a sparse map is out of range"))?;
    }
    if end > size || used != stored {
        return Err(malformed("a sparse map does not fit its file"));
    }
    Ok(map)
}

/// The form in a PAX record: `offset,length,offset,length…`.
pub(super) fn parse_map(text: &[u8]) -> Result<Vec<Region>, LayerError> {
    let numbers = text.split(|b| *b == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
    check_count(numbers.len() / 2)?;
    if numbers.len() % 2 != 0 {
        return Err(malformed("a sparse map is malformed"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Region { offset: pair[0], len: pair[1] }).collect())
}

/// The form at the start of the content: a count and then offsets and lengths, one decimal number a line, padded to a
/// whole block.
pub(super) fn read_map<R: Input>(entries: &mut Entries<R>) -> Result<Vec<Region>, LayerError> {
    let mut lines = Lines { block: [0; super::BLOCK], at: super::BLOCK };
    let count = usize::try_from(lines.number(entries)?).unwrap_or(usize::MAX);
    check_count(count)?;
    (0..count).map(|_| Ok(Region { offset: lines.number(entries)?, len: lines.number(entries)? })).collect()
}

struct Lines {
    block: super::Block,
    at: usize,
}

impl Lines {
    fn number<R: Input>(&mut self, entries: &mut Entries<R>) -> Result<u64, LayerError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.at == super::BLOCK {
                entries.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits),
                _ if digits.len() >= 20 => return Err(malformed("a sparse map is malformed")),
                digit => digits.push(digit),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_b08_maps_that_do_not_fit_are_refused() {
        let at = |offset, len| Region { offset, len };
        assert!(checked(vec![at(0, 5), at(10, 5)], 10, 20).is_ok());
        for (map, stored, size) in [
            (vec![at(5, 5), at(0, 5)], 10, 20),
            (vec![at(0, 5), at(4, 5)], 10, 20),
            (vec![at(0, 5)], 4, 20),
            (vec![at(16, 5)], 5, 20),
            (vec![at(u64::MAX, 5)], 5, 20),
            (vec![at(0, 0); MAX_REGIONS + 1], 0, 20),
        ] {
            assert!(checked(map, stored, size).is_err());
        }
        assert_eq!(parse_map(b"0,5,10,5").unwrap(), [at(0, 5), at(10, 5)]);
        assert!(parse_map(b"0,5,10").is_err() && parse_map(b"").is_err() && parse_map(b"0,-5").is_err());
    }
}
