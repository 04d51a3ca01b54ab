//! The routers over real sockets, with a host that knows what the tests want.

#![allow(clippy::unwrap_used)]

mod exec;
mod host;
mod http;
mod images;
mod limits;
mod logs;
mod port_forward;
mod routes;
