//! Asking a program: the exec protocol `credentialprovider.kubelet.k8s.io`. It gets a request on its standard input and
//! writes a response to its standard output; what it writes to standard error may hold secrets and is not looked at.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pod::docker_config::{Credential, DockerConfig, MAX_ENTRIES, Pattern};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::cache::KeyType;

pub(super) const API_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
const RESPONSE_KIND: &str = "CredentialProviderResponse";
/// From its start to the end of its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const OUTPUT_MAX_BYTES: usize = 1 << 20;
/// Of the kubelet's own environment a program gets these, where they are set; all else it has from the configuration.
const PASSED_ON: [&str; 10] = [
    "PATH",
    "HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// A program and how it is run.
pub(super) struct Plugin {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) api_version: String,
}

/// Arguments and variables may be secrets.
impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("program", &self.program).finish_non_exhaustive()
    }
}

/// What a program said.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) key_type: KeyType,
    /// None where the configuration is to decide.
    pub(super) keep_for: Option<Duration>,
    pub(super) config: DockerConfig,
}

/// Why there is no answer. No text holds anything that the program wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("{}: cannot be run: {error}", program.display())]
    Run { program: PathBuf, error: io::Error },
    #[error("{}: did not answer within {} s and was killed", program.display(), ANSWER_WITHIN.as_secs())]
    TooSlow { program: PathBuf },
    #[error("{}: wrote more than {OUTPUT_MAX_BYTES} bytes and was killed", program.display())]
    TooMuch { program: PathBuf },
    #[error("{}: ended with {status}; run it by hand to see what it says", program.display())]
    Failed { program: PathBuf, status: ExitStatus },
    #[error("{}: its answer is not understood: {message}", program.display())]
    Answer { program: PathBuf, message: String },
}

impl Plugin {
    /// Runs the program for an image by its name without tag and digest. Dropping the future kills it.
    pub(super) async fn ask(&self, image: &str) -> Result<Answer, PluginError> {
        let program = || self.program.clone();
        let output = tokio::time::timeout(ANSWER_WITHIN, self.run(image)).await;
        let (output, status) = output.map_err(|_| PluginError::TooSlow { program: program() })??;
        if !status.success() {
            return Err(PluginError::Failed { program: program(), status });
        }
        self.understand(&output).map_err(|message| PluginError::Answer { program: program(), message })
    }

    async fn run(&self, image: &str) -> Result<(Vec<u8>, ExitStatus), PluginError> {
        let failed = |error| PluginError::Run { program: self.program.clone(), error };
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(passed_on()).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut group = Group(child);
        let (_, read) = tokio::join!(send(stdin, self.request(image)), read(stdout));
        let output = read.map_err(failed)?.ok_or_else(|| PluginError::TooMuch { program: self.program.clone() })?;
        let status = group.0.wait().await.map_err(failed)?;
        Ok((output, status))
    }

    fn request(&self, image: &str) -> String {
        json!({ "kind": "CredentialProviderRequest", "apiVersion": self.api_version, "image": image }).to_string()
    }

    /// # Errors
    /// What is wrong, with the field and without its value.
    fn understand(&self, output: &[u8]) -> Result<Answer, String> {
        // The parser's own message may quote what it met.
        let answer: Value = serde_json::from_slice(output)
            .map_err(|error| format!("it is not JSON: line {}, column {}", error.line(), error.column()))?;
        let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or_default();
        if text("kind") != RESPONSE_KIND {
            return Err(format!("kind: expected {RESPONSE_KIND}"));
        }
        if text("apiVersion") != self.api_version {
            return Err(format!("apiVersion: expected {}, as it was asked", self.api_version));
        }
        let key_type =
            KeyType::parse(text("cacheKeyType")).ok_or("cacheKeyType: expected Image, Registry or Global")?;
        let keep_for = match answer.get("cacheDuration") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                Some(pod::duration::parse(text).ok_or("cacheDuration: expected a duration, as in 12h")?)
            }
            Some(_) => return Err("cacheDuration: expected a duration, as in 12h".to_owned()),
        };
        Ok(Answer { key_type, keep_for, config: config_of(answer.get("auth"))? })
    }
}

fn config_of(auth: Option<&Value>) -> Result<DockerConfig, String> {
    let entries = match auth {
        None | Some(Value::Null) => return Ok(DockerConfig::default()),
        Some(Value::Object(entries)) if entries.len() <= MAX_ENTRIES => entries,
        Some(Value::Object(_)) => return Err(format!("auth: at most {MAX_ENTRIES} registries are allowed")),
        Some(_) => return Err("auth: expected a mapping of images to username and password".to_owned()),
    };
    let mut credentials = Vec::new();
    for (image, value) in entries {
        let text = |field: &str| match value.get(field) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) if !text.contains(|c: char| c.is_ascii_control()) => Ok(text.clone()),
            Some(_) => Err(format!("auth.{field}: expected a string without control characters")),
        };
        let pattern = Pattern::parse(image).ok_or("auth: expected images, as in *.registry.example.com/team")?;
        let credential =
            Credential { username: text("username")?, password: text("password")?, ..Credential::default() };
        credentials.push((pattern, credential));
    }
    Ok(DockerConfig::new(credentials))
}

fn passed_on() -> impl Iterator<Item = (&'static str, OsString)> {
    PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// A program that does not want to know what it is asked is not at fault.
async fn send(stdin: Option<ChildStdin>, request: String) {
    if let Some(mut stdin) = stdin {
        let _not_wanted = stdin.write_all(request.as_bytes()).await;
    }
}

/// All that is written, or none where that is too much.
async fn read(stdout: Option<ChildStdout>) -> io::Result<Option<Vec<u8>>> {
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(OUTPUT_MAX_BYTES as u64 + 1).read_to_end(&mut output).await?;
    }
    Ok((output.len() <= OUTPUT_MAX_BYTES).then_some(output))
}

/// The program and whatever it started, which end with this unless it has been waited for.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Until it is waited for its number is nobody else's; then there is none here.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It may have ended by itself; the runtime takes its status away.
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests;
