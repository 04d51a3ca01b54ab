//! What `/pods`, `kubelet events` and `kubelet describe` say of pods and containers.

use e2e::story::{condition, ended, is, once_started, restarts, status, waits_for};
use e2e::{Machine, Options, Part, Play, await_true, manifests};
use serde_json::{Value, json};

fn machine() -> Machine {
    Machine::start(Options::default())
}

/// `(type, status)` of every condition, in the order in which they stand.
fn conditions(pod: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.iter().map(|condition| (text(&condition["type"]), text(&condition["status"]))).collect()
}

fn expected(states: [&str; 5]) -> Vec<(String, String)> {
    let names = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    names.iter().zip(states).map(|(name, state)| ((*name).to_owned(), state.to_owned())).collect()
}

#[test]
fn conditions_tell_how_far_a_pod_is() {
    let machine = machine();
    let main = Part::gated("main", 0).held().field("startupProbe", once_started());
    machine.play(&Play::new("a", "Never").init(Part::gated("init", 0)).main(main));
    machine.await_told("a", "init Started", 1);
    let pod = machine.await_pod("a", |pod| is(pod, "init", "running"));
    assert_eq!(conditions(&pod), expected(["True", "False", "False", "False", "True"]));
    let initialized = condition(&pod, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [init]");
    assert_eq!(condition(&pod, "ContainersReady")["message"], "containers with unready status: [main]");
    assert_eq!(waits_for(&pod, "main"), "PodInitializing");
    let not_ready_since = condition(&pod, "Ready")["lastTransitionTime"].clone();

    machine.open("a", "init.end");
    machine.await_told("a", "main Starting", 1);
    let pod = machine.await_pod("a", |pod| is(pod, "main", "running"));
    assert_eq!(conditions(&pod), expected(["True", "True", "False", "False", "True"]));
    assert_eq!(status(&pod, "main")["started"], false);
    assert_eq!(
        condition(&pod, "Ready")["lastTransitionTime"],
        not_ready_since,
        "a time changes with the condition only"
    );

    machine.open("a", "main.start");
    let pod = machine.await_ready("a");
    assert_eq!(conditions(&pod), expected(["True", "True", "True", "True", "True"]));
    assert_eq!(pod["status"]["phase"], "Running");
    for field in ["hostIP", "podIP", "startTime", "qosClass"] {
        assert!(pod["status"][field].is_string(), "{field} in {}", pod["status"]);
    }
    assert_eq!(pod["status"]["podIPs"][0]["ip"], pod["status"]["podIP"]);
    assert_eq!(pod["status"]["hostIPs"][0]["ip"], pod["status"]["hostIP"]);
    assert_eq!(status(&pod, "main")["volumeMounts"][0]["mountPath"], "/story");

    machine.open("a", "main.end");
    let pod = machine.await_phase("a", "Succeeded");
    let pod = machine
        .await_pod("a", |seen| condition(seen, "PodReadyToStartContainers")["status"] == "False" || *seen == pod);
    for (kind, state, reason) in [
        ("Initialized", "True", "PodCompleted"),
        ("Ready", "False", "PodCompleted"),
        ("ContainersReady", "False", "PodCompleted"),
    ] {
        let seen = condition(&pod, kind);
        assert_eq!((&seen["status"], &seen["reason"]), (&json!(state), &json!(reason)), "{kind} in {}", pod["status"]);
    }
    machine.finish();
}

#[test]
fn a_generation_is_observed() {
    let machine = machine();
    let play = Play::new("a", "Always").main(Part::forever("main")).metadata("generation", json!(7));
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    let pod = machine.await_ready("a");
    assert_eq!(pod["status"]["observedGeneration"], 7, "{}", pod["status"]);
    assert_eq!(condition(&pod, "Ready")["observedGeneration"], 7);
    machine.finish();
}

/// A pod with one container that runs a script, and fields for the container.
fn script(machine: &Machine, name: &str, script: &str, fields: &Value) {
    let mut container = json!({"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]});
    for (key, value) in fields.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    pod(machine, name, &json!({"restartPolicy": "Never", "containers": [container]}));
}

fn pod(machine: &Machine, name: &str, spec: &Value) {
    let mut spec = spec.clone();
    spec["terminationGracePeriodSeconds"] = json!(1);
    let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    machine.drop_manifest(&format!("{name}.yaml"), &text.to_string());
}

/// A container that runs a shell script.
fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script]})
}

const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

#[test]
fn termination_messages_come_from_the_file_or_the_log_within_their_limits() {
    let machine = machine();
    let fall_back = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let long = "i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); echo line $i; done";
    let tail: String = (921..=1000).map(|number| format!("line {number}\n")).collect();
    let file = "a".repeat(4096);
    let cases: [(&str, String, Value, &str); 9] = [
        ("file", "printf told > /dev/termination-log; exit 3".into(), json!({}), "told"),
        ("success", "printf 'all is well' > /dev/termination-log".into(), json!({}), "all is well"),
        ("nothing", "echo log; exit 3".into(), json!({}), ""),
        ("log", "echo from the log; exit 3".into(), fall_back.clone(), "from the log\n"),
        ("no-error", "echo from the log".into(), fall_back.clone(), ""),
        ("first", "echo log; printf file > /dev/termination-log; exit 3".into(), fall_back.clone(), "file"),
        ("lines", format!("{long}; exit 3"), fall_back, tail.as_str()),
        ("long", format!("printf {} > /dev/termination-log; exit 3", "a".repeat(5000)), json!({}), file.as_str()),
        (
            "path",
            "printf there > /run/deep/message; exit 3".into(),
            json!({"terminationMessagePath": "/run/deep/message", "securityContext": {"readOnlyRootFilesystem": true}}),
            "there",
        ),
    ];
    for (name, text, fields, _) in &cases {
        script(&machine, name, text, fields);
    }
    for (name, _, _, message) in &cases {
        let pod = machine.await_pod(name, |pod| is(pod, "main", "terminated"));
        let told = status(&pod, "main")["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(told, *message, "{name}: {}", pod["status"]);
    }
    machine.finish();
}

#[test]
fn ends_are_told_by_their_causes() {
    let machine = machine();
    script(&machine, "done", "exit 0", &json!({}));
    script(&machine, "error", "exit 42", &json!({}));
    script(&machine, "oom", "exec tail /dev/zero", &json!({"resources": {"limits": {"memory": "32Mi"}}}));
    let mut missing = sh("main", "");
    missing["command"] = json!(["/no/such/program"]);
    pod(&machine, "start", &json!({"restartPolicy": "Never", "containers": [missing]}));
    for (name, code, reason, phase) in [
        ("done", 0, "Completed", "Succeeded"),
        ("error", 42, "Error", "Failed"),
        ("oom", 137, "OOMKilled", "Failed"),
        ("start", 128, "StartError", "Failed"),
    ] {
        let pod = machine.await_phase(name, phase);
        assert_eq!(ended(&pod, "main"), (code, reason.to_owned()), "{}", pod["status"]);
        let terminated = &status(&pod, "main")["state"]["terminated"];
        for field in ["finishedAt", "containerID"] {
            assert!(terminated[field].is_string(), "{field} of {name}: {terminated}");
        }
    }
    let start = machine.pod("start").expect("the pod");
    assert!(
        status(&start, "main")["state"]["terminated"]["message"].to_string().contains("/no/such/program"),
        "{start}"
    );
    machine.finish();
}

#[test]
fn restart_counts_rise_and_outlive_the_kubelet_and_the_boot() {
    let mut machine = machine();
    machine.play(&Play::new("a", "Always").main(Part::gated("main", 4)));
    machine.await_told("a", "main Started", 1);
    machine.open("a", "main.end");
    machine.await_told("a", "main Started", 2);
    machine.await_pod("a", |pod| restarts(pod, "main") == 1 && is(pod, "main", "running"));
    machine.kill_kubelet();
    machine.start_kubelet();
    let pod = machine.await_pod("a", |pod| restarts(pod, "main") == 1 && is(pod, "main", "running"));
    assert_eq!(status(&pod, "main")["lastState"]["terminated"]["exitCode"], 4);
    machine.await_remembered("a");
    machine.reboot();
    machine.await_told("a", "main Started", 3);
    machine.await_pod("a", |pod| restarts(pod, "main") == 2 && is(pod, "main", "running"));
    machine.finish();
}

#[test]
fn a_finished_pod_stays_finished_over_a_restart_and_a_boot() {
    let mut machine = machine();
    machine.play(&Play::new("a", "OnFailure").init(Part::brief("init", 0)).main(Part::brief("main", 0)));
    let before = machine.await_phase("a", "Succeeded");
    for boot in [false, true] {
        if boot {
            // It is written a moment after it shows.
            await_true("the end is on the disk", || machine.has_record("finished"));
            machine.reboot();
        } else {
            machine.kill_kubelet();
            machine.start_kubelet();
        }
        let after = machine.await_phase("a", "Succeeded");
        for container in ["init", "main"] {
            assert_eq!(ended(&after, container), ended(&before, container));
            machine.story("a").starts(container, 1);
        }
    }
    machine.finish();
}

#[test]
fn an_active_deadline_ends_the_pod() {
    let machine = machine();
    machine.play(&Play::new("a", "Always").field("activeDeadlineSeconds", json!(8)).main(Part::forever("main")));
    machine.await_told("a", "main Exiting", 1).in_order(&["main Terminating", "main Exiting"]);
    let pod = machine.await_phase("a", "Failed");
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert_eq!(pod["status"]["message"], "Pod was active on the node longer than the specified deadline");
    machine.await_pod("a", |pod| is(pod, "main", "terminated"));
    machine.await_events("a", |events| events.contains("DeadlineExceeded"));
    machine.story("a").starts("main", 1);
    machine.finish();
}

#[test]
fn what_cannot_run_here_is_rejected_and_never_started() {
    let machine = Machine::start(Options { flags: vec!["--node-labels=disk=ssd".into()], ..Options::default() });
    let with = |fields: Value| {
        let mut container = sh("main", SLEEP);
        for (key, value) in fields.as_object().into_iter().flatten() {
            container[key] = value.clone();
        }
        container
    };
    let host_port = |port: u16| json!({"ports": [{"containerPort": port, "hostPort": port}]});
    pod(&machine, "first", &json!({"hostNetwork": true, "containers": [with(host_port(39_817))]}));
    machine.await_running("first", "main");
    let cases = [
        ("cpu", json!({"containers": [with(json!({"resources": {"requests": {"cpu": "1000"}}}))]}), "OutOfcpu"),
        (
            "memory",
            json!({"containers": [with(json!({"resources": {"requests": {"memory": "1000Ti"}}}))]}),
            "OutOfmemory",
        ),
        ("port", json!({"hostNetwork": true, "containers": [with(host_port(39_817))]}), "NodePorts"),
        ("label", json!({"nodeSelector": {"disk": "tape"}, "containers": [with(json!({}))]}), "NodeAffinity"),
        ("os", json!({"os": {"name": "windows"}, "containers": [with(json!({}))]}), "PodOSNotSupported"),
    ];
    for (name, spec, _) in &cases {
        pod(&machine, name, spec);
    }
    for (name, _, reason) in &cases {
        let pod = machine.await_phase(name, "Failed");
        assert_eq!(pod["status"]["reason"], *reason, "{}", pod["status"]);
        let message = pod["status"]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("Pod was rejected: "), "{name}: {message}");
        assert!(!is(&pod, "main", "running") && !is(&pod, "main", "terminated"), "{}", pod["status"]);
        machine.await_events(name, |events| events.contains(reason));
    }
    let cpu = machine.pod("cpu").expect("the pod");
    let message = cpu["status"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("Node didn't have enough resource: cpu, requested: 1000000, used: "), "{message}");
    // What fits is admitted beside them.
    pod(
        &machine,
        "fits",
        &json!({"nodeSelector": {"disk": "ssd", "kubernetes.io/os": "linux"}, "containers": [with(json!({}))]}),
    );
    machine.await_running("fits", "main");
    machine.finish();
}

#[test]
fn more_pods_than_the_node_takes_are_rejected() {
    let machine = Machine::start(Options { flags: vec!["--max-pods=1".into()], ..Options::default() });
    pod(&machine, "first", &json!({"containers": [sh("main", SLEEP)]}));
    machine.await_running("first", "main");
    pod(&machine, "second", &json!({"containers": [sh("main", SLEEP)]}));
    let second = machine.await_phase("second", "Failed");
    assert_eq!(second["status"]["reason"], "OutOfpods", "{}", second["status"]);
    machine.finish();
}

/// Links of the namespaces that a process is in.
fn namespaces(machine: &Machine, name: &str, container: &str) -> Vec<String> {
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done";
    let told = machine.cli(&["exec", name, "-c", container, "--", "/bin/sh", "-c", script]);
    told.lines().map(str::to_owned).collect()
}

#[test]
fn pods_share_with_the_machine_what_they_ask_for() {
    let machine = machine();
    let own: Vec<String> = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("ours").display().to_string())
        .collect();
    // In the order of `own`: whether the pod is in the machine's namespace.
    let cases = [
        ("none", json!({}), [false, false, false, false]),
        ("network", json!({"hostNetwork": true}), [true, false, true, false]),
        ("ipc", json!({"hostIPC": true}), [false, true, false, false]),
        ("pid", json!({"hostPID": true}), [false, false, false, true]),
        ("all", json!({"hostNetwork": true, "hostIPC": true, "hostPID": true}), [true, true, true, true]),
        ("shared", json!({"shareProcessNamespace": true}), [false, false, false, false]),
    ];
    for (name, spec, _) in &cases {
        let mut spec = spec.clone();
        spec["containers"] = json!([sh("one", SLEEP), sh("two", SLEEP)]);
        pod(&machine, name, &spec);
    }
    for (name, _, shared) in &cases {
        machine.await_running(name, "one");
        machine.await_running(name, "two");
        let (one, two) = (namespaces(&machine, name, "one"), namespaces(&machine, name, "two"));
        let same: Vec<bool> = one.iter().zip(&own).map(|(theirs, ours)| theirs == ours).collect();
        assert_eq!(same, shared, "{name}: {one:?} on a machine with {own:?}");
        assert_eq!(one[..3], two[..3], "{name}: a pod shares network, IPC and UTS");
        assert_eq!(one[3] == two[3], shared[3] || *name == "shared", "{name}: processes");
    }
    let pod = machine.pod("network").expect("the pod");
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"], "{}", pod["status"]);
    let hosts = machine.cli(&["exec", "network", "-c", "one", "--", "cat", "/etc/hosts"]);
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
    // In one PID namespace each sees the other's processes, and neither is the first.
    let processes =
        machine.cli(&["exec", "shared", "-c", "one", "--", "/bin/sh", "-c", "cat /proc/[0-9]*/comm; echo pid $PPID"]);
    assert!(processes.lines().filter(|name| *name == "sleep").count() >= 2, "{processes}");
    let first = machine.cli(&["exec", "shared", "-c", "one", "--", "cat", "/proc/1/cmdline"]);
    assert!(!first.contains("sleep 1000"), "{first}");
    machine.finish();
}

#[test]
fn s_m_03_processes_of_a_container_in_the_machines_pid_namespace_all_end_with_it() {
    let machine = machine();
    let forks = "for i in 1 2 3; do sleep 1000 & done; trap 'exit 0' TERM; sleep 1000 & wait $!";
    pod(&machine, "pid", &json!({"hostPID": true, "containers": [sh("main", forks)]}));
    machine.await_running("pid", "main");
    await_true("its processes run", || machine.container_pids().len() >= 5);
    machine.remove_manifest("pid.yaml");
    machine.await_no_pods();
    assert!(machine.container_pids().is_empty());
    machine.finish();
}

#[test]
fn rules_restart_a_container_or_all_of_the_pod_by_its_exit_code() {
    let machine = machine();
    let rule = |action: &str, code: i32| json!([{"action": action, "exitCodes": {"operator": "In", "values": [code]}}]);
    let one =
        Part::gated("main", 42).field("restartPolicy", json!("Never")).field("restartPolicyRules", rule("Restart", 42));
    machine.play(&Play::new("one", "Never").main(one));
    let all = Part::gated("main", 88)
        .field("restartPolicy", json!("Never"))
        .field("restartPolicyRules", rule("RestartAllContainers", 88));
    let play = Play::new("all", "Never")
        .init(Part::brief("init", 0))
        .init(Part::forever("sidecar").sidecar())
        .main(all)
        .main(Part::forever("other"));
    machine.play(&play);
    machine.await_told("one", "main Started", 1);
    machine.open("one", "main.end");
    machine.await_told("one", "main Started", 2);
    machine.await_pod("one", |pod| restarts(pod, "main") == 1 && is(pod, "main", "running"));

    for container in ["main", "other", "sidecar"] {
        machine.await_told("all", &format!("{container} Started"), 1);
    }
    let before = machine.await_ready("all");
    machine.open("all", "main.end");
    for line in ["sidecar Starting", "other Started", "main Started"] {
        machine.await_told("all", line, 2);
    }
    let story = machine.story("all");
    story.starts("init", 2);
    story.starts("sidecar", 2);
    assert!(story.first("other Exiting") < story.last("init Starting"), "{story:?}");
    assert!(story.last("init Exiting") < story.last("main Starting"), "{story:?}");
    let after = machine.await_ready("all");
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"], "the sandbox stays");
    for container in ["init", "sidecar", "main", "other"] {
        assert_eq!(restarts(&after, container), 1, "{}", after["status"]);
    }
    machine.finish();
}

#[test]
fn a_stop_signal_of_the_container_is_the_one_it_gets() {
    let machine = machine();
    let mut container = sh(
        "main",
        "trap 'echo usr1; exit 0' USR1; trap 'echo term; exit 1' TERM; echo ready; while :; do sleep 1000 & wait $!; done",
    );
    container["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    pod(&machine, "a", &json!({"os": {"name": "linux"}, "containers": [container]}));
    machine.await_running("a", "main");
    await_true("the trap is set", || machine.try_cli(&["logs", "a"]).stdout.starts_with(b"ready"));
    let last = machine.last_of("a");
    assert_eq!(ended(&last, "main"), (0, "Completed".into()), "{last}");
    machine.finish();
}

#[test]
fn events_and_descriptions_tell_what_happened() {
    let machine = machine();
    let play = Play::new("a", "Always").init(Part::brief("init", 0)).main(Part::gated("main", 3).field(
        "livenessProbe",
        json!({
        "httpGet": {"path": "/healthz", "port": 8080}, "initialDelaySeconds": 600}),
    ));
    machine.play(&play);
    machine.await_told("a", "main Started", 1);
    machine.open("a", "main.end");
    machine.await_told("a", "main Started", 2);
    machine.open("a", "main.end");
    machine.await_pod("a", |pod| waits_for(pod, "main") == "CrashLoopBackOff");
    let events = machine.await_events("a", |events| events.contains("BackOff"));
    for part in [
        "Created",
        "Started",
        "Pulled",
        "Container image \"busybox\" already present on machine",
        "Back-off restarting failed container main in pod a-node-1_default(",
    ] {
        assert!(events.contains(part), "{part} in:\n{events}");
    }
    let described = machine.cli(&["describe", "a"]);
    for part in [
        "Name:",
        "a-node-1",
        "Namespace:",
        "default",
        "Init Containers:",
        "init",
        "Containers:",
        "main",
        "CrashLoopBackOff",
        "Last State:",
        "Exit Code:",
        "Restart Count:",
        "Conditions:",
        "ContainersReady",
        "Volumes:",
        "QoS Class:",
        "BestEffort",
        "Events:",
        "http-get http://:8080/healthz delay=600s timeout=1s period=10s #success=1 #failure=3",
    ] {
        assert!(described.contains(part), "{part} in:\n{described}");
    }
    let ps = machine.cli(&["ps"]);
    assert!(ps.contains("CrashLoopBackOff"), "{ps}");
    let missing = machine.try_cli(&["describe", "nobody"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("nobody"));
    machine.finish();
}

#[test]
fn logs_and_exec_reach_init_containers_and_sidecars() {
    let machine = machine();
    let mut init = sh("init", "echo from init");
    let mut sidecar = sh("sidecar", &format!("echo from sidecar; {SLEEP}"));
    sidecar["restartPolicy"] = json!("Always");
    init["terminationMessagePolicy"] = json!("File");
    pod(
        &machine,
        "a",
        &json!({"initContainers": [init, sidecar], "containers": [sh("main", &format!("echo from main; {SLEEP}"))]}),
    );
    machine.await_ready("a");
    for container in ["init", "sidecar", "main"] {
        await_true("the log", || machine.cli(&["logs", "a", "-c", container]) == format!("from {container}\n"));
    }
    assert_eq!(machine.cli(&["logs", "a"]), "from main\n", "the first regular container is meant");
    assert_eq!(machine.cli(&["exec", "a", "-c", "sidecar", "--", "echo", "in"]), "in\n");
    machine.drop_manifest("b.yaml", &manifests::shell("b", "Never", "exit 0"));
    machine.await_phase("b", "Succeeded");
    machine.finish();
}
