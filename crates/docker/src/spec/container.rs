//! A container in a pod.

use bollard::models::{ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig};
use cri::{Refused, v1};

use super::{given, log_config, mounts, namespaces, no_restarts, security, signals, unsupported};
use crate::{Config, labels};

/// What a container is made of besides its own configuration.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) sandbox_config: &'a v1::PodSandboxConfig,
    pub(crate) sandbox_id: &'a str,
    /// The sandbox as Docker has it.
    pub(crate) sandbox: &'a HostConfig,
    /// What Docker is to call the image.
    pub(crate) image: &'a str,
    /// The image's digest, or its id.
    pub(crate) image_ref: String,
    /// The image's own user.
    pub(crate) image_user: &'a str,
    pub(crate) adapter: &'a Config,
}

/// What Docker is told to make.
///
/// # Errors
/// The first field that cannot be granted.
pub(crate) fn body(inputs: &Inputs<'_>) -> Result<ContainerCreateBody, Refused> {
    let config = inputs.config;
    if !config.cdi_devices.is_empty() {
        return unsupported("CDI_devices");
    }
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let parent = inputs.sandbox_config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
    let mut host = HostConfig {
        cgroup_parent: given(parent).or_else(|| inputs.sandbox.cgroup_parent.clone()),
        mounts: Some(mounts::of(config)?),
        devices: Some(config.devices.iter().map(device).collect()),
        restart_policy: Some(no_restarts()),
        log_config: Some(log_config(inputs.adapter)),
        ..Default::default()
    };
    limit(&linux.resources.unwrap_or_default(), inputs.sandbox, &mut host)?;
    security::apply(&context, &mut host)?;
    namespaces::of_container(context.namespace_options.as_ref(), (inputs.sandbox_id, inputs.sandbox), &mut host)?;
    Ok(ContainerCreateBody {
        image: Some(inputs.image.to_owned()),
        entrypoint: words("command", &config.command)?,
        cmd: words("args", &config.args)?,
        env: Some(environment(config)?),
        working_dir: working_dir(&config.working_dir)?,
        user: security::user(&context, inputs.image_user)?,
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin_once),
        tty: Some(config.tty),
        stop_signal: signals::docker_name(config.stop_signal),
        labels: Some(labelled(inputs)?),
        // Whether a container is well is for the pod's own probes to say.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        host_config: Some(host),
        ..Default::default()
    })
}

fn labelled(inputs: &Inputs<'_>) -> Result<std::collections::HashMap<String, String>, Refused> {
    let config = inputs.config;
    let log = cri::names::log_file(&inputs.sandbox_config.log_directory, &config.log_path)?;
    let ours = [
        (labels::TYPE, labels::TYPE_CONTAINER.to_owned()),
        (labels::SANDBOX_ID, inputs.sandbox_id.to_owned()),
        (labels::LOG_PATH, log.map(|path| path.display().to_string()).unwrap_or_default()),
        (labels::IMAGE, config.image.as_ref().map(|image| image.user_specified_image.clone()).unwrap_or_default()),
        (labels::IMAGE_REF, inputs.image_ref.clone()),
    ];
    Ok(labels::join(&config.labels, &config.annotations, ours))
}

fn limit(asked: &v1::LinuxContainerResources, sandbox: &HostConfig, host: &mut HostConfig) -> Result<(), Refused> {
    if !asked.hugepage_limits.is_empty() {
        return unsupported("resources.hugepage_limits");
    }
    if !asked.unified.is_empty() {
        return unsupported("resources.unified");
    }
    let set = |value: i64| Some(value).filter(|value| *value != 0);
    host.cpu_shares = set(asked.cpu_shares);
    host.cpu_quota = set(asked.cpu_quota);
    host.cpu_period = set(asked.cpu_period);
    host.memory = set(asked.memory_limit_in_bytes);
    // Memory and swap together: no swap, as where the kubelet itself sets limits.
    host.memory_swap = set(asked.memory_limit_in_bytes);
    host.cpuset_cpus = given(&asked.cpuset_cpus);
    host.cpuset_mems = given(&asked.cpuset_mems);
    if !(-1000..=1000).contains(&asked.oom_score_adj) {
        let fault = format!("{}: expected -1000 to 1000", asked.oom_score_adj);
        return Err(Refused::new("resources.oom_score_adj", fault));
    }
    // The sandbox has the lowest score that this daemon was able to give; less would keep the container from starting.
    let lowest = sandbox.oom_score_adj.filter(|score| *score > super::sandbox::OOM_SCORE);
    host.oom_score_adj = Some(lowest.map_or(asked.oom_score_adj, |lowest| asked.oom_score_adj.max(lowest)));
    Ok(())
}

fn device(device: &v1::Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.host_path.clone()),
        path_in_container: Some(device.container_path.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    }
}

/// Absent words are the image's.
fn words(field: &str, words: &[String]) -> Result<Option<Vec<String>>, Refused> {
    if words.iter().any(|word| word.contains('\0')) {
        return Err(Refused::new(field, "a word holds a zero byte"));
    }
    if field == "command" && words.first().is_some_and(String::is_empty) {
        return Err(Refused::new(field, "no command: its first word is empty"));
    }
    Ok((!words.is_empty()).then(|| words.to_vec()))
}

fn environment(config: &v1::ContainerConfig) -> Result<Vec<String>, Refused> {
    let variable = |env: &v1::KeyValue| {
        if env.key.is_empty() || env.key.contains(['=', '\0']) || env.value.contains('\0') {
            let fault =
                format!("{:?} cannot be a variable: a name without '=' and no zero bytes are expected", env.key);
            return Err(Refused::new("envs", fault));
        }
        Ok(format!("{}={}", env.key, env.value))
    };
    config.envs.iter().map(variable).collect()
}

fn working_dir(dir: &str) -> Result<Option<String>, Refused> {
    match dir.is_empty() || (dir.starts_with('/') && !dir.contains('\0')) {
        true => Ok(given(dir)),
        false => Err(Refused::new("working_dir", format!("{dir:?}: expected an absolute path"))),
    }
}
