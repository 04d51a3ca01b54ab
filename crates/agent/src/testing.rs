//! What several tests need.

pub(crate) mod fake;
pub(crate) mod servers;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of its own for one test, gone with it.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("agent-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What the test began may still be writing on another thread, and ends by itself.
        for _ in 0..1000 {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => std::thread::yield_now(),
                _ => return,
            }
        }
    }
}

/// Whether this test may run. In CI it must.
pub(crate) fn is_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root");
    println!("{test} skipped: it needs root");
    false
}

/// A manifest of one pod with one container.
pub(crate) fn manifest(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n{more}  containers:\n  - name: c\n    image: busybox:1\n    command: [/bin/true]\n"
    )
}

/// A document of a Secret with one password for one registry.
pub(crate) fn secret_manifest(name: &str, registry: &str, password: &str) -> String {
    let config = serde_json::json!({ "auths": { registry: { "username": name, "password": password } } });
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {{name: {name}}}\nstringData:\n  .dockerconfigjson: '{config}'\n"
    )
}

/// The same, read.
pub(crate) fn secret(name: &str, registry: &str, password: &str) -> std::sync::Arc<pod::PullSecret> {
    let manifest = pod::manifest::parse("secret.yaml", secret_manifest(name, registry, password).as_bytes());
    std::sync::Arc::new(manifest.secrets.into_iter().next().unwrap())
}
