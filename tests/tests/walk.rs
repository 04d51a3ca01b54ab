//! The walk: a pod from a manifest, replaced by one with two containers, killed, looked at, removed.

use e2e::machine::LOOPBACK;
use e2e::{Machine, Options, await_some, await_true, http, manifests};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn with_nginx() -> Options {
    Options { images: vec!["busybox", "nginx"], ..Options::default() }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("killed");
}

/// Pid of a container's init as the host sees it.
fn pid_of(machine: &Machine, name: &str) -> u32 {
    await_some(&format!("a process {name}"), || {
        let named =
            |pid: &&u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        let inits = machine.init_pids();
        inits.iter().find(named).copied().ok_or_else(|| format!("{inits:?}"))
    })
}

#[test]
fn the_walk() {
    let machine = Machine::start(with_nginx());
    assert!(machine.pods().is_empty());

    // 1. One container; then the pod is replaced by one with two.
    machine.drop_manifest("nginx.yaml", manifests::NGINX);
    machine.await_running("nginx", "nginx");
    let ip = machine.pod_ip("nginx");
    await_some("nginx answers", || {
        http::get(ip, 80, "/").and_then(|(status, body)| if status == 200 { Ok(()) } else { Err(body) })
    });
    let first = machine.pod("nginx").expect("the pod");
    machine.drop_manifest("nginx.yaml", manifests::NGINX_WITH_TRUNCATOR);
    machine.await_running("nginx", "log-truncator");
    machine.await_running("nginx", "nginx");
    let second = machine.pod("nginx").expect("the pod");
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"], "an edited manifest is another pod");
    let ip = machine.pod_ip("nginx");
    await_some("nginx answers", || http::get(ip, 80, "/").map(drop));
    one_network_and_volume(&machine, ip);

    // 2. What a person sees.
    let ps = machine.cli(&["ps"]);
    assert!(ps.starts_with("NAMESPACE"), "{ps}");
    for part in ["default", "nginx-node-1", "log-truncator", "Running", &ip.to_string(), "busybox"] {
        assert!(ps.contains(part), "{part} in:\n{ps}");
    }

    // 3. A killed container comes back; the volume keeps its content.
    machine.cli(&["exec", "nginx", "-c", "log-truncator", "--", "/bin/sh", "-c", "echo kept > /logdir/kept"]);
    kill(pid_of(&machine, "nginx"));
    let status = machine.await_container("nginx", "nginx", |status| {
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    let kept = machine.cli(&["exec", "nginx", "-c", "log-truncator", "--", "cat", "/logdir/kept"]);
    assert_eq!(kept, "kept\n");
    // The second crash waits.
    kill(pid_of(&machine, "nginx"));
    let status =
        machine.await_container("nginx", "nginx", |status| status["state"]["waiting"]["reason"] == "CrashLoopBackOff");
    let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("back-off 10s restarting failed container=nginx pod=nginx-node-1_default("),
        "{message}"
    );

    // S-E07: every process lies in its pod's control group.
    let uid = second["metadata"]["uid"].as_str().expect("a UID");
    for pid in machine.container_pids() {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mark = format!("/kubepods/besteffort/pod{uid}/");
        assert!(groups.is_empty() || groups.contains(&mark), "{pid} is not in {mark}:\n{groups}");
    }

    // 4. The HTTP endpoints.
    endpoints(&machine);

    // 5. Removal.
    machine.remove_manifest("nginx.yaml");
    machine.await_no_pods();
    assert!(machine.container_pids().is_empty());
    machine.finish();
}

/// Both containers share the address, the network, IPC and UTS namespaces and the volume; requests appear in the
/// access log and vanish.
fn one_network_and_volume(machine: &Machine, ip: std::net::IpAddr) {
    let in_truncator =
        |script: &str| machine.cli(&["exec", "nginx", "-c", "log-truncator", "--", "/bin/sh", "-c", script]);
    for namespace in ["net", "ipc", "uts"] {
        let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace");
        let pids = machine.init_pids();
        let first = link(pids[0]);
        assert!(pids.iter().all(|pid| link(*pid) == first), "one {namespace} namespace");
        assert_ne!(first, std::fs::read_link(format!("/proc/self/ns/{namespace}")).expect("ours"));
    }
    assert!(in_truncator("ip -4 addr show eth0").contains(&ip.to_string()));
    assert_eq!(in_truncator("hostname"), "nginx\n".replace("nginx", "nginx-node-1"));
    assert!(in_truncator("wget -q -O - http://127.0.0.1/").contains("nginx"), "over the shared loopback");
    await_some("a request appears in the access log", || {
        http::get(ip, 80, "/seen-in-the-log")?;
        let log = in_truncator("cat /logdir/access.log");
        if log.contains("/seen-in-the-log") { Ok(()) } else { Err(log) }
    });
    await_true("the log is emptied", || in_truncator("cat /logdir/access.log").is_empty());
}

fn endpoints(machine: &Machine) {
    assert_eq!(machine.get("/healthz"), (200, "ok".to_owned()));
    assert_eq!(machine.healthz(), Ok("ok".to_owned()));
    let (status, spec) = machine.get("/spec/");
    assert_eq!(status, 200);
    let spec: Value = serde_json::from_str(&spec).expect("JSON");
    for field in
        ["num_cores", "cpu_frequency_khz", "memory_capacity", "machine_id", "system_uuid", "boot_id", "filesystems"]
    {
        assert!(!spec[field].is_null(), "{field} in {spec}");
    }
    let cores = std::thread::available_parallelism().expect("cores").get();
    assert_eq!(spec["num_cores"], cores);
    let pod = machine.pod("nginx").expect("the pod");
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.hash"], pod["metadata"]["uid"]);
    assert!(annotations["kubernetes.io/config.seen"].is_string());
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert!(pod["status"]["hostIP"].is_string(), "filled in standalone too");
    assert_eq!(http::get(LOOPBACK, machine.read_only_port, "/exec/x/y/z").map(|(status, _)| status), Ok(405));
    assert_eq!(http::get(LOOPBACK, machine.healthz_port, "/pods").map(|(status, _)| status), Ok(404));
}

#[test]
fn b_03_and_g_02_the_walk_with_the_kubelet_killed_at_ten_points() {
    let mut machine = Machine::start(with_nginx());
    // A kill right after each act: before the kubelet can have finished what it began.
    fn crash(machine: &mut Machine) {
        machine.kill_kubelet();
        machine.start_kubelet();
    }
    fn same_after_crash(machine: &mut Machine) {
        let before = machine.init_pids();
        crash(machine);
        assert_eq!(machine.init_pids(), before, "containers keep their pids over a restart");
    }
    crash(&mut machine); // 1: nothing runs
    machine.drop_manifest("nginx.yaml", manifests::NGINX);
    crash(&mut machine); // 2: the pod begins
    machine.await_running("nginx", "nginx");
    same_after_crash(&mut machine); // 3: it runs
    machine.await_running("nginx", "nginx");
    machine.drop_manifest("nginx.yaml", manifests::NGINX_WITH_TRUNCATOR);
    crash(&mut machine); // 4: it is being replaced
    machine.await_running("nginx", "log-truncator");
    machine.await_running("nginx", "nginx");
    let ip = machine.pod_ip("nginx");
    same_after_crash(&mut machine); // 5: the second one runs
    assert_eq!(machine.pod_ip("nginx"), ip);
    let truncator = machine.await_running("nginx", "log-truncator");
    // 6: a container dies while no kubelet runs: its code is not lost.
    machine.kill_kubelet();
    kill(pid_of(&machine, "nginx"));
    machine.start_kubelet();
    let status = machine.await_container("nginx", "nginx", |status| {
        status["restartCount"] == 1 && !status["state"]["running"].is_null()
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    same_after_crash(&mut machine); // 7: after the restart
    kill(pid_of(&machine, "nginx"));
    crash(&mut machine); // 8: at the moment of an exit
    machine.await_container("nginx", "nginx", |status| {
        status["restartCount"].as_u64() >= Some(1) && status["lastState"]["terminated"]["exitCode"] == 137
    });
    let after = machine.await_running("nginx", "log-truncator");
    assert_eq!(truncator["containerID"], after["containerID"], "the other container was never touched");
    machine.remove_manifest("nginx.yaml");
    crash(&mut machine); // 9: it is being removed
    machine.await_no_pods();
    crash(&mut machine); // 10: nothing is left
    assert!(machine.pods().is_empty());
    await_true("nothing runs", || machine.container_pids().is_empty());
    machine.finish();
}
