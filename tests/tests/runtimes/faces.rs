//! What `/pods` says of a pod, field by field, on every runtime.

use e2e::story::{is, restarts};
use e2e::{Machine, Part, Play, Runtime};
use serde_json::{Value, json};

pub(crate) fn statuses_have_one_form(machine: &Machine) {
    let main = Part::gated("main", 3).field("resources", json!({"limits": {"memory": "64Mi"}}));
    let play =
        Play::new("face", "Always").init(Part::brief("init", 0)).init(Part::forever("side").sidecar()).main(main);
    machine.play(&play);
    machine.await_told("face", "main Started", 1);
    machine.open("face", "main.end");
    machine.await_told("face", "main Started", 2);
    let ready = |pod: &Value| e2e::story::condition(pod, "Ready")["status"] == "True";
    let pod = machine.await_pod("face", |pod| restarts(pod, "main") == 1 && is(pod, "main", "running") && ready(pod));
    let mut seen = pod["status"].clone();
    normalise(machine.runtime(), "", &mut seen);
    let mut wrong = Vec::new();
    compare("", &expected(), &seen, &mut wrong);
    assert!(wrong.is_empty(), "on {:?}:\n{}\nin {}", machine.runtime(), wrong.join("\n"), pod["status"]);
    machine.await_end("face");
}

/// Puts words for what is another one each time.
pub(crate) fn normalise(runtime: Runtime, key: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| normalise(runtime, key, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| normalise(runtime, key, item)),
        Value::String(text) => {
            let hex = |id: &str| id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            let own = format!("{}://", runtime.scheme());
            let word = match key {
                "startTime" | "lastTransitionTime" | "startedAt" | "finishedAt" if text.ends_with('Z') => "<time>",
                "podIP" | "hostIP" | "ip" if text.parse::<std::net::IpAddr>().is_ok() => "<address>",
                "containerID" if text.strip_prefix(&own).is_some_and(hex) => "<id>",
                "imageID" if text.rsplit_once("sha256:").is_some_and(|(_, id)| hex(id)) => "<image>",
                _ => return,
            };
            word.clone_into(text);
        }
        _ => {}
    }
}

fn compare(path: &str, expected: &Value, seen: &Value, wrong: &mut Vec<String>) {
    match (expected, seen) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                compare(&format!("{path}/{key}"), &expected[key], &seen[key], wrong);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}/{index}"), one, other, wrong);
            }
        }
        _ if expected == seen => {}
        _ => wrong.push(format!("{path}: expected {expected}, seen {seen}")),
    }
}

fn expected() -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "<time>"});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let limit = json!({"memory": "64Mi"});
    let terminated = |code: i32, reason: &str| {
        json!({"terminated": {
            "containerID": "<id>", "exitCode": code, "reason": reason, "startedAt": "<time>", "finishedAt": "<time>",
        }})
    };
    let container = |name: &str, state: Value| {
        json!({
            "name": name, "image": "busybox", "imageID": "<image>", "containerID": "<id>", "ready": true, "started": true,
            "restartCount": 0, "state": state, "lastState": {}, "resources": {},
            "volumeMounts": [{"mountPath": "/story", "name": "story"}],
        })
    };
    let running = json!({"running": {"startedAt": "<time>"}});
    let mut init = container("init", terminated(0, "Completed"));
    init["started"] = json!(false);
    let mut main = container("main", running.clone());
    main["lastState"] = terminated(3, "Error");
    main["restartCount"] = json!(1);
    main["allocatedResources"] = limit.clone();
    main["resources"] = json!({"limits": limit, "requests": limit});
    json!({
        "phase": "Running",
        "qosClass": "Burstable",
        "startTime": "<time>",
        "hostIP": "<address>",
        "hostIPs": [{"ip": "<address>"}],
        "podIP": "<address>",
        "podIPs": [{"ip": "<address>"}],
        "conditions": conditions.map(condition),
        "initContainerStatuses": [init, container("side", running)],
        "containerStatuses": [main],
    })
}
