//! The client against the real containerd, started for the test: Debian 12's 1.6, and sid's where it could be fetched
//! (`scripts/containerd.sh fetch-sid target/containerd-sid`).
//!
//! Needs root and the packages that `scripts/containerd.sh` names; without root it says so and passes, unless `CI` is set.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod calls;
mod faults;
mod streams;
mod world;
