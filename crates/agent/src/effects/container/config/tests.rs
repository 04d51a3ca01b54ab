use super::*;

fn container(value: serde_json::Value) -> Container {
    serde_json::from_value(value).unwrap()
}

#[test]
fn stop_signals_have_the_protocols_names() {
    let table = [
        (None, v1::Signal::RuntimeDefault),
        (Some("SIGUSR1"), v1::Signal::Sigusr1),
        (Some("SIGRTMIN"), v1::Signal::Sigrtmin),
        (Some("SIGRTMIN+3"), v1::Signal::Sigrtminplus3),
        (Some("SIGRTMAX-14"), v1::Signal::Sigrtmaxminus14),
        (Some("SIGNONSENSE"), v1::Signal::RuntimeDefault),
    ];
    for (asked, expected) in table {
        let container = container(serde_json::json!({ "name": "c", "lifecycle": { "stopSignal": asked } }));
        assert_eq!(stop_signal(&container), expected, "{asked:?}");
    }
}

#[test]
fn a_container_carries_what_a_later_kubelet_wants_to_know() {
    let plain = container(serde_json::json!({
        "name": "c", "image": "i", "terminationMessagePath": "/t", "terminationMessagePolicy": "File"
    }));
    let all = annotations(&Pod::default(), &plain, 3);
    assert_eq!(all[keys::CONTAINER_RESTART_COUNT], "3");
    assert_eq!(all[keys::CONTAINER_TERMINATION_MESSAGE_PATH], "/t");
    assert_eq!(all[keys::CONTAINER_TERMINATION_MESSAGE_POLICY], "File");
    assert!(!all.contains_key(keys::CONTAINER_PRE_STOP_HANDLER) && !all.contains_key(keys::CONTAINER_PORTS));
    let full = container(serde_json::json!({
        "name": "c", "image": "i", "ports": [{ "containerPort": 80 }],
        "lifecycle": { "preStop": { "exec": { "command": ["true"] } } }
    }));
    let all = annotations(&Pod::default(), &full, 0);
    assert_eq!(all[keys::CONTAINER_PRE_STOP_HANDLER], r#"{"exec":{"command":["true"]}}"#);
    assert_eq!(all[keys::CONTAINER_PORTS], r#"[{"containerPort":80}]"#);
}
