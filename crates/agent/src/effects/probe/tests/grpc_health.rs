use super::*;
use crate::testing::servers::GrpcStatus;

fn check(port: u16) -> Value {
    json!({ "grpc": { "port": port, "service": "db" } })
}

#[tokio::test]
async fn the_serving_status_decides() {
    let unfit = |name: &str| unhealthy(&format!("service unhealthy (responded with \"{name}\")"));
    let table = [(1, healthy()), (2, unfit("NOT_SERVING")), (0, unfit("UNKNOWN")), (3, unfit("SERVICE_UNKNOWN"))];
    for (status, expected) in table {
        let server = grpc(move |service| Ok(if service == "db" { status } else { 2 })).await;
        assert_eq!(probed(check(server.port)).await, expected, "{status}");
        let request = server.requests().pop().unwrap();
        assert!(request.contains("/grpc.health.v1.Health/Check"), "{request}");
        assert!(request.contains("kube-probe/1.36"), "{request}");
    }
    let whole = grpc(|service| Ok(if service.is_empty() { 1 } else { 2 })).await;
    assert_eq!(probed(json!({ "grpc": { "port": whole.port } })).await, healthy());
}

#[tokio::test]
async fn an_error_of_the_call_is_a_failure_in_its_own_words() {
    let table = [
        (
            GrpcStatus { code: 12, message: "unknown%20method" },
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown method",
        ),
        (
            GrpcStatus { code: 5, message: "100%" },
            "error: health rpc probe failed: rpc error: code = NotFound desc = 100%",
        ),
        (GrpcStatus { code: 99, message: "" }, "error: health rpc probe failed: rpc error: code = Code(99) desc = "),
    ];
    for (status, text) in table {
        let server = grpc(move |_| Err(status)).await;
        assert_eq!(probed(check(server.port)).await, unhealthy(text));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn who_does_not_speak_grpc_has_failed() {
    let (_held, port) = closed_port();
    let at = format!("127.0.0.1:{port}");
    let refused = format!("error: failed to connect service at \"{at}\": dial tcp {at}: connect: connection refused");
    assert_eq!(probed(check(port)).await, unhealthy(&refused));
    for answer in ["", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let server = Server::start(move |_| answer.to_owned()).await;
        let Outcome::Ok(Done::Probe { healthy: false, output }) = probed(check(server.port)).await else {
            panic!("a failure is expected");
        };
        assert!(output.starts_with("error: "), "{output}");
    }
}

#[tokio::test]
async fn who_does_not_answer_in_time_has_failed() {
    let server = Server::silent().await;
    let found = grpc::check(("127.0.0.1", server.port), "", Duration::from_millis(50)).await;
    let Finding::Unhealthy(text) = found else { panic!("a failure is expected") };
    assert!(text.starts_with("timeout: "), "{text}");
}
