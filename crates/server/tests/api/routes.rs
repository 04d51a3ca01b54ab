use std::sync::Arc;

use server::{HealthCheck, Limits};

use crate::host::FakeHost;
use crate::http::{Local, Tcp};

async fn read_only(host: FakeHost) -> Tcp {
    Tcp::start(server::read_only(Arc::new(host)), Limits::PUBLIC).await
}

#[tokio::test]
async fn health_of_a_well_kubelet() {
    let server = read_only(FakeHost::default()).await;
    for (path, body) in [
        ("/healthz", "ok"),
        ("/healthz/ping", "ok"),
        ("/healthz/log", "ok"),
        ("/healthz/syncloop", "ok"),
        ("/healthz?verbose", "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"),
        ("/healthz?verbose&exclude=log", "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nhealthz check passed\n"),
        (
            "/healthz?verbose&exclude=etcd",
            "[+]ping ok\n[+]log ok\n[+]syncloop ok\n\
             warn: some health checks cannot be excluded: no matches for \"etcd\"\nhealthz check passed\n",
        ),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.body), (200, body), "{path}");
        assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
    }
    assert_eq!(server.get("/healthz/etcd").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn health_of_an_ill_kubelet() {
    let ill = Some((HealthCheck::SyncLoop, "RunPodSandbox of pod x hangs for 4m".to_owned()));
    let server = read_only(FakeHost { ill, ..FakeHost::default() }).await;
    let list = "[+]ping ok\n[+]log ok\n[-]syncloop failed: RunPodSandbox of pod x hangs for 4m\nhealthz check failed\n";
    for (path, status, body) in [
        ("/healthz", 500, list),
        ("/healthz?verbose", 500, list),
        ("/healthz?exclude=syncloop", 200, "ok"),
        ("/healthz/ping", 200, "ok"),
        ("/healthz/syncloop", 500, "Internal server error: RunPodSandbox of pod x hangs for 4m\n"),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{path}");
    }
}

#[tokio::test]
async fn what_is_used_is_told_to_whoever_reads() {
    let server = read_only(FakeHost::default()).await;
    for path in ["/stats/summary", "/stats/summary?only_cpu_and_memory=true"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"node":{"nodeName":"n1"},"pods":[]}"#), "{path}");
    }
    assert_eq!(server.get("/stats/").await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn pods_are_a_list_as_the_kubelet_writes_it() {
    let server = read_only(FakeHost::default()).await;
    let answer = server.get("/pods").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"));
    assert_eq!(
        answer.body,
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"nginx-here"},"spec":{"containers":[{"name":"nginx"}]}}]}"#
    );
}

#[tokio::test]
async fn the_machine() {
    let server = read_only(FakeHost::default()).await;
    let moved = server.get("/spec").await;
    assert_eq!(moved.status, 301);
    assert!(moved.head.contains("location: /spec/"), "{}", moved.head);
    let answer = server.get("/spec/").await;
    assert!(answer.head.contains("content-type: application/json"));
    assert_eq!(answer.json()["num_cores"], 7);
}

#[tokio::test]
async fn debug_paths_are_disabled_and_the_rest_does_not_exist() {
    let server = read_only(FakeHost::default()).await;
    for path in [
        "/run/ns/p/c",
        "/exec/ns/p/c?command=id",
        "/attach/ns/p/c",
        "/portForward/ns/p",
        "/containerLogs/ns/p/c",
        "/runningpods",
        "/runningpods/",
        "/logs/",
        "/logs/../../etc/shadow",
        "/debug/pprof/heap",
        "/debug/pprof",
    ] {
        for method in ["GET", "POST"] {
            let answer = server.send(method, path).await;
            assert_eq!((answer.status, &*answer.body), (405, "Debug endpoints are disabled.\n"), "{method} {path}");
        }
    }
    for path in [
        "/",
        "/metrics",
        "/configz",
        "/checkpoint/a/b/c",
        "/manifests",
        "/events",
        "/images",
        "/images/pulls",
        "/podsx",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(server.send("POST", "/pods").await.status, 405);
    for path in ["/images/import", "/images/pull", "/images/prune"] {
        assert_eq!(server.send("POST", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn s_g03_the_health_port_serves_health_only() {
    let server = Tcp::start(server::healthz(Arc::new(FakeHost::default())), Limits::PUBLIC).await;
    assert_eq!(server.get("/healthz").await.body, "ok");
    for path in ["/", "/pods", "/spec/", "/debug/pprof/", "/debug/pprof/heap", "/metrics", "/exec/a/b/c", "/logs/"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_local_socket_has_facts_and_manifests() {
    let server = Local::start(Arc::new(FakeHost::default()));
    assert_eq!(server.get("/healthz").await.body, "ok");
    assert_eq!(server.get("/pods").await.json()["kind"], "PodList");
    assert_eq!(server.get("/spec/").await.json()["num_cores"], 7);
    let answer = server.get("/manifests").await;
    let manifests: Vec<server::ManifestStatus> = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(manifests[0].file, "/m/a.yaml");
    assert_eq!(answer.json()[0]["keepsLastGood"], true);
    assert_eq!(answer.json()[0]["since"], "2026-01-02T03:04:05Z");
    assert_eq!(server.get("/metrics").await.status, 404);
}

#[tokio::test]
async fn events_over_the_local_socket() {
    let server = Local::start(Arc::new(FakeHost::default()));
    for (query, filter) in [
        ("", "All"),
        ("?namespace=ns", r#"Namespace { namespace: "ns" }"#),
        ("?namespace=ns&pod=p%2Fq", r#"Pod { namespace: "ns", pod: "p/q" }"#),
    ] {
        let answer = server.get(&format!("/events{query}")).await;
        assert_eq!((&answer.json()["kind"], &answer.json()["apiVersion"]), (&"EventList".into(), &"v1".into()));
        assert_eq!(answer.json()["items"][0]["reason"], filter, "{query}");
    }
    for query in ["?pod=p", "?namespace=ns&container=c"] {
        let answer = server.get(&format!("/events{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.message().contains("?namespace=NAMESPACE&pod=POD"), "{}", answer.message());
    }
}
