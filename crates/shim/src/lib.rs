//! The per-pod supervisor process: this library is what others may know of it, its protocol.

pub mod protocol;
