use super::*;
use serde_json::json;

const GIB: i64 = 1 << 30;

fn pod_of(resources: &[serde_json::Value]) -> Pod {
    let containers: Vec<_> = resources
        .iter()
        .enumerate()
        .map(|(i, r)| json!({"name": format!("c{i}"), "image": "i", "resources": r}))
        .collect();
    serde_json::from_value(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": containers}}),
    )
    .unwrap()
}

#[test]
fn shares_weight_and_quota() {
    for (milli, shares) in
        [(0, 2), (-5, 2), (1, 2), (2, 2), (100, 102), (1000, 1024), (1500, 1536), (i64::MAX, 262_144)]
    {
        assert_eq!(cpu_shares(milli), shares, "{milli}");
    }
    for (shares, weight) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
    for (milli, quota) in [
        (0, None),
        (-1, None),
        (1, Some(1000)),
        (10, Some(1000)),
        (11, Some(1100)),
        (1500, Some(150_000)),
        (i64::MAX, Some(i64::MAX)),
    ] {
        assert_eq!(cpu_quota_us(milli, CPU_PERIOD_US), quota, "{milli}");
    }
}

#[test]
fn classes() {
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
    let limits_only = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let less = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}});
    let cpu_only = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
    let zero = json!({"limits": {"cpu": "0", "memory": "0"}});
    let storage = json!({"requests": {"ephemeral-storage": "1Gi"}});
    let nothing = json!({});
    let table = [
        (vec![full.clone()], Qos::Guaranteed),
        (vec![limits_only.clone(), full.clone()], Qos::Guaranteed),
        (vec![less], Qos::Burstable),
        (vec![cpu_only], Qos::Burstable),
        (vec![full.clone(), nothing.clone()], Qos::Burstable),
        (vec![nothing.clone()], Qos::BestEffort),
        (vec![zero, nothing], Qos::BestEffort),
        (vec![storage], Qos::BestEffort),
    ];
    for (resources, class) in table {
        assert_eq!(qos::class(&pod_of(&resources)), class, "{resources:?}");
    }
}

#[test]
fn figures_of_containers_and_pods() {
    let one = json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "512Mi"}});
    let two = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let made = pod_of(&[one.clone(), two.clone()]);
    assert_eq!(
        container(&made, &spec(&made).containers[0]),
        Figures { cpu_shares: 256, cpu_quota_us: Some(50_000), cpu_period_us: 100_000, memory_limit_bytes: Some(GIB) }
    );
    assert_eq!(container(&made, &spec(&made).containers[1]).cpu_shares, 1024, "the limit stands in for the request");
    assert_eq!(
        pod(&made),
        Figures {
            cpu_shares: 1280,
            cpu_quota_us: Some(150_000),
            cpu_period_us: 100_000,
            memory_limit_bytes: Some(2 * GIB)
        }
    );
    assert_eq!((cpu_request_millis(&made), memory_request_bytes(&made)), (1250, GIB + GIB / 2));

    let partly = pod(&pod_of(&[one, json!({})]));
    assert_eq!(
        (partly.cpu_quota_us, partly.memory_limit_bytes),
        (None, None),
        "one container without a limit lifts the pod's"
    );
    let best_effort = pod(&pod_of(&[json!({})]));
    assert_eq!((best_effort.cpu_shares, best_effort.cpu_quota_us), (2, None));
}

#[test]
fn oom_scores() {
    let guaranteed = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let burstable = |memory: &str| json!({"requests": {"memory": memory}});
    let table = [
        (guaranteed, -997),
        (json!({}), 1000),
        (burstable("1Gi"), 750),
        (burstable("1Mi"), 999),
        (burstable("4Gi"), 3),
        (burstable("4000Gi"), 3),
        (json!({"requests": {"cpu": "1"}}), 999),
    ];
    for (resources, score) in table {
        let pod = pod_of(std::slice::from_ref(&resources));
        assert_eq!(oom_score_adj(&pod, &spec(&pod).containers[0], 4 * GIB), score, "{resources}");
    }
    let pod = pod_of(&[burstable("1Gi")]);
    assert_eq!(oom_score_adj(&pod, &spec(&pod).containers[0], 0), 3, "no division by zero");
}

#[test]
fn node_critical_pods_are_protected() {
    let mut pod = pod_of(&[json!({})]);
    let spec_mut = pod.spec.as_mut().unwrap();
    spec_mut.priority_class_name = Some("system-node-critical".into());
    assert_eq!(oom_score_adj(&pod, &spec(&pod).containers[0], GIB), 1000, "the class counts only for critical pods");
    pod.spec.as_mut().unwrap().priority = Some(2_000_001_000);
    assert_eq!(oom_score_adj(&pod, &spec(&pod).containers[0], GIB), -997);
}

/// Containers as `name: resources`; an init container is marked by `i`, a sidecar by `s`, a regular one by `c`.
fn pod_with(containers: &[(&str, serde_json::Value)]) -> Pod {
    let (mut init, mut regular) = (Vec::new(), Vec::new());
    for (name, resources) in containers {
        let container = json!({"name": name, "image": "i", "resources": resources});
        match name.as_bytes()[0] {
            b'i' => init.push(container),
            b's' => {
                let mut sidecar = container;
                sidecar["restartPolicy"] = json!("Always");
                init.push(sidecar);
            }
            _ => regular.push(container),
        }
    }
    let spec = json!({"initContainers": init, "containers": regular});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec})).unwrap()
}

#[test]
fn a_pod_needs_what_its_peak_needs() {
    let cpu = |milli: u32| json!({"requests": {"cpu": format!("{milli}m")}});
    let table: [(&[(&str, u32)], i64); 8] = [
        (&[("c1", 100), ("c2", 200)], 300),
        (&[("i1", 100), ("c1", 200)], 200),
        (&[("i1", 500), ("i2", 400), ("c1", 200)], 500),
        (&[("s1", 100), ("c1", 200)], 300),
        (&[("s1", 100), ("i1", 500), ("c1", 200)], 600),
        (&[("i1", 500), ("s1", 100), ("c1", 200)], 500),
        (&[("s1", 100), ("i1", 150), ("s2", 300), ("c1", 1)], 401),
        (&[("s1", 100), ("i1", 350), ("s2", 300), ("c1", 1)], 450),
    ];
    for (containers, expected) in table {
        let containers: Vec<_> = containers.iter().map(|(name, milli)| (*name, cpu(*milli))).collect();
        let pod = pod_with(&containers);
        assert_eq!(cpu_request_millis(&pod), expected, "{containers:?}");
        assert_eq!(super::pod(&pod).cpu_shares, cpu_shares(expected), "{containers:?}");
    }
}

#[test]
fn a_pods_limit_is_its_peak_if_every_container_has_one() {
    let memory = |mebi: u32| json!({"limits": {"memory": format!("{mebi}Mi")}});
    let limit = |containers: &[(&str, serde_json::Value)]| pod(&pod_with(containers)).memory_limit_bytes;
    let mebi = |mebi: i64| Some(mebi << 20);
    assert_eq!(limit(&[("i1", memory(100)), ("c1", memory(50))]), mebi(100));
    assert_eq!(limit(&[("s1", memory(100)), ("c1", memory(50))]), mebi(150));
    assert_eq!(limit(&[("i1", json!({})), ("c1", memory(50))]), None);
}

#[test]
fn the_class_counts_init_containers() {
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    for (init, class) in [(full.clone(), Qos::Guaranteed), (json!({}), Qos::Burstable)] {
        assert_eq!(qos::class(&pod_with(&[("i1", init.clone()), ("c1", full.clone())])), class);
        assert_eq!(qos::class(&pod_with(&[("s1", init), ("c1", full.clone())])), class);
    }
    assert_eq!(qos::class(&pod_with(&[("i1", full), ("c1", json!({}))])), Qos::Burstable);
}

#[test]
fn a_sidecar_is_taken_after_the_regular_containers() {
    let memory = |mebi: u32| json!({"requests": {"memory": format!("{mebi}Mi")}});
    let score = |containers: &[(&str, serde_json::Value)], name: &str| {
        let pod = pod_with(containers);
        oom_score_adj(&pod, crate::container(&pod, name).unwrap(), 4 * GIB)
    };
    let pod = [("i1", memory(1)), ("s1", memory(1)), ("c1", memory(1024)), ("c2", memory(2048))];
    assert_eq!(["i1", "s1", "c1", "c2"].map(|name| score(&pod, name)), [999, 750, 750, 500]);
    let hungry = [("s1", memory(2048)), ("c1", memory(1024))];
    assert_eq!(["s1", "c1"].map(|name| score(&hungry, name)), [500, 750]);
    let nothing = [("s1", memory(1024)), ("c1", json!({}))];
    assert_eq!(["s1", "c1"].map(|name| score(&nothing, name)), [750, 999]);
}

#[test]
fn what_the_pod_says_as_a_whole_goes_before_its_containers() {
    let whole = |resources: serde_json::Value, containers: &[(&str, serde_json::Value)]| {
        let mut pod = pod_with(containers);
        pod.spec.as_mut().unwrap().resources = serde_json::from_value(resources).unwrap();
        pod
    };
    let both = json!({"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}});
    let guaranteed = whole(both, &[("c1", json!({})), ("c2", json!({"limits": {"memory": "1Gi"}}))]);
    assert_eq!(qos::class(&guaranteed), Qos::Guaranteed);
    let figures = pod(&guaranteed);
    assert_eq!((figures.cpu_quota_us, figures.memory_limit_bytes), (Some(200_000), Some(2 * GIB)));
    assert_eq!((cpu_request_millis(&guaranteed), memory_request_bytes(&guaranteed)), (2000, 2 * GIB));
    let of = |name: &str| container(&guaranteed, crate::container(&guaranteed, name).unwrap()).memory_limit_bytes;
    assert_eq!((of("c1"), of("c2")), (Some(2 * GIB), Some(GIB)), "the pod's limit is shown where there is no own one");

    let burstable = whole(
        json!({"requests": {"memory": "3Gi"}}),
        &[("c1", json!({"requests": {"memory": "1Gi"}})), ("c2", json!({}))],
    );
    assert_eq!(qos::class(&burstable), Qos::Burstable);
    let score = |name: &str| oom_score_adj(&burstable, crate::container(&burstable, name).unwrap(), 4 * GIB);
    assert_eq!((score("c1"), score("c2")), (500, 750), "2Gi are unclaimed, 1Gi for each");
    let disk = whole(json!({"requests": {}}), &[("c1", json!({}))]);
    assert_eq!(qos::class(&disk), Qos::BestEffort);
}
