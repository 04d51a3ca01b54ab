//! What a machine needs to know of a pod, taken from its spec.

use k8s_openapi::api::core::v1::{Container, Pod};
use lifecycle::{ContainerKind, ContainerPlan, PodPlan, PullPolicy, RestartPolicy};

/// The plan of a validated pod.
pub(crate) fn plan_of(pod: &Pod) -> PodPlan {
    let restart_policy = match pod::restart_policy(pod) {
        pod::RestartPolicy::Always => RestartPolicy::Always,
        pod::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        pod::RestartPolicy::Never => RestartPolicy::Never,
    };
    PodPlan {
        uid: pod::uid(pod).to_owned(),
        full_name: pod::full_name(pod),
        generation: pod.metadata.generation.unwrap_or_default(),
        restart_policy,
        grace_ms: grace_ms(pod),
        active_deadline_ms: None,
        host_network: pod::spec(pod).host_network == Some(true),
        containers: pod::spec(pod).containers.iter().map(|c| container_plan(c, restart_policy)).collect(),
    }
}

/// How long containers may take to end.
pub(crate) fn grace_ms(pod: &Pod) -> u64 {
    pod::grace_period_seconds(pod).saturating_mul(1_000)
}

fn container_plan(container: &Container, restart: RestartPolicy) -> ContainerPlan {
    let image = container.image.clone().unwrap_or_default();
    let default = pod::image_name::default_pull_policy(&image);
    ContainerPlan {
        pull_policy: match container.image_pull_policy.as_deref().unwrap_or(default) {
            "Never" => PullPolicy::Never,
            "IfNotPresent" => PullPolicy::IfNotPresent,
            _ => PullPolicy::Always,
        },
        hash: hash(&container.name, &image),
        name: container.name.clone(),
        kind: ContainerKind::Regular,
        image,
        restart,
        rules: Vec::new(),
        post_start: false,
        pre_stop: false,
        startup: None,
        liveness: None,
        readiness: None,
    }
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

    #[test]
    fn the_hash_covers_name_and_image_and_nothing_else() {
        let base = hash("web", "nginx");
        assert_eq!(base, hash("web", "nginx"));
        assert_ne!(base, hash("web", "nginx:1"));
        assert_ne!(base, hash("web2", "nginx"));
    }
}
