//! A blob on its way, resumed where its connection breaks.

use super::RegistryError;
use bytes::Bytes;

/// The bytes of a blob as they arrive: exactly as many as its descriptor says, or an error. The caller verifies the digest.
pub(crate) struct Blob {
    host: String,
}

impl Blob {
    pub(super) fn new(host: String) -> Self {
        Self { host }
    }

    /// The next bytes, or `None` when all were given. After an error there is nothing more to come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        Err(RegistryError::Connect { host: self.host.clone(), reason: "not built yet".into() })
    }
}
