//! Compiles the protocol file to Rust types, without `protoc`.

use std::error::Error;

const PROTOCOL: &str = "proto/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTOCOL}");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    let mut config = prost_build::Config::new();
    config
        // Ordered maps: two equal messages are the same bytes, and no iteration depends on a hash.
        .btree_map(["."])
        // Credentials must not reach a log through `{:?}`; the crate writes this one by hand.
        .skip_debug([".runtime.v1.AuthConfig"]);
    // Who only needs the vocabulary does not pay for a gRPC client.
    if std::env::var_os("CARGO_FEATURE_CLIENT").is_some() {
        let services = tonic_prost_build::configure().build_server(false).build_transport(false);
        config.service_generator(services.service_generator());
    }
    Ok(config.compile_fds(descriptors)?)
}
