//! Running a hook of a container. Dropping the future ends it, as with probes.

use std::time::Duration;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};
use lifecycle::{Done, Event, Outcome, Severity};
use pod::reasons;
use tokio::time::Instant;

use super::probe::http::{self, Get, GetError};
use super::probe::{address, port};
use super::{Job, World, retry, wanted};

const HOOK_AGENT: &str = "kube-lifecycle/1.36";
/// For a hook without a limit of its own. The pod's end cancels it long before, so this bounds only what is forgotten.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Whose hook.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) container: &'a str,
    pub(super) container_id: &'a str,
    pub(super) moment: Moment,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    PostStart,
    PreStop { grace_ms: u64 },
}

impl Moment {
    fn failure(self) -> &'static str {
        match self {
            Moment::PostStart => reasons::FAILED_POST_START_HOOK,
            Moment::PreStop { .. } => reasons::FAILED_PRE_STOP_HOOK,
        }
    }

    fn limit(self) -> Duration {
        match self {
            Moment::PostStart => FOREVER,
            Moment::PreStop { grace_ms } => Duration::from_millis(grace_ms).min(FOREVER),
        }
    }
}

/// How it went, and what there is to tell of it.
pub(super) async fn run(world: &World, job: &Job, target: Target<'_>) -> (Outcome, Option<Event>) {
    let reason = target.moment.failure();
    let pod = match wanted(job) {
        Ok(pod) => pod,
        Err(outcome) => return (outcome, None),
    };
    let container = pod::container(&pod, target.container);
    let handler = container.and_then(|container| {
        let lifecycle = container.lifecycle.as_ref()?;
        match target.moment {
            Moment::PostStart => lifecycle.post_start.as_ref(),
            Moment::PreStop { .. } => lifecycle.pre_stop.as_ref(),
        }
    });
    let (Some(container), Some(handler)) = (container, handler) else {
        return (retry(reason, format!("container {:?} has no such hook", target.container)), None);
    };
    let hook = Hook { world, target, container, address: address(world, job, &pod) };
    let limit = target.moment.limit();
    match tokio::time::timeout(limit, hook.run(handler)).await {
        Ok(Ok(event)) => (Outcome::Ok(Done::Nothing), event),
        Ok(Err(error)) => (retry(reason, error), None),
        Err(_) => (retry(reason, format!("the hook did not end within {} s", limit.as_secs_f64())), None),
    }
}

struct Hook<'a> {
    world: &'a World,
    target: Target<'a>,
    container: &'a Container,
    address: String,
}

impl Hook<'_> {
    async fn run(&self, handler: &LifecycleHandler) -> Result<Option<Event>, String> {
        if let Some(action) = &handler.exec {
            return self.exec(action.command.clone().unwrap_or_default()).await.map(|()| None);
        }
        if let Some(action) = &handler.http_get {
            return self.http_get(action).await;
        }
        match &handler.sleep {
            Some(action) => {
                tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
                Ok(None)
            }
            // The API keeps it for old manifests, and says that it fails when it is run.
            None if handler.tcp_socket.is_some() => {
                Err("tcpSocket is not supported as a hook: use httpGet or exec".to_owned())
            }
            None => Err("the hook says not what to do".to_owned()),
        }
    }

    async fn exec(&self, cmd: Vec<String>) -> Result<(), String> {
        let failed = |cmd: &[String], error: &str| format!("command {:?}: {error}", cmd.join(" "));
        let timeout = match self.target.moment {
            Moment::PostStart => 0,
            // The runtime kills the command even if this kubelet is gone by then.
            Moment::PreStop { grace_ms } => i64::try_from(grace_ms.div_ceil(1_000)).unwrap_or(i64::MAX),
        };
        let container_id = self.target.container_id.to_owned();
        let request = v1::ExecSyncRequest { container_id, cmd: cmd.clone(), timeout };
        let answer = self.world.runtime.exec_sync(request).await.map_err(|error| failed(&cmd, &error.message))?;
        match answer.exit_code {
            0 => Ok(()),
            code => Err(failed(&cmd, &format!("exit code {code}"))),
        }
    }

    /// Whatever status is answered, the hook has run.
    async fn http_get(&self, action: &HTTPGetAction) -> Result<Option<Event>, String> {
        let port = port(self.container, &action.port)?;
        let get = Get::new(action, (&self.address, port), HOOK_AGENT)?;
        let deadline = Instant::now() + self.target.moment.limit();
        let refused = match http::get(get.clone(), deadline).await {
            // It was asked; what it says is of no interest.
            Ok(_) | Err(GetError::Broken(_)) => return Ok(None),
            Err(GetError::NoAnswer(error)) => return Err(error),
            Err(GetError::NotTls(error)) => error,
        };
        match http::get(get.plain(), deadline).await {
            Ok(_) | Err(GetError::Broken(_)) => Ok(Some(Event {
                severity: Severity::Warning,
                reason: reasons::LIFECYCLE_HTTP_FALLBACK,
                message: format!(
                    "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                    get.authority()
                ),
                container: Some(self.container.name.clone()),
            })),
            Err(_) => Err(refused),
        }
    }
}

#[cfg(test)]
mod tests;
