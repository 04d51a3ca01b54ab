//! Containers that do not behave, and many of them.

use e2e::{Machine, Options, await_some, await_true, manifests};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

#[test]
fn g_05_a_killed_shim_takes_its_containers_along_and_the_pod_comes_back() {
    let machine = Machine::start(Options::default());
    machine.drop_manifest("a.yaml", &manifests::shell("a", "Always", "sleep 1000"));
    machine.drop_manifest("b.yaml", &manifests::shell("b", "Always", "sleep 1000"));
    let before = machine.await_running("a", "main");
    let neighbour = machine.await_running("b", "main");
    let shim = machine.shim_pids().into_iter().find(|pid| shim_of(*pid, &machine, "a")).expect("the shim of pod a");
    kill_process(Pid::from_raw(shim as i32).expect("not 0"), Signal::KILL).expect("killed");
    let after = machine.await_container("a", "main", |status| {
        !status["state"]["running"].is_null() && status["containerID"] != before["containerID"]
    });
    // Nobody saw how the first one ended: it must not look like a success.
    assert_eq!(after["lastState"]["terminated"]["exitCode"], 137, "{after}");
    assert_eq!(machine.init_pids().len(), 2, "no second copy of anything");
    assert_eq!(machine.await_running("b", "main")["containerID"], neighbour["containerID"]);
    machine.finish();
}

/// Whether the shim's sandbox is the pod's: their container's log lies in the pod's directory.
fn shim_of(pid: u32, machine: &Machine, pod: &str) -> bool {
    let mark = machine.dir.join("logs").join(format!("default_{pod}-node-1_")).display().to_string();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the shim's descriptors");
    descriptors
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.display().to_string().starts_with(&mark)))
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_when_its_grace_ends() {
    let machine = Machine::start(Options::default());
    // It runs its trap as soon as it is told, not when a sleep is over.
    let script = "trap 'echo termed' TERM; echo ready; while true; do sleep 1 & wait $!; done";
    machine.drop_manifest("a.yaml", &manifests::shell("a", "Always", script));
    await_true("the trap is set", || machine.try_cli(&["logs", "a"]).stdout.starts_with(b"ready"));
    let mut log = std::process::Command::new(e2e::machine::kubelet_binary())
        .args(["logs", &format!("--run-dir={}", machine.run_dir.display()), "-f", "a"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("logs -f");
    let mut lines = BufReader::new(log.stdout.take().expect("its output"));
    let mut seen = String::new();
    lines.read_line(&mut seen).expect("UTF-8");
    assert_eq!(seen, "ready\n", "it follows");
    machine.remove_manifest("a.yaml");
    machine.await_no_pods();
    assert!(machine.container_pids().is_empty());
    lines.read_to_string(&mut seen).expect("UTF-8");
    log.wait().expect("logs -f ends with the container");
    assert_eq!(seen.matches("termed").count(), 1, "SIGTERM was seen once: {seen:?}");
    machine.finish();
}

#[test]
fn a_container_that_floods_its_log_is_rotated_and_hurts_nobody() {
    let options = Options {
        flags: vec!["--container-log-max-size=1Mi".into(), "--container-log-max-files=3".into()],
        ..Options::default()
    };
    let machine = Machine::start(options);
    machine.drop_manifest("flood.yaml", &manifests::shell("flood", "Always", "exec yes 'all work and no play'"));
    machine.drop_manifest("calm.yaml", &manifests::shell("calm", "Never", "echo one; echo two; exit 3"));
    machine.await_running("flood", "main");
    let calm = machine.await_container("calm", "main", |status| !status["state"]["terminated"].is_null());
    assert_eq!(calm["state"]["terminated"]["exitCode"], 3);
    assert_eq!(machine.cli(&["logs", "calm"]), "one\ntwo\n");
    let files = || -> Vec<(String, u64)> {
        let logs = std::fs::read_dir(machine.dir.join("logs")).expect("logs").flatten();
        let pod =
            logs.map(|e| e.path()).find(|path| path.display().to_string().contains("_flood-")).expect("the pod's logs");
        let entries = std::fs::read_dir(pod.join("main")).expect("the container's logs").flatten();
        entries.filter_map(|e| Some((e.file_name().to_string_lossy().into_owned(), e.metadata().ok()?.len()))).collect()
    };
    await_some("three files, the rotated ones full", || {
        let files = files();
        if files.len() == 3 { Ok(()) } else { Err(format!("{files:?}")) }
    });
    let all = files();
    assert!(all.len() <= 4, "{all:?}");
    assert!(all.iter().all(|(_, bytes)| *bytes <= 2 * 1024 * 1024), "{all:?}");
    let tail = machine.cli(&["logs", "flood", "--tail", "5"]);
    // Lines that are written while we read come along.
    assert!(tail.lines().count() >= 5 && tail.lines().all(|line| line == "all work and no play"), "{tail}");
    machine.finish();
}

#[test]
fn f_b05_a_thousand_containers_that_exit_at_once_keep_their_codes() {
    let machine = Machine::start(Options::default());
    const ROUNDS: u32 = 10;
    const PODS: u32 = 100;
    for round in 0..ROUNDS {
        let code = |pod: u32| (round * 37 + pod * 11) % 256;
        for pod in 0..PODS {
            let text = manifests::shell(&format!("p{pod}"), "Never", &format!("exit {}", code(pod)));
            machine.drop_manifest(
                &format!("p{pod}.yaml"),
                &text.replace("  name: p", &format!("  labels: {{round: r{round}}}\n  name: p")),
            );
        }
        await_some("every pod of the round ended", || {
            let pods = machine.pods();
            let ended: BTreeMap<String, i64> = pods
                .iter()
                .filter(|pod| pod["metadata"]["labels"]["round"] == format!("r{round}"))
                .filter_map(|pod| {
                    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
                    Some((pod["metadata"]["name"].as_str()?.to_owned(), state["exitCode"].as_i64()?))
                })
                .collect();
            if ended.len() < PODS as usize {
                return Err(format!("{} of {PODS}; log:\n{}", ended.len(), machine.log()));
            }
            for pod in 0..PODS {
                assert_eq!(ended[&format!("p{pod}-node-1")], i64::from(code(pod)), "round {round}");
            }
            Ok(())
        });
    }
    machine.finish();
}

#[test]
fn a_hundred_pods_at_once_and_all_removed() {
    let machine = Machine::start(Options::default());
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", machine.kubelet_pid())).expect("descriptors").count();
    machine.drop_manifest("warm.yaml", &manifests::shell("warm", "Always", "exec sleep 1000"));
    machine.await_running("warm", "main");
    machine.remove_manifest("warm.yaml");
    machine.await_no_pods();
    let before = descriptors();
    for pod in 0..100 {
        machine
            .drop_manifest(&format!("p{pod}.yaml"), &manifests::shell(&format!("p{pod}"), "Always", "exec sleep 1000"));
    }
    await_some("a hundred pods run", || {
        let running = machine.pods().iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        if running == 100 { Ok(()) } else { Err(format!("{running} run; log:\n{}", machine.log())) }
    });
    assert_eq!(machine.container_pids().len(), 100);
    let ips: std::collections::BTreeSet<String> =
        machine.pods().iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(ips.len(), 100, "every pod has an address of its own");
    for pod in 0..100 {
        machine.remove_manifest(&format!("p{pod}.yaml"));
    }
    machine.await_no_pods();
    await_some("no descriptor is left behind", || {
        let now = descriptors();
        // One more or less: a connection being accepted.
        if now <= before + 2 { Ok(()) } else { Err(format!("{before} before, {now} after")) }
    });
    machine.finish();
}
