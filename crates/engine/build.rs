//! Builds the shim, a program of its own, so that the engine can carry it in its file.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest_dir.join("../..");
    for watched in ["crates/shim", "crates/cgroup", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    let target_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim");
    build(&root, &target_dir);
    let binary = target_dir.join(TARGET).join("shim").join("shim");
    println!("cargo:rustc-env=SHIM_BINARY={}", binary.display());
}

/// A target directory of its own: the outer cargo holds the lock of the one it builds in.
fn build(root: &Path, target_dir: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["build", "--quiet", "--locked", "--package", "shim", "--bin", "shim"]);
    cargo.args(["--profile", "shim", "--target", TARGET, "--target-dir"]).arg(target_dir);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What the outer cargo tells its own children (clippy's wrapper, its flags, its target) is not meant for this build.
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "RUSTC", "CLIPPY_ARGS"] {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo can be executed");
    assert!(status.success(), "the shim did not build: {status}");
}
