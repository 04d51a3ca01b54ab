//! What the daemon runs with: defaults, overridden by a configuration file, overridden by flags.

pub(crate) mod file;
pub(crate) mod images;
mod labels;
pub(crate) mod runtime;

use crate::cli::RunFlags;
use file::ConfigFile;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const ROOT_DIR: &str = "/var/lib/kubelet";
pub(crate) const RUN_DIR: &str = "/run/kubelet";
pub(crate) const POD_LOGS_DIR: &str = "/var/log/pods";
const POD_CIDR: &str = "10.83.0.0/16";
const POD_BRIDGE: &str = "kubelet0";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const CHECK_FREQUENCY: Duration = Duration::from_secs(20);
const READ_ONLY_PORT: u16 = 10255;
const HEALTHZ_PORT: u16 = 10248;
const LOG_MAX_SIZE: &str = "10Mi";
const LOG_MAX_FILES: u32 = 5;
/// Within which the longest wait for a restart may be set.
const MAX_RESTART_DELAY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// A configuration file larger than this is refused.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Everything decided; nothing here is optional that has a default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) manifest_url: Option<String>,
    pub(crate) manifest_url_headers: Vec<(String, String)>,
    pub(crate) root_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) pod_logs_dir: PathBuf,
    pub(crate) node_name: String,
    pub(crate) node_ip: Option<IpAddr>,
    pub(crate) file_check_frequency: Duration,
    pub(crate) http_check_frequency: Duration,
    pub(crate) address: IpAddr,
    /// 0: none.
    pub(crate) read_only_port: u16,
    /// 0: none.
    pub(crate) healthz_port: u16,
    pub(crate) healthz_bind_address: IpAddr,
    pub(crate) pod_cidr: String,
    pub(crate) pod_bridge: String,
    /// Empty for the root, else `/a/b`.
    pub(crate) cgroup_root: String,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) log_max_bytes: u64,
    pub(crate) log_max_files: u32,
    pub(crate) node_labels: BTreeMap<String, String>,
    pub(crate) max_pods: u32,
    /// The longest a container that keeps failing waits for its restart; zero for the usual time.
    pub(crate) max_restart_delay: Duration,
    pub(crate) runtime: runtime::Choice,
    /// What a call to the runtime may take.
    pub(crate) call_within: Duration,
    pub(crate) images: images::Images,
}

/// Why the daemon cannot start with these flags and this file. Nothing has been touched yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("nothing to run: give --config=DIR (a directory of pod manifests), --config=FILE or --manifest-url=URL")]
    NoSource,
    #[error(
        "--config: {path}: {reason}; expected a directory of pod manifests, a pod manifest or a KubeletConfiguration file"
    )]
    Unreadable { path: PathBuf, reason: String },
    #[error("{path}: {errors}")]
    File { path: PathBuf, errors: String },
    #[error("{flag}: {found:?}: {expected}")]
    Value { flag: &'static str, found: String, expected: String },
}

fn value_error(flag: &'static str, found: impl Into<String>, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { flag, found: found.into(), expected: expected.into() }
}

/// Puts defaults, the file that `--config` may name and the flags together; `hostname` is the machine's.
pub(crate) fn load(flags: &RunFlags, hostname: &str) -> Result<Config, ConfigError> {
    let (manifests, file) = match flags.config.as_deref() {
        Some(path) => what_is_config(path)?,
        None => (None, None),
    };
    let with_file = file.is_some();
    let file = file.unwrap_or_default();
    let (runtime, call_within) = runtime::choose(flags, &file)?;
    let images = images::decide(flags, &file, &runtime)?;
    let manifests = flags.pod_manifest_path.clone().or(manifests).or(file.static_pod_path);
    let manifest_url = flags.manifest_url.clone().or(file.static_pod_url).filter(|url| !url.is_empty());
    if manifests.is_none() && manifest_url.is_none() {
        return Err(ConfigError::NoSource);
    }
    let headers = match flags.manifest_url_header.is_empty() {
        false => parse_headers(&flags.manifest_url_header)?,
        true => file
            .static_pod_url_header
            .into_iter()
            .flat_map(|(k, vs)| vs.into_iter().map(move |v| (k.clone(), v)))
            .collect(),
    };
    let log_max_size =
        flags.container_log_max_size.clone().or(file.container_log_max_size).unwrap_or_else(|| LOG_MAX_SIZE.into());
    let log_max_files = flags.container_log_max_files.or(file.container_log_max_files).unwrap_or(LOG_MAX_FILES);
    if log_max_files < 2 {
        return Err(value_error("--container-log-max-files", log_max_files.to_string(), "expected 2 or more"));
    }
    let resolv_conf = flags.resolv_conf.clone().or(file.resolv_conf).unwrap_or_else(|| RESOLV_CONF.into());
    let default_read_only = if with_file { 0 } else { READ_ONLY_PORT };
    Ok(Config {
        manifests: manifests.map(absolute),
        manifest_url: manifest_url.map(check_url).transpose()?,
        manifest_url_headers: headers,
        root_dir: absolute(flags.root_dir.clone().unwrap_or_else(|| ROOT_DIR.into())),
        run_dir: absolute(flags.run_dir.clone().unwrap_or_else(|| RUN_DIR.into())),
        pod_logs_dir: absolute(flags.pod_logs_dir.clone().or(file.pod_logs_dir).unwrap_or_else(|| POD_LOGS_DIR.into())),
        node_name: node_name(flags.hostname_override.as_deref().unwrap_or(hostname))?,
        node_ip: flags.node_ip,
        file_check_frequency: at_least_1s(
            "--file-check-frequency",
            flags.file_check_frequency.or(file.file_check_frequency),
        )?,
        http_check_frequency: at_least_1s(
            "--http-check-frequency",
            flags.http_check_frequency.or(file.http_check_frequency),
        )?,
        address: flags.address.or(file.address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        read_only_port: flags.read_only_port.or(file.read_only_port).unwrap_or(default_read_only),
        healthz_port: flags.healthz_port.or(file.healthz_port).unwrap_or(HEALTHZ_PORT),
        healthz_bind_address: flags
            .healthz_bind_address
            .or(file.healthz_bind_address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        pod_cidr: flags.pod_cidr.clone().or(file.pod_cidr).unwrap_or_else(|| POD_CIDR.into()),
        pod_bridge: bridge_name(flags.pod_bridge.clone().unwrap_or_else(|| POD_BRIDGE.into()))?,
        cgroup_root: cgroup_root(flags.cgroup_root.clone().or(file.cgroup_root).unwrap_or_default())?,
        resolv_conf: Some(resolv_conf).filter(|path| !path.as_os_str().is_empty()),
        log_max_bytes: log_size(&log_max_size)?,
        log_max_files,
        node_labels: labels::node_labels(&flags.node_labels)?,
        max_restart_delay: max_restart_delay(file.crash_loop_back_off.max_container_restart_period)?,
        max_pods: max_pods(flags.max_pods.or(file.max_pods))?,
        runtime,
        call_within,
        images,
    })
}

/// `--config` may name a directory, a manifest, or a configuration file: looks which.
fn what_is_config(path: &Path) -> Result<(Option<PathBuf>, Option<ConfigFile>), ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    // A manifest directory may be made later; a path that looks like a file must exist.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.extension().is_none() => {
            return Ok((Some(path.to_owned()), None));
        }
        Err(error) => return Err(unreadable(error.to_string())),
    };
    if metadata.is_dir() {
        return Ok((Some(path.to_owned()), None));
    }
    if !metadata.is_file() {
        return Err(unreadable("is neither a directory nor a regular file".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    match pod::manifest::kind_of(&bytes).as_deref() {
        Some("KubeletConfiguration") if metadata.len() > MAX_CONFIG_BYTES => {
            Err(unreadable(format!("has {} bytes, more than the {MAX_CONFIG_BYTES} allowed", metadata.len())))
        }
        Some("KubeletConfiguration") => {
            let base = path.parent().unwrap_or(Path::new("."));
            let file = ConfigFile::parse(&bytes, base)
                .map_err(|errors| ConfigError::File { path: path.to_owned(), errors })?;
            Ok((None, Some(file)))
        }
        // A manifest that is wrong now may be mended later: the source tells.
        _ => Ok((Some(path.to_owned()), None)),
    }
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn at_least_1s(flag: &'static str, value: Option<Duration>) -> Result<Duration, ConfigError> {
    match value {
        None => Ok(CHECK_FREQUENCY),
        Some(value) if value >= Duration::from_secs(1) => Ok(value),
        Some(value) => Err(value_error(flag, format!("{value:?}"), "expected 1s or more")),
    }
}

fn max_pods(value: Option<u32>) -> Result<u32, ConfigError> {
    match value {
        None => Ok(agent::MAX_PODS),
        Some(0) => Err(value_error("--max-pods", "0", "expected 1 or more")),
        Some(value) => Ok(value),
    }
}

fn max_restart_delay(value: Option<Duration>) -> Result<Duration, ConfigError> {
    const FIELD: &str = "crashLoopBackOff.maxContainerRestartPeriod";
    match value {
        None => Ok(Duration::ZERO),
        Some(value) if MAX_RESTART_DELAY.contains(&value) => Ok(value),
        Some(value) => Err(value_error(FIELD, format!("{value:?}"), "expected 1s to 300s")),
    }
}

fn parse_headers(flags: &[String]) -> Result<Vec<(String, String)>, ConfigError> {
    // It may be a credential: which one it is is told, not how it reads.
    let wrong = |at: usize| value_error("--manifest-url-header", format!("header {}", at + 1), "expected name:value");
    flags
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let (name, value) = text.split_once(':').ok_or_else(|| wrong(at))?;
            match name.trim() {
                "" => Err(wrong(at)),
                name => Ok((name.to_owned(), value.trim().to_owned())),
            }
        })
        .collect()
}

fn check_url(url: String) -> Result<String, ConfigError> {
    match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(url),
        false => Err(value_error("--manifest-url", url, "expected an http:// or https:// URL")),
    }
}

/// The node's name ends up in pod names, so it must be usable there.
fn node_name(name: &str) -> Result<String, ConfigError> {
    let name = name.trim().to_lowercase();
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    match name.len() <= 63 && name.split('.').all(part) {
        true => Ok(name),
        false => Err(value_error(
            "--hostname-override",
            name,
            "a node name has at most 63 lower-case letters, digits, '-' and '.', and begins and ends with a letter or digit",
        )),
    }
}

/// The kernel allows 15 bytes for a link's name.
fn bridge_name(name: String) -> Result<String, ConfigError> {
    let fine = (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match fine && name != "." && name != ".." {
        true => Ok(name),
        false => Err(value_error("--pod-bridge", name, "expected 1 to 15 letters, digits, '-', '_' and '.'")),
    }
}

fn cgroup_root(path: String) -> Result<String, ConfigError> {
    let path = path.trim_end_matches('/').to_owned();
    let fine = path.is_empty()
        || (path.starts_with('/') && path.split('/').skip(1).all(|p| !p.is_empty() && p != "." && p != ".."));
    match fine {
        true => Ok(path),
        false => Err(value_error("--cgroup-root", path, "expected an absolute path without '.' and '..'")),
    }
}

fn log_size(text: &str) -> Result<u64, ConfigError> {
    const FLAG: &str = "--container-log-max-size";
    let bytes = pod::quantity::bytes(text).map_err(|error| value_error(FLAG, text, error.to_string()))?;
    match u64::try_from(bytes) {
        Ok(bytes) if bytes >= 4096 => Ok(bytes),
        _ => Err(value_error(FLAG, text, "expected 4Ki or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> RunFlags {
        RunFlags { config: Some("/manifests".into()), ..RunFlags::default() }
    }

    #[test]
    fn defaults_are_upstreams() {
        let config = load(&flags(), "Node-1").unwrap();
        assert_eq!(config.node_name, "node-1");
        assert_eq!((config.read_only_port, config.healthz_port), (10255, 10248));
        assert_eq!(config.file_check_frequency, Duration::from_secs(20));
        assert_eq!((config.log_max_bytes, config.log_max_files), (10 * 1024 * 1024, 5));
        assert_eq!(config.manifests, Some("/manifests".into()));
        assert_eq!((config.max_pods, config.node_labels.len()), (110, 0));
        assert_eq!(config.max_restart_delay, Duration::ZERO);
    }

    #[test]
    fn the_longest_wait_for_a_restart_is_the_files_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.yaml");
        let delay = |period: &str| {
            let text = format!(
                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: /pods\n\
                 crashLoopBackOff: {{maxContainerRestartPeriod: {period}}}\n"
            );
            std::fs::write(&path, text).unwrap();
            load(&RunFlags { config: Some(path.clone()), ..RunFlags::default() }, "n").map(|it| it.max_restart_delay)
        };
        for (period, seconds) in [("1s", 1), ("1m30s", 90), ("300s", 300), ("null", 0)] {
            assert_eq!(delay(period).unwrap(), Duration::from_secs(seconds), "{period}");
        }
        for period in ["0s", "999ms", "300001ms"] {
            let error = delay(period).expect_err(period).to_string();
            assert!(
                error.contains("crashLoopBackOff.maxContainerRestartPeriod") && error.contains("1s to 300s"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_config_file_is_told_from_a_manifest_and_closes_the_read_only_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.yaml");
        std::fs::write(&path, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: pods\nhealthzPort: 1\nmaxPods: 7\n").unwrap();
        let config =
            load(&RunFlags { config: Some(path.clone()), healthz_port: Some(2), ..RunFlags::default() }, "n").unwrap();
        assert_eq!(config.manifests, Some(dir.path().join("pods")), "relative to the file");
        assert_eq!((config.read_only_port, config.healthz_port), (0, 2), "a flag wins over the file");
        assert_eq!(config.max_pods, 7);
        std::fs::write(&path, "apiVersion: v1\nkind: Pod\n").unwrap();
        let config = load(&RunFlags { config: Some(path.clone()), ..RunFlags::default() }, "n").unwrap();
        assert_eq!(config.manifests, Some(path));
    }

    #[test]
    fn s_b23_a_header_that_is_wrong_is_not_shown() {
        let headers = ["a:b", "Authorization Bearer geheim", ":geheim"].map(String::from);
        for (headers, expected) in [(&headers[..2], "header 2"), (&headers[2..], "header 1")] {
            let error = parse_headers(headers).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn s_h03_bad_values_are_refused_by_the_flags_name() {
        let cases: Vec<(RunFlags, &str)> = vec![
            (RunFlags::default(), "nothing to run"),
            (RunFlags { config: Some("/nowhere/x.yaml".into()), ..flags() }, "/nowhere/x.yaml"),
            (RunFlags { config: Some("/dev/null".into()), ..flags() }, "neither a directory nor a regular file"),
            (RunFlags { hostname_override: Some("a_b".into()), ..flags() }, "--hostname-override"),
            (RunFlags { pod_bridge: Some("a/b".into()), ..flags() }, "--pod-bridge"),
            (RunFlags { cgroup_root: Some("/a/../b".into()), ..flags() }, "--cgroup-root"),
            (RunFlags { manifest_url: Some("ftp://x".into()), ..flags() }, "--manifest-url"),
            (RunFlags { manifest_url_header: vec!["x".into()], ..flags() }, "--manifest-url-header"),
            (RunFlags { container_log_max_size: Some("1".into()), ..flags() }, "--container-log-max-size"),
            (RunFlags { container_log_max_files: Some(1), ..flags() }, "--container-log-max-files"),
            (RunFlags { max_pods: Some(0), ..flags() }, "--max-pods"),
            (RunFlags { node_labels: vec!["kubernetes.io/x=y".into()], ..flags() }, "--node-labels"),
            (RunFlags { file_check_frequency: Some(Duration::from_millis(1)), ..flags() }, "--file-check-frequency"),
        ];
        for (flags, expected) in cases {
            let error = load(&flags, "n").expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
