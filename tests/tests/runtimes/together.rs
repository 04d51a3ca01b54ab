//! What a pod may ask of any runtime.

use crate::differences::{Difference, differs};
use crate::walk::with_local_images;
use e2e::story::{condition, ended, is, status, tells};
use e2e::{Machine, Part, Play, Term, Then, await_some, await_true, http, machine, manifests};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const SITE: &str = include_str!("../../../examples/site.yaml");
const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

/// A container that runs a shell script, with more fields.
pub(crate) fn sh(name: &str, script: &str, fields: &Value) -> Value {
    let command = json!(["/bin/sh", "-c", script]);
    let mut container =
        json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": command});
    for (key, value) in fields.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    container
}

pub(crate) fn pod(machine: &Machine, name: &str, spec: &Value) {
    let mut spec = spec.clone();
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    machine.drop_manifest(&format!("{name}.yaml"), &text.to_string());
}

pub(crate) fn once(machine: &Machine, name: &str, container: Value) {
    pod(machine, name, &json!({"restartPolicy": "Never", "containers": [container]}));
}

/// Kills the one process whose command line holds `mark`.
fn kill(machine: &Machine, mark: &str) {
    let pid = await_some(&format!("a process {mark}"), || {
        let marked =
            |pid: &&u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(mark));
        machine.init_pids().iter().find(marked).copied().ok_or_else(|| "none".to_owned())
    });
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("killed");
}

pub(crate) fn a_killed_container_comes_back_and_then_waits(machine: &Machine) {
    let victim = sh("main", ": the victim; echo up; while :; do sleep 1000; done", &json!({}));
    pod(machine, "killed", &json!({"containers": [victim, sh("other", SLEEP, &json!({}))]}));
    machine.await_running("killed", "main");
    let other = machine.await_running("killed", "other");
    kill(machine, ": the victim");
    let back = machine.await_container("killed", "main", |status| {
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    });
    let last = &back["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("Error")), "{back}");
    assert_ne!(last["containerID"], back["containerID"]);
    kill(machine, ": the victim");
    let waits =
        machine.await_container("killed", "main", |status| status["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    let message = waits["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("back-off 10s restarting failed container=main pod=killed-node-1_default("),
        "{message}"
    );
    let now = machine.await_running("killed", "other");
    assert_eq!((&now["containerID"], &now["restartCount"]), (&other["containerID"], &json!(0)));
    machine.await_events("killed", |events| events.contains("BackOff"));
    machine.await_end("killed");
}

pub(crate) fn ends_are_told_by_their_causes(machine: &Machine) {
    let missing = json!({"command": ["/no/such/program"]});
    let limited = json!({"resources": {"limits": {"memory": "32Mi"}}});
    let cases = [
        ("end-0", sh("main", "exit 0", &json!({})), 0, "Completed", "Succeeded"),
        ("end-42", sh("main", "exit 42", &json!({})), 42, "Error", "Failed"),
        ("end-255", sh("main", "exit 255", &json!({})), 255, "Error", "Failed"),
        (
            "end-term",
            sh("main", "sh -c 'kill -TERM $PPID'; trap 'exit 9' TERM; kill -TERM 1", &json!({})),
            9,
            "Error",
            "Failed",
        ),
        ("end-oom", sh("main", "exec tail /dev/zero", &limited), 137, "OOMKilled", "Failed"),
        ("end-start", sh("main", "", &missing), 128, "StartError", "Failed"),
    ];
    for (name, container, ..) in &cases {
        once(machine, name, container.clone());
    }
    for (name, _, code, reason, phase) in &cases {
        let pod = machine.await_phase(name, phase);
        assert_eq!(ended(&pod, "main"), (*code, (*reason).to_owned()), "{name}: {}", pod["status"]);
        let terminated = &status(&pod, "main")["state"]["terminated"];
        for field in ["startedAt", "finishedAt", "containerID"] {
            assert!(terminated[field].is_string() || *name == "end-start", "{field} of {name}: {terminated}");
        }
    }
    let start = machine.pod("end-start").expect("the pod");
    let message = status(&start, "main")["state"]["terminated"]["message"].to_string();
    assert!(message.contains("/no/such/program"), "{message}");
    for (name, ..) in &cases {
        machine.await_end(name);
    }
}

/// The example with an init container, a sidecar, probes and hooks.
pub(crate) fn a_site_with_everything(machine: &Machine) {
    machine.drop_manifest("site.yaml", &with_local_images(SITE));
    let pod = machine.await_ready("site");
    assert_eq!(ended(&pod, "page"), (0, "Completed".to_owned()));
    assert!(is(&pod, "clock", "running") && is(&pod, "nginx", "running"), "{}", pod["status"]);
    assert_eq!(status(&pod, "clock")["started"], true);
    let (_, page) = http::get(machine.pod_ip("site"), 80, "/").expect("the site answers");
    assert_eq!(page, "<h1>made by site-node-1</h1>\n");
    await_true("the hook's line is in the log", || {
        machine.cli(&["logs", "site", "-c", "nginx"]).contains("nginx on site-node-1 has started")
    });
    let text = "> /usr/share/nginx/html/x || echo refused";
    assert_eq!(machine.cli(&["exec", "site", "-c", "nginx", "--", "/bin/sh", "-c", text]), "refused\n", "read-only");
    // The page goes: the readiness probe says no, and the container is not touched.
    // Its sidecar makes it anew each second.
    let text = "until rm -f /site/now.html; mkdir /site/now.html 2> /dev/null; do :; done";
    machine.cli(&["exec", "site", "-c", "clock", "--", "/bin/sh", "-c", text]);
    let pod = machine.await_pod("site", |pod| condition(pod, "Ready")["status"] == "False");
    assert_eq!(status(&pod, "nginx")["restartCount"], 0, "{}", pod["status"]);
    // The other one goes as well: the liveness probe says no, and the container is restarted.
    machine.cli(&["exec", "site", "-c", "clock", "--", "rm", "/site/index.html"]);
    machine.await_pod("site", |pod| status(pod, "nginx")["restartCount"] == 1);
    machine.await_events("site", |events| events.contains("Unhealthy") && events.contains("Killing"));
    let last = machine.last_of("site");
    assert_eq!(ended(&last, "clock"), (0, "Completed".to_owned()), "{last}");
}

pub(crate) fn sidecars_end_last_and_in_reverse_order(machine: &Machine) {
    let hook = |name: &str| json!({"preStop": tells(&format!("pre-stop-{name}"), Then::Exit(0))});
    let sidecar = |name: &str| Part::forever(name).on_term(Term::Gate(0)).field("lifecycle", hook(name)).sidecar();
    let main = Part::forever("main").on_term(Term::Gate(3)).field("lifecycle", hook("main"));
    machine.play(&Play::new("order", "Always").init(sidecar("side-1")).init(sidecar("side-2")).main(main).grace(180));
    machine.await_told("order", "main Started", 1).in_order(&["side-1 Started", "side-2 Started", "main Started"]);
    machine.await_ready("order");
    let held = machine.hold("order");
    machine.end_play("order");
    for name in ["main", "side-2", "side-1"] {
        machine.await_told("order", &format!("{name} Terminating"), 1);
        machine.open("order", &format!("{name}.term"));
    }
    let last = held.last();
    assert_eq!(ended(&last, "main"), (3, "Error".to_owned()), "{last}");
    machine.story("order").in_order(&[
        "pre-stop-main Exiting",
        "main Terminating",
        "main Exiting",
        "side-2 Terminating",
        "side-2 Exiting",
        "side-1 Terminating",
        "side-1 Exiting",
    ]);
    for name in ["main", "side-1", "side-2"] {
        machine.story("order").in_order(&[&format!("pre-stop-{name} Exiting"), &format!("{name} Terminating")]);
    }
}

pub(crate) fn the_grace_of_the_deaf_ends(machine: &Machine) {
    machine.play(&Play::new("deaf", "Always").grace(6).main(Part::forever("main").on_term(Term::Ignore)));
    machine.await_told("deaf", "main Started", 1);
    machine.await_pod("deaf", |pod| is(pod, "main", "running"));
    let last = machine.last_of("deaf");
    assert_eq!(ended(&last, "main"), (137, "Error".to_owned()), "{last}");
    assert_eq!(machine.story("deaf").count("main Terminating"), 1);
}

pub(crate) fn termination_messages_come_from_the_file_or_the_log(machine: &Machine) {
    let fall_back = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let elsewhere = json!({
        "terminationMessagePath": "/run/deep/message",
        "securityContext": {"readOnlyRootFilesystem": true},
    });
    let cases = [
        ("message-file", "printf told > /dev/termination-log; exit 3", json!({}), "told"),
        ("message-none", "echo log; exit 3", json!({}), ""),
        ("message-log", "echo from the log; exit 3", fall_back, "from the log\n"),
        ("message-path", "printf there > /run/deep/message; exit 3", elsewhere, "there"),
    ];
    for (name, script, fields, _) in &cases {
        once(machine, name, sh("main", script, fields));
    }
    for (name, _, _, message) in &cases {
        let pod = machine.await_pod(name, |pod| is(pod, "main", "terminated"));
        let told = status(&pod, "main")["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(told, *message, "{name}: {}", pod["status"]);
    }
    for (name, ..) in &cases {
        machine.await_end(name);
    }
}

pub(crate) fn logs_of_this_attempt_and_the_one_before(machine: &Machine) {
    // By the time that the second attempt speaks it has said everything, and hears.
    let script = "n=$(cat /v/n 2>/dev/null || echo 0); echo $((n + 1)) > /v/n; trap 'echo; echo bye; exit 0' TERM; \
                  [ $n = 0 ] && echo attempt 0 && exit 5; printf 'attempt %s\\nno newline' $n; \
                  while :; do sleep 1000 & wait $!; done";
    let main = sh("main", script, &json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    pod(machine, "logs", &json!({"containers": [main], "volumes": volumes, "terminationGracePeriodSeconds": 30}));
    machine.await_container("logs", "main", |s| s["restartCount"] == 1 && !s["state"]["running"].is_null());
    await_true("the second attempt speaks", || machine.cli(&["logs", "logs"]).contains("attempt 1\n"));
    assert_eq!(machine.cli(&["logs", "-p", "logs"]), "attempt 0\n");
    let stamped = machine.cli(&["logs", "--timestamps", "-p", "logs"]);
    assert!(stamped.ends_with("Z attempt 0\n") && stamped.starts_with("20"), "{stamped}");
    let run_dir = format!("--run-dir={}", machine.run_dir.display());
    let mut follower = Command::new(machine::kubelet_binary())
        .args(["logs", &run_dir, "-f", "logs"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("logs -f");
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("attempt 1"));
    machine.await_end("logs");
    // What comes while it ends is followed to the end.
    assert_eq!(lines.collect::<Vec<_>>(), ["no newline", "bye"]);
    follower.wait().expect("waited");
    once(machine, "tail", sh("main", "for i in 1 2 3 4 5; do echo line $i; done", &json!({})));
    machine.await_phase("tail", "Succeeded");
    assert_eq!(machine.cli(&["logs", "--tail=2", "tail"]), "line 4\nline 5\n");
    machine.await_end("tail");
}

pub(crate) fn exec_passes_codes_streams_and_a_terminal_through(machine: &Machine) {
    machine.drop_manifest("exec.yaml", &manifests::shell("exec", "Always", "exec sleep 1000"));
    machine.await_running("exec", "main");
    for code in [0, 1, 42, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let output = machine.try_cli(&["exec", "exec", "--", "/bin/sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }
    let missing = machine.try_cli(&["exec", "exec", "--", "/no/such/program"]);
    assert!(!missing.status.success(), "{missing:?}");
    let told = if differs(machine, Difference::ExecTellsOnOutput) { &missing.stdout } else { &missing.stderr };
    assert!(String::from_utf8_lossy(told).contains("/no/such/program"), "{missing:?}");
    // A megabyte of standard input ends where ours ends.
    let run_dir = format!("--run-dir={}", machine.run_dir.display());
    let mut child = Command::new(machine::kubelet_binary())
        .args(["exec", &run_dir, "-i", "exec", "--", "/bin/sh", "-c", "wc -c; echo end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("exec -i");
    child.stdin.take().expect("stdin").write_all(&vec![b'x'; 1 << 20]).expect("written");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1048576\nend\n");
    // `script` gives us a terminal: the command has one too, of the size we have, and its code comes back.
    let inner = format!(
        "stty rows 33 cols 77; {} exec {run_dir} -it exec -- /bin/sh -c 'tty; until stty size | grep 33; do :; done; exit 7'",
        machine::kubelet_binary().display(),
    );
    let output =
        Command::new("script").args(["-qec", &inner, "/dev/null"]).stdin(Stdio::null()).output().expect("script");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(seen.contains("/dev/pts/") && seen.contains("33 77"), "{seen}");
    assert_eq!(output.status.code(), Some(7), "{seen}");
    machine.await_end("exec");
}

pub(crate) fn pods_share_what_they_ask_for(machine: &Machine) {
    let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("ours").display().to_string();
    let own = ["net", "ipc", "pid", "uts"].map(own);
    // In the order of `own`: whether the pod is in the machine's namespace.
    let cases = [
        ("share-none", json!({}), [false, false, false, false]),
        ("share-network", json!({"hostNetwork": true}), [true, false, false, true]),
        ("share-ipc", json!({"hostIPC": true}), [false, true, false, false]),
        ("share-pid", json!({"hostPID": true}), [false, false, true, false]),
        ("share-own", json!({"shareProcessNamespace": true}), [false, false, false, false]),
    ];
    for (name, spec, _) in &cases {
        let mut spec = spec.clone();
        spec["containers"] = json!([sh("one", SLEEP, &json!({})), sh("two", SLEEP, &json!({}))]);
        pod(machine, name, &spec);
    }
    let namespaces = |name: &str, container: &str| {
        let script = "for n in net ipc pid uts; do readlink /proc/self/ns/$n; done";
        let told = machine.cli(&["exec", name, "-c", container, "--", "/bin/sh", "-c", script]);
        told.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (name, _, shared) in &cases {
        machine.await_running(name, "one");
        machine.await_running(name, "two");
        let (one, two) = (namespaces(name, "one"), namespaces(name, "two"));
        let same: Vec<bool> = one.iter().zip(&own).map(|(theirs, ours)| theirs == ours).collect();
        assert_eq!(same, shared, "{name}: {one:?} on a machine with {own:?}");
        assert_eq!(one[..2], two[..2], "{name}: a pod shares network and IPC");
        assert_eq!(one[2] == two[2], shared[2] || *name == "share-own", "{name}: processes");
        let apart = differs(machine, Difference::OwnHostnames) && !shared[3];
        assert_eq!(one[3] == two[3], !apart, "{name}: host names");
    }
    let found = machine.pod("share-network").expect("the pod");
    assert_eq!(found["status"]["podIP"], found["status"]["hostIP"], "{}", found["status"]);
    let hosts = machine.cli(&["exec", "share-network", "-c", "one", "--", "cat", "/etc/hosts"]);
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
    let hosts = machine.cli(&["exec", "share-none", "-c", "one", "--", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{}\tshare-none-node-1", machine.pod_ip("share-none"))), "{hosts}");
    for (name, ..) in &cases {
        machine.await_end(name);
    }
}

/// One that works is told from one that sleeps, and both from the machine.
pub(crate) fn what_is_used_is_told(machine: &Machine) {
    machine.drop_manifest("busy.yaml", &manifests::shell("busy", "Always", "while :; do :; done"));
    machine.drop_manifest("idle.yaml", &manifests::shell("idle", "Always", "exec sleep 1000"));
    machine.await_running("busy", "main");
    machine.await_running("idle", "main");
    let told = await_some("rates of both", || {
        let (status, text) = machine.get("/stats/summary");
        assert_eq!(status, 200, "{text}");
        let summary: Value = serde_json::from_str(&text).expect("JSON");
        let of = |name: &str| {
            let pods = summary["pods"].as_array().expect("pods");
            let pod = pods.iter().find(|pod| pod["podRef"]["name"].as_str().is_some_and(|n| n.starts_with(name)))?;
            pod["containers"][0]["cpu"]["usageNanoCores"].as_u64().map(|rate| (rate, pod.clone()))
        };
        match (of("busy-"), of("idle-")) {
            (Some((busy_rate, busy)), Some((idle_rate, idle))) if busy_rate > 10 * (idle_rate + 1) => {
                Ok((busy, idle, summary["node"].clone()))
            }
            _ => Err(text),
        }
    });
    for pod in [&told.0, &told.1] {
        assert!(pod["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{pod}");
        assert_eq!(pod["memory"]["workingSetBytes"], pod["containers"][0]["memory"]["workingSetBytes"], "{pod}");
    }
    assert!(told.2["memory"]["availableBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{}", told.2);
    let top = machine.cli(&["top"]);
    assert!(top.lines().any(|line| line.starts_with("default") && line.contains("busy-")), "{top}");
    for name in ["busy", "idle"] {
        machine.await_end(name);
    }
}
