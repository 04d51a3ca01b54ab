//! What decides a pod's life: kinds of containers, restart rules, probes, hooks, namespaces, the node.

use super::*;

/// An init container beside the regular `c`, with one field set.
fn init(field: &str, to: Value) -> Vec<String> {
    set("spec/initContainers", json!([{"name": "i", "image": "i", field: to}]))
}

/// The same for a sidecar.
fn sidecar(field: &str, to: Value) -> Vec<String> {
    set("spec/initContainers", json!([{"name": "i", "image": "i", "restartPolicy": "Always", field: to}]))
}

/// All fields of the container at once.
fn of(fields: Value) -> Vec<String> {
    told(|pod| pod["spec"]["containers"][0].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone()))
}

#[test]
fn init_containers_keep_the_rules_of_containers() {
    accepted(set("spec/initContainers", json!([{"name": "i", "image": "i"}])));
    refused(
        set("spec/initContainers", json!([{"name": "c", "image": "i"}])),
        "spec.containers[0].name: found \"c\": another container has this name",
    );
    let twins = json!([{"name": "i", "image": "i"}, {"name": "i", "image": "i"}]);
    refused(set("spec/initContainers", twins), "spec.initContainers[1].name: found \"i\": another container");
    refused(set("spec/initContainers", json!([{"name": "i"}])), "spec.initContainers[0].image: is required");
    refused(init("image", json!("UP")), "spec.initContainers[0].image: found \"UP\"");
    refused(init("volumeMounts", json!([{"name": "x", "mountPath": "/x"}])), "no volume of this name");
    accepted(init("volumeMounts", json!([{"name": "v", "mountPath": "/x"}])));
    refused(
        init("resizePolicy", json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])),
        "not supported yet",
    );
    refused(init("args", json!(["a\0"])), "spec.initContainers[0].args[0]: found");
    refused(
        init("env", json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])),
        "spec.initContainers[0].env[0].valueFrom.secretKeyRef: static pods may not reference secrets",
    );
    let resource = |name: &str| {
        let selector = json!({"resource": "limits.cpu", "containerName": name});
        container("env", json!([{"name": "A", "valueFrom": {"resourceFieldRef": selector}}]))
    };
    refused(resource("i"), "no container of the pod has this name");
    let many: Vec<_> = (0..500).map(|i| json!({"name": format!("i{i}"), "image": "i"})).collect();
    refused(set("spec/initContainers", json!(many)), "found \"501 containers\": at most 500");
}

#[test]
fn only_sidecars_among_init_containers_have_probes_and_hooks() {
    let probe = json!({"tcpSocket": {"port": 80}});
    for field in ["startupProbe", "livenessProbe", "readinessProbe"] {
        accepted(sidecar(field, probe.clone()));
        refused(init(field, probe.clone()), &format!("spec.initContainers[0].{field}: may not be set"));
    }
    let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
    accepted(sidecar("lifecycle", hook.clone()));
    refused(init("lifecycle", hook), "spec.initContainers[0].lifecycle: may not be set for an init container without");
    refused(sidecar("livenessProbe", json!({})), "spec.initContainers[0].livenessProbe: is required: one of exec");
}

#[test]
fn restart_policies_and_rules() {
    for policy in ["Always", "OnFailure", "Never"] {
        accepted(container("restartPolicy", json!(policy)));
        accepted(init("restartPolicy", json!(policy)));
    }
    refused(container("restartPolicy", json!("Maybe")), "containers[0].restartPolicy: found \"Maybe\": must be one of");
    let rules = |rules: Value| of(json!({"restartPolicy": "Never", "restartPolicyRules": rules}));
    let rule = |action: &str, on_exit: Value| rules(json!([{"action": action, "exitCodes": on_exit}]));
    let codes = json!({"operator": "In", "values": [1]});
    accepted(rule("Restart", codes.clone()));
    accepted(rule("RestartAllContainers", json!({"operator": "NotIn", "values": vec![0; 255]})));
    refused(rule("Stop", codes.clone()), "restartPolicyRules[0].action: found \"Stop\": must be one of Restart, ");
    refused(rule("", codes.clone()), "restartPolicyRules[0].action: is required: one of Restart, RestartAllContainers");
    refused(rule("Restart", json!({"operator": "Is", "values": [1]})), "exitCodes.operator: found \"Is\"");
    refused(rule("Restart", json!({"values": [1]})), "exitCodes.operator: is required");
    refused(rule("Restart", json!({"operator": "In"})), "exitCodes.values: is required: one exit code or more");
    refused(rule("Restart", json!({"operator": "In", "values": vec![1; 256]})), "found \"256 values\": at most 255");
    refused(rules(json!([{"action": "Restart"}])), "restartPolicyRules[0].exitCodes: is required");
    let one = json!({"action": "Restart", "exitCodes": codes});
    accepted(rules(json!(vec![one.clone(); 20])));
    refused(rules(json!(vec![one.clone(); 21])), "restartPolicyRules: found \"21 rules\": at most 20");
    refused(
        container("restartPolicyRules", json!([one])),
        "containers[0].restartPolicy: is required: restartPolicyRules need one to fall back to",
    );
}

#[test]
fn a_probe_has_exactly_one_handler() {
    let probe = |probe: Value| container("livenessProbe", probe);
    accepted(probe(json!({"exec": {"command": ["true"]}})));
    accepted(probe(json!({"tcpSocket": {"port": 1}})));
    accepted(probe(json!({"httpGet": {"port": 65535}})));
    accepted(probe(json!({"grpc": {"port": 9, "service": "x"}})));
    refused(probe(json!({})), "livenessProbe: is required: one of exec, httpGet, tcpSocket, grpc");
    refused(
        probe(json!({"exec": {"command": ["true"]}, "grpc": {"port": 1}})),
        "livenessProbe: found \"exec and grpc\": may not specify more than 1 handler type",
    );
    refused(probe(json!({"exec": {"command": []}})), "livenessProbe.exec.command: is required");
    refused(probe(json!({"exec": {}})), "livenessProbe.exec.command: is required");
    refused(probe(json!({"exec": {"command": ["a\0b"]}})), "must not contain the NUL character");
    for port in [0, -1, 65_536] {
        refused(probe(json!({"grpc": {"port": port}})), "livenessProbe.grpc.port: found");
        refused(probe(json!({"tcpSocket": {"port": port}})), "livenessProbe.tcpSocket.port: found");
        refused(probe(json!({"httpGet": {"port": port}})), "must be 1 to 65535");
    }
}

#[test]
fn a_probe_names_a_port_of_its_container() {
    let probe = |port: Value| {
        let ports = json!([{"name": "http", "containerPort": 80}, {"containerPort": 81}]);
        of(json!({"ports": ports, "readinessProbe": {"httpGet": {"port": port}}}))
    };
    accepted(probe(json!("http")));
    refused(probe(json!("https")), "found \"https\": no port of this name in the container's ports (there: http)");
    refused(probe(json!("80")), "found \"80\": must be a number without quotes, or the name of a port");
    refused(probe(json!("HTTP")), "must be 1 to 15 lower-case");
    let none = container("readinessProbe", json!({"tcpSocket": {"port": "http"}}));
    refused(none, "spec.containers[0].readinessProbe.tcpSocket.port: found \"http\": no port of this name");
}

#[test]
fn an_http_probe_is_one_request() {
    let get = |field: &str, to: Value| container("livenessProbe", json!({"httpGet": {"port": 80, field: to}}));
    accepted(get("scheme", json!("HTTPS")));
    refused(get("scheme", json!("https")), "httpGet.scheme: found \"https\": must be one of HTTP, HTTPS");
    accepted(get("path", json!("/a?b=c d#e")));
    refused(get("path", json!("/\r\nX: y")), "httpGet.path: found \"/\\r\\nX: y\": must not contain control");
    for host in ["example.com", "127.0.0.1", "::1", "my_host"] {
        accepted(get("host", json!(host)));
    }
    for host in ["a b", "a/b", "user@host", "a:80", "a\n"] {
        refused(get("host", json!(host)), "httpGet.host: found");
    }
    let header = |name: &str, value: &str| get("httpHeaders", json!([{"name": name, "value": value}]));
    accepted(header("X-Check", "a\tb: \u{e9}"));
    accepted(header("Host", ""));
    refused(header("", "x"), "httpHeaders[0].name: is required");
    refused(header("X Check", "x"), "httpHeaders[0].name: found \"X Check\": must be the name of a header");
    refused(header("X", "a\r\nY: z"), "httpHeaders[0].value: found \"a\\r\\nY: z\": must not contain control");
}

#[test]
fn numbers_of_probes() {
    let probe = |kind: &str, field: &str, to: Value| container(kind, json!({"tcpSocket": {"port": 80}, field: to}));
    let fields = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        for field in fields {
            accepted(probe(kind, field, json!(0)));
            accepted(probe(kind, field, json!(1)));
            let expected = format!("{kind}.{field}: found \"-1\": must not be negative");
            refused(probe(kind, field, json!(-1)), &expected);
        }
    }
    accepted(probe("readinessProbe", "successThreshold", json!(5)));
    for kind in ["startupProbe", "livenessProbe"] {
        refused(probe(kind, "successThreshold", json!(2)), "found \"2\": must be 1 for a liveness or startup probe");
        accepted(probe(kind, "terminationGracePeriodSeconds", json!(1)));
        for grace in [0, -1, 1_i64 << 31] {
            refused(probe(kind, "terminationGracePeriodSeconds", json!(grace)), "must be 1 to 2147483647 seconds");
        }
    }
    let readiness = probe("readinessProbe", "terminationGracePeriodSeconds", json!(1));
    refused(readiness, "readinessProbe.terminationGracePeriodSeconds: must not be set for a readiness probe");
}

#[test]
fn hooks_table() {
    for moment in ["postStart", "preStop"] {
        let hook = |hook: Value| container("lifecycle", json!({moment: hook}));
        accepted(hook(json!({"exec": {"command": ["true"]}})));
        accepted(hook(json!({"httpGet": {"port": 80}})));
        accepted(hook(json!({"tcpSocket": {"port": 80}})));
        accepted(hook(json!({"sleep": {"seconds": 0}})));
        accepted(hook(json!({"sleep": {"seconds": 30}})));
        refused(hook(json!({"sleep": {"seconds": 31}})), "sleep.seconds: found \"31\": must be 0 to 30 seconds");
        refused(hook(json!({"sleep": {"seconds": -1}})), "must be 0 to 30 seconds, spec.terminationGracePeriodSeconds");
        refused(hook(json!({})), &format!("lifecycle.{moment}: is required: one of exec, httpGet, tcpSocket, sleep"));
        let two = json!({"exec": {"command": ["true"]}, "sleep": {"seconds": 1}});
        refused(hook(two), "found \"exec and sleep\": may not specify more than 1 handler type");
        refused(hook(json!({"exec": {}})), &format!("lifecycle.{moment}.exec.command: is required"));
        refused(hook(json!({"httpGet": {"port": "web"}})), &format!("lifecycle.{moment}.httpGet.port: found \"web\""));
        refused(hook(json!({"tcpSocket": {"port": 0}})), "must be 1 to 65535");
    }
    accepted(container("lifecycle", json!({})));
}

#[test]
fn a_stop_signal_needs_to_know_the_system() {
    let signal = |os: Value, signal: &str| {
        told(|pod| {
            pod["spec"]["os"] = os;
            pod["spec"]["containers"][0]["lifecycle"] = json!({"stopSignal": signal});
        })
    };
    let linux = json!({"name": "linux"});
    accepted(signal(linux.clone(), "SIGUSR1"));
    accepted(signal(linux.clone(), "SIGRTMIN+3"));
    refused(signal(linux, "USR1"), "lifecycle.stopSignal: found \"USR1\": must be a signal's full name");
    refused(signal(Value::Null, "SIGTERM"), "lifecycle.stopSignal: found \"SIGTERM\": needs spec.os.name");
}

#[test]
fn deadlines_and_namespaces() {
    accepted(set("spec/activeDeadlineSeconds", json!(1)));
    for bad in [0, -1, 1_i64 << 31] {
        refused(set("spec/activeDeadlineSeconds", json!(bad)), "activeDeadlineSeconds: found");
    }
    for field in ["hostIPC", "hostPID", "hostNetwork", "shareProcessNamespace"] {
        accepted(set(&format!("spec/{field}"), json!(true)));
        accepted(set(&format!("spec/{field}"), json!(false)));
    }
    let both = |share: bool, host: bool| {
        told(|pod| {
            pod["spec"]["shareProcessNamespace"] = json!(share);
            pod["spec"]["hostPID"] = json!(host);
        })
    };
    refused(both(true, true), "spec.shareProcessNamespace: found \"true\": shareProcessNamespace and hostPID cannot");
    accepted(both(false, true));
}

#[test]
fn host_ports_in_the_machines_network_are_the_containers_own() {
    let ports = |ports: Value| {
        told(|pod| {
            pod["spec"]["hostNetwork"] = json!(true);
            pod["spec"]["containers"][0]["ports"] = ports;
        })
    };
    accepted(ports(json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 81, "hostIP": "127.0.0.1"}])));
    refused(ports(json!([{"containerPort": 80, "hostPort": 81}])), "hostPort: found \"81\": must be the containerPort");
    refused(ports(json!([{"containerPort": 80, "hostIP": "x"}])), "hostIP: found \"x\": must be an IP address");
    accepted(ports(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}])));
    refused(
        ports(json!([{"containerPort": 53}, {"containerPort": 53}])),
        "ports[1].hostPort: found \"53\": another port",
    );
    accepted(container("ports", json!([{"containerPort": 1, "hostPort": 2}])));
    accepted(told(|pod| {
        pod["spec"]["hostNetwork"] = json!(true);
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
        pod["spec"]["initContainers"] = json!([{"name": "i", "image": "i", "ports": [{"containerPort": 80}]}]);
    }));
    refused(
        told(|pod| {
            pod["spec"]["hostNetwork"] = json!(true);
            pod["spec"]["containers"] = json!([
                {"name": "a", "image": "i", "ports": [{"containerPort": 80}]},
                {"name": "b", "image": "i", "ports": [{"containerPort": 80}]}
            ]);
        }),
        "spec.containers[1].ports[0].hostPort: found \"80\": another port of the pod",
    );
}

#[test]
fn termination_messages() {
    for policy in ["File", "FallbackToLogsOnError"] {
        accepted(container("terminationMessagePolicy", json!(policy)));
    }
    refused(container("terminationMessagePolicy", json!("Log")), "terminationMessagePolicy: found \"Log\"");
    accepted(container("terminationMessagePath", json!("/tmp/last words")));
    for bad in ["tmp/x", "/", "//.", "/a/../b"] {
        refused(container("terminationMessagePath", json!(bad)), "must be the absolute path of a file");
    }
}

#[test]
fn the_nodes_system_and_labels() {
    accepted(set("spec/os", json!({"name": "linux"})));
    accepted(set("spec/os", json!({"name": "windows"})));
    refused(set("spec/os", json!({"name": "plan9"})), "spec.os.name: found \"plan9\": must be one of linux, windows");
    refused(set("spec/os", json!({})), "spec.os.name: is required: one of linux, windows");
    accepted(set("spec/nodeSelector", json!({"kubernetes.io/os": "linux", "a": ""})));
    refused(set("spec/nodeSelector", json!({"a b": "x"})), "spec.nodeSelector[a b]: found \"a b\": a label's key");
    refused(set("spec/nodeSelector", json!({"a": "x y"})), "spec.nodeSelector.a: found \"x y\": a label's value");
}

#[test]
fn the_nodes_affinity() {
    let terms = |terms: Value| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        set("spec/affinity", json!({"nodeAffinity": required}))
    };
    let expression = |operator: &str, values: Value| {
        terms(json!([{"matchExpressions": [{"key": "a.b/c", "operator": operator, "values": values}]}]))
    };
    for (operator, good) in
        [("In", json!(["a", ""])), ("NotIn", json!(["a"])), ("Gt", json!(["5"])), ("Lt", json!(["-5"]))]
    {
        accepted(expression(operator, good));
        refused(expression(operator, json!([])), "matchExpressions[0].values: ");
    }
    for operator in ["Exists", "DoesNotExist"] {
        accepted(expression(operator, json!([])));
        refused(expression(operator, json!(["a"])), "values: found \"a\": must be left out for Exists");
    }
    refused(expression("In", json!(["a b"])), "values[0]: found \"a b\": must be empty or at most 63");
    refused(expression("Gt", json!(["1", "2"])), "values: found \"1, 2\": must be exactly one value");
    refused(expression("Lt", json!(["x"])), "values[0]: found \"x\": must be a whole number");
    refused(expression("Like", json!(["x"])), "matchExpressions[0].operator: found \"Like\"");
    refused(terms(json!([])), "nodeSelectorTerms: is required");
    refused(terms(json!([{"matchExpressions": [{"operator": "Exists"}]}])), "matchExpressions[0].key: is required");

    let field = |key: &str, operator: &str, values: Value| {
        terms(json!([{"matchFields": [{"key": key, "operator": operator, "values": values}]}]))
    };
    accepted(field("metadata.name", "In", json!(["node-1"])));
    refused(field("metadata.uid", "In", json!(["x"])), "matchFields[0].key: found \"metadata.uid\": must be one of");
    refused(field("metadata.name", "Exists", json!(["x"])), "matchFields[0].operator: found \"Exists\"");
    refused(field("metadata.name", "In", json!(["a", "b"])), "must be exactly one name of a node");
    let preferred = json!([{"weight": 1, "preference": {}}]);
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    accepted(set("spec/affinity", preferred));
}
