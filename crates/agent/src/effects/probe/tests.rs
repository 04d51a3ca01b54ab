use std::sync::Arc;

use cri::Error;
use cri::keys::PodKey;
use lifecycle::{Effect, FailureClass, PullPolicy};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::AgentConfig;
use crate::testing::fake::Fake;
use crate::testing::servers::{Server, grpc, http};

mod exec;
mod grpc_health;
mod http_get;

/// A pod at 127.0.0.1 whose container `c` has this liveness probe, with time enough on a busy machine.
fn job(mut probe: Value) -> Job {
    let given = probe.as_object_mut().unwrap();
    given.entry("timeoutSeconds").or_insert(json!(300));
    let pod = json!({
        "metadata": { "name": "p", "namespace": "default", "uid": "u" },
        "spec": { "containers": [{
            "name": "c",
            "livenessProbe": probe,
            "env": [{ "name": "FILE", "value": "/tmp/health" }],
            "ports": [{ "name": "web", "containerPort": 8080 }],
        }] },
    });
    Job {
        key: PodKey { namespace: "default".into(), name: "p".into(), uid: "u".into() },
        pod: Some(Arc::new(serde_json::from_value(pod).unwrap())),
        effect: Effect::Inspect,
        ips: vec!["127.0.0.1".into()],
        sandbox_attempt: 0,
        pull_policy: PullPolicy::Never,
        pull_secrets: Vec::new(),
        burstable_millis: 0,
        cancel: CancellationToken::new(),
    }
}

fn world(fake: Arc<Fake>) -> World {
    let config = AgentConfig { node_ips: vec!["127.0.0.2".parse().unwrap()], ..AgentConfig::default() };
    World::new(fake, config, None)
}

async fn run_with(fake: Arc<Fake>, probe: Value) -> Outcome {
    let target = Target { container: "c", container_id: "id", kind: ProbeKind::Liveness };
    run(&world(fake), &job(probe), target).await
}

async fn probed(probe: Value) -> Outcome {
    run_with(Arc::default(), probe).await
}

fn healthy() -> Outcome {
    Outcome::Ok(Done::Probe { healthy: true, output: String::new() })
}

fn unhealthy(output: &str) -> Outcome {
    Outcome::Ok(Done::Probe { healthy: false, output: output.to_owned() })
}

fn broken(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failed(failure) => {
            assert_eq!((failure.class, failure.reason.as_str()), (FailureClass::Retry, "Unhealthy"));
            &failure.message
        }
        other => panic!("expected a probe that could not be run, got {other:?}"),
    }
}

/// A port of 127.0.0.1 at which nobody listens, nor can while the socket is held.
fn closed_port() -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn tcp_asks_only_for_a_connection() {
    let server = Server::start(|_| String::new()).await;
    assert_eq!(probed(json!({ "tcpSocket": { "port": server.port } })).await, healthy());
    let (_held, port) = closed_port();
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(probed(json!({ "tcpSocket": { "port": port } })).await, unhealthy(&refused));
    let elsewhere = json!({ "tcpSocket": { "port": server.port, "host": "127.0.0.3" } });
    let refused = format!("dial tcp 127.0.0.3:{}: connect: connection refused", server.port);
    assert_eq!(probed(elsewhere).await, unhealthy(&refused));
}

#[tokio::test]
async fn a_server_reads_an_orderly_end_from_every_probe() {
    let silent = Server::silent().await;
    let port = silent.port;
    for _ in 0..100 {
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(60)).await, Ok(Finding::Healthy));
        silent.connection().await.ended().await;
    }
    let pending = tokio::spawn(grpc::check(("127.0.0.1", port), "", Duration::from_secs(60)));
    let mut connection = silent.connection().await;
    pending.abort();
    connection.ended().await;
}

#[tokio::test]
async fn tcp_without_an_answer_is_a_failure_when_its_time_is_over() {
    // A full queue of connections: the kernel drops what comes on top.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(("127.0.0.1", port))).await
    {
        waiting.push(stream);
    }
    let found = tcp("127.0.0.1", port, Duration::from_millis(50)).await;
    assert_eq!(found, Ok(Finding::Unhealthy(format!("dial tcp 127.0.0.1:{port}: i/o timeout"))));
}

#[tokio::test]
async fn a_port_may_go_by_its_name() {
    let server = Server::start(|_| http("200 OK", "", "")).await;
    let mut job = job(json!({ "httpGet": { "port": "web" } }));
    let pod = Arc::make_mut(job.pod.as_mut().unwrap());
    pod.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = i32::from(server.port);
    let target = Target { container: "c", container_id: "id", kind: ProbeKind::Liveness };
    assert_eq!(run(&world(Arc::default()), &job, target).await, healthy());
}

#[test]
fn a_pod_on_the_machines_network_is_reached_at_the_machines_address() {
    let world = world(Arc::default());
    let own = job(json!({}));
    assert_eq!(address(&world, &own, own.pod.as_ref().unwrap()), "127.0.0.1");
    let mut pod = own.pod.as_deref().unwrap().clone();
    pod.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(address(&world, &own, &pod), "127.0.0.2");
    let unaddressed = Job { ips: vec![], ..own.clone() };
    assert_eq!(address(&world, &unaddressed, own.pod.as_ref().unwrap()), "127.0.0.2");
}

#[tokio::test]
async fn what_cannot_be_asked_is_no_answer() {
    assert!(broken(&probed(json!({})).await).contains("says not what to do"));
    assert!(broken(&probed(json!({ "tcpSocket": { "port": "dns" } })).await).contains("no port named \"dns\""));
    let target = Target { container: "c", container_id: "id", kind: ProbeKind::Startup };
    let outcome = run(&world(Arc::default()), &job(json!({})), target).await;
    assert!(broken(&outcome).contains("no such probe"));
}

#[tokio::test]
async fn a_thousand_probes_leave_no_socket_behind() {
    let web = Server::start(|_| http("200 OK", "", "ok")).await;
    let health = grpc(|_| Ok(1)).await;
    for _ in 0..334 {
        assert_eq!(probed(json!({ "httpGet": { "port": web.port } })).await, healthy());
        assert_eq!(probed(json!({ "tcpSocket": { "port": web.port } })).await, healthy());
        assert_eq!(probed(json!({ "grpc": { "port": health.port } })).await, healthy());
    }
    // The client's end of every connection to a server, in whatever state, TIME_WAIT above all.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let servers = [web.port, health.port].map(|port| format!("0100007F:{port:04X}"));
    let remote =
        |line: &str| line.split_whitespace().nth(2).is_some_and(|at| servers.iter().any(|server| server == at));
    let left: Vec<&str> = table.lines().filter(|line| remote(line)).collect();
    assert!(left.is_empty(), "{left:#?}");
}
