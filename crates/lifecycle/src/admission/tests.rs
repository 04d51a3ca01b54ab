use super::*;

fn offer() -> Offer {
    let labels = [("kubernetes.io/os", "linux"), ("kubernetes.io/hostname", "node1"), ("zone", "b"), ("cores", "8")];
    Offer {
        node_name: "node1".to_owned(),
        cpu_millis: 2_000,
        memory_bytes: 1 << 30,
        ephemeral_bytes: 10 << 30,
        pods: 3,
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        os: "linux".to_owned(),
    }
}

/// A pod of this spec, as it would stand in a manifest.
fn pod(spec: &str) -> Pod {
    let spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": "p", "namespace": "default", "uid": "u", "labels": spec.get("labels") },
        "spec": spec,
    }))
    .unwrap()
}

fn rejected(spec: &str, others: &[Demand], offer: &Offer) -> (String, String) {
    let rejection = check(&pod(spec), others, offer).unwrap_err();
    (rejection.reason.to_owned(), rejection.message)
}

fn wants(cpu: &str, memory: &str) -> Demand {
    Demand::of(&pod(&format!(
        r#"{{"containers": [{{"name": "c", "resources": {{"requests": {{"cpu": "{cpu}", "memory": "{memory}"}}}}}}]}}"#
    )))
}

#[test]
fn a_demand_is_the_worst_moment_of_the_pods_life() {
    let request = |cpu: &str| format!(r#""resources": {{"requests": {{"cpu": "{cpu}"}}}}"#);
    let init = |cpu: &str| format!(r#"{{"name": "i", {}}}"#, request(cpu));
    let sidecar = |cpu: &str| format!(r#"{{"name": "s", "restartPolicy": "Always", {}}}"#, request(cpu));
    let regular = |cpu: &str| format!(r#"{{"name": "c", {}}}"#, request(cpu));
    let table = [
        (vec![], vec![regular("100m"), regular("200m")], 300),
        (vec![init("500m"), init("400m")], vec![regular("100m"), regular("200m")], 500),
        (vec![init("250m")], vec![regular("100m"), regular("200m")], 300),
        // A sidecar stays: it counts beside the regular ones, and beside every init container after it.
        (vec![sidecar("100m")], vec![regular("200m")], 300),
        (vec![sidecar("100m"), init("500m")], vec![regular("200m")], 600),
        (vec![init("500m"), sidecar("100m")], vec![regular("200m")], 500),
        (vec![sidecar("100m"), init("500m"), sidecar("400m")], vec![regular("200m")], 700),
        (vec![sidecar("1"), sidecar("1")], vec![regular("0")], 2_000),
        (vec![], vec![regular("0.1m")], 1),
    ];
    for (inits, regulars, expected) in table {
        let spec = format!(r#"{{"initContainers": [{}], "containers": [{}]}}"#, inits.join(","), regulars.join(","));
        assert_eq!(Demand::of(&pod(&spec)).cpu_millis, expected, "{spec}");
    }
}

#[test]
fn a_limit_requests_where_nothing_else_does() {
    let table = [
        (r#"{"limits": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "2Mi"}}"#, (1_000, 1 << 20, 2 << 20)),
        (r#"{"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}"#, (100, 0, 0)),
        ("{}", (0, 0, 0)),
    ];
    for (resources, (cpu_millis, memory_bytes, ephemeral_bytes)) in table {
        let spec = format!(r#"{{"containers": [{{"name": "c", "resources": {resources}}}]}}"#);
        let expected = Demand { cpu_millis, memory_bytes, ephemeral_bytes, ports: vec![] };
        assert_eq!(Demand::of(&pod(&spec)), expected, "{resources}");
    }
    let whole = r#"{"resources": {"requests": {"cpu": "3"}}, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Ki"}}}]}"#;
    let expected = Demand { cpu_millis: 3_000, memory_bytes: 1_024, ..Demand::default() };
    assert_eq!(Demand::of(&pod(whole)), expected);
}

#[test]
fn what_does_not_fit_is_rejected_with_the_figures() {
    let requests = |list: &str| format!(r#"{{"containers": [{{"name": "c", "resources": {{"requests": {list}}}}}]}}"#);
    let others = [wants("1500m", "512Mi")];
    let table = [
        (r#"{"cpu": "501m"}"#, "OutOfcpu", "cpu, requested: 501, used: 1500, capacity: 2000"),
        (r#"{"memory": "1Gi"}"#, "OutOfmemory", "memory, requested: 1073741824, used: 536870912, capacity: 1073741824"),
        (
            r#"{"ephemeral-storage": "11Gi"}"#,
            "OutOfephemeral-storage",
            "ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240",
        ),
        // The first in this order is told.
        (r#"{"memory": "2Gi", "cpu": "3"}"#, "OutOfcpu", "cpu, requested: 3000, used: 1500, capacity: 2000"),
    ];
    for (list, reason, figures) in table {
        let message = format!("Node didn't have enough resource: {figures}");
        assert_eq!(rejected(&requests(list), &others, &offer()), (reason.to_owned(), message));
    }
    let exact = pod(&requests(r#"{"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "10Gi"}"#));
    assert_eq!(check(&exact, &others, &offer()), Ok(()));
}

#[test]
fn one_pod_more_than_the_node_takes_is_rejected() {
    let none = r#"{"containers": [{"name": "c"}]}"#;
    let three = [wants("0", "0"), wants("0", "0"), wants("0", "0")];
    assert_eq!(check(&pod(none), &three[..2], &offer()), Ok(()));
    let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3".to_owned();
    assert_eq!(rejected(none, &three, &offer()), ("OutOfpods".to_owned(), message));
}

#[test]
fn who_asks_for_nothing_fits_where_nothing_is_left() {
    let overdrawn = [wants("3", "2Gi")];
    assert_eq!(check(&pod(r#"{"containers": [{"name": "c"}]}"#), &overdrawn, &offer()), Ok(()));
}

#[test]
fn host_ports_conflict_by_protocol_and_address() {
    let port = |text: &str| format!(r#"{{"containers": [{{"name": "c", "ports": [{text}]}}]}}"#);
    let table = [
        (r#"{"containerPort": 80, "hostPort": 80}"#, r#"{"containerPort": 81, "hostPort": 80}"#, true),
        (r#"{"containerPort": 80}"#, r#"{"containerPort": 80}"#, false),
        (r#"{"containerPort": 80, "hostPort": 80}"#, r#"{"containerPort": 80, "hostPort": 81}"#, false),
        (
            r#"{"containerPort": 53, "hostPort": 53}"#,
            r#"{"containerPort": 53, "hostPort": 53, "protocol": "UDP"}"#,
            false,
        ),
        (
            r#"{"containerPort": 53, "hostPort": 53, "protocol": "TCP"}"#,
            r#"{"containerPort": 53, "hostPort": 53}"#,
            true,
        ),
        (
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}"#,
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.2"}"#,
            false,
        ),
        (
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}"#,
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}"#,
            true,
        ),
        (
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}"#,
            r#"{"containerPort": 80, "hostPort": 80}"#,
            true,
        ),
        (
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "0.0.0.0"}"#,
            r#"{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}"#,
            true,
        ),
    ];
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned();
    for (one, other, conflict) in table {
        for (new, old) in [(one, other), (other, one)] {
            let held = [Demand::of(&pod(&port(old)))];
            let result = check(&pod(&port(new)), &held, &offer());
            let expected = Err(Rejection { reason: "NodePorts", message: message.clone() });
            assert_eq!(result, if conflict { expected } else { Ok(()) }, "{new} beside {old}");
        }
    }
}

#[test]
fn a_sidecars_host_port_is_held_and_an_init_containers_is_not() {
    let init = |policy: &str| {
        pod(&format!(
            r#"{{"initContainers": [{{"name": "i", {policy} "ports": [{{"containerPort": 1, "hostPort": 1}}]}}],
                "containers": [{{"name": "c"}}]}}"#
        ))
    };
    assert_eq!(Demand::of(&init("")).ports, []);
    let expected = HostPort { ip: "0.0.0.0".to_owned(), protocol: "TCP".to_owned(), port: 1 };
    assert_eq!(Demand::of(&init(r#""restartPolicy": "Always","#)).ports, [expected]);
}

#[test]
fn the_node_selector_and_one_required_term_name_the_node() {
    let terms = |terms: &str| {
        format!(
            r#""affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution":
                {{"nodeSelectorTerms": [{terms}]}}}}}}"#
        )
    };
    let expression = |key: &str, operator: &str, values: &str| {
        terms(&format!(
            r#"{{"matchExpressions": [{{"key": "{key}", "operator": "{operator}", "values": [{values}]}}]}}"#
        ))
    };
    let field = |values: &str| {
        terms(&format!(r#"{{"matchFields": [{{"key": "metadata.name", "operator": "In", "values": [{values}]}}]}}"#))
    };
    let zone_b = r#"{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}"#;
    let zone_c = r#"{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["c"]}]}"#;
    let both = r#"{"matchExpressions": [{"key": "zone", "operator": "Exists"}, {"key": "gpu", "operator": "Exists"}]}"#;
    let table = [
        (r#""nodeSelector": {}"#.to_owned(), true),
        (r#""nodeSelector": {"zone": "b"}"#.to_owned(), true),
        (r#""nodeSelector": {"zone": "c"}"#.to_owned(), false),
        (r#""nodeSelector": {"zone": "b", "disk": "ssd"}"#.to_owned(), false),
        (r#""nodeSelector": {"kubernetes.io/os": "windows"}"#.to_owned(), false),
        (format!(r#""nodeSelector": {{"zone": "c"}}, {}"#, terms(zone_b)), false),
        (terms(""), false),
        (terms("{}"), false),
        (terms(zone_b), true),
        (terms(zone_c), false),
        (terms(&format!("{zone_c}, {zone_b}")), true),
        (terms(both), false),
        (expression("zone", "In", r#""a", "b""#), true),
        (expression("disk", "In", r#""ssd""#), false),
        (expression("zone", "NotIn", r#""b""#), false),
        (expression("zone", "NotIn", r#""c""#), true),
        (expression("disk", "NotIn", r#""ssd""#), true),
        (expression("zone", "Exists", ""), true),
        (expression("disk", "Exists", ""), false),
        (expression("zone", "DoesNotExist", ""), false),
        (expression("disk", "DoesNotExist", ""), true),
        (expression("cores", "Gt", r#""7""#), true),
        (expression("cores", "Gt", r#""8""#), false),
        (expression("cores", "Lt", r#""9""#), true),
        (expression("cores", "Lt", r#""8""#), false),
        (expression("zone", "Gt", r#""1""#), false),
        (expression("disk", "Lt", r#""1""#), false),
        (expression("zone", "Near", r#""b""#), false),
        (field(r#""node1""#), true),
        (field(r#""node2""#), false),
    ];
    for (fields, fits) in table {
        let result = check(&pod(&format!(r#"{{{fields}, "containers": [{{"name": "c"}}]}}"#)), &[], &offer());
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned();
        let expected = Err(Rejection { reason: "NodeAffinity", message });
        assert_eq!(result, if fits { Ok(()) } else { expected }, "{fields}");
    }
}

#[test]
fn another_operating_system_is_rejected_before_all_else() {
    let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
    let windows = r#"{"os": {"name": "windows"}, "nodeSelector": {"no": "such"}, "containers": [{"name": "c"}]}"#;
    assert_eq!(rejected(windows, &[], &offer()), ("PodOSNotSupported".to_owned(), message));
    let linux = pod(r#"{"os": {"name": "linux"}, "containers": [{"name": "c"}]}"#);
    assert_eq!(check(&linux, &[], &offer()), Ok(()));

    let labelled =
        |os: &str| format!(r#"{{"labels": {{"kubernetes.io/os": "{os}"}}, "containers": [{{"name": "c"}}]}}"#);
    let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".to_owned();
    let expected = ("PodOSSelectorNodeLabelDoesNotMatch".to_owned(), message);
    assert_eq!(rejected(&labelled("windows"), &[], &offer()), expected);
    assert_eq!(check(&pod(&labelled("linux")), &[], &offer()), Ok(()));
}

#[test]
fn a_critical_pod_hears_first_what_no_room_could_help() {
    let spec = |priority: i64| {
        format!(
            r#"{{"priority": {priority}, "nodeSelector": {{"zone": "c"}},
                "containers": [{{"name": "c", "resources": {{"requests": {{"cpu": "3"}}}}}}]}}"#
        )
    };
    assert_eq!(rejected(&spec(0), &[], &offer()).0, "OutOfcpu");
    assert_eq!(rejected(&spec(2_000_000_000), &[], &offer()).0, "NodeAffinity");
}
