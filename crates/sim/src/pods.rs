//! Pods by chance: what their manifests say, and what their containers then do.

use crate::rng::Rng;
use k8s_openapi::api::core::v1::Pod;
use lifecycle::{ContainerKind, PodPlan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The exit code for which containers with rules start over by themselves.
pub(crate) const RESTART_CODE: i32 = 42;
/// The one for which they take the whole pod along.
pub(crate) const RESTART_ALL_CODE: i32 = 43;
const CODES: &[i32] = &[0, 0, 1, 2, 137, RESTART_CODE, RESTART_ALL_CODE];

/// One version of a pod's manifest.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) pod: Arc<Pod>,
    pub(crate) plan: PodPlan,
}

/// What one run of a container does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// Until it exits by itself.
    pub(crate) lasts_ms: Option<u64>,
    pub(crate) exit_code: i32,
    /// After SIGTERM; none: it is ignored.
    pub(crate) term_ms: Option<u64>,
    /// SIGKILL has no effect for so long.
    pub(crate) unkillable_ms: u64,
    /// After its start; before, its startup probe fails.
    pub(crate) starts_up_ms: u64,
    /// Liveness fails from then on.
    pub(crate) sick_after_ms: Option<u64>,
    /// Readiness fails in this span.
    pub(crate) unready_ms: (u64, u64),
    pub(crate) post_start: Hook,
    pub(crate) pre_stop: Hook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Ends well after so long.
    Ends(u64),
    Fails(u64),
    Hangs,
}

/// What a container does, run after run; the last run repeats.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Behaviour {
    pub(crate) runs: Vec<Run>,
}

impl Behaviour {
    pub(crate) fn run(&self, number: usize) -> &Run {
        &self.runs[number.min(self.runs.len() - 1)]
    }
}

/// Behaviours by UID and container.
pub(crate) type Cast = BTreeMap<(String, String), Behaviour>;

/// A manifest by chance, and how its containers will behave.
pub(crate) fn invent(rng: &mut Rng, name: &str, uid: &str) -> (Value, Cast) {
    let policy = rng.pick(&["Always", "Always", "OnFailure", "Never"]);
    let mut cast = Cast::new();
    let mut init_containers = Vec::new();
    for number in 0..rng.pick(&[0, 0, 1, 2, 3]) {
        let sidecar = rng.chance(500);
        let name = format!("{}{number}", if sidecar { "s" } else { "i" });
        let mut container = container(rng, &name);
        let kind = if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init };
        if sidecar {
            container["restartPolicy"] = json!("Always");
            care(rng, &mut container);
        } else {
            rules(rng, &mut container);
        }
        init_containers.push(container);
        cast.insert((uid.to_owned(), name), behaviour(rng, kind, policy));
    }
    let mut containers = Vec::new();
    for number in 0..rng.between(1, 2) {
        let name = format!("c{number}");
        let mut container = container(rng, &name);
        care(rng, &mut container);
        rules(rng, &mut container);
        let own = container["restartPolicy"].as_str().unwrap_or(policy).to_owned();
        containers.push(container);
        cast.insert((uid.to_owned(), name), behaviour(rng, ContainerKind::Regular, &own));
    }
    let mut spec = json!({
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": rng.pick(&[1, 3, 10, 30]),
        "hostNetwork": rng.chance(150),
        "initContainers": init_containers,
        "containers": containers,
    });
    if rng.chance(100) {
        spec["activeDeadlineSeconds"] = json!(rng.between(20, 200));
    }
    if rng.chance(40) {
        // No node has it: the pod is rejected.
        spec["nodeSelector"] = json!({ "disk": "none" });
    }
    let pod = json!({ "metadata": { "name": name, "namespace": "default", "uid": uid }, "spec": spec });
    (pod, cast)
}

/// The manifest as the kubelet is given it.
pub(crate) fn version(manifest: &Value) -> Version {
    let pod: Pod = serde_json::from_value(manifest.clone()).expect("what is made here is a pod");
    Version { plan: agent::core::plan_of(&pod), pod: Arc::new(pod) }
}

/// The name of a pod by its UID.
pub(crate) fn name_of(uid: &str) -> &str {
    uid.split_once("-u").map_or(uid, |(name, _)| name)
}

/// The same pod with another image for one of its containers: the same UID, so it changes in place.
pub(crate) fn edit(rng: &mut Rng, manifest: &mut Value) {
    let Some(containers) = manifest["spec"]["containers"].as_array_mut() else { return };
    let index = usize::try_from(rng.below(containers.len() as u64)).unwrap_or(0);
    let tag = rng.below(1_000);
    containers[index]["image"] = json!(format!("image-c{index}:{tag}"));
}

fn container(rng: &mut Rng, name: &str) -> Value {
    let pull = rng.pick(&["IfNotPresent", "IfNotPresent", "Always"]);
    json!({ "name": name, "image": format!("image-{name}:1"), "imagePullPolicy": pull })
}

/// Probes and hooks.
fn care(rng: &mut Rng, container: &mut Value) {
    let exec = json!({ "command": ["true"] });
    for (kind, permille) in [("startupProbe", 300), ("livenessProbe", 450), ("readinessProbe", 400)] {
        if !rng.chance(permille) {
            continue;
        }
        let mut probe = json!({
            "exec": exec, "periodSeconds": rng.pick(&[5, 10, 20]), "failureThreshold": rng.between(1, 3),
            "initialDelaySeconds": rng.pick(&[0, 0, 3]),
        });
        if kind == "startupProbe" {
            probe["failureThreshold"] = json!(6);
        }
        if kind == "livenessProbe" && rng.chance(500) {
            probe["terminationGracePeriodSeconds"] = json!(rng.pick(&[2, 60, 60]));
        }
        container[kind] = probe;
    }
    for hook in ["postStart", "preStop"] {
        if rng.chance(250) {
            container["lifecycle"][hook] = json!({ "exec": exec });
        }
    }
}

fn rules(rng: &mut Rng, container: &mut Value) {
    let rule =
        |action: &str, code: i32| json!({ "action": action, "exitCodes": { "operator": "In", "values": [code] } });
    if rng.chance(200) {
        container["restartPolicy"] = json!(rng.pick(&["Never", "OnFailure"]));
        let mut rules = vec![rule("Restart", RESTART_CODE)];
        if rng.chance(600) {
            rules.push(rule("RestartAllContainers", RESTART_ALL_CODE));
        }
        container["restartPolicyRules"] = json!(rules);
    }
}

fn behaviour(rng: &mut Rng, kind: ContainerKind, policy: &str) -> Behaviour {
    let mut runs: Vec<Run> = (0..rng.pick(&[0, 0, 1, 2, 4])).map(|_| bad_run(rng, kind)).collect();
    runs.push(good_run(rng, kind, policy));
    Behaviour { runs }
}

fn good_run(rng: &mut Rng, kind: ContainerKind, policy: &str) -> Run {
    let (lasts_ms, exit_code) = match kind {
        ContainerKind::Init => (Some(rng.between(5, 3_000)), 0),
        ContainerKind::Sidecar => (None, 0),
        ContainerKind::Regular if policy != "Always" && rng.chance(300) => (Some(rng.between(500, 20_000)), 0),
        ContainerKind::Regular if policy == "Never" && rng.chance(300) => (Some(rng.between(500, 20_000)), 3),
        ContainerKind::Regular => (None, 0),
    };
    Run {
        lasts_ms,
        exit_code,
        term_ms: Some(rng.between(1, 500)),
        unkillable_ms: 0,
        starts_up_ms: rng.between(0, 8_000),
        sick_after_ms: None,
        unready_ms: (0, 0),
        post_start: Hook::Ends(rng.between(1, 300)),
        pre_stop: Hook::Ends(rng.between(1, 300)),
    }
}

fn bad_run(rng: &mut Rng, kind: ContainerKind) -> Run {
    let hook = |rng: &mut Rng| match rng.below(6) {
        0 => Hook::Fails(rng.between(1, 2_000)),
        1 => Hook::Hangs,
        _ => Hook::Ends(rng.between(1, 5_000)),
    };
    let exits = kind == ContainerKind::Init || rng.chance(700);
    Run {
        lasts_ms: exits.then(|| rng.pick(&[1, 20, 700, 15_000, 40_000])),
        exit_code: rng.pick(CODES),
        term_ms: (!rng.chance(500)).then(|| rng.between(1, 4_000)),
        unkillable_ms: if rng.chance(100) { rng.between(1_000, 40_000) } else { 0 },
        starts_up_ms: rng.pick(&[0, 5_000, 30_000]),
        // Without an end of its own only its probe may end it.
        sick_after_ms: rng.chance(650).then(|| rng.between(2_000, 20_000)),
        unready_ms: if rng.chance(400) { (rng.between(0, 10_000), rng.between(10_000, 60_000)) } else { (0, 0) },
        post_start: hook(rng),
        pre_stop: hook(rng),
    }
}
