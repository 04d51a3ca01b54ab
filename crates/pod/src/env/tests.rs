use super::*;
use serde_json::json;

fn pod(env: serde_json::Value, resources: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "ns", "uid": "u-1", "labels": {"app": "x", "a.b/c": "y"}, "annotations": {"note": "n"}},
        "spec": {"nodeName": "node", "containers": [
            {"name": "c", "image": "i", "env": env, "resources": resources},
            {"name": "other", "image": "i", "resources": {"limits": {"cpu": "3"}}}
        ]}
    }))
    .unwrap()
}

fn facts() -> EnvFacts {
    EnvFacts {
        pod_ips: vec!["10.0.0.2".into(), "fd00::2".into()],
        host_ips: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        node_allocatable: Allocatable { cpu_millis: 3500, memory_bytes: 1 << 30, ephemeral_storage_bytes: 7 },
    }
}

fn env_of(env: serde_json::Value, resources: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
    let pod = pod(env, resources);
    container_env(&pod, &spec(&pod).containers[0], &facts())
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn expansion_table() {
    let lookup = |name: &str| match name {
        "A" => Some("1".to_owned()),
        "NEST" => Some("$(A)".to_owned()),
        "EMPTY" => Some(String::new()),
        "a.b" => Some("dot".to_owned()),
        _ => None,
    };
    let table = [
        ("", ""),
        ("plain", "plain"),
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$$", "$"),
        ("$", "$"),
        ("$A", "$A"),
        ("${A}", "${A}"),
        ("$(A", "$(A"),
        ("$(A$(A)", "$(A$(A)"),
        ("$()", "$()"),
        ("$(NEST)", "$(A)"),
        ("[$(EMPTY)]", "[]"),
        ("$(a.b)", "dot"),
        ("é$(A)é", "é1é"),
        ("$é", "$é"),
    ];
    for (text, expected) in table {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

#[test]
fn earlier_variables_are_seen_later_ones_are_not() {
    let env = json!([
        {"name": "LATE", "value": "$(B)"},
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2"},
        {"name": "SELF", "value": "$(SELF)x"},
        {"name": "EMPTY"}
    ]);
    let expected = pairs(&[("LATE", "$(B)"), ("A", "1"), ("B", "12"), ("SELF", "$(SELF)x"), ("EMPTY", "")]);
    assert_eq!(env_of(env, json!({})).unwrap(), expected);
}

#[test]
fn the_last_of_one_name_wins_and_may_use_the_first() {
    let env = json!([{"name": "P", "value": "a"}, {"name": "Q", "value": "q"}, {"name": "P", "value": "$(P):b"}]);
    assert_eq!(env_of(env, json!({})).unwrap(), pairs(&[("Q", "q"), ("P", "a:b")]));
}

#[test]
fn every_field_path() {
    let table = [
        ("metadata.name", "web"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['a.b/c']", "y"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "n"),
        ("spec.nodeName", "node"),
        ("spec.serviceAccountName", ""),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ("status.podIP", "10.0.0.2"),
        ("status.podIPs", "10.0.0.2,fd00::2"),
    ];
    for (path, expected) in table {
        let env = json!([{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}}]);
        assert_eq!(env_of(env, json!({})).unwrap(), pairs(&[("V", expected)]), "{path}");
    }
    for path in ["", "metadata.labels", "metadata.finalizers['a']", "status.phase", "metadata.labels[app]"] {
        let env = json!([{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}}]);
        assert!(matches!(env_of(env, json!({})), Err(EnvError::FieldPath { .. })), "{path}");
    }
}

#[test]
fn values_from_elsewhere_are_not_expanded_but_may_be_referred_to() {
    let pod_env = json!([
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "URL", "value": "http://$(IP):80"}
    ]);
    assert_eq!(env_of(pod_env, json!({})).unwrap()[1].1, "http://10.0.0.2:80");
}

#[test]
fn resources_are_divided_and_rounded_up() {
    let resources = json!({"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}});
    let table = [
        ("limits.cpu", "", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.cpu", "1", "1"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "", "104857600"),
        ("limits.memory", "1Mi", "100"),
        ("limits.memory", "1M", "105"),
        ("limits.memory", "1Gi", "1"),
        ("requests.memory", "", "0"),
        ("limits.ephemeral-storage", "", "7"),
        ("requests.ephemeral-storage", "", "0"),
        ("limits.memory", "0", "104857600"),
    ];
    for (resource, divisor, expected) in table {
        let mut selector = json!({"resource": resource});
        if !divisor.is_empty() {
            selector["divisor"] = json!(divisor);
        }
        let env = json!([{"name": "V", "valueFrom": {"resourceFieldRef": selector}}]);
        assert_eq!(env_of(env, resources.clone()).unwrap(), pairs(&[("V", expected)]), "{resource} / {divisor}");
    }
}

#[test]
fn an_unset_limit_is_what_the_node_can_give() {
    let of = |resource: &str| {
        let env = json!([{"name": "V", "valueFrom": {"resourceFieldRef": {"resource": resource}}}]);
        env_of(env, json!({})).unwrap()[0].1.clone()
    };
    assert_eq!((of("limits.cpu").as_str(), of("limits.memory").as_str()), ("4", "1073741824"));
    let other =
        json!([{"name": "V", "valueFrom": {"resourceFieldRef": {"containerName": "other", "resource": "limits.cpu"}}}]);
    assert_eq!(env_of(other, json!({})).unwrap()[0].1, "3");
}

#[test]
fn what_cannot_be_told_is_an_error() {
    for (source, expected) in [
        (json!({"resourceFieldRef": {"resource": "limits.gpu"}}), "unsupported resource"),
        (json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "none"}}), "no container named"),
        (json!({"configMapKeyRef": {"name": "m", "key": "k"}}), "config maps are not supported yet"),
        (json!({"secretKeyRef": {"name": "m", "key": "k"}}), "secrets are not supported yet"),
    ] {
        let error = env_of(json!([{"name": "V", "valueFrom": source}]), json!({})).unwrap_err().to_string();
        assert!(error.starts_with("env V: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn arguments_use_the_final_environment() {
    let env = pairs(&[("A", "1"), ("B", "two words")]);
    let args = ["-c".to_owned(), "echo $(A) $(B) $(C) $$(A)".to_owned()];
    assert_eq!(expand_args(&args, &env), ["-c", "echo 1 two words $(C) $(A)"]);
}

#[test]
fn init_containers_have_their_own_environment_and_may_be_asked_for_their_resources() {
    let mut pod = pod(json!([]), json!({}));
    let env = json!([
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "OWN", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "SIDE", "valueFrom": {"resourceFieldRef": {"containerName": "side", "resource": "limits.cpu"}}},
        {"name": "TEXT", "value": "$(POD)/$(IP)"}
    ]);
    let init = json!([
        {"name": "init", "image": "i", "env": env, "resources": {"limits": {"cpu": "2"}}},
        {"name": "side", "image": "i", "restartPolicy": "Always", "resources": {"limits": {"cpu": "5"}}}
    ]);
    pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(init).unwrap();
    let env = container_env(&pod, container_named(&pod, "init").unwrap(), &facts()).unwrap();
    assert_eq!(env, pairs(&[("POD", "web"), ("OWN", "2"), ("SIDE", "5"), ("TEXT", "web/$(IP)")]));
}
