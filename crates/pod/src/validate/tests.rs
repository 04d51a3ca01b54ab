use super::*;
use crate::{defaults, support};
use serde_json::{Value, json};

mod life;

/// A valid pod; `edit` then changes it. The messages of everything wrong with it.
fn told(edit: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"volumes": [{"name": "v"}], "containers": [{"name": "c", "image": "busybox"}]}
    });
    edit(&mut value);
    let mut pod: Pod = serde_json::from_value(value).unwrap();
    defaults::apply(&mut pod);
    support::unsupported(&pod).into_iter().chain(super::pod(&pod)).map(|error| error.to_string()).collect()
}

fn set(at: &str, to: Value) -> Vec<String> {
    told(|pod| {
        let mut place = pod;
        for step in at.split('/') {
            place = match step.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[step],
            };
        }
        *place = to;
    })
}

fn container(field: &str, to: Value) -> Vec<String> {
    set(&format!("spec/containers/0/{field}"), to)
}

#[track_caller]
fn refused(told: Vec<String>, expected: &str) {
    assert!(told.iter().any(|line| line.contains(expected)), "expected {expected:?} in {told:?}");
}

#[track_caller]
fn accepted(told: Vec<String>) {
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn metadata_table() {
    accepted(told(|_| {}));
    refused(set("metadata/name", json!("")), "metadata.name: is required: name is needed for the pod");
    refused(set("metadata/name", json!("a/b")), "metadata.name: found \"a/b\"");
    refused(set("metadata/name", json!("a".repeat(254))), "at most 253");
    refused(set("metadata/namespace", json!("a.b")), "metadata.namespace: found \"a.b\": must be 1 to 63");
    refused(set("metadata/uid", json!("../x")), "metadata.uid: found \"../x\"");
    refused(set("metadata/labels", json!({"a b": "x"})), "metadata.labels[a b]: found \"a b\": a label's key");
    refused(set("metadata/labels", json!({"a": "x y"})), "metadata.labels.a: found \"x y\": a label's value");
    refused(set("metadata/annotations", json!({"": "x"})), "an annotation's key");
    accepted(set("metadata/annotations", json!({"Example.com/Any": "x\ny \u{e9}"})));
    refused(set("metadata/annotations", json!({"a": "x".repeat(256 * 1024)})), "at most 262144 bytes");
    refused(set("spec", Value::Null), "spec: is required");
}

#[test]
fn metadata_of_a_server_is_refused_or_ignored() {
    accepted(set("metadata/resourceVersion", json!("5")));
    accepted(set("metadata/creationTimestamp", json!("2024-01-01T00:00:00Z")));
    refused(set("metadata/generateName", json!("x-")), "name is needed for the pod");
    refused(set("metadata/deletionTimestamp", json!("2024-01-01T00:00:00Z")), "is set by an API server");
    refused(set("metadata/finalizers", json!(["a/b"])), "is set by an API server");
    refused(set("status", json!({"phase": "Running"})), "status: is written by the kubelet: remove it");
    accepted(set("status", json!({})));
}

#[test]
fn spec_table() {
    accepted(set("spec/imagePullSecrets", json!([{"name": "regcred"}, {"name": "team.regcred"}])));
    refused(set("spec/imagePullSecrets", json!([{}])), "spec.imagePullSecrets[0].name: is required");
    refused(
        set("spec/imagePullSecrets", json!([{"name": "../x"}])),
        "imagePullSecrets[0].name: found \"../x\": must be",
    );
    refused(set("spec/containers", json!([])), "spec.containers: is required");
    refused(set("spec/restartPolicy", json!("always")), "must be one of Always, OnFailure, Never");
    refused(set("spec/terminationGracePeriodSeconds", json!(-1)), "must be 0 to 2147483647 seconds");
    refused(set("spec/terminationGracePeriodSeconds", json!(i64::MAX)), "must be 0 to 2147483647 seconds");
    accepted(set("spec/terminationGracePeriodSeconds", json!(0)));
    refused(set("spec/hostname", json!("a.b")), "spec.hostname: found \"a.b\"");
    refused(set("spec/subdomain", json!("A")), "spec.subdomain: found \"A\"");
    refused(set("spec/hostAliases", json!([{"ip": "x"}])), "hostAliases[0].ip: found \"x\": must be an IP address");
    refused(set("spec/hostAliases", json!([{"ip": "::1", "hostnames": ["a\nb"]}])), "hostAliases[0].hostnames[0]");
    refused(set("spec/securityContext", json!({"runAsUser": -1})), "spec.securityContext.runAsUser: found \"-1\"");
    refused(set("spec/securityContext", json!({"runAsGroup": 2_147_483_648_i64})), "must be 0 to 2147483647");
    refused(set("spec/securityContext", json!({"supplementalGroups": [1, -2]})), "supplementalGroups[1]: found \"-2\"");
}

#[test]
fn dns_table() {
    let dns = |config: Value| set("spec/dnsConfig", config);
    refused(set("spec/dnsPolicy", json!("none")), "must be one of ClusterFirst");
    refused(set("spec/dnsPolicy", json!("None")), "at least one name server");
    refused(dns(json!({"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]})), "at most 3 are allowed");
    refused(
        dns(json!({"nameservers": ["dns.example.com"]})),
        "nameservers[0]: found \"dns.example.com\": must be an IP",
    );
    refused(dns(json!({"searches": vec!["a"; 33]})), "at most 32 are allowed");
    refused(dns(json!({"searches": vec![format!("{0}.{0}", "a".repeat(32)); 32]})), "2111 characters");
    refused(dns(json!({"searches": ["a b"]})), "searches[0]: found \"a b\": must be a DNS domain");
    refused(dns(json!({"options": [{"value": "1"}]})), "options[0].name: is required");
    refused(dns(json!({"options": [{"name": "a\nnameserver 6.6.6.6"}]})), "must be one word");
    refused(dns(json!({"options": [{"name": "ndots", "value": "1 2"}]})), "must be one word");
}

#[test]
fn volume_table() {
    let volumes = |list: Value| set("spec/volumes", list);
    refused(volumes(json!([{"name": "v"}, {"name": "v"}])), "volumes[1].name: found \"v\": another volume");
    refused(volumes(json!([{"name": ""}])), "volumes[0].name: is required");
    refused(volumes(json!([{"name": "../x"}])), "volumes[0].name: found \"../x\"");
    refused(
        volumes(json!([{"name": "v", "emptyDir": {"medium": "memory"}}])),
        "must be empty (the node's disk) or Memory",
    );
    refused(volumes(json!([{"name": "v", "emptyDir": {"medium": "HugePages"}}])), "not supported yet");
    refused(volumes(json!([{"name": "v", "emptyDir": {"medium": "HugePages-2Mi"}}])), "not supported yet");
    refused(volumes(json!([{"name": "v", "emptyDir": {"sizeLimit": "-1"}}])), "must not be negative");
    refused(
        volumes(json!([{"name": "v", "emptyDir": {"sizeLimit": "1KB"}}])),
        "sizeLimit: found \"1KB\": is not a quantity",
    );
    refused(volumes(json!([{"name": "v", "hostPath": {"path": ""}}])), "hostPath.path: is required");
    refused(volumes(json!([{"name": "v", "hostPath": {"path": "/a/../b"}}])), "must not contain '..'");
    refused(volumes(json!([{"name": "v", "hostPath": {"path": "a"}}])), "must be an absolute path");
    refused(volumes(json!([{"name": "v", "hostPath": {"path": "/a\0b"}}])), "must not contain the NUL character");
    refused(
        volumes(json!([{"name": "v", "hostPath": {"path": "/a", "type": "Dir"}}])),
        "must be one of DirectoryOrCreate",
    );
    refused(volumes(json!([{"name": "v", "hostPath": {"path": "/a"}, "emptyDir": {}}])), "more than 1 volume type");
    accepted(volumes(json!([{"name": "v", "hostPath": {"path": "/a..b/c", "type": ""}}])));
}

#[test]
fn container_table() {
    let two = json!([{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]);
    refused(set("spec/containers", two), "containers[1].name: found \"c\": another container has this name");
    let many: Vec<_> = (0..501).map(|i| json!({"name": format!("c{i}"), "image": "i"})).collect();
    refused(set("spec/containers", json!(many)), "at most 500 are allowed");
    refused(container("name", json!("C")), "containers[0].name: found \"C\"");
    refused(container("name", json!("a".repeat(64))), "must be 1 to 63");
    refused(container("image", json!("")), "image: is required");
    refused(container("image", json!(" busybox")), "must not begin or end with blanks");
    refused(container("image", json!("BusyBox")), "lower-case repository");
    refused(container("imagePullPolicy", json!("Sometimes")), "must be one of Always, IfNotPresent, Never");
    refused(container("workingDir", json!("tmp")), "workingDir: found \"tmp\": must be an absolute path");
    refused(container("args", json!(["a\0b"])), "args[0]: found \"a\\u{0}b\": must not contain the NUL character");
}

#[test]
fn port_table() {
    let ports = |list: Value| container("ports", list);
    for bad in [0, -1, 65_536] {
        refused(ports(json!([{"containerPort": bad}])), "must be 1 to 65535");
    }
    refused(ports(json!([{"name": "http"}])), "ports[0].containerPort: found \"0\"");
    refused(ports(json!([{"containerPort": 1, "name": "HTTP"}])), "must be 1 to 15 lower-case");
    refused(ports(json!([{"containerPort": 1, "name": "8080"}])), "at least one letter");
    let twice = json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]);
    refused(ports(twice), "ports[1].name: found \"a\": another port");
    refused(ports(json!([{"containerPort": 1, "protocol": "tcp"}])), "must be one of TCP, UDP, SCTP");
    accepted(ports(json!([{"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}])));
    for bad in [-1, 65_536] {
        refused(ports(json!([{"containerPort": 1, "hostPort": bad}])), "hostPort: found");
    }
    refused(ports(json!([{"containerPort": 1, "hostPort": 80, "hostIP": "here"}])), "must be an IP address");
    let taken = json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}]);
    refused(ports(taken), "another port of the pod has this host port");
    accepted(ports(json!([{"containerPort": 65535, "name": "a", "protocol": "SCTP", "hostPort": 0, "hostIP": ""}])));
}

#[test]
fn env_table() {
    let env = |variable: Value| container("env", json!([variable]));
    refused(env(json!({"value": "x"})), "env[0].name: is required");
    refused(env(json!({"name": "a=b"})), "printable ASCII characters other than '='");
    refused(env(json!({"name": "a\u{1}"})), "printable ASCII");
    accepted(env(json!({"name": "my.var-1 x"})));
    let field = |path: &str| env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    for path in ["metadata.name", "metadata.labels['a.b/c']", "status.podIPs", "spec.serviceAccountName"] {
        accepted(field(path));
    }
    for path in ["", "metadata.labels", "metadata.labels['']", "status.phase", "spec.nodeName "] {
        refused(field(path), "fieldRef.fieldPath: found");
    }
    let resource = |selector: Value| env(json!({"name": "A", "valueFrom": {"resourceFieldRef": selector}}));
    accepted(resource(json!({"resource": "limits.cpu", "divisor": "1m"})));
    accepted(resource(json!({"resource": "requests.memory", "divisor": "1024Ki"})));
    accepted(resource(json!({"resource": "limits.memory", "divisor": "0"})));
    refused(
        resource(json!({"resource": "limits.memory", "divisor": "3Mi"})),
        "divisor: found \"3Mi\": must be one of 1, 1k",
    );
    refused(resource(json!({"resource": "limits.cpu", "divisor": "2m"})), "must be one of 1m, 1");
    refused(resource(json!({"resource": "cpu"})), "must be limits. or requests.");
    refused(resource(json!({"resource": "limits.cpu", "containerName": "x"})), "no container of the pod has this name");
    let both = json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    refused(env(both), "may not be specified when value is not empty");
    refused(env(json!({"name": "A", "valueFrom": {}})), "valueFrom: is required");
    let two = json!({"fieldRef": {"fieldPath": "metadata.name"}, "resourceFieldRef": {"resource": "limits.cpu"}});
    refused(env(json!({"name": "A", "valueFrom": two})), "may not have more than one field specified");
}

#[test]
fn resource_table() {
    let resources = |resources: Value| container("resources", resources);
    refused(resources(json!({"limits": {"cpu": "x"}})), "resources.limits.cpu: found \"x\": is not a quantity");
    assert_eq!(resources(json!({"limits": {"cpu": "x"}})).len(), 1, "told once, though the request was copied from it");
    refused(resources(json!({"limits": {"memory": "8Ei"}})), "is too large");
    refused(resources(json!({"requests": {"cpu": "-1"}})), "requests.cpu: found \"-1\": must not be negative");
    let over = json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}});
    refused(resources(over), "requests.memory: found \"2Gi\": must be less than or equal to the memory limit of 1Gi");
    refused(resources(json!({"limits": {"nvidia.com/gpu": "1"}})), "limits[nvidia.com/gpu]: not supported yet");
    refused(resources(json!({"limits": {"hugepages-2Mi": "2Mi"}})), "limits.hugepages-2Mi: not supported yet");
    accepted(resources(
        json!({"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "requests": {"cpu": "1000m"}}),
    ));
}

#[test]
fn the_pods_own_resources_hold_its_containers() {
    let pod = |own: Value, container: Value| {
        told(|pod| {
            pod["spec"]["resources"] = own;
            pod["spec"]["containers"][0]["resources"] = container;
        })
    };
    let container = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1500m", "memory": "1Gi"}});
    accepted(pod(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "2", "memory": "1Gi"}}), container.clone()));
    accepted(pod(json!({"limits": {"cpu": "2"}}), json!({})));
    refused(
        pod(json!({"requests": {"cpu": "499m"}}), container.clone()),
        "spec.resources.requests.cpu: found \"499m\": must be at least what the containers request together, 500m",
    );
    refused(
        pod(json!({"limits": {"memory": "1Mi"}}), container.clone()),
        "spec.resources.limits.memory: found \"1Mi\": must be at least the memory limit of container c, 1Gi",
    );
    refused(
        pod(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), json!({})),
        "spec.resources.requests.cpu: found \"2\": must be less than or equal to the cpu limit of 1",
    );
    refused(
        pod(json!({"limits": {"cpu": "x"}}), json!({})),
        "spec.resources.limits.cpu: found \"x\": is not a quantity",
    );
    refused(pod(json!({"limits": {"ephemeral-storage": "1Gi"}}), json!({})), "ephemeral-storage: not supported yet");
}

#[test]
fn mount_table() {
    let mounts = |list: Value| container("volumeMounts", list);
    refused(
        mounts(json!([{"name": "x", "mountPath": "/a"}])),
        "found \"x\": no volume of this name in spec.volumes (there: v)",
    );
    refused(mounts(json!([{"mountPath": "/a"}])), "volumeMounts[0].name: is required");
    refused(mounts(json!([{"name": "v"}])), "mountPath: is required");
    refused(mounts(json!([{"name": "v", "mountPath": "a"}])), "must be an absolute path");
    refused(mounts(json!([{"name": "v", "mountPath": "/a/../b"}])), "without '..'");
    refused(mounts(json!([{"name": "v", "mountPath": "//."}])), "must not be the root");
    let twice = json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a//"}]);
    refused(mounts(twice), "volumeMounts[1].mountPath: found \"/a//\": must be unique");
    refused(mounts(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Both"}])), "must be one of None");
    refused(
        mounts(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}])),
        "only to privileged",
    );
    refused(mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "x"}])), "subPath: not supported yet");
    accepted(mounts(json!([{"name": "v", "mountPath": "/a", "subPath": ""}, {"name": "v", "mountPath": "/a/b"}])));
}

#[test]
fn security_table() {
    let security = |context: Value| container("securityContext", context);
    for good in ["ALL", "NET_ADMIN", "CAP_NET_ADMIN", "CHECKPOINT_RESTORE"] {
        accepted(security(json!({"capabilities": {"add": [good], "drop": [good]}})));
    }
    for bad in ["", "net_admin", "CAP_", "CAP_ALL", "SYS_EVERYTHING"] {
        refused(security(json!({"capabilities": {"drop": ["CHOWN", bad]}})), "capabilities.drop[1]: found");
    }
    refused(security(json!({"runAsUser": 1_i64 << 31})), "runAsUser: found \"2147483648\"");
    refused(security(json!({"privileged": true, "allowPrivilegeEscalation": false})), "when privileged is true");
    let admin = json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}});
    refused(security(admin), "when capability SYS_ADMIN is added");
    refused(
        security(json!({"seccompProfile": {"type": "RuntimeDefault"}})),
        "not supported yet: leave it out or set it to Unconfined",
    );
    refused(security(json!({"procMount": "Unmasked"})), "not supported yet");
    refused(security(json!({"appArmorProfile": {"type": "Unconfined"}})), "appArmorProfile: not supported yet");
    refused(security(json!({"seLinuxOptions": {"level": "s0"}})), "seLinuxOptions: not supported yet");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let spec = [
        ("automountServiceAccountToken", json!(true)),
        ("ephemeralContainers", json!([{"name": "e"}])),
        ("hostUsers", json!(false)),
        ("hostnameOverride", json!("x")),
        ("overhead", json!({"cpu": "1"})),
        ("readinessGates", json!([{"conditionType": "x"}])),
        ("resources", json!({"limits": {"hugepages-2Mi": "2Mi"}})),
        ("runtimeClassName", json!("x")),
        ("schedulingGates", json!([{"name": "x"}])),
        ("setHostnameAsFQDN", json!(true)),
    ];
    for (field, value) in spec {
        refused(set(&format!("spec/{field}"), value), "not supported yet");
    }
    for (field, value) in [
        ("fsGroup", json!(5)),
        ("fsGroupChangePolicy", json!("Always")),
        ("sysctls", json!([{"name": "a", "value": "b"}])),
        ("supplementalGroupsPolicy", json!("Strict")),
    ] {
        refused(set("spec/securityContext", json!({field: value})), &format!("spec.securityContext.{field}"));
    }
    for (field, value) in [
        ("resizePolicy", json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])),
        ("volumeDevices", json!([{"name": "v", "devicePath": "/dev/x"}])),
        ("envFrom", json!([{"prefix": "x"}])),
    ] {
        refused(container(field, value), &format!("spec.containers[0].{field}"));
    }
    for source in ["nfs", "iscsi", "downwardAPI", "image", "gitRepo", "fc", "rbd", "cephfs", "flexVolume"] {
        let told = set("spec/volumes", json!([{"name": "v", source: {}}]));
        refused(told, &format!("spec.volumes[0].{source}: not supported yet"));
    }
}

#[test]
fn s_h04_static_pods_may_not_reference_api_objects() {
    let phrase = |told: Vec<String>, what: &str| refused(told, &format!("static pods may not reference {what}"));
    phrase(set("spec/serviceAccountName", json!("default")), "serviceaccounts");
    phrase(set("spec/serviceAccount", json!("x")), "serviceaccounts");
    phrase(set("spec/resourceClaims", json!([{"name": "x"}])), "resourceclaims");
    phrase(
        container("env", json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])),
        "secrets",
    );
    phrase(
        container("env", json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}])),
        "configmaps",
    );
    phrase(container("envFrom", json!([{"configMapRef": {"name": "s"}}])), "configmaps");
    phrase(container("envFrom", json!([{"secretRef": {"name": "s"}}])), "secrets");
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        set("spec/volumes", json!([volume]))
    };
    phrase(volume(json!({"configMap": {"name": "m"}})), "configmaps (via configmap volumes)");
    phrase(volume(json!({"configMap": {}})), "configmaps (via configmap volumes)");
    phrase(volume(json!({"secret": {"secretName": "s"}})), "secrets (via secret volumes)");
    phrase(volume(json!({"persistentVolumeClaim": {"claimName": "c"}})), "persistentvolumeclaims");
    phrase(volume(json!({"ephemeral": {}})), "persistentvolumeclaims (via ephemeral volumes)");
    phrase(volume(json!({"csi": {"driver": "d"}})), "csidrivers (via CSI volumes)");
    phrase(volume(json!({"glusterfs": {"path": "p"}})), "endpoints (via glusterFS volumes)");
    phrase(volume(json!({"azureFile": {"secretName": "s"}})), "secrets (via azureFile volumes)");
    let projected = |source: &str| volume(json!({"projected": {"sources": [{source: {"name": "x"}}]}}));
    phrase(projected("configMap"), "configmaps (via projected volumes)");
    phrase(projected("secret"), "secrets (via projected volumes)");
    let token = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
    phrase(volume(token), "serviceaccounts (via projected volumes)");
    phrase(projected("clusterTrustBundle"), "clustertrustbundles");
}

#[test]
fn what_a_node_may_ignore_is_accepted() {
    accepted(set("spec/nodeSelector", json!({})));
    accepted(set("spec/initContainers", json!([])));
    accepted(set("spec/runtimeClassName", json!("")));
    accepted(set("spec/nodeName", json!("elsewhere")));
    accepted(set("spec/tolerations", json!([{"operator": "Exists"}])));
    accepted(set("spec/priorityClassName", json!("system-node-critical")));
    accepted(set("spec/affinity", json!({"podAffinity": {}})));
    accepted(set("spec/automountServiceAccountToken", json!(false)));
}
