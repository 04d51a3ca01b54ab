use super::*;
use serde_json::json;

fn now() -> Timestamp {
    "2026-01-01T00:02:00Z".parse().expect("a time")
}

fn pod() -> Pod {
    let text = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-n1
  namespace: default
  uid: u1
  labels: {app: web, tier: front}
  annotations: {note: short}
spec:
  nodeName: n1
  nodeSelector: {kubernetes.io/os: linux}
  resources: {limits: {memory: 1Gi}}
  tolerations:
  - {operator: Exists, effect: NoExecute}
  initContainers:
  - name: setup
    image: tool
    command: [sh, -c, "one\ntwo"]
  containers:
  - name: nginx
    image: nginx
    ports: [{containerPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 100m}}
    livenessProbe: {httpGet: {path: /healthz, port: 8080}}
    lifecycle: {preStop: {sleep: {seconds: 3}}}
    env:
    - {name: A, value: b}
    - {name: ME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
    volumeMounts:
    - {name: data, mountPath: /var/data, subPath: x}
    - {name: host, mountPath: /etc/host, readOnly: true}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: host, hostPath: {path: /etc, type: Directory}}
status:
  phase: Running
  hostIP: 192.168.1.2
  startTime: "2026-01-01T00:00:00Z"
  podIP: 10.83.0.2
  podIPs: [{ip: 10.83.0.2}]
  qosClass: Burstable
  conditions:
  - {type: Initialized, status: "True"}
  - {type: Ready, status: "False"}
  initContainerStatuses:
  - name: setup
    image: tool
    imageID: sha256:1
    containerID: embedded://1
    ready: true
    restartCount: 0
    state: {terminated: {exitCode: 0, reason: Completed, startedAt: "2026-01-01T00:00:01Z", finishedAt: "2026-01-01T00:00:02Z"}}
  containerStatuses:
  - name: nginx
    image: nginx
    imageID: sha256:2
    containerID: embedded://2
    ready: false
    restartCount: 1
    state: {running: {startedAt: "2026-01-01T00:01:00Z"}}
    lastState: {terminated: {exitCode: 137, reason: Error, message: "gone\n", startedAt: "2026-01-01T00:00:02Z", finishedAt: "2026-01-01T00:01:00Z"}}
"#;
    serde_saphyr::from_str(text).expect("a pod")
}

const PAGE: &str = "\
Name:         web-n1
Namespace:    default
Node:         n1/192.168.1.2
Start Time:   Thu, 01 Jan 2026 00:00:00 +0000
Labels:       app=web
              tier=front
Annotations:  note: short
Status:       Running
IP:           10.83.0.2
IPs:
  IP:  10.83.0.2
Resources:
  Limits:
    memory:  1Gi
Init Containers:
  setup:
    Container ID:  embedded://1
    Image:         tool
    Image ID:      sha256:1
    Port:          <none>
    Host Port:     <none>
    Command:
      sh
      -c
      one
      two
    State:          Terminated
      Reason:       Completed
      Exit Code:    0
      Started:      Thu, 01 Jan 2026 00:00:01 +0000
      Finished:     Thu, 01 Jan 2026 00:00:02 +0000
    Ready:          True
    Restart Count:  0
    Environment:    <none>
    Mounts:         <none>
Containers:
  nginx:
    Container ID:   embedded://2
    Image:          nginx
    Image ID:       sha256:2
    Port:           80/TCP
    Host Port:      0/TCP
    State:          Running
      Started:      Thu, 01 Jan 2026 00:01:00 +0000
    Last State:     Terminated
      Reason:       Error
      Message:      gone
      Exit Code:    137
      Started:      Thu, 01 Jan 2026 00:00:02 +0000
      Finished:     Thu, 01 Jan 2026 00:01:00 +0000
    Ready:          False
    Restart Count:  1
    Limits:
      cpu:     500m
      memory:  64Mi
    Requests:
      cpu:     100m
    Liveness:  http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3
    Pre Stop:  sleep 3s
    Environment:
      A:   b
      ME:   (v1:metadata.name)
    Mounts:
      /etc/host from host (ro)
      /var/data from data (rw,path=\"x\")
Conditions:
  Type         Status
  Initialized  True
  Ready        False
Volumes:
  data:
    Type:       EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:
    SizeLimit:  <unset>
  host:
    Type:          HostPath (bare host directory volume)
    Path:          /etc
    HostPathType:  Directory
QoS Class:         Burstable
Node-Selectors:    kubernetes.io/os=linux
Tolerations:       :NoExecute op=Exists
Events:
  Type     Reason     Age                From     Message
  ----     ------     ---                ----     -------
  Warning  Unhealthy  5s (x3 over 100s)  kubelet  Liveness probe failed: refused
";

fn event() -> Event {
    serde_json::from_value(json!({"metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "Unhealthy",
        "message": "Liveness probe failed: refused\n", "count": 3, "source": {"component": "kubelet"},
        "firstTimestamp": "2026-01-01T00:00:20Z", "lastTimestamp": "2026-01-01T00:01:55Z"}))
    .expect("an event")
}

#[test]
fn a_page_is_laid_out_as_kubectls_users_know_it() {
    let page = render(&pod(), &[event()], now());
    for (found, expected) in page.lines().zip(PAGE.lines()) {
        assert_eq!(found, expected, "in:\n{page}");
    }
    assert_eq!(page, PAGE);
}

#[test]
fn a_pod_without_a_status_has_a_page() {
    let bare = Pod { status: None, ..pod() };
    let page = render(&bare, &[], now());
    for line in ["Status:       Unknown", "IPs:          <none>", "    Image:      nginx", "Events:  <none>"] {
        assert!(page.lines().any(|found| found == line), "{line} in:\n{page}");
    }
}

#[test]
fn a_pod_that_ends_says_how_long_and_why() {
    let mut pod = pod();
    pod.metadata.deletion_timestamp = Some(Time("2026-01-01T00:01:50Z".parse().expect("a time")));
    pod.metadata.deletion_grace_period_seconds = Some(30);
    let page = render(&pod, &[], now());
    assert!(page.contains("Terminating (lasts 10s)\nTermination Grace Period:  30s\n"), "{page}");
    let status = pod.status.as_mut().expect("a status");
    status.phase = Some("Failed".into());
    status.reason = Some("Evicted".into());
    status.message = Some("one\ntwo".into());
    let page = render(&pod, &[], now());
    let part = "Status:       Failed\nReason:       Evicted\nMessage:      one\n              two\n";
    assert!(page.contains(part), "{page}");
}

#[test]
fn s_c11_what_a_pod_says_does_not_command_the_terminal() {
    let mut pod = pod();
    pod.metadata.annotations = Some([("a".to_owned(), "\x1b[2J\rx\ny".to_owned())].into());
    pod.status.as_mut().expect("a status").message = Some("\x1b]0;title\x07".into());
    let event = Event { message: Some("\x1b[31m".into()), ..event() };
    let page = render(&pod, &[event], now());
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page:?}");
    assert!(page.contains("Annotations:  a:\n                \u{fffd}[2J\u{fffd}x\n                y\n"), "{page}");
}

#[test]
fn long_annotations_stand_on_lines_of_their_own_and_are_cut() {
    let mut pod = pod();
    pod.metadata.annotations = Some([("a".to_owned(), "x".repeat(200))].into());
    let page = render(&pod, &[], now());
    assert!(page.contains(&format!("  {}...\n", "x".repeat(ANNOTATION_CHARS))), "{page}");
}

#[test]
fn tolerations_read_as_kubectl_writes_them() {
    let cases = [
        (json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}), "a=b:NoSchedule"),
        (
            json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            "a:NoExecute op=Exists for 300s",
        ),
        (json!({"operator": "Exists"}), "op=Exists"),
    ];
    for (json, text) in cases {
        assert_eq!(toleration(&serde_json::from_value(json).expect("a toleration")), text);
    }
}
