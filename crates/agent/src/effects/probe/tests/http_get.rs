use super::*;
use crate::testing::servers::tls;

fn get(port: u16) -> Value {
    json!({ "httpGet": { "port": port, "path": "/healthz" } })
}

#[tokio::test]
async fn the_status_decides() {
    let failed = |code: u16| unhealthy(&format!("HTTP probe failed with statuscode: {code}"));
    let table = [
        ("200 OK", healthy()),
        ("204 No Content", healthy()),
        ("299 Fine", healthy()),
        ("400 Bad Request", failed(400)),
        ("404 Not Found", failed(404)),
        ("503 Service Unavailable", failed(503)),
    ];
    for (status, expected) in table {
        let server = Server::start(move |_| http(status, "", "secret")).await;
        assert_eq!(probed(get(server.port)).await, expected, "{status}");
        assert_eq!(server.requests().len(), 1, "a failure is not repeated");
    }
}

#[tokio::test]
async fn the_request_is_as_every_kubelet_sends_it() {
    let server = Server::start(|_| http("200 OK", "", "")).await;
    let port = server.port;
    probed(json!({ "httpGet": { "port": port, "path": "/a b?x=1&y=%20#part" } })).await;
    let headers = json!([
        { "name": "Host", "value": "example.com" },
        { "name": "user-agent", "value": "mine" },
        { "name": "Accept", "value": "" },
        { "name": "X-A", "value": "1" },
        { "name": "X-A", "value": "2" },
    ]);
    probed(json!({ "httpGet": { "port": port, "path": "no-slash", "httpHeaders": headers } })).await;
    let requests = server.requests();
    let lines = |index: usize| {
        let mut lines: Vec<&str> = requests[index].trim_end().lines().collect();
        lines[1..].sort();
        lines
    };
    let host = format!("Host: 127.0.0.1:{port}");
    let agent = "User-Agent: kube-probe/1.36";
    assert_eq!(lines(0), ["GET /a%20b?x=1&y=%20 HTTP/1.1", "Accept: */*", "Connection: close", &host, agent]);
    let host = "Host: example.com";
    let expected = ["GET /no-slash HTTP/1.1", "Connection: close", host, "User-Agent: mine", "X-A: 1", "X-A: 2"];
    assert_eq!(lines(1), expected);
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed() {
    let server = Server::start(|request| match request.split(' ').nth(1).unwrap() {
        "/healthz" => http("302 Found", "Location: next?x=1\r\n", ""),
        "/next?x=1" => http("307 Temporary Redirect", "Location: /last\r\n", ""),
        "/last" => http("200 OK", "", "ok"),
        _ => http("404 Not Found", "", ""),
    })
    .await;
    let headers = json!([{ "name": "Host", "value": "example.com" }, { "name": "X-A", "value": "1" }]);
    let probe = json!({ "httpGet": { "port": server.port, "path": "/healthz", "httpHeaders": headers } });
    assert_eq!(probed(probe).await, healthy());
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.contains("Host: example.com") && request.contains("X-A: 1")));
}

#[tokio::test]
async fn an_absolute_redirect_names_its_host_anew() {
    let other = Server::start(|_| http("200 OK", "", "")).await;
    let location = format!("Location: http://127.0.0.1:{}/x\r\n", other.port);
    let server = Server::start(move |_| http("301 Moved Permanently", &location, "")).await;
    let headers = json!([{ "name": "Host", "value": "example.com" }]);
    let probe = json!({ "httpGet": { "port": server.port, "httpHeaders": headers } });
    assert_eq!(probed(probe).await, healthy(), "another port of the same host is fine");
    assert!(other.requests()[0].contains(&format!("Host: 127.0.0.1:{}\r\n", other.port)));
}

#[tokio::test]
async fn redirects_to_another_host_end_the_probe_with_a_warning() {
    let elsewhere =
        ["http://127.0.0.9/", "//example.com/", "ftp://127.0.0.1/"].map(|url| format!("Location: {url}\r\n"));
    for location in elsewhere.into_iter().chain([String::new()]) {
        let shown = location.clone();
        let server = Server::start(move |_| http("302 Found", &location, "go away")).await;
        let output = "Probe terminated redirects, Response body: go away".to_owned();
        let expected = Outcome::Ok(Done::Probe { healthy: true, output });
        assert_eq!(probed(get(server.port)).await, expected, "{shown}");
    }
}

#[tokio::test]
async fn redirects_without_end_are_a_failure() {
    let server = Server::start(|_| http("302 Found", "Location: /again\r\n", "")).await;
    let expected = format!("Get \"http://127.0.0.1:{}/again\": stopped after 10 redirects", server.port);
    assert_eq!(probed(get(server.port)).await, unhealthy(&expected));
    assert_eq!(server.requests().len(), 10);
}

#[tokio::test]
async fn who_does_not_listen_or_answer_has_failed() {
    let (_held, port) = closed_port();
    let at = format!("127.0.0.1:{port}");
    let refused = format!("Get \"http://{at}/healthz\": dial tcp {at}: connect: connection refused");
    assert_eq!(probed(get(port)).await, unhealthy(&refused));

    let silent = Server::silent().await;
    let late = http::get(request(silent.port), Instant::now() + Duration::from_millis(50)).await;
    let Err(GetError::NoAnswer(late)) = late else { panic!("no answer is expected, got {late:?}") };
    assert!(late.ends_with("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"), "{late}");

    let closing = Server::start(|_| String::new()).await;
    let Outcome::Ok(Done::Probe { healthy: false, output }) = probed(get(closing.port)).await else {
        panic!("a failure is expected");
    };
    assert!(output.starts_with("Get \"http://127.0.0.1:"), "{output}");
}

/// `GET /` of a port.
fn request(port: u16) -> Get {
    let action: HTTPGetAction = serde_json::from_value(json!({ "port": port })).unwrap();
    Get::new(&action, ("127.0.0.1", port), PROBE_AGENT).unwrap()
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_nothing_and_is_asked_for_three_times() {
    let server = Server::start(|_| "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned()).await;
    broken(&probed(get(server.port)).await);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn only_the_beginning_of_an_answer_is_read() {
    // It says that it is longer than it ever gets.
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 64 << 20, "x".repeat(1 << 20));
    let server = Server::start(move |_| text.clone()).await;
    assert_eq!(probed(get(server.port)).await, healthy());
    let reply = http::get(request(server.port), Instant::now() + Duration::from_secs(60)).await;
    assert_eq!(reply.unwrap().body.len(), 10 << 10);
}

#[tokio::test]
async fn certificates_are_not_verified() {
    // Of another name, signed by nobody.
    let server = tls("elsewhere.example", |_| http("200 OK", "", "")).await;
    let probe = json!({ "httpGet": { "port": server.port, "path": "/s", "scheme": "HTTPS" } });
    assert_eq!(probed(probe).await, healthy());
    assert!(server.requests()[0].starts_with("GET /s HTTP/1.1\r\n"));
}

#[tokio::test]
async fn https_is_not_spoken_to_who_speaks_http() {
    let server = Server::start(|_| http("400 Bad Request", "", "")).await;
    let probe = json!({ "httpGet": { "port": server.port, "scheme": "HTTPS" } });
    let text = format!("Get \"https://127.0.0.1:{}/\": http: server gave HTTP response to HTTPS client", server.port);
    assert_eq!(probed(probe).await, unhealthy(&text));
}

#[tokio::test]
async fn a_probe_that_is_dropped_closes_its_connection() {
    let silent = Server::silent().await;
    let pending = tokio::spawn(probed(get(silent.port)));
    let mut connection = silent.connection().await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    connection.ended().await;
}

#[test]
fn a_header_that_is_none_is_refused() {
    for (name, value) in [("X A", "1"), ("", "1"), ("X-A", "1\r\nX-B: 2")] {
        let action = json!({ "port": 80, "httpHeaders": [{ "name": name, "value": value }] });
        let action: HTTPGetAction = serde_json::from_value(action).unwrap();
        let error = Get::new(&action, ("127.0.0.1", 80), PROBE_AGENT).unwrap_err();
        assert!(error.contains("is not valid"), "{error}");
    }
}

#[test]
fn an_ipv6_address_is_bracketed() {
    let action: HTTPGetAction = serde_json::from_value(json!({ "port": 80, "scheme": "HTTPS" })).unwrap();
    let get = Get::new(&action, ("fd00::1", 443), PROBE_AGENT).unwrap();
    assert_eq!(get.authority(), "[fd00::1]:443");
}
