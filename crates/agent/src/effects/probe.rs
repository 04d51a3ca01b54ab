//! Running one probe of a container once. Dropping the future ends it: sockets close with it, and the runtime kills a
//! command that nobody waits for.

mod dial;
mod grpc;
pub(super) mod http;
mod tls;

use std::time::Duration;

use cri::{Code, v1};
use k8s_openapi::api::core::v1::{Container, EnvVar, ExecAction, GRPCAction, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lifecycle::{Done, Outcome, ProbeKind};
use pod::reasons::UNHEALTHY;
use tokio::time::Instant;

use self::http::{Get, GetError};
use super::{Job, World, retry, wanted};

/// How the prober names itself; the version is that of the behaviour.
const PROBE_AGENT: &str = "kube-probe/1.36";
/// Attempts of a probe that cannot be run; one that fails is not repeated.
const ATTEMPTS: usize = 3;
/// Bytes of a command's output that are kept.
const MAX_OUTPUT_BYTES: usize = 10 << 10;

/// What is to be probed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) container: &'a str,
    pub(super) container_id: &'a str,
    pub(super) kind: ProbeKind,
}

/// What a probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Healthy,
    /// Healthy, but not quite as one would expect.
    Warning(String),
    Unhealthy(String),
}

/// All that a probe needs to know.
struct Asked<'a> {
    container: &'a Container,
    container_id: &'a str,
    /// Where the container is reached.
    address: &'a str,
    timeout: Duration,
}

/// Runs the probe within its own time limit. It fails where it could not be run.
pub(super) async fn run(world: &World, job: &Job, target: Target<'_>) -> Outcome {
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return outcome,
    };
    let container = pod::container(&pod, target.container);
    let probe = container.and_then(|container| match target.kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    });
    let (Some(container), Some(probe)) = (container, probe) else {
        return retry(UNHEALTHY, format!("container {:?} has no such probe", target.container));
    };
    let seconds = probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs();
    let asked = Asked {
        container,
        container_id: target.container_id,
        address: &address(world, job, &pod),
        timeout: Duration::from_secs(u64::from(seconds)),
    };
    let mut found = ask(world, &asked, probe).await;
    for _ in 1..ATTEMPTS {
        if found.is_ok() {
            break;
        }
        found = ask(world, &asked, probe).await;
    }
    let (healthy, output) = match found {
        Ok(Finding::Healthy) => (true, String::new()),
        Ok(Finding::Warning(text)) => (true, text),
        Ok(Finding::Unhealthy(text)) => (false, text),
        Err(error) => return retry(UNHEALTHY, error),
    };
    Outcome::Ok(Done::Probe { healthy, output })
}

async fn ask(world: &World, asked: &Asked<'_>, probe: &Probe) -> Result<Finding, String> {
    if let Some(action) = &probe.exec {
        return exec(world, asked, action).await;
    }
    if let Some(action) = &probe.http_get {
        return http_get(asked, action).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let port = port(asked.container, &action.port)?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(asked.address);
        return tcp(host, port, asked.timeout).await;
    }
    match &probe.grpc {
        Some(action) => grpc_check(asked, action).await,
        None => Err(format!("the probe of container {:?} says not what to do", asked.container.name)),
    }
}

async fn exec(world: &World, asked: &Asked<'_>, action: &ExecAction) -> Result<Finding, String> {
    let env: Vec<(String, String)> = asked.container.env.iter().flatten().map(literal).collect();
    let cmd = pod::env::expand_args(action.command.as_deref().unwrap_or_default(), &env);
    let late = format!("command {:?} timed out", cmd.join(" "));
    let timeout = i64::try_from(asked.timeout.as_secs()).unwrap_or(i64::MAX);
    let request = v1::ExecSyncRequest { container_id: asked.container_id.to_owned(), cmd, timeout };
    match world.runtime.exec_sync(request).await {
        Ok(answer) if answer.exit_code == 0 => Ok(Finding::Healthy),
        Ok(answer) => {
            let output =
                answer.stdout.iter().chain(&answer.stderr).copied().take(MAX_OUTPUT_BYTES).collect::<Vec<u8>>();
            Ok(Finding::Unhealthy(String::from_utf8_lossy(&output).into_owned()))
        }
        Err(error) if error.code == Code::DeadlineExceeded => Ok(Finding::Unhealthy(late)),
        Err(error) => Err(error.message),
    }
}

/// Only what stands in the manifest as text counts in a probe's command.
fn literal(variable: &EnvVar) -> (String, String) {
    (variable.name.clone(), variable.value.clone().unwrap_or_default())
}

async fn http_get(asked: &Asked<'_>, action: &HTTPGetAction) -> Result<Finding, String> {
    let port = port(asked.container, &action.port)?;
    let get = Get::new(action, (asked.address, port), PROBE_AGENT)?;
    let reply = match http::get(get, Instant::now() + asked.timeout).await {
        Ok(reply) => reply,
        Err(GetError::NoAnswer(text) | GetError::NotTls(text)) => return Ok(Finding::Unhealthy(text)),
        Err(GetError::Broken(text)) => return Err(text),
    };
    // What the server says is not repeated when it fails: it may be private, and events are read by many.
    Ok(match reply.status.as_u16() {
        200..300 => Finding::Healthy,
        300..400 => Finding::Warning(format!("Probe terminated redirects, Response body: {}", reply.body)),
        code => Finding::Unhealthy(format!("HTTP probe failed with statuscode: {code}")),
    })
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<Finding, String> {
    Ok(match tokio::time::timeout(timeout, dial::dial(host, port)).await {
        Ok(Ok(_)) => Finding::Healthy,
        Ok(Err(error)) => Finding::Unhealthy(error),
        Err(_) => Finding::Unhealthy(format!("dial tcp {}: i/o timeout", dial::authority(host, port))),
    })
}

async fn grpc_check(asked: &Asked<'_>, action: &GRPCAction) -> Result<Finding, String> {
    let port = port(asked.container, &IntOrString::Int(action.port))?;
    let service = action.service.as_deref().unwrap_or_default();
    Ok(grpc::check((asked.address, port), service, asked.timeout).await)
}

/// Where the pod is reached: its own address, or the machine's where it shares the machine's network.
pub(super) fn address(world: &World, job: &Job, pod: &Pod) -> String {
    let own = job.ips.first().filter(|_| !pod::host_network(pod)).cloned();
    own.or_else(|| world.config.node_ips.first().map(ToString::to_string)).unwrap_or_default()
}

/// A port of the container by number or name.
pub(super) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    pod::ports::resolve(container, port).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
