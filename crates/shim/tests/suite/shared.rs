//! Containers of a pod that share their processes.

use crate::harness::{DEFAULT_CAPABILITIES, Sandbox, sandbox, shell, wait_for_log};
use cgroup::Limits;
use shim::protocol::{Capabilities, ContainerSpec, ExitStatus, PidNamespace, Request, Response};
use std::fs;
use std::time::{Duration, Instant};

const CAP_SYS_PTRACE: u64 = 1 << 19;

fn shared(sandbox: &mut Sandbox, id: &str, script: &str) -> ContainerSpec {
    let mut spec = ContainerSpec { pid_ns: PidNamespace::Pod, ..sandbox.spec(id, script) };
    sandbox.limit(&mut spec, Limits::default());
    spec
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until the pod's PID 1 has reaped all that was left to it.
fn wait_for_reaping(shim: i32) {
    let is_pod_init = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "pod-init\n";
    let pod_init = children(shim).into_iter().find(is_pod_init).expect("the pod's PID 1");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !children(pod_init).is_empty() {
        assert!(Instant::now() < deadline, "not reaped: {:?}", children(pod_init));
        std::thread::yield_now();
    }
}

#[test]
fn s_d08_the_pods_pid_1_is_of_no_use_even_to_who_may_trace_it() {
    let Some(mut sandbox) = sandbox() else { return };
    let script = "grep -E '^(Name|Uid|Gid|Groups|Cap[PE]..|NoNewPrivs):' /proc/1/status; ls -a /proc/1/root/; \
                  ls /proc/1/fd; test $$ -ne 1 && touch /proc/1/root/x; for n in mnt cgroup; do \
                  test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) && echo same $n; done; true";
    let mut spec = shared(&mut sandbox, "c", script);
    let all = DEFAULT_CAPABILITIES | CAP_SYS_PTRACE;
    spec.process.capabilities =
        Capabilities { bounding: all, effective: all, permitted: all, inheritable: 0, ambient: 0 };
    let output = sandbox.prints(&spec);
    let (status, rest) = output.split_once("NoNewPrivs:\t1\n").unwrap();
    let nothing = "0000000000000000";
    let expected = format!(
        "Name:\tpod-init\nUid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \n\
         CapPrm:\t{nothing}\nCapEff:\t{nothing}\n"
    );
    assert_eq!(status, expected);
    let (listing, refused): (Vec<&str>, Vec<&str>) = rest.lines().partition(|line| !line.contains("touch"));
    assert_eq!(listing, [".", "..", "0", "1", "2"], "an empty root, no descriptor of ours");
    assert!(refused.iter().all(|line| line.contains("Read-only")), "{refused:?}");
}

#[test]
fn s_d08_a_neighbour_sees_nothing_of_the_host_while_processes_are_made() {
    let Some(mut sandbox) = sandbox() else { return };
    let host = sandbox.path("layers").display().to_string();
    let script = format!(
        "echo ready; while [ ! -e /stop ]; do for p in /proc/[0-9]*; do \
         test -e $p/root{host} && echo root leaks; test -e $p/cwd{host} && echo cwd leaks; \
         readlink $p/fd/3 $p/fd/4 $p/fd/5; done; done; true"
    );
    let watcher = shared(&mut sandbox, "watcher", &script);
    sandbox.start(&watcher).unwrap();
    wait_for_log(&sandbox.path("watcher.log"), "ready");
    let other = shared(&mut sandbox, "other", "exec sleep 600");
    sandbox.start(&other).unwrap();
    for _ in 0..300 {
        assert_eq!(sandbox.client.exec("other", shell("true")).unwrap().0, ExitStatus::Code(0));
    }
    for number in 0..30 {
        let short = shared(&mut sandbox, &format!("short{number}"), "true");
        assert_eq!(sandbox.run(&short).0, ExitStatus::Code(0));
    }
    sandbox.client.exec("watcher", shell("touch /stop")).unwrap();
    assert_eq!(sandbox.client.exited("watcher").exit, ExitStatus::Code(0));
    let output = sandbox.output("watcher");
    assert!(!output.contains("leaks") && !output.contains(&host), "{output}");
}

#[test]
fn f_b03_orphans_are_reaped_and_a_containers_end_is_the_end_of_its_own() {
    let Some(mut sandbox) = sandbox() else { return };
    let script = "i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done; echo made; exec sleep 600";
    let spec = shared(&mut sandbox, "c", script);
    sandbox.start(&spec).unwrap();
    wait_for_log(&sandbox.path("c.log"), "made");
    wait_for_reaping(sandbox.shim_pid());
    let count = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '; true";
    let (_, output) = sandbox.client.exec("c", shell(count)).unwrap();
    assert_eq!(output, "0\n");
    let strays = "for i in 1 2 3; do (sleep 601 &); done; exit 9";
    let short = shared(&mut sandbox, "short", strays);
    assert_eq!(sandbox.run(&short).0, ExitStatus::Code(9));
    assert!(cgroup::procs(&short.cgroups).is_empty());
    assert_eq!(cgroup::procs(&spec.cgroups).len(), 1);
    // The pod's PID 1 and the first container's init.
    assert_eq!(children(sandbox.shim_pid()).len(), 2);
}

#[test]
fn a_shim_that_is_told_to_end_takes_the_pods_pid_1_along() {
    let Some(mut sandbox) = sandbox() else { return };
    let spec = shared(&mut sandbox, "c", "exec sleep 600");
    sandbox.start(&spec).unwrap();
    let refused = sandbox.client.ask(Request::Shutdown);
    assert!(matches!(refused, Response::Failed(_)), "{refused:?}");
    sandbox.client.ask(Request::Stop { container: "c".into(), signal: 15, grace_ms: 60_000 });
    assert_eq!(sandbox.client.exited("c").exit, ExitStatus::Signal(15));
    assert_eq!(children(sandbox.shim_pid()).len(), 1, "PID 1 needs no containers");
}
