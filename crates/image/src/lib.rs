//! OCI images: references, import, a store of verified content, and layers unpacked for overlayfs.
//!
//! Everything that an image brings is untrusted: names, numbers, paths and documents are checked where they enter, and
//! each has a limit. What is in the store is complete and has the digests that it says.

mod archive;
mod compress;
mod digest;
pub mod drop_in;
mod error;
mod fs;
mod import;
mod json;
mod login;
mod manifest;
pub mod pull;
mod reference;
pub mod registry;
mod store;
mod sys;
#[cfg(test)]
mod testing;
mod unpack;

pub use digest::Digest;
pub use drop_in::{DropIn, Scan};
pub use error::{ArchiveError, Error, LayerError, Result};
pub use import::{ImportOptions, Imported};
pub use login::Login;
pub use pull::{LayerProgress, LayerState, PullConfig, PullError, PullProgress, Puller};
pub use reference::Reference;
pub use store::{Image, ImageConfig, Removed, Store, Usage};
