//! The adapter against a real daemon: Debian's, started here, with directories, a bridge and a control group of its own.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod attach;
mod daemon;
mod ends;
mod events;
mod exec;
mod images;
mod life;
mod shapes;
mod world;
