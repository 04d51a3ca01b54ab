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
        container(&spec(&made).containers[0]),
        Figures { cpu_shares: 256, cpu_quota_us: Some(50_000), cpu_period_us: 100_000, memory_limit_bytes: Some(GIB) }
    );
    assert_eq!(container(&spec(&made).containers[1]).cpu_shares, 1024, "the limit stands in for the request");
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
