//! Compiles the protocol file to Rust types, without `protoc`.

use std::error::Error;

const PROTOCOL: &str = "proto/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    prost_build::Config::new()
        // Ordered maps: two equal messages are the same bytes, and no iteration depends on a hash.
        .btree_map(["."])
        // Credentials must not reach a log through `{:?}`; the crate writes this one by hand.
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
