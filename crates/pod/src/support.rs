//! What of a valid pod is implemented. Everything else that is set is refused by name, never silently ignored.
//!
//! The typed pod is turned back into plain values and walked against a table, so a field that nobody thought of is refused too.

use crate::field::FieldError;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// What may stand at a path.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// Anything that validation lets through, with all beneath it.
    Any,
    /// This one value, which says what is the case anyway.
    Only(&'static str),
    /// Never, for this reason.
    Never(&'static str),
}

use Rule::{Any, Never, Only};

const SERVER_ONLY: &str = "is set by an API server, not in a manifest: remove it";

/// `[]` stands for any element of a list; `spec.containers` for `spec.initContainers` too. Marked "ignored": the field
/// speaks to a scheduler or API server, and a node acts right without it.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("apiVersion", Any),
    ("kind", Any),
    ("status", Never("is written by the kubelet: remove it")),
    ("metadata.name", Any),
    ("metadata.namespace", Any),
    ("metadata.uid", Any),
    ("metadata.labels", Any),
    ("metadata.annotations", Any),
    ("metadata.creationTimestamp", Any), // ignored
    ("metadata.generation", Any),        // ignored
    ("metadata.managedFields", Any),     // ignored
    ("metadata.resourceVersion", Any),   // ignored
    ("metadata.selfLink", Any),          // ignored
    ("metadata.generateName", Never("is not used: name is needed for the pod, set metadata.name")),
    ("metadata.deletionTimestamp", Never(SERVER_ONLY)),
    ("metadata.deletionGracePeriodSeconds", Never(SERVER_ONLY)),
    ("metadata.finalizers", Never(SERVER_ONLY)),
    ("metadata.ownerReferences", Never(SERVER_ONLY)),
    ("spec.activeDeadlineSeconds", Any),
    ("spec.affinity.nodeAffinity", Any),
    ("spec.affinity.podAffinity", Any),     // ignored
    ("spec.affinity.podAntiAffinity", Any), // ignored
    ("spec.automountServiceAccountToken", Only("false")),
    ("spec.dnsConfig", Any),
    ("spec.dnsPolicy", Any),
    ("spec.enableServiceLinks", Any),
    ("spec.hostAliases", Any),
    ("spec.hostIPC", Any),
    ("spec.hostNetwork", Any),
    ("spec.hostPID", Any),
    ("spec.hostUsers", Only("true")),
    ("spec.hostname", Any),
    ("spec.imagePullSecrets[].name", Any),
    ("spec.nodeName", Any),
    ("spec.nodeSelector", Any),
    ("spec.os", Any),
    ("spec.overhead", Only("{}")),
    ("spec.preemptionPolicy", Any), // ignored
    ("spec.priority", Any),
    ("spec.priorityClassName", Any),
    ("spec.resourceClaims", Never("static pods may not reference resourceclaims")),
    ("spec.resources.limits.cpu", Any),
    ("spec.resources.limits.memory", Any),
    ("spec.resources.requests.cpu", Any),
    ("spec.resources.requests.memory", Any),
    ("spec.restartPolicy", Any),
    ("spec.schedulerName", Any), // ignored
    ("spec.serviceAccount", Never("static pods may not reference serviceaccounts")),
    ("spec.serviceAccountName", Never("static pods may not reference serviceaccounts")),
    ("spec.setHostnameAsFQDN", Only("false")),
    ("spec.shareProcessNamespace", Any),
    ("spec.subdomain", Any),
    ("spec.terminationGracePeriodSeconds", Any),
    ("spec.tolerations", Any),               // ignored
    ("spec.topologySpreadConstraints", Any), // ignored
    ("spec.securityContext.runAsGroup", Any),
    ("spec.securityContext.runAsNonRoot", Any),
    ("spec.securityContext.runAsUser", Any),
    ("spec.securityContext.seccompProfile.type", Only("Unconfined")),
    ("spec.securityContext.supplementalGroups", Any),
    ("spec.securityContext.supplementalGroupsPolicy", Only("Merge")),
    ("spec.volumes[].name", Any),
    ("spec.volumes[].emptyDir.medium", Any),
    ("spec.volumes[].emptyDir.sizeLimit", Any),
    ("spec.volumes[].hostPath.path", Any),
    ("spec.volumes[].hostPath.type", Any),
    ("spec.volumes[].azureFile", Never("static pods may not reference secrets (via azureFile volumes)")),
    ("spec.volumes[].configMap", Never("static pods may not reference configmaps (via configmap volumes)")),
    ("spec.volumes[].csi", Never("static pods may not reference csidrivers (via CSI volumes)")),
    ("spec.volumes[].ephemeral", Never("static pods may not reference persistentvolumeclaims (via ephemeral volumes)")),
    ("spec.volumes[].glusterfs", Never("static pods may not reference endpoints (via glusterFS volumes)")),
    ("spec.volumes[].persistentVolumeClaim", Never("static pods may not reference persistentvolumeclaims")),
    (
        "spec.volumes[].projected.sources[].clusterTrustBundle",
        Never("static pods may not reference clustertrustbundles (via projected volumes)"),
    ),
    (
        "spec.volumes[].projected.sources[].configMap",
        Never("static pods may not reference configmaps (via projected volumes)"),
    ),
    (
        "spec.volumes[].projected.sources[].podCertificate",
        Never("static pods may not reference podcertificates (via projected volumes)"),
    ),
    (
        "spec.volumes[].projected.sources[].secret",
        Never("static pods may not reference secrets (via projected volumes)"),
    ),
    (
        "spec.volumes[].projected.sources[].serviceAccountToken",
        Never("static pods may not reference serviceaccounts (via projected volumes)"),
    ),
    ("spec.volumes[].secret", Never("static pods may not reference secrets (via secret volumes)")),
    ("spec.containers[].args", Any),
    ("spec.containers[].command", Any),
    ("spec.containers[].env[].name", Any),
    ("spec.containers[].env[].value", Any),
    ("spec.containers[].env[].valueFrom.configMapKeyRef", Never("static pods may not reference configmaps")),
    ("spec.containers[].env[].valueFrom.fieldRef", Any),
    ("spec.containers[].env[].valueFrom.resourceFieldRef", Any),
    ("spec.containers[].env[].valueFrom.secretKeyRef", Never("static pods may not reference secrets")),
    ("spec.containers[].envFrom[].configMapRef", Never("static pods may not reference configmaps")),
    ("spec.containers[].envFrom[].secretRef", Never("static pods may not reference secrets")),
    ("spec.containers[].image", Any),
    ("spec.containers[].imagePullPolicy", Any),
    ("spec.containers[].lifecycle", Any),
    ("spec.containers[].livenessProbe", Any),
    ("spec.containers[].name", Any),
    ("spec.containers[].ports[].containerPort", Any),
    ("spec.containers[].ports[].hostIP", Any),
    ("spec.containers[].ports[].hostPort", Any),
    ("spec.containers[].ports[].name", Any),
    ("spec.containers[].ports[].protocol", Any),
    ("spec.containers[].readinessProbe", Any),
    ("spec.containers[].resources.limits.cpu", Any),
    ("spec.containers[].resources.limits.ephemeral-storage", Any),
    ("spec.containers[].resources.limits.memory", Any),
    ("spec.containers[].resources.requests.cpu", Any),
    ("spec.containers[].resources.requests.ephemeral-storage", Any),
    ("spec.containers[].resources.requests.memory", Any),
    ("spec.containers[].restartPolicy", Any),
    ("spec.containers[].restartPolicyRules", Any),
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Any),
    ("spec.containers[].securityContext.capabilities.add", Any),
    ("spec.containers[].securityContext.capabilities.drop", Any),
    ("spec.containers[].securityContext.privileged", Any),
    ("spec.containers[].securityContext.procMount", Only("Default")),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Any),
    ("spec.containers[].securityContext.runAsGroup", Any),
    ("spec.containers[].securityContext.runAsNonRoot", Any),
    ("spec.containers[].securityContext.runAsUser", Any),
    ("spec.containers[].securityContext.seccompProfile.type", Only("Unconfined")),
    ("spec.containers[].startupProbe", Any),
    ("spec.containers[].stdin", Any),
    ("spec.containers[].stdinOnce", Any),
    ("spec.containers[].terminationMessagePath", Any),
    ("spec.containers[].terminationMessagePolicy", Any),
    ("spec.containers[].tty", Any),
    ("spec.containers[].volumeMounts[].mountPath", Any),
    ("spec.containers[].volumeMounts[].mountPropagation", Any),
    ("spec.containers[].volumeMounts[].name", Any),
    ("spec.containers[].volumeMounts[].readOnly", Any),
    ("spec.containers[].volumeMounts[].recursiveReadOnly", Only("Disabled")),
    ("spec.containers[].workingDir", Any),
];

/// Every field that is set and not implemented, and every text that holds a NUL, which no system call can carry.
pub fn unsupported(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // A pod holds strings, numbers and maps with string keys only, so it always has a JSON form.
    walk(&serde_json::to_value(pod).unwrap_or_default(), &Place::default(), &mut errors);
    errors
}

/// A path as it is shown and as the table knows it.
#[derive(Default, Clone)]
struct Place {
    path: String,
    pattern: String,
}

impl Place {
    fn key(&self, key: &str) -> Place {
        let mut place = self.clone();
        push_key(&mut place.path, key);
        if !place.pattern.is_empty() {
            place.pattern.push('.');
        }
        // One table for both: what only one of them may have is told apart by validation.
        let init = place.path == "spec.initContainers";
        place.pattern.push_str(if init { "containers" } else { key });
        place
    }

    fn index(&self, index: usize) -> Place {
        Place { path: format!("{}[{index}]", self.path), pattern: format!("{}[]", self.pattern) }
    }

    fn rule(&self) -> Option<Rule> {
        RULES.iter().find(|(pattern, _)| *pattern == self.pattern).map(|(_, rule)| *rule)
    }

    /// Whether the table knows anything beneath.
    fn leads_on(&self) -> bool {
        let beneath = |pattern: &str| {
            let rest = pattern.strip_prefix(self.pattern.as_str());
            rest.is_some_and(|rest| rest.starts_with('.') || rest.starts_with('[') || self.pattern.is_empty())
        };
        RULES.iter().any(|(pattern, _)| beneath(pattern))
    }
}

fn walk(value: &Value, place: &Place, errors: &mut Vec<FieldError>) {
    let empty_list = value.as_array().is_some_and(Vec::is_empty);
    if empty_list || value.is_null() || value.as_str() == Some("") {
        return;
    }
    match place.rule() {
        // Generators of manifests write `status: {}`.
        Some(Never(_)) if place.pattern == "status" && plain(value) == "{}" => {}
        Some(Never(reason)) => errors.push(FieldError::new(&place.path, reason)),
        Some(Any) => find_nul(value, place, errors),
        Some(Only(allowed)) if plain(value) == allowed => {}
        Some(Only(allowed)) => {
            let message = format!("not supported yet: leave it out or set it to {allowed}");
            errors.push(FieldError::with_found(&place.path, plain(value), message));
        }
        None if place.leads_on() => {
            for (value, place) in children(value, place) {
                walk(value, &place, errors);
            }
        }
        None => errors.push(FieldError::new(&place.path, "not supported yet")),
    }
}

fn find_nul(value: &Value, place: &Place, errors: &mut Vec<FieldError>) {
    if let Value::String(text) = value
        && text.contains('\0')
    {
        errors.push(FieldError::with_found(&place.path, text, "must not contain the NUL character"));
    }
    for (value, place) in children(value, place) {
        find_nul(value, &place, errors);
    }
}

fn children<'v>(value: &'v Value, place: &Place) -> Vec<(&'v Value, Place)> {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (value, place.key(key))).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (value, place.index(index))).collect(),
        _ => Vec::new(),
    }
}

/// A value as a person would write it: strings without quotes.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Appends `.key`, or `[key]` for one that is no plain word.
pub(crate) fn push_key(path: &mut String, key: &str) {
    let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    match (word, path.is_empty()) {
        (true, true) => path.push_str(key),
        (true, false) => path.extend([".", key]),
        (false, _) => path.extend(["[", key, "]"]),
    }
}
