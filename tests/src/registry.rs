//! A registry of a test's own: Debian's `docker-registry` on the loopback, with its directories in one that goes with it.

mod proxy;
mod storage;
mod tls;

use crate::oci::{Blob, Image};
use crate::{await_some, daemon, http, machine, skip};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tls::Authority;

pub use proxy::{Fault, Proxy, Seen, TOKEN};

/// Who may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Anonymous,
    /// [`USER`] with [`PASSWORD`], by basic authentication.
    Password,
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    /// With a certificate that [`Registry::ca_file`] vouches for.
    Tls,
}

pub const USER: &str = "reader";
/// Like nothing else that a log could hold.
pub const PASSWORD: &str = "pw-7Q2kXv9sLr3T";

/// A running registry. Dropping it ends it and removes what it kept.
pub struct Registry {
    dir: TempDir,
    wire: Wire,
    child: Child,
    port: u16,
}

/// Whether a program of a Debian package can be had here; says so if not, and in CI that is a failure.
pub fn is_there(program: &str, package: &str) -> bool {
    if Path::new("/usr/bin").join(program).exists() {
        return true;
    }
    skip(&format!("needs {program} (package {package})"));
    false
}

/// Whether a registry can be had here.
pub fn is_available() -> bool {
    is_there("docker-registry", "docker-registry") && is_there("htpasswd", "apache2-utils")
}

impl Registry {
    /// Starts an empty one on a free port.
    pub fn start(access: Access, wire: Wire) -> Registry {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("data")).expect("the registry's directory");
        std::fs::write(dir.path().join("config.yml"), configuration(dir.path(), access, wire)).expect("written");
        Authority::new().write(dir.path());
        if access == Access::Password {
            write_password(&dir.path().join("htpasswd"), PASSWORD);
        }
        let log = std::fs::File::create(dir.path().join("log")).expect("the log");
        let mut command = Command::new("/usr/bin/docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("the registry starts");
        let mut registry = Registry { dir, wire, child, port: 0 };
        registry.port = await_some("the registry's port", || {
            let log = registry.log();
            let line = log.lines().find_map(|line| line.split("listening on 127.0.0.1:").nth(1)).ok_or(log.clone())?;
            let digits: String = line.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().map_err(|_| log.clone())
        });
        if wire == Wire::Plain {
            await_some("the registry answers", || http::get(machine::LOOPBACK, registry.port, "/v2/").map(drop));
        }
        registry
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As references name it: `127.0.0.1:5000`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:5000`
    pub fn url(&self) -> String {
        let scheme = if self.wire == Wire::Tls { "https" } else { "http" };
        format!("{scheme}://{}", self.host())
    }

    /// The certificate of its authority, for those who shall trust it.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// Gives it an image by the name `repository:tag`; another one of that name goes. It is there at once.
    pub fn put(&self, name: &str, image: &Image) {
        let (repository, tag) = name.rsplit_once(':').expect("a tag");
        for blob in image.blobs() {
            self.put_blob(repository, blob);
        }
        storage::tag(&self.data(), (repository, tag), &image.manifest);
    }

    /// Gives it a blob, whatever its bytes are.
    pub fn put_blob(&self, repository: &str, blob: &Blob) {
        storage::blob(&self.data(), repository, blob);
    }

    /// Gives it a manifest or an index alone.
    pub fn put_manifest(&self, name: &str, manifest: &Blob) {
        let (repository, tag) = name.rsplit_once(':').expect("a tag");
        storage::tag(&self.data(), (repository, tag), manifest);
    }

    /// What it logged so far, a line for each request among it.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the registry's log:\n{}", self.log());
        }
    }
}

fn configuration(dir: &Path, access: Access, wire: Wire) -> String {
    let dir = dir.display();
    let mut text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {dir}/data}}\n\
         http:\n  addr: 127.0.0.1:0\n"
    );
    if wire == Wire::Tls {
        text.push_str(&format!("  tls: {{certificate: {dir}/server.crt, key: {dir}/server.key}}\n"));
    }
    if access == Access::Password {
        text.push_str(&format!("auth:\n  htpasswd: {{realm: test, path: {dir}/htpasswd}}\n"));
    }
    text
}

fn write_password(file: &Path, password: &str) {
    let hashed = daemon::run(Command::new("htpasswd").args(["-Bbn", "-C", "4", USER, password]));
    std::fs::write(file, hashed).expect("the password file");
}

/// Writes how a registry is reached: a `hosts.toml` for `host` beneath `dir`.
pub fn write_hosts(dir: &Path, host: &str, text: &str) {
    let dir = dir.join(host);
    std::fs::create_dir_all(&dir).expect("the host's directory");
    std::fs::write(dir.join("hosts.toml"), text).expect("written");
}
