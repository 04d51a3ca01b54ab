//! A registry of a test's own: Debian's `docker-registry` on the loopback, beneath a directory that goes with it.

use std::path::Path;

/// Whether a program of a Debian package can be had here; says so if not, and in CI that is a failure.
pub fn is_there(program: &str, package: &str) -> bool {
    if Path::new("/usr/bin").join(program).exists() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{program} (package {package}) is missing, and must not be skipped here");
    println!("skipped: needs {program} (package {package})");
    false
}
