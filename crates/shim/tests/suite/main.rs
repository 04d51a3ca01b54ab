//! Drives the real shim with a busybox root, as root, on the real kernel. Each test has a sandbox of its own and checks
//! at its end that nothing of it is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attach;
mod attacks;
mod exec;
mod harness;
mod isolation;
mod life;
mod logs;
mod shared;
