//! What a machine needs to know of a pod, taken from its spec.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, Probe};
use lifecycle::{
    CodeOperator, ContainerKind, ContainerPlan, PodPlan, ProbePlan, PullPolicy, RestartAction, RestartPolicy,
    RestartRule,
};

/// The plan of a validated pod.
pub fn plan_of(pod: &Pod) -> PodPlan {
    let restart_policy = match pod::restart_policy(pod) {
        pod::RestartPolicy::Always => RestartPolicy::Always,
        pod::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        pod::RestartPolicy::Never => RestartPolicy::Never,
    };
    let init = pod::init_containers(pod).iter().map(|container| match pod::is_sidecar(container) {
        true => (ContainerKind::Sidecar, container),
        false => (ContainerKind::Init, container),
    });
    let regular = pod::spec(pod).containers.iter().map(|container| (ContainerKind::Regular, container));
    PodPlan {
        uid: pod::uid(pod).to_owned(),
        full_name: pod::full_name(pod),
        generation: pod.metadata.generation.unwrap_or_default(),
        restart_policy,
        grace_ms: grace_ms(pod),
        active_deadline_ms: pod::spec(pod).active_deadline_seconds.map(seconds_to_ms),
        max_restart_delay_ms: lifecycle::backoff::CRASH.max_ms,
        host_network: pod::host_network(pod),
        containers: init.chain(regular).map(|(kind, c)| container_plan(c, kind, restart_policy)).collect(),
    }
}

/// How long containers may take to end.
pub(crate) fn grace_ms(pod: &Pod) -> u64 {
    pod::grace_period_seconds(pod).saturating_mul(1_000)
}

fn container_plan(container: &Container, kind: ContainerKind, of_pod: RestartPolicy) -> ContainerPlan {
    let image = container.image.clone().unwrap_or_default();
    let default = pod::image_name::default_pull_policy(&image);
    let hooks = container.lifecycle.as_ref();
    ContainerPlan {
        pull_policy: match container.image_pull_policy.as_deref().unwrap_or(default) {
            "Never" => PullPolicy::Never,
            "IfNotPresent" => PullPolicy::IfNotPresent,
            _ => PullPolicy::Always,
        },
        hash: hash(&container.name, &image),
        name: container.name.clone(),
        kind,
        image,
        restart: restart(container, kind, of_pod),
        rules: container.restart_policy_rules.iter().flatten().map(rule).collect(),
        post_start: hooks.is_some_and(|hooks| hooks.post_start.is_some()),
        pre_stop: hooks.is_some_and(|hooks| hooks.pre_stop.is_some()),
        startup: container.startup_probe.as_ref().map(probe_plan),
        liveness: container.liveness_probe.as_ref().map(probe_plan),
        readiness: container.readiness_probe.as_ref().map(probe_plan),
    }
}

/// The container's own policy, or else the pod's; an init container that has done its work is not run again.
fn restart(container: &Container, kind: ContainerKind, of_pod: RestartPolicy) -> RestartPolicy {
    match (container.restart_policy.as_deref(), kind) {
        (Some("Always"), _) => RestartPolicy::Always,
        (Some("OnFailure"), _) => RestartPolicy::OnFailure,
        (Some("Never"), _) => RestartPolicy::Never,
        (_, ContainerKind::Init) if of_pod == RestartPolicy::Always => RestartPolicy::OnFailure,
        _ => of_pod,
    }
}

/// Validation lets no other words through than those asked for here and their one counterpart.
fn rule(rule: &ContainerRestartRule) -> RestartRule {
    let on_exit = rule.exit_codes.as_ref();
    RestartRule {
        action: match rule.action.as_str() {
            "RestartAllContainers" => RestartAction::RestartAllContainers,
            _ => RestartAction::Restart,
        },
        operator: match on_exit.map(|on_exit| on_exit.operator.as_str()) {
            Some("NotIn") => CodeOperator::NotIn,
            _ => CodeOperator::In,
        },
        codes: on_exit.and_then(|on_exit| on_exit.values.clone()).unwrap_or_default(),
    }
}

/// Zero and absent mean the API's default.
fn probe_plan(probe: &Probe) -> ProbePlan {
    let or = |given: Option<i32>, default: u32| {
        given.and_then(|given| u32::try_from(given).ok()).filter(|given| *given > 0).unwrap_or(default)
    };
    ProbePlan {
        initial_delay_ms: u64::from(or(probe.initial_delay_seconds, 0)) * 1_000,
        period_ms: u64::from(or(probe.period_seconds, pod::defaults::PROBE_PERIOD_SECONDS)) * 1_000,
        success_threshold: or(probe.success_threshold, pod::defaults::PROBE_SUCCESS_THRESHOLD),
        failure_threshold: or(probe.failure_threshold, pod::defaults::PROBE_FAILURE_THRESHOLD),
        grace_ms: probe.termination_grace_period_seconds.map(seconds_to_ms),
    }
}

fn seconds_to_ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

/// FNV-32a, in hexadecimal, of the JSON of image and name: the figure that every kubelet writes to its containers.
pub(crate) fn hash(name: &str, image: &str) -> String {
    let json = serde_json::json!({ "image": image, "name": name }).to_string();
    let hash = json.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_hash_covers_name_and_image_and_nothing_else() {
        let base = hash("web", "nginx");
        assert_eq!(base, hash("web", "nginx"));
        assert_ne!(base, hash("web", "nginx:1"));
        assert_ne!(base, hash("web2", "nginx"));
    }

    fn plan(spec: Value) -> PodPlan {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        let manifest = pod::manifest::parse("p.json", pod.to_string().as_bytes());
        assert!(manifest.errors.is_empty(), "{:?}", manifest.errors);
        plan_of(&manifest.pods[0].pod)
    }

    #[test]
    fn init_containers_and_sidecars_come_first_in_their_order() {
        let plan = plan(json!({
            "initContainers": [
                {"name": "i1", "image": "i"},
                {"name": "s1", "image": "i", "restartPolicy": "Always"},
                {"name": "i2", "image": "i", "restartPolicy": "Never"}
            ],
            "containers": [{"name": "c1", "image": "i"}, {"name": "c2", "image": "i", "restartPolicy": "Never"}]
        }));
        let shown: Vec<_> = plan.containers.iter().map(|c| (c.name.as_str(), c.kind, c.restart)).collect();
        let expected = [
            ("i1", ContainerKind::Init, RestartPolicy::OnFailure),
            ("s1", ContainerKind::Sidecar, RestartPolicy::Always),
            ("i2", ContainerKind::Init, RestartPolicy::Never),
            ("c1", ContainerKind::Regular, RestartPolicy::Always),
            ("c2", ContainerKind::Regular, RestartPolicy::Never),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_containers_policy_goes_before_the_pods() {
        for (of_pod, own, expected) in [
            ("Never", None, RestartPolicy::Never),
            ("Never", Some("OnFailure"), RestartPolicy::OnFailure),
            ("OnFailure", Some("Always"), RestartPolicy::Always),
            ("Always", Some("Never"), RestartPolicy::Never),
        ] {
            let container = json!({"name": "c", "image": "i", "restartPolicy": own});
            let plan = plan(json!({"restartPolicy": of_pod, "containers": [container]}));
            assert_eq!(plan.containers[0].restart, expected, "{of_pod} {own:?}");
        }
    }

    #[test]
    fn rules_name_codes() {
        let rules = json!([
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42, 43]}},
            {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}
        ]);
        let container = json!({"name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules});
        let rules = plan(json!({"containers": [container]})).containers.remove(0).rules;
        assert_eq!(rules[0].action, RestartAction::Restart);
        assert!(rules[0].names(43) && !rules[0].names(1));
        assert_eq!(rules[1].action, RestartAction::RestartAllContainers);
        assert!(rules[1].names(1) && !rules[1].names(0));
    }

    #[test]
    fn probes_have_the_apis_defaults_and_hooks_are_told() {
        let exec = json!({"command": ["true"]});
        let container = json!({
            "name": "c", "image": "i",
            "startupProbe": {"exec": exec, "initialDelaySeconds": 2, "periodSeconds": 3, "failureThreshold": 30},
            "livenessProbe": {"exec": exec, "terminationGracePeriodSeconds": 5},
            "readinessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2},
            "lifecycle": {"preStop": {"exec": exec}}
        });
        let plan = plan(json!({"activeDeadlineSeconds": 7, "hostNetwork": true, "containers": [container]}));
        assert_eq!((plan.active_deadline_ms, plan.host_network), (Some(7_000), true));
        let container = &plan.containers[0];
        assert_eq!((container.post_start, container.pre_stop), (false, true));
        let probe = |initial_delay_ms, period_ms, thresholds: (u32, u32), grace_ms| ProbePlan {
            initial_delay_ms,
            period_ms,
            success_threshold: thresholds.0,
            failure_threshold: thresholds.1,
            grace_ms,
        };
        assert_eq!(container.startup, Some(probe(2_000, 3_000, (1, 30), None)));
        assert_eq!(container.liveness, Some(probe(0, 10_000, (1, 3), Some(5_000))));
        assert_eq!(container.readiness, Some(probe(0, 10_000, (2, 3), None)));
    }
}
