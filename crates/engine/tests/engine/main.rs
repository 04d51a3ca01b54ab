//! The engine on the real kernel: real namespaces, real control groups, real shims, a busybox image made here.

#![allow(clippy::unwrap_used)]

mod attach;
mod busybox;
mod ends;
mod exec;
mod faults;
mod images;
mod life;
mod many;
mod namespaces;
mod network;
mod ports;
mod probes;
mod recovery;
mod world;
