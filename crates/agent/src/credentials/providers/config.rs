//! The `CredentialProviderConfig`: which programs are asked for which images.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod::docker_config::Pattern;
use pod::field::FieldError;
use pod::manifest::{self, ManifestError, Problem};
use serde::Deserialize;
use serde_json::Value;

use super::plugin::{API_VERSIONS, Plugin};
use crate::credentials::CredentialsError;
use crate::sources::files::read;

const KIND: &str = "CredentialProviderConfig";
const VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const MAX_BYTES: u64 = 1 << 20;
/// Files of a directory, providers of a file, images of a provider.
const FILES_MAX: usize = 100;
const PROVIDERS_MAX: usize = 100;
const PATTERNS_MAX: usize = 1_000;

/// One provider as it is to be asked.
pub(super) struct Provider {
    pub(super) patterns: Vec<Pattern>,
    pub(super) keep_for: Duration,
    pub(super) plugin: Plugin,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProviderFile {
    api_version: String,
    kind: String,
    providers: Vec<ProviderEntry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProviderEntry {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<EnvVar>>,
    token_attributes: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EnvVar {
    name: String,
    value: String,
}

/// # Errors
/// All that is wrong, in all files.
pub(super) fn load(path: &Path, bin_dir: &Path) -> Result<Vec<Provider>, CredentialsError> {
    let mut names = BTreeMap::new();
    let (mut providers, mut problems) = (Vec::new(), Vec::new());
    for file in files(path)? {
        let shown = file.display().to_string();
        let bytes = match read::regular_file(&file, MAX_BYTES) {
            Ok((_, bytes)) => bytes,
            Err(error) => {
                let text = error.to_string();
                problems.push(if text.starts_with(&shown) { text } else { format!("{shown}: {text}") });
                continue;
            }
        };
        let check = |found: &ProviderFile| check(found, bin_dir, (&shown, &mut names));
        match manifest::object_of::<ProviderFile>(&shown, &bytes, check) {
            Ok(found) => providers.extend(found.providers.into_iter().filter_map(|entry| provider(entry, bin_dir))),
            Err(errors) => problems.extend(errors.into_iter().map(|error| redacted(error).to_string())),
        }
    }
    if problems.is_empty() { Ok(providers) } else { Err(CredentialsError::Wrong { problems }) }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, CredentialsError> {
    let unreadable = |error| CredentialsError::Unreadable { path: path.to_owned(), error };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if manifest::is_file_name(entry.file_name().as_bytes()) {
            files.push(entry.path());
        }
    }
    files.sort();
    match files.len() {
        0 => Err(CredentialsError::NoFiles { path: path.to_owned() }),
        count if count > FILES_MAX => {
            let problem = format!("{}: holds {count} configurations, at most {FILES_MAX} are read", path.display());
            Err(CredentialsError::Wrong { problems: vec![problem] })
        }
        _ => Ok(files),
    }
}

/// `names` are those of earlier files, with the file of each.
fn check(
    found: &ProviderFile,
    bin_dir: &Path,
    (file, names): (&str, &mut BTreeMap<String, String>),
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if found.kind != KIND {
        errors.push(FieldError::with_found("kind", &found.kind, format!("expected {KIND}")));
    }
    if !VERSIONS.contains(&found.api_version.as_str()) {
        errors.push(FieldError::with_found("apiVersion", &found.api_version, one_of(&VERSIONS)));
    }
    match found.providers.len() {
        0 => errors.push(FieldError::new("providers", "is missing: expected at least one provider")),
        count if count > PROVIDERS_MAX => {
            let message = format!("has {count} entries, at most {PROVIDERS_MAX} are allowed");
            errors.push(FieldError::new("providers", message));
        }
        _ => {}
    }
    for (index, entry) in found.providers.iter().enumerate().take(PROVIDERS_MAX) {
        let path = format!("providers[{index}]");
        match check_name(&entry.name, bin_dir) {
            Err(message) => errors.push(FieldError::with_found(format!("{path}.name"), &entry.name, message)),
            Ok(()) => {
                if let Some(other) = names.insert(entry.name.clone(), file.to_owned()) {
                    let message = format!("another provider of this name is in {other} already; each needs its own");
                    errors.push(FieldError::with_found(format!("{path}.name"), &entry.name, message));
                }
            }
        }
        check_entry(&path, entry, &mut errors);
    }
    errors
}

fn check_name(name: &str, bin_dir: &Path) -> Result<(), String> {
    let is_one_component = name.chars().all(|c| c.is_ascii_graphic() && c != '/') && !matches!(name, "" | "." | "..");
    if !is_one_component || name.len() > 255 {
        return Err("expected the file name of a program, without '/' and blanks".to_owned());
    }
    let program = bin_dir.join(name);
    match std::fs::metadata(&program) {
        Ok(found) if !found.is_file() => Err(format!("{} is not a file: expected a program", program.display())),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            Err(format!("{} is not executable: chmod +x it", program.display()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no program at {}: {error}; put it there or correct the name", program.display())),
    }
}

fn check_entry(path: &str, entry: &ProviderEntry, errors: &mut Vec<FieldError>) {
    if !(1..=PATTERNS_MAX).contains(&entry.match_images.len()) {
        let message = format!("expected 1 to {PATTERNS_MAX} images, as in *.registry.example.com/team");
        errors.push(FieldError::new(format!("{path}.matchImages"), message));
    }
    for (index, text) in entry.match_images.iter().enumerate().take(PATTERNS_MAX) {
        if text.contains("://") || Pattern::parse(text).is_none() {
            let message = "expected a host with an optional port and path and without a scheme, as in *.registry.example.com/team";
            // Before an @ stands who asks, and perhaps the password.
            let shown = text.rsplit_once('@').map_or(text.as_str(), |(_, host)| host);
            errors.push(FieldError::with_found(format!("{path}.matchImages[{index}]"), shown, message));
        }
    }
    let at = format!("{path}.defaultCacheDuration");
    match &entry.default_cache_duration {
        None => errors.push(FieldError::new(at, "is missing: expected a duration, as in 12h")),
        Some(text) if pod::duration::parse(text).is_none() => {
            errors.push(FieldError::with_found(at, text, "expected a duration that is not negative, as in 12h or 0s"));
        }
        Some(_) => {}
    }
    if !API_VERSIONS.contains(&entry.api_version.as_str()) {
        errors.push(FieldError::with_found(format!("{path}.apiVersion"), &entry.api_version, one_of(&API_VERSIONS)));
    }
    for (index, arg) in entry.args.iter().flatten().enumerate() {
        if arg.contains('\0') {
            errors.push(FieldError::new(format!("{path}.args[{index}]"), "must not contain the NUL character"));
        }
    }
    for (index, var) in entry.env.iter().flatten().enumerate() {
        if !pod::names::is_env(&var.name) {
            let message = pod::names::ENV_RULE;
            errors.push(FieldError::with_found(format!("{path}.env[{index}].name"), &var.name, message));
        }
        if var.value.contains('\0') {
            errors.push(FieldError::new(format!("{path}.env[{index}].value"), "must not contain the NUL character"));
        }
    }
    if entry.token_attributes.is_some() {
        errors.push(FieldError::new(format!("{path}.tokenAttributes"), "not supported yet: leave it out"));
    }
}

fn one_of(allowed: &[&str]) -> String {
    format!("expected one of {}", allowed.join(", "))
}

/// Variables and arguments may be secrets, and a wrong type or place would show them: only what cannot be one is shown.
fn redacted(mut error: ManifestError) -> ManifestError {
    if let Problem::Field(field) = &mut error.problem {
        let is_open =
            ["kind", "apiVersion", ".name", ".defaultCacheDuration"].iter().any(|end| field.path.ends_with(end));
        if !is_open && !field.path.contains(".matchImages[") {
            field.found = None;
        }
    }
    error
}

/// None only for what [`check`] refuses.
fn provider(entry: ProviderEntry, bin_dir: &Path) -> Option<Provider> {
    let env = entry.env.unwrap_or_default().into_iter().map(|var| (var.name, var.value)).collect();
    Some(Provider {
        patterns: entry.match_images.iter().filter_map(|text| Pattern::parse(text)).collect(),
        keep_for: pod::duration::parse(&entry.default_cache_duration?)?,
        plugin: Plugin {
            program: bin_dir.join(&entry.name),
            args: entry.args.unwrap_or_default(),
            env,
            api_version: entry.api_version,
        },
    })
}

#[cfg(test)]
mod tests;
