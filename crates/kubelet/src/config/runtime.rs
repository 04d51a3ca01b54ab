//! Which runtime runs the containers.

use super::{ConfigError, ConfigFile, RunFlags, value_error};
use cri::client::Endpoint;
use std::path::PathBuf;
use std::time::Duration;

const DOCKER_ENDPOINT: &str = "unix:///var/run/docker.sock";
const CALL_WITHIN: Duration = Duration::from_secs(120);

/// What runs the containers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choice {
    /// The engine in this very program.
    Embedded,
    /// The Docker Engine, at its socket.
    Docker { endpoint: PathBuf },
    /// A CRI runtime behind a socket.
    Remote {
        runtime: Endpoint,
        /// Where another process has the images.
        images: Option<Endpoint>,
    },
}

/// The choice, and what a call to the runtime may take.
pub(super) fn choose(flags: &RunFlags, file: &ConfigFile) -> Result<(Choice, Duration), ConfigError> {
    let call_within = flags.runtime_request_timeout.or(file.runtime_request_timeout).unwrap_or(CALL_WITHIN);
    if call_within < Duration::from_secs(1) {
        return Err(value_error("--runtime-request-timeout", format!("{call_within:?}"), "expected 1s or more"));
    }
    if flags.docker_endpoint.is_some() && flags.container_runtime.as_deref() != Some("docker") {
        let found = flags.docker_endpoint.clone().unwrap_or_default();
        return Err(value_error("--docker-endpoint", found, "it goes with --container-runtime=docker"));
    }
    cgroup_driver(flags.cgroup_driver.as_deref().or(file.cgroup_driver.as_deref()))?;
    let text = |flag: &Option<String>, field: &Option<String>| {
        flag.clone().or_else(|| field.clone()).filter(|text| !text.is_empty())
    };
    let runtime = text(&flags.container_runtime_endpoint, &file.container_runtime_endpoint);
    let images = text(&flags.image_service_endpoint, &file.image_service_endpoint);
    let named = flags.container_runtime.as_deref();
    let choice = match (named, runtime) {
        (None | Some("remote"), Some(runtime)) => Choice::Remote {
            runtime: endpoint_of("--container-runtime-endpoint", &runtime)?,
            images: images.map(|images| endpoint_of("--image-service-endpoint", &images)).transpose()?,
        },
        (Some("remote"), None) => {
            return Err(value_error(
                "--container-runtime",
                "remote",
                "it needs --container-runtime-endpoint=unix:///path/to/socket beside it",
            ));
        }
        (Some("docker"), None) if images.is_none() => {
            let endpoint = flags.docker_endpoint.as_deref().unwrap_or(DOCKER_ENDPOINT);
            Choice::Docker { endpoint: endpoint_of("--docker-endpoint", endpoint)?.path().to_owned() }
        }
        (Some("docker"), _) => {
            return Err(value_error(
                "--container-runtime",
                "docker",
                "Docker is spoken to in its own language, at --docker-endpoint; leave out the endpoints of CRI runtimes",
            ));
        }
        (None | Some("embedded"), None) if images.is_some() => {
            return Err(value_error(
                "--image-service-endpoint",
                images.unwrap_or_default(),
                "it goes with --container-runtime-endpoint; the embedded engine has its own images",
            ));
        }
        (None | Some("embedded"), None) => Choice::Embedded,
        (Some(other), _) => return Err(refused(other)),
    };
    Ok((choice, call_within))
}

fn refused(name: &str) -> ConfigError {
    let expected = match name {
        "embedded" => "an endpoint is for another runtime than the embedded one; leave one of the two flags out",
        "rkt" => {
            "rkt was archived in 2020 and cannot be used; who chose it for running without a daemon takes the embedded \
             engine, --container-runtime=embedded, which is the default"
        }
        _ => "expected embedded, docker or remote",
    };
    value_error("--container-runtime", name, expected)
}

fn endpoint_of(flag: &'static str, text: &str) -> Result<Endpoint, ConfigError> {
    Endpoint::parse(text).map_err(|error| value_error(flag, text, error.to_string()))
}

/// Control groups are named by path; who asks for the other way must hear that it is not to be had.
fn cgroup_driver(name: Option<&str>) -> Result<(), ConfigError> {
    let expected = match name {
        None | Some("cgroupfs") => return Ok(()),
        Some("systemd") => {
            "this kubelet makes control groups itself and does not ask systemd to; leave the flag out and let the runtime \
             do the same (containerd: SystemdCgroup = false, CRI-O: cgroup_manager = \"cgroupfs\")"
        }
        Some(_) => "expected cgroupfs",
    };
    Err(value_error("--cgroup-driver", name.unwrap_or_default(), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "unix:///run/containerd/containerd.sock";

    fn flags(runtime: Option<&str>, endpoint: Option<&str>) -> RunFlags {
        RunFlags {
            container_runtime: runtime.map(Into::into),
            container_runtime_endpoint: endpoint.map(Into::into),
            ..RunFlags::default()
        }
    }

    #[test]
    fn an_endpoint_chooses_the_runtime_behind_it() {
        let none = ConfigFile::default();
        for (named, given) in [(None, None), (Some("embedded"), None), (Some("embedded"), Some(""))] {
            assert_eq!(choose(&flags(named, given), &none).unwrap(), (Choice::Embedded, CALL_WITHIN));
        }
        let remote = |images: Option<&str>| Choice::Remote {
            runtime: Endpoint::parse(SOCKET).unwrap(),
            images: images.map(|images| Endpoint::parse(images).unwrap()),
        };
        for named in [None, Some("remote")] {
            assert_eq!(choose(&flags(named, Some(SOCKET)), &none).unwrap().0, remote(None));
        }
        for (given, path) in [(None, "/var/run/docker.sock"), (Some("unix:///d.sock".into()), "/d.sock")] {
            let flags = RunFlags { docker_endpoint: given, ..flags(Some("docker"), None) };
            assert_eq!(choose(&flags, &none).unwrap().0, Choice::Docker { endpoint: path.into() });
        }
        let file = ConfigFile {
            container_runtime_endpoint: Some(SOCKET.into()),
            image_service_endpoint: Some("/run/images.sock".into()),
            runtime_request_timeout: Some(Duration::from_secs(7)),
            cgroup_driver: Some("cgroupfs".into()),
            ..ConfigFile::default()
        };
        let chosen = choose(&RunFlags::default(), &file).unwrap();
        assert_eq!(chosen, (remote(Some("/run/images.sock")), Duration::from_secs(7)));
    }

    #[test]
    fn s_h03_what_cannot_be_is_refused_by_name() {
        let with = |change: fn(&mut RunFlags)| {
            let mut flags = RunFlags::default();
            change(&mut flags);
            flags
        };
        for (flags, expected) in [
            (flags(Some("rkt"), None), "the embedded engine"),
            (flags(Some("rkt"), Some(SOCKET)), "the embedded engine"),
            (flags(Some("remote"), None), "--container-runtime-endpoint"),
            (flags(Some("embedded"), Some(SOCKET)), "leave one of the two flags out"),
            (flags(Some("cri-o"), None), "expected embedded"),
            (flags(Some("docker"), Some(SOCKET)), "--docker-endpoint"),
            (with(|flags| flags.docker_endpoint = Some("/s".into())), "--container-runtime=docker"),
            (flags(None, Some("tcp://1.2.3.4:5")), "expected unix:///path/to/socket"),
            (with(|flags| flags.image_service_endpoint = Some("/s".into())), "--image-service-endpoint"),
            (with(|flags| flags.cgroup_driver = Some("systemd".into())), "SystemdCgroup = false"),
            (with(|flags| flags.cgroup_driver = Some("x".into())), "expected cgroupfs"),
            (with(|flags| flags.runtime_request_timeout = Some(Duration::ZERO)), "--runtime-request-timeout"),
        ] {
            let error = choose(&flags, &ConfigFile::default()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
