use std::sync::Arc;

use cri::Error;
use cri::keys::PodKey;
use lifecycle::{Effect, FailureClass, PullPolicy};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::AgentConfig;
use crate::testing::fake::Fake;
use crate::testing::servers::{Server, http, tls};

/// Runs a handler as both hooks of the container `c` of a pod at 127.0.0.1.
async fn run_as(fake: &Arc<Fake>, handler: Value, moment: Moment) -> (Outcome, Option<Event>) {
    let pod = json!({
        "metadata": { "name": "p", "namespace": "default", "uid": "u" },
        "spec": { "containers": [{
            "name": "c",
            "lifecycle": { "postStart": handler, "preStop": handler },
            "ports": [{ "name": "web", "containerPort": 8080 }],
        }] },
    });
    let job = Job {
        key: PodKey { namespace: "default".into(), name: "p".into(), uid: "u".into() },
        pod: Some(Arc::new(serde_json::from_value(pod).unwrap())),
        effect: Effect::Inspect,
        ips: vec!["127.0.0.1".into()],
        sandbox_attempt: 0,
        pull_policy: PullPolicy::Never,
        pull_secrets: Vec::new(),
        burstable_millis: 0,
        cancel: CancellationToken::new(),
    };
    let world = World::new(fake.clone(), AgentConfig::default(), None);
    run(&world, &job, Target { container: "c", container_id: "id", moment }).await
}

async fn post_start(handler: Value) -> (Outcome, Option<Event>) {
    run_as(&Arc::default(), handler, Moment::PostStart).await
}

const ENDLESS: Moment = Moment::PreStop { grace_ms: 600_000 };

fn passed() -> (Outcome, Option<Event>) {
    (Outcome::Ok(Done::Nothing), None)
}

fn why(outcome: (Outcome, Option<Event>), reason: &str) -> String {
    match outcome {
        (Outcome::Failed(failure), None) => {
            assert_eq!((failure.class, failure.reason.as_str()), (FailureClass::Retry, reason));
            failure.message
        }
        other => panic!("expected a hook that failed, got {other:?}"),
    }
}

#[tokio::test]
async fn a_command_passes_with_exit_code_0() {
    let exec = json!({ "exec": { "command": ["sync", "$(A)"] } });
    let fake = Arc::new(Fake::default());
    fake.answer_commands(Ok(cri::v1::ExecSyncResponse::default()));
    assert_eq!(run_as(&fake, exec.clone(), Moment::PostStart).await, passed());
    assert_eq!(run_as(&fake, exec.clone(), Moment::PreStop { grace_ms: 1_500 }).await, passed());
    let commands = fake.commands();
    assert_eq!(commands.iter().map(|command| command.timeout).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(commands[0].cmd, ["sync", "$(A)"], "a hook's command is taken as it is");

    fake.answer_commands(Ok(cri::v1::ExecSyncResponse { exit_code: 3, ..Default::default() }));
    let message = why(run_as(&fake, exec.clone(), Moment::PostStart).await, "FailedPostStartHook");
    assert_eq!(message, "command \"sync $(A)\": exit code 3");
    let message = why(run_as(&fake, exec.clone(), ENDLESS).await, "FailedPreStopHook");
    assert_eq!(message, "command \"sync $(A)\": exit code 3");

    fake.answer_commands(Err(Error::not_found("there is no container id")));
    let message = why(run_as(&fake, exec, ENDLESS).await, "FailedPreStopHook");
    assert_eq!(message, "command \"sync $(A)\": there is no container id");
}

#[tokio::test]
async fn a_pre_stop_hook_ends_with_the_grace() {
    let fake = Arc::new(Fake::default());
    let grace = Moment::PreStop { grace_ms: 50 };
    for handler in [json!({ "exec": { "command": ["sleep"] } }), json!({ "sleep": { "seconds": 600 } })] {
        let message = why(run_as(&fake, handler, grace).await, "FailedPreStopHook");
        assert_eq!(message, "the hook did not end within 0.05 s");
    }
    let silent = Server::silent().await;
    why(run_as(&fake, json!({ "httpGet": { "port": silent.port } }), grace).await, "FailedPreStopHook");
}

#[tokio::test]
async fn an_http_hook_passes_with_any_answer() {
    for status in ["200 OK", "404 Not Found", "500 Internal Server Error", "302 Found"] {
        let server = Server::start(move |_| http(status, "", "")).await;
        assert_eq!(post_start(json!({ "httpGet": { "port": server.port, "path": "/up" } })).await, passed());
        let request = server.requests().pop().unwrap();
        assert!(request.starts_with("GET /up HTTP/1.1\r\n") && request.contains("User-Agent: kube-lifecycle/1.36"));
    }
    let server = Server::start(|_| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned()).await;
    assert_eq!(post_start(json!({ "httpGet": { "port": server.port } })).await, passed());
    let empty = Server::start(|_| String::new()).await;
    let message = why(post_start(json!({ "httpGet": { "port": empty.port } })).await, "FailedPostStartHook");
    assert!(message.starts_with("Get \"http://127.0.0.1:"), "{message}");
    let unnamed = why(post_start(json!({ "httpGet": { "port": "db" } })).await, "FailedPostStartHook");
    assert_eq!(unnamed, "container c has no port named \"db\"");
}

#[tokio::test]
async fn https_falls_back_to_http_and_says_so() {
    let secure = tls("elsewhere.example", |_| http("200 OK", "", "")).await;
    assert_eq!(post_start(json!({ "httpGet": { "port": secure.port, "scheme": "HTTPS" } })).await, passed());

    let server = Server::start(|_| http("200 OK", "", "")).await;
    let headers = json!([{ "name": "Authorization", "value": "Basic c2VjcmV0" }, { "name": "X-A", "value": "1" }]);
    let handler = json!({ "httpGet": { "port": server.port, "scheme": "HTTPS", "httpHeaders": headers } });
    let (outcome, event) = post_start(handler).await;
    assert_eq!(outcome, Outcome::Ok(Done::Nothing));
    let message = format!(
        "request to HTTPS lifecycle hook 127.0.0.1:{} got HTTP response, retry with HTTP succeeded",
        server.port
    );
    let container = Some("c".to_owned());
    let expected = Event { severity: Severity::Warning, reason: "LifecycleHTTPFallback", message, container };
    assert_eq!(event, Some(expected));
    let plain = server.requests().pop().unwrap();
    assert!(plain.contains("X-A: 1") && !plain.contains("c2VjcmV0"), "{plain}");
}

#[tokio::test]
async fn sleep_passes_when_it_is_over() {
    assert_eq!(post_start(json!({ "sleep": { "seconds": 0 } })).await, passed());
}

#[tokio::test]
async fn a_tcp_hook_fails_as_the_api_says() {
    let message = why(post_start(json!({ "tcpSocket": { "port": 80 } })).await, "FailedPostStartHook");
    assert!(message.starts_with("tcpSocket is not supported as a hook"), "{message}");
    why(post_start(json!({})).await, "FailedPostStartHook");
}
