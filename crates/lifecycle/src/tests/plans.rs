//! Plans in one line: `Never@30000 i:init s:sidecar,startup,pre a*:post,live/5000,all=42`.
//!
//! First the pod's policy, `@` its grace; then the containers: `a*` pulls always, `a-` never; after the colon what it has:
//! `init`, `sidecar`; `never`, `onfailure`, `always`; `post`, `pre`; `startup`, `live`, `ready` (`xN`: N failures in a row
//! count, `/MS`: a grace of its own); `all=CODE`, `again=CODE`, `all!CODE` (any other code): rules; `of=NAME`: the image of
//! that container.
//! `host` puts it into the machine's network, `deadline=MS` limits its time, `hold=MS` its back-off, `gen=N` is its generation.

use crate::*;

pub(super) const PERIOD_MS: u64 = 10_000;

pub(super) fn plan(text: &str) -> PodPlan {
    let mut words = text.split_whitespace();
    let (policy, grace) = words.next().map(|word| word.split_once('@').unwrap_or((word, "30000"))).expect("a policy");
    let mut plan = PodPlan {
        uid: "uid-1".into(),
        full_name: "pod_default".into(),
        generation: 0,
        restart_policy: policy_of(&policy.to_lowercase()).expect("a policy"),
        grace_ms: grace.parse().expect("a grace"),
        active_deadline_ms: None,
        max_restart_delay_ms: backoff::CRASH.max_ms,
        host_network: false,
        containers: Vec::new(),
    };
    for word in words {
        match word.split_once('=') {
            _ if word == "host" => plan.host_network = true,
            Some(("deadline", ms)) => plan.active_deadline_ms = Some(ms.parse().expect("a deadline")),
            Some(("hold", ms)) => plan.max_restart_delay_ms = ms.parse().expect("a delay"),
            Some(("gen", generation)) => plan.generation = generation.parse().expect("a generation"),
            _ => plan.containers.push(container(word, plan.restart_policy)),
        }
    }
    plan
}

fn policy_of(text: &str) -> Option<RestartPolicy> {
    match text {
        "always" => Some(RestartPolicy::Always),
        "onfailure" => Some(RestartPolicy::OnFailure),
        "never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn container(word: &str, of_pod: RestartPolicy) -> ContainerPlan {
    let (name, traits) = word.split_once(':').unwrap_or((word, ""));
    let pull_policy = match name.as_bytes()[name.len() - 1] {
        b'*' => PullPolicy::Always,
        b'-' => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    };
    let name = name.trim_end_matches(['*', '-']).to_owned();
    let mut plan = ContainerPlan {
        image: format!("image-{name}"),
        kind: ContainerKind::Regular,
        pull_policy,
        hash: format!("h-{name}"),
        restart: of_pod,
        rules: Vec::new(),
        post_start: false,
        pre_stop: false,
        startup: None,
        liveness: None,
        readiness: None,
        name,
    };
    for word in traits.split(',').filter(|word| !word.is_empty()) {
        give(&mut plan, word);
    }
    plan
}

fn give(plan: &mut ContainerPlan, word: &str) {
    if let Some(policy) = policy_of(word) {
        plan.restart = policy;
        return;
    }
    if let Some(other) = word.strip_prefix("of=") {
        plan.image = format!("image-{other}");
        return;
    }
    if let Some((action, operator, codes)) = rule_of(word) {
        plan.rules.push(RestartRule { action, operator, codes });
        return;
    }
    match word {
        "init" => {
            plan.kind = ContainerKind::Init;
            if plan.restart == RestartPolicy::Always {
                plan.restart = RestartPolicy::OnFailure;
            }
        }
        "sidecar" => {
            plan.kind = ContainerKind::Sidecar;
            plan.restart = RestartPolicy::Always;
        }
        "post" => plan.post_start = true,
        "pre" => plan.pre_stop = true,
        probe => {
            let (rest, grace) = probe.split_once('/').map_or((probe, None), |(rest, grace)| (rest, Some(grace)));
            let (kind, failures) = rest.split_once('x').map_or((rest, "1"), |(kind, failures)| (kind, failures));
            let probe = ProbePlan {
                initial_delay_ms: 0,
                period_ms: PERIOD_MS,
                success_threshold: 1,
                failure_threshold: failures.parse().expect("a threshold"),
                grace_ms: grace.map(|grace| grace.parse().expect("a grace")),
            };
            match kind {
                "startup" => plan.startup = Some(probe),
                "live" => plan.liveness = Some(probe),
                "ready" => plan.readiness = Some(probe),
                other => panic!("no container has {other}"),
            }
        }
    }
}

fn rule_of(word: &str) -> Option<(RestartAction, CodeOperator, Vec<i32>)> {
    let (operator, (action, code)) = match (word.split_once('='), word.split_once('!')) {
        (Some(parts), _) => (CodeOperator::In, parts),
        (None, Some(parts)) => (CodeOperator::NotIn, parts),
        (None, None) => return None,
    };
    let action = match action {
        "all" => RestartAction::RestartAllContainers,
        "again" => RestartAction::Restart,
        other => panic!("no rule does {other}"),
    };
    Some((action, operator, vec![code.parse().expect("an exit code")]))
}
