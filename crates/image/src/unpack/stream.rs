//! The uncompressed stream, of which only so much is read.

use crate::archive::{Input, malformed};
use crate::error::LayerError;
use std::io::{self, Read};

pub(crate) struct Bounded<'a> {
    inner: &'a mut dyn Read,
    left: u64,
    limit: u64,
}

impl<'a> Bounded<'a> {
    pub(crate) fn new(inner: &'a mut dyn Read, limit: u64) -> Self {
        Self { inner, left: limit, limit }
    }

    /// Reads what follows the archive's end: writers pad to a whole record, and the digest counts it.
    pub(crate) fn drain(mut self, limit: u64) -> Result<(), LayerError> {
        let drained = io::copy(&mut self.by_ref().take(limit), &mut io::sink()).map_err(LayerError::from_read)?;
        match drained < limit || self.read(&mut [0]).map_err(LayerError::from_read)? == 0 {
            true => Ok(()),
            false => Err(malformed("too much follows its end")),
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(LayerError::Limit { what: "size of the uncompressed layer in bytes", limit: self.limit })
        })?;
        Ok(n)
    }
}

impl Input for Bounded<'_> {}
